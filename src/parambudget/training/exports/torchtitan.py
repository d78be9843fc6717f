"""A model and the settings of its run as a config of torchtitan, which is a Python module; or refused.

The model is read back as what torchtitan builds from it (`from_torchtitan`), and must be the same.

Source: torchtitan 0.3.0 (PyPI): config/configs.py, models/llama3, models/qwen3, models/common/, trainer.py
and components/optimizer/. tests/training/test_torchtitan.py loads the module with it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Attempt, Export, first_equivalent
from parambudget.training.config import GroupName, ScheduleName, TrainConfig
from parambudget.training.optimization.schedule import decay_steps
from parambudget.units import count_phrase

VERSION: Final = "0.3.0"
FILE: Final = "torchtitan_config.py"
_PLACES: Final = "--hf_assets_path FOLDER --dataloader.dataset NAME"
_QK_NORMS: Final = {"llama3": "none", "qwen3": "head"}
"""The architectures that are written, and their norms on queries and keys."""
_DECAY_TYPES: Final[Mapping[ScheduleName, str]] = {"linear": "linear", "cosine": "cosine", "wsd": "sqrt"}
"""The forms of the decay, in torchtitan's words."""
_PATTERNS: Final[Mapping[GroupName, str]] = {
    "embeddings": r"tok_embeddings\.", "head": r"lm_head\.", "scalars": r"norm", "matrices": ".*"
}  # fmt: skip
"""Names of torchtitan's parameters in the groups of the optimizer; the first that matches counts."""


def to_torchtitan(model: ModelConfig, config: TrainConfig | None = None) -> Export:
    """The module that torchtitan takes with `--module torchtitan_config --config config`.

    Without `config`, batch, schedule and optimizer are torchtitan's defaults, which a note says. Raises
    `ConfigError` with what torchtitan lacks.
    """
    attempts = [partial(_attempt, name, model, config) for name in _QK_NORMS]
    made = first_equivalent(model, attempts, f"no model of torchtitan {VERSION} as written here")
    notes = [*made.notes, "torchtitan needs to be told where tokenizer and text are: " + _PLACES]
    if config is None:
        notes.append("batch, schedule and optimizer are torchtitan's defaults: give the config.json of a run")
    else:
        _require_settings(config)
        notes += _run_notes(config)
    return Export(made.name, made.document, tuple(notes), file=FILE, text=module_text(made.document, notes))


def _attempt(name: str, model: ModelConfig, config: TrainConfig | None) -> Attempt:
    document = {"architecture": name, "model": _model(name, model)}
    if config is not None:
        document |= {"training": _training(config, tied=model.tied)}
    note = (
        "torchtitan rotates neighbouring elements of llama3, and sorts rows when it reads or writes Hugging "
        "Face's files: the same model"
    )
    notes = (note,) if name == "llama3" and not model.rotary_interleaved else ()
    read = with_defaults(from_torchtitan(document) | {"rotary_interleaved": model.rotary_interleaved}).model
    return Attempt(Export(name, document, notes), read)


def _model(name: str, m: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "dim": m.dim, "n_layers": m.n_layers, "n_heads": m.n_heads, "n_kv_heads": m.n_kv_heads,
        "head_dim": m.head_dim, "hidden_dim": m.intermediate_size, "vocab_size": m.vocab_size,
        "max_seq_len": m.context_length, "theta": m.rope_theta, "eps": m.norm_eps, "tied": m.tied,
        "init_std": m.init_std, "out_std": m.out_init_std,
    }  # fmt: skip
    scaling = m.rope_scaling
    if name == "llama3" and scaling is not None and scaling.rope_type == "llama3":
        values["scaling"] = {
            "scaling": "llama", "scaling_factor": scaling.rope_factor,
            "low_freq_factor": scaling.rope_low_freq_factor,
            "high_freq_factor": scaling.rope_high_freq_factor,
            "original_max_position_embeddings": scaling.rope_original_context,
        }  # fmt: skip
    return values


