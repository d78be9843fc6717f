"""One small model of every class of transformers that is written, with the choices of a published one."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from parambudget.arch.config import ModelConfig
from parambudget.arch.hf.write import CLASSES, to_hf
from parambudget.arch.presets import PRESETS, preset
from parambudget.build.export import write_weights
from parambudget.build.module import Transformer
from parambudget.build.pretrained import own_tensors

logging.set_verbosity_error()
logging.disable_progress_bar()
# Classes that no preset is of, or that another one would be taken for.
LIKE = {
    "arcee": preset("llama-3-8b").replace(gated=False, activation="relu2"),
    "codegen": preset("gpt-j-6b"),
    "openai-gpt": preset("gpt2").replace(norm_placement="post", final_norm=False),
    "seed_oss": preset("qwen2.5-7b"),
}
WITH_EVERYTHING = {
    "cohere": {"qk_norm": "per_head"}, "phi": {"qk_norm": "head"},
    "stablelm": {"qk_norm": "per_head", "qk_norm_bias": False}, "glm4_moe": {"qk_norm": "head"},
}  # fmt: skip
"""Switches that the published ones have not turned."""


def shrunk(model: ModelConfig) -> ModelConfig:
    """The same choices at sizes that take milliseconds."""
    grouped = 4 if model.n_kv_heads == model.n_heads else 2 if model.n_kv_heads > 1 else 1
    root = model.embedding_multiplier == model.dim**0.5  # Gemma's multiplier is no constant
    period = max(len(model.window_pattern), len(model.rotary_pattern))
    sizes = dict(
        dim=64, n_layers=max(3, min(period, 6)), n_heads=4, n_kv_heads=grouped, head_dim=16,
        intermediate_size=256, vocab_size=40, context_length=16,
        embedding_multiplier=8.0 if root else model.embedding_multiplier,
        window=model.window and 5,
        window_pattern=model.window_pattern[:6], rotary_pattern=model.rotary_pattern[:6],
    )  # fmt: skip
    if model.moe:
        groups = min(model.moe.n_expert_groups, 2)
        sizes |= dict(
            n_experts=6, n_experts_per_token=2, expert_intermediate_size=24, n_expert_groups=groups,
            n_groups_per_token=min(model.moe.n_groups_per_token, groups),
            shared_intermediate_size=model.moe.shared_intermediate_size and 40,
            n_first_dense=min(model.moe.n_first_dense, 1),
        )  # fmt: skip
    if model.mla:
        sizes |= dict(
            kv_lora_rank=24, q_lora_rank=model.mla.q_lora_rank and 20, qk_nope_head_dim=12,
            qk_rope_head_dim=8, v_head_dim=10, head_dim=20, n_kv_heads=4,
        )  # fmt: skip
    return model.replace(**sizes)


PUBLISHED = {to_hf(row.model).name: row.model for row in PRESETS.values()}
OF_EACH_CLASS = {kind: shrunk((PUBLISHED | LIKE)[kind]) for kind in CLASSES}
OF_EACH_CLASS |= {kind: OF_EACH_CLASS[kind].replace(**more) for kind, more in WITH_EVERYTHING.items()}


def random_module(model: ModelConfig) -> Transformer:
    """Every weight drawn, those of norms and biases too."""
    module, generator = Transformer(model).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in own_tensors(module).values():
            tensor.normal_(0, 0.2, generator=generator)
    return module


def written(folder: Path, module: Transformer, kind: str, shard_bytes: int = 10**9) -> Path:
    """A folder of the class, with the module's weights."""
    own = own_tensors(module)
    folder.mkdir(exist_ok=True)
    write_weights(folder, kind, module.model, own, own.__getitem__, shard_bytes)
    (folder / "config.json").write_text(json.dumps(to_hf(module.model, kind).document))
    return folder


def theirs(folder: Path) -> PreTrainedModel:
    """What transformers makes of the folder; every tensor of it must be there, and no other."""
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    if hasattr(model.config, "num_experts_per_tok"):
        model.config._experts_implementation = "eager"  # its grouped product wants rows of 16 bytes
    return model.eval()
