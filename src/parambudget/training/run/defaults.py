"""The settings that a person leaves out of a run are filled in here, each with the reason shown beside it.

Laws        of tokens, batch and learning rate: `scaling/hyperparameters.py`
GPT-3       Brown et al. 2020, arXiv 2005.14165, appendix B: AdamW's constants, clipping and weight decay
Moonlight   Liu et al. 2025, arXiv 2502.16982: Muon with updates of AdamW's size, and its weight decay
nanochat    Karpathy 2025, scripts/base_train.py: rates per group, momentum that rises over 300 updates
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from parambudget._no_effect import NoEffect, without_effect
from parambudget.arch.config import ModelConfig
from parambudget.arch.mixers.rows import model_mixer
from parambudget.arch.tensors import tensors
from parambudget.arch.validation import LARGEST_FLOAT, plain_numbers
from parambudget.cost.memory.recompute import recomputation
from parambudget.cost.step import OptimizerName, StepConfig, accumulation_steps, micro_batch_size
from parambudget.errors import ConfigError
from parambudget.scaling.hyperparameters import (
    executed_batch,
    peak_learning_rate,
    training_tokens,
    update_tokens,
    whole_updates,
)
from parambudget.training.config import TRAIN_FIELDS, TrainConfig
from parambudget.training.optimization.schedule import START_MOMENTUM, decay_steps
from parambudget.units import format_count, plural

FINAL_LEARNING_RATE: Final = 1e-5
MOST_EVAL_TOKENS: Final = 2**18
MOMENTUM_WARMUP_STEPS: Final = 300
UNTIED_EMBEDDING_RATE_RATIO: Final = 20
"""Of the embedding's rate to that of the matrices, beside Muon: as in the nanochat-like recipe, the only one
tried (docs/recipe.md)."""
MUON_BETA1: Final = 0.8
"""Of AdamW for what Muon does not train."""
MICRO_STEP_TOKENS: Final = {"cpu": 2**10, "accelerator": 2**14}
_ALWAYS: Final = {
    "optimizer": "lower loss than AdamW at its best rate for the same tokens, measured: docs/recipe.md",
    "schedule": "linear decay to nearly zero gives a lower loss than a cosine (Bergsma et al. 2025)",
    "embedding_learning_rate": "that of the matrices",
    "head_learning_rate": "that of the matrices",
    "scalar_learning_rate": "that of the matrices",
    "decay_share": "only for schedule=wsd: 0.2 gives the loss of a cosine (Hägele et al. 2024)",
    "weight_decay": "as for GPT-3 and Llama; with Muon as for Moonlight",
    "embedding_weight_decay": "as for GPT-3: only matrices are decayed",
    "head_weight_decay": "that of the matrices",
    "weight_decay_schedule": "as for GPT-3 and Llama",
    "momentum": "only for Muon: its author's value (Jordan 2024)",
    "momentum_warmup_steps": "only for Muon",
    "beta1": "as for GPT-3 and Llama",
    "beta2": "as for GPT-3 and Llama: averages over 20 updates, not 1,000",
    "embedding_beta1": "as beta1",
    "embedding_beta2": "as beta2",
    "head_beta1": "as beta1",
    "head_beta2": "as beta2",
    "grad_clip": "as for GPT-3 and Llama",
    "z_loss": "off; use 1e-4 (PaLM) if the logits drift in a long run",
    "mask_documents": "so that no token of the text is left out",
    "gradient_checkpointing": "used only if memory is short: it adds a third more FLOPs",
    "activation_memory_budget": "all that torch finds fastest to keep; see docs/training.md",
    "loss_chunks": "more only if memory is short: then the output head is computed twice",
    "seed": "any number will do",
    "keep": "the best one is kept as well",
}
"""Why the settings that depend on neither model, text nor device have their default."""
HEAD_SETTINGS: Final = ("head_learning_rate", "head_weight_decay", "head_beta1", "head_beta2")


@dataclass(frozen=True)
class _Run:
    """What decides whether a setting of a run has an effect."""

    config: TrainConfig
    model: ModelConfig

    @property
    def decays_weights(self) -> bool:
        """Whether any weight decay is above 0."""
        config = self.config
        return any((config.weight_decay, config.embedding_weight_decay, config.head_weight_decay))

    @property
    def has_scalars(self) -> bool:
        """Whether the model has any tensor that is neither a matrix nor an embedding."""
        return any(row.role not in ("lookup", "matmul") for row in tensors(self.model))


_NO_EFFECT: Final[tuple[NoEffect[_Run], ...]] = (
    NoEffect(
        ("momentum", "momentum_warmup_steps"),
        lambda run: run.config.step.optimizer != "muon",
        "only Muon has a momentum, and this run has `optimizer=adamw`",
    ),
    NoEffect(
        ("momentum_warmup_steps",),
        lambda run: run.config.momentum <= START_MOMENTUM,
        f"a momentum warms up from {START_MOMENTUM}, and this run's is not above that",
    ),
    NoEffect(
        ("final_learning_rate", "schedule", "decay_share"),
        lambda run: run.config.steps - run.config.warmup_steps <= 1,
        "the learning rate never decays: at most one update follows the warm-up, and that has the peak rate",
    ),
    NoEffect(
        ("final_learning_rate",),
        lambda run: decay_steps(run.config) <= 1,
        "the learning rate never decays: its decay is one update long, and that still has the peak rate",
    ),
    NoEffect(
        ("schedule", "decay_share"),
        lambda run: run.config.final_learning_rate == run.config.learning_rate,
        "the final learning rate is the peak, so it does not decay",
    ),
    NoEffect(
        ("decay_share",),
        lambda run: run.config.schedule != "wsd",
        "it is for `schedule=wsd` alone",
    ),
    NoEffect(("weight_decay_schedule",), lambda run: not run.decays_weights, "no weight decay is above 0"),
    NoEffect(
        ("scalar_learning_rate",),
        lambda run: not run.has_scalars,
        "this model has no norm weights, biases or sinks",
    ),
    NoEffect(
        ("activation_memory_budget",),
        lambda run: recomputation(run.model, run.config.step).stage == 0,
        "what would be saved is within it, or has fewer bytes than the embedding, so nothing is recomputed",
    ),
)
_PROBE: Final[dict[str, Any]] = {
    "steps": 2**31, "batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": LARGEST_FLOAT,
    "final_learning_rate": 0.0, "warmup_steps": 0, "eval_every": 1, "eval_tokens": 1, "save_every": 1,
}  # fmt: skip


@dataclass(frozen=True)
class ResolvedTrainConfig:
    """Complete settings, and why each one that was not given has its value."""

    config: TrainConfig
    given: frozenset[str]
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()
    """Of the laws that chose a setting, a line for each that does not reach as far as this run."""


def with_train_defaults(
    given: Mapping[str, object], model: ModelConfig, data_tokens: int, *, on_cpu: bool,
    tokens: int | None = None,
) -> ResolvedTrainConfig:  # fmt: skip
    """The given settings, and the rest derived from the model, the text and the device.

    `tokens` is the number of tokens to train on, in place of `steps`.
    """
    given = plain_numbers(given)
    require_valid(given)  # a wrong field is reported as itself, not as the arithmetic it breaks below
    if given.get("balance_loss") and model.moe is None:
        raise ConfigError(
            f"balance_loss={given['balance_loss']:g} balances experts, but this model has none; leave it out"
        )
    if model.tied and model.moe is None and (of_head := _first_of(given, HEAD_SETTINGS)):
        raise ConfigError(
            f"{of_head}={given[of_head]:g} is for an output head of its own, but this model's is tied to the "
            f"embedding; use `{of_head.replace('head', 'embedding')}`, or leave it out"
        )
    if given.get("mask_documents") and model.position == "alibi":
        raise ConfigError(
            "mask_documents=True is not supported with ALiBi, whose bias would need a mask for every head "
            "and sequence; leave it out, or use other positions"
        )
    if given.get("mask_documents") and model.n_mixer_layers:
        raise ConfigError(
            f"mask_documents=True is not supported with {model_mixer(model)}, whose state goes on from one "
            "document to the next; leave it out, or use attention in every layer"
        )
    if given.get("mask_documents") and model.channel_mix:
        raise ConfigError(
            "mask_documents=True is not supported with channel_mix, which mixes the first token of "
            "a document with the last of the one before; leave it out, or use FFNs without channel_mix"
        )
    fields: dict[str, Any] = dict(given)
    reasons: dict[str, str] = {}
    length, why = (tokens, "given") if tokens is not None else training_tokens(model, data_tokens)
    for name, value, reason in _derived_settings(fields, model, data_tokens, length, why, on_cpu=on_cpu):
        if name not in fields:
            fields[name], reasons[name] = value, reason
    return ResolvedTrainConfig(TrainConfig.read(fields), frozenset(given), reasons)


def settings_without_effect(resolved: ResolvedTrainConfig, model: ModelConfig) -> Iterator[str]:
    """A sentence about each setting that was given and changes nothing beside the others; none about one that
    has its default: a config file may list all."""
    values = resolved.config.model_dump()
    given = {
        name: values[name]
        for name, info in TRAIN_FIELDS.items()
        if name in resolved.given and values[name] != info.default
    }
    return without_effect(_NO_EFFECT, given, _Run(resolved.config, model))


def law_warnings(config: TrainConfig, model: ModelConfig, given: Collection[str]) -> Iterator[str]:
    """A line about each law that chose a setting and does not reach as far as this run. What is `given`, no
    law has chosen."""
    update = config.step.tokens_per_update(model.context_length)
    tokens, found = config.steps * update, []
    if "learning_rate" not in given:
        found += [peak_learning_rate(model, tokens, config.step.optimizer, update).warning]
    if not {"batch_size", "gradient_accumulation_steps"} <= set(given):
        found += [update_tokens(model, tokens).warning]
    return (warning for warning in found if warning)


def _derived_settings(
    fields: Mapping[str, Any], model: ModelConfig, data_tokens: int, length: int, why_length: str, *,
    on_cpu: bool,
) -> Iterator[tuple[str, object, str]]:  # fmt: skip
    """Every setting that has a default, with it and the reason.

    Each is in `fields` before the next one is derived from it.
    """
    yield from _batch(fields, model, length, "cpu" if on_cpu else "accelerator")
    step = StepConfig(
        batch_size=fields["batch_size"], gradient_accumulation_steps=fields["gradient_accumulation_steps"]
    )
    update = step.tokens_per_update(model.context_length)
    fewest = f", and an update has {update:,}" if length < update else ""
    yield (
        "steps",
        whole_updates(length, update, data_tokens),
        f"{format_count(length)} {plural(length, 'token')}: {why_length}{fewest}",
    )
    steps = fields["steps"]
    optimizer: OptimizerName = fields.get("optimizer", TRAIN_FIELDS["optimizer"].default)
    suggested = peak_learning_rate(model, steps * update, optimizer, update)
    yield "learning_rate", suggested.rate, suggested.why
    final = min(FINAL_LEARNING_RATE, fields["learning_rate"])
    yield "final_learning_rate", final, "as in the runs behind Step Law"
    yield from _by_optimizer(optimizer, steps, fields["learning_rate"], model)
    yield "eval_every", math.ceil(steps / 10), "10 times in the run"
    affordable = max(model.context_length, fields["eval_every"] * update // 2)
    yield "eval_tokens", min(MOST_EVAL_TOKENS, affordable), "evaluation takes at most a seventh of the run"
    yield "save_every", math.ceil(steps / 10), "10 times in the run"
    yield "balance_loss", *_balance_loss(model)
    for name, reason in _ALWAYS.items():
        yield name, TRAIN_FIELDS[name].default, reason


def _by_optimizer(
    optimizer: OptimizerName, steps: int, rate: float, model: ModelConfig
) -> Iterator[tuple[str, object, str]]:
    """Defaults that Muon and AdamW do not share."""
    if optimizer == "adamw":
        yield "warmup_steps", min(2_000, math.ceil(steps / 10)), "a tenth of the steps, at most 2,000"
        return
    yield "warmup_steps", min(500, math.ceil(steps / 50)), "a fiftieth of the steps, at most 500"
    yield "momentum_warmup_steps", MOMENTUM_WARMUP_STEPS, "as in nanochat, however long the run"
    ratio = tied_embedding_rate_ratio(model.dim) if model.tied else UNTIED_EMBEDDING_RATE_RATIO
    yield "embedding_learning_rate", *_times_rate(ratio, rate, "the head is tied" if model.tied else "")
    if not model.tied:
        yield "head_learning_rate", *_times_rate(head_rate_ratio(model.dim), rate)
    yield "beta1", MUON_BETA1, "lower loss than 0.9 beside Muon, measured: docs/recipe.md"


def _times_rate(ratio: float, rate: float, because: str = "") -> tuple[float, str]:
    """A multiple of the rate of the matrices, and why."""
    shown = f"{ratio:.3g} times that of the matrices" if ratio != 1 else "that of the matrices"
    return float(f"{ratio * rate:.3g}"), f"{shown}{because and f' ({because})'}: docs/recipe.md"


def tied_embedding_rate_ratio(dim: int) -> float:
    """Of the rate of an embedding that is the head as well to that of the matrices, beside Muon.

    The best one measured is 4 at dim 128 and 1.5 at dim 384 (docs/recipe.md). Wider than that it stays:
    the first Muon for GPT-2 had 1.7 of this trainer's rate at dim 768 (Jordan 2024, modded-nanogpt).
    """
    return max(1.5, min(4.0, 512 / dim))


def head_rate_ratio(dim: int) -> float:
    """Of the rate of an untied head to that of the matrices, beside Muon.

    A head moves its logits in proportion to its rate and to dim (Yang et al. 2022, arXiv 2203.03466), and the
    rate of the matrices falls with the root of dim. The least is half: nanochat has about 1 at any width.
    """
    return max(0.5, min(1.0, math.sqrt(128 / dim)))


def _first_of(given: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if given.get(name) is not None), None)


def _balance_loss(model: ModelConfig) -> tuple[float, str]:
    """Sources: Muennighoff et al. 2024 (OLMoE), arXiv 2409.02060; DeepSeek-AI 2024 (V3), arXiv 2412.19437,
    section 4.2."""
    if model.moe is None:
        return 0.0, "the model has no experts"
    if model.moe.correction_bias:
        return 1e-4, "as for DeepSeek-V3, whose router bias does the rest"
    return 0.01, "as for OLMoE"


def require_valid(given: Mapping[str, object]) -> None:
    """Refuse settings of which one is wrong by itself."""
    TrainConfig.read(_PROBE | dict(given))


def _batch(
    fields: Mapping[str, Any], model: ModelConfig, length: int, kind: str
) -> Iterator[tuple[str, int, str]]:
    """Sequences per update as the laws have it, in micro-steps of a size that suits the device, and why."""
    batch = update_tokens(model, length, fields.get("steps"))
    sequences = max(1, batch.tokens // model.context_length)
    most, steps = MICRO_STEP_TOKENS[kind], fields.get("gradient_accumulation_steps", 1)
    size = micro_batch_size(sequences, steps, at_most=most // model.context_length)
    steps = accumulation_steps(sequences, fields.get("batch_size", size))
    step = StepConfig(batch_size=fields.get("batch_size", size), gradient_accumulation_steps=steps)
    yield "batch_size", size, f"at most {most:,} tokens a micro-step on this device"
    why = batch.why + executed_batch(batch.tokens, step, model.context_length)
    yield "gradient_accumulation_steps", steps, why