def from_torchtitan(document: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields of the model that torchtitan builds, except how its weights start."""
    values = document["model"]
    fields: dict[str, Any] = {
        "dim": values["dim"], "n_layers": values["n_layers"], "n_heads": values["n_heads"],
        "n_kv_heads": values["n_kv_heads"], "head_dim": values["head_dim"],
        "intermediate_size": values["hidden_dim"], "vocab_size": values["vocab_size"],
        "context_length": values["max_seq_len"], "rope_theta": values["theta"], "norm_eps": values["eps"],
        "tied": values["tied"], "qk_norm": _QK_NORMS[document["architecture"]],
    }  # fmt: skip
    if scaling := values.get("scaling"):
        fields |= {
            "rope_type": "llama3", "rope_factor": scaling["scaling_factor"],
            "rope_low_freq_factor": scaling["low_freq_factor"],
            "rope_high_freq_factor": scaling["high_freq_factor"],
            "rope_original_context": scaling["original_max_position_embeddings"],
        }  # fmt: skip
    return fields


def _require_settings(config: TrainConfig) -> None:
    """Refuse a run that does what torchtitan does not."""
    step = config.step
    missing = {
        f"`optimizer={step.optimizer!r}` as it is here": step.optimizer != "adamw",
        "weight decay that follows the learning rate": config.weight_decay_schedule != "constant",
        "z-loss": step.z_loss > 0,
        "activation memory budget as it is here": step.activation_memory_budget < 1,
    }
    found = [name for name, is_needed in missing.items() if is_needed]
    if found:
        raise ConfigError(
            f"torchtitan {VERSION} has no {found[0]}; change that setting, or export the model without them"
        )


def _run_notes(config: TrainConfig) -> list[str]:
    """What differs from the run, and how many processes may share its batch."""
    n = config.step.gradient_accumulation_steps
    shared = (
        "1 process can" if n == 1 else f"the number of processes that divide the data must divide {n}, to"
    )
    notes = [
        f"{shared} take the {count_phrase(n, 'micro-step')} of an update; for more processes, lower "
        "--training.local_batch_size"
    ]
    if not config.step.mask_documents:
        notes.append(
            "in torchtitan a token attends to its own document only, as with mask_documents=True here"
        )
    return notes


def _training(config: TrainConfig, *, tied: bool) -> dict[str, Any]:
    """What a run sets, in torchtitan's words."""
    step = config.step
    scheduler: dict[str, Any] = {
        "warmup_steps": config.warmup_steps,
        "decay_type": _DECAY_TYPES[config.schedule],
        "min_lr_factor": config.final_learning_rate / config.learning_rate,
    }
    if config.schedule == "wsd":
        # It rounds this share of the steps to the nearest one.
        scheduler["decay_ratio"] = decay_steps(config) / config.steps
    return {
        "training": {
            "local_batch_size": step.batch_size,
            "global_batch_size": step.batch_size * step.gradient_accumulation_steps,
            "steps": config.steps,
            "max_norm": float("inf") if config.grad_clip is None else config.grad_clip,
        },
        "lr_scheduler": scheduler,
        "param_groups": {
            pattern: _adamw(config, name)
            for name, pattern in _PATTERNS.items()
            if not (tied and name == "head")  # torchtitan refuses a pattern without a parameter
        },
        "checkpoint": {"enable": True, "interval": config.save_every},
        "recompute": step.gradient_checkpointing,
        "seed": config.seed,
    }


def _adamw(config: TrainConfig, name: GroupName) -> dict[str, Any]:
    group = config.group_settings(name)
    return {"lr": group.learning_rate, "betas": group.betas, "weight_decay": group.weight_decay}


def module_text(document: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The Python module of a document, with the notes in its docstring."""
    architecture, values = document["architecture"], document["model"]
    rope = {"dim": values["head_dim"], "max_seq_len": values["max_seq_len"], "theta": values["theta"]}
    name = architecture.title()
    parts = values | {
        "version": VERSION, "architecture": architecture, "model_class": f"{name}Model",
        "block_class": f"{name}TransformerBlock", "adapter_class": f"{name}StateDictAdapter",
        "parallelize": "parallelize_llama" if architecture == "llama3" else "parallelize_qwen3",
        "rope_class": "ComplexRoPE" if architecture == "llama3" else "CosSinRoPE",
        "rope": _keywords(rope | values.get("scaling", {})),
        "qk_norm": "_norm(HEAD_DIM)" if _QK_NORMS[architecture] == "head" else "None",
        "trainer": _trainer(document.get("training"), values),
    }  # fmt: skip
    lines = (textwrap.fill(note, 100, initial_indent="- ", subsequent_indent="  ") for note in notes)
    return _MODULE.format(**parts, notes="\n".join(lines))


def _trainer(training: Mapping[str, Any] | None, values: Mapping[str, Any]) -> str:
    """The arguments of `Trainer.Config` for the settings of a run."""
    sequence = {"seq_len": values["max_seq_len"]}
    if training is None:
        return f"        training=TrainingConfig({_keywords(sequence)}),\n"
    groups = [
        f"    _adamw({pattern!r}, {_keywords(settings)}),"
        for pattern, settings in training["param_groups"].items()
    ]
    lines = [
        f"training=TrainingConfig({_keywords(training['training'] | sequence)}),",
        f"lr_scheduler=LRSchedulersContainer.Config({_keywords(training['lr_scheduler'])}),",
        "optimizer=OptimizersContainer.Config(param_groups=[",
        *groups,
        "]),",
        f"checkpoint=CheckpointManager.Config({_keywords(training['checkpoint'])}),",
        f"activation_checkpoint={'FullAC.Config()' if training['recompute'] else 'None'},",
        f"debug=DebugConfig(seed={training['seed']}),",
    ]
    return "".join(f"        {line}\n" for line in lines)


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in values.items())


def _literal(value: object) -> str:
    return 'float("inf")' if value == float("inf") else repr(value)


_MODULE: Final = '''"""A config of torchtitan {version}, for its {architecture}: written by parambudget.

torchrun --nproc_per_node N -m torchtitan.train --module torchtitan_config --config config

All processes shard the model (FSDP) unless parallelism says otherwise.

{notes}
"""

from functools import partial

from torch import nn
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from torchtitan.config import DebugConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import Embedding, Linear, RMSNorm, {rope_class}
from torchtitan.models.common.config_utils import get_attention_config, make_gqa_config
from torchtitan.models.common.feed_forward import FeedForward
from torchtitan.models.{architecture}.model import {model_class}, {block_class}
from torchtitan.models.{architecture}.parallelize import {parallelize}
from torchtitan.models.{architecture}.state_dict_adapter import {adapter_class}
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

DIM, N_LAYERS, N_HEADS, N_KV_HEADS, HEAD_DIM = {dim}, {n_layers}, {n_heads}, {n_kv_heads}, {head_dim}
HIDDEN_DIM, VOCAB_SIZE = {hidden_dim}, {vocab_size}
INIT = {{"weight": partial(nn.init.normal_, std={init_std})}}
OUT_INIT = {{"weight": partial(nn.init.normal_, std={out_std})}}


def _norm(width):
    return RMSNorm.Config(normalized_shape=width, eps={eps}, param_init={{"weight": nn.init.ones_}})


def _linear(into, out, init=INIT):
    return Linear.Config(in_features=into, out_features=out, param_init=init)


def _adamw(pattern, **settings):
    return ParamGroupConfig(pattern=pattern, optimizer_name="AdamW", optimizer_kwargs=settings)


def _layer():
    return {block_class}.Config(
        attention_norm=_norm(DIM),
        ffn_norm=_norm(DIM),
        attention=make_gqa_config(
            dim=DIM, n_heads=N_HEADS, n_kv_heads=N_KV_HEADS, head_dim=HEAD_DIM, wqkv_param_init=INIT,
            wo_param_init=OUT_INIT, inner_attention=get_attention_config("flex"), fuse_qkv=True,
            rope={rope_class}.Config({rope}), qk_norm={qk_norm},
        ),
        feed_forward=FeedForward.Config(
            w1=_linear(DIM, HIDDEN_DIM), w2=_linear(HIDDEN_DIM, DIM, OUT_INIT), w3=_linear(DIM, HIDDEN_DIM)
        ),
    )


def model():
    """The model, as torchtitan builds it."""
    return {model_class}.Config(
        dim=DIM,
        vocab_size=VOCAB_SIZE,
        enable_weight_tying={tied},
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB_SIZE, embedding_dim=DIM, param_init=INIT),
        norm=_norm(DIM),
        lm_head=_linear(DIM, VOCAB_SIZE),
        layers=[_layer() for _ in range(N_LAYERS)],
    )


def config():
    """Model and run."""
    spec = ModelSpec(
        name="{architecture}", flavor="parambudget", model=model(), parallelize_fn={parallelize},
        pipelining_fn=pipeline_llm, post_optimizer_build_fn=None, state_dict_adapter={adapter_class},
    )
    return Trainer.Config(
        model_spec=spec,
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=VOCAB_SIZE)),
{trainer}    )
'''
