"""What other tools call our fields and settings, for flags and keyword arguments alike.

Only looked up for a name that is none of ours. A test holds the keys of Hugging Face configs to those that
the importer knows.
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final
from warnings import warn

from parambudget.errors import ConfigError, suggest

_MODEL: Final = {
    # Hugging Face configs
    "hidden_size": "dim", "d_model": "dim", "n_embd": "dim", "num_hidden_layers": "n_layers",
    "num_layers": "n_layers", "n_layer": "n_layers", "num_attention_heads": "n_heads", "num_heads": "n_heads",
    "n_head": "n_heads", "num_key_value_heads": "n_kv_heads", "ffn_dim": "intermediate_size",
    "n_inner": "intermediate_size", "max_position_embeddings": "context_length",
    "max_seq_len": "context_length", "n_positions": "context_length", "seq_length": "context_length",
    "tie_word_embeddings": "tied", "attention_bias": "qkv_bias", "use_qkv_bias": "qkv_bias",
    "mlp_bias": "ffn_bias", "lm_head_bias": "head_bias", "hidden_act": "activation",
    "hidden_activation": "activation", "activation_function": "activation", "swiglu_limit": "ffn_clamp",
    "attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap",
    "clip_qkv": "qkv_clip", "logit_scale": "logit_multiplier", "initializer_range": "init_std",
    "layer_norm_eps": "norm_eps", "layer_norm_epsilon": "norm_eps", "norm_epsilon": "norm_eps",
    "rms_norm_eps": "norm_eps", "partial_rotary_factor": "rotary_fraction", "rotary_pct": "rotary_fraction",
    "rope_local_base_freq": "rope_theta_local", "rotary_emb_base": "rope_theta",
    "norm_topk_prob": "norm_expert_weights", "intermediate_size_mlp": "intermediate_size",
    "attention_heads": "n_heads", "dff": "intermediate_size",
    "scale_emb": "embedding_multiplier", "lm_head_multiplier": "logit_multiplier",
    "ssm_in_multiplier": "mixer_in_multiplier", "ssm_out_multiplier": "mixer_out_multiplier",
    "mamba_n_heads": "mamba2_n_heads", "mamba_num_heads": "mamba2_n_heads",
    "n_mamba_heads": "mamba2_n_heads", "mamba_head_dim": "mamba2_head_dim",
    "mamba_n_groups": "mamba2_n_groups", "mamba_ngroups": "mamba2_n_groups",
    "attention_head_dim": "head_dim", "attention_hidden_size": "rwkv_inner_size",
    "ssm_state_size": "mamba2_state_dim", "time_step_min": "mamba2_dt_min", "mixer_rms_eps": "mamba_norm_eps",
    "local_partial_rotary_factor": "rotary_fraction_local", "global_rope_theta": "rope_theta",
    "local_rope_theta": "rope_theta_local", "attention_value_scale": "value_multiplier",
    "dense_intermediate_size": "intermediate_size", "decoder_bias": "head_bias",
    "mlp_hidden_act": "activation", "logits_soft_cap": "logit_softcap",
    # Meta's params.json, nanoGPT, x-transformers and papers
    "n_embed": "dim", "embed_dim": "dim", "emb_dim": "dim", "model_dim": "dim", "width": "dim",
    "depth": "n_layers", "n_blocks": "n_layers", "max_seq_length": "context_length",
    "block_size": "context_length", "seq_len": "context_length", "sequence_length": "context_length",
    "context_size": "context_length", "n_ctx": "context_length", "ctx_size": "context_length",
    "d_ff": "intermediate_size", "d_ffn": "intermediate_size", "d_head": "head_dim", "head_size": "head_dim",
    "n_vocab": "vocab_size", "num_kv_heads": "n_kv_heads", "n_head_kv": "n_kv_heads",
    "tie_embeddings": "tied", "weight_tying": "tied",
    # llama.cpp's GGUF keys
    "embedding_length": "dim", "block_count": "n_layers", "feed_forward_length": "intermediate_size",
    "head_count": "n_heads", "head_count_kv": "n_kv_heads", "key_length": "head_dim",
    "rope_freq_base": "rope_theta", "expert_count": "n_experts", "expert_used_count": "n_experts_per_token",
    # Megatron-LM and litgpt
    "ffn_hidden_size": "intermediate_size", "num_query_groups": "n_kv_heads", "n_query_groups": "n_kv_heads",
    "kv_channels": "head_dim", "moe_ffn_hidden_size": "expert_intermediate_size",
    "moe_router_topk": "n_experts_per_token",
    # keys of experts and windows that the importer reads by rules of their own
    "num_experts": "n_experts", "num_local_experts": "n_experts", "n_routed_experts": "n_experts",
    "num_experts_per_tok": "n_experts_per_token", "top_k_experts": "n_experts_per_token",
    "moe_intermediate_size": "expert_intermediate_size", "first_k_dense_replace": "n_first_dense",
    "sliding_window": "window",
}  # fmt: skip
_TRAINING: Final = {
    "lr": "learning_rate", "max_lr": "learning_rate", "min_lr": "final_learning_rate",
    "warmup": "warmup_steps", "warmup_iters": "warmup_steps", "max_steps": "steps", "max_iters": "steps",
    "train_iters": "steps", "num_train_steps": "steps", "micro_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size", "device_batch_size": "batch_size",
    "grad_accum": "gradient_accumulation_steps", "grad_accum_steps": "gradient_accumulation_steps",
    "accumulate_grad_batches": "gradient_accumulation_steps", "activation_checkpointing":
    "gradient_checkpointing", "max_grad_norm": "grad_clip", "clip_grad": "grad_clip",
    "gradient_clip_val": "grad_clip", "adam_beta1": "beta1", "adam_beta2": "beta2",
    "adam_beta_1": "beta1", "adam_beta_2": "beta2", "eval_interval": "eval_every", "eval_steps": "eval_every",
    "save_steps": "save_every", "save_interval": "save_every", "save_total_limit": "keep",
    "lr_scheduler": "schedule", "lr_scheduler_type": "schedule", "lr_schedule": "schedule",
    "aux_loss_coef": "balance_loss", "router_aux_loss_coef": "balance_loss", "max_tokens": "tokens",
    "train_tokens": "tokens", "max_time": "hours", "output_dir": "out", "out_dir": "out", "dataset": "data",
    "data_dir": "data", "data_path": "data", "init_from": "init", "fsdp": "shard", "random_seed": "seed",
    "max_new_tokens": "max_tokens", "temp": "temperature", "model": "like", "n_gpus": "gpus",
    "num_gpus": "gpus", "budget": "target", "params": "target",
}  # fmt: skip


SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(_TRAINING | _MODEL)
"""Other tools' names to ours, all with underscores."""


def our_name(name: str, known: Iterable[str]) -> str | None:
    """Which of the `known` names another tool's name stands for; None where it stands for none of them."""
    ours = SYNONYMS.get(name)
    return ours if ours in set(known) else None


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant: spelled alike, or the meaning of a name spelled alike."""
    names = sorted(known)
    others = {other: ours for other, ours in SYNONYMS.items() if ours in names}
    near = suggest(name, [*names, *others], cutoff=0.75) or suggest(name, names, cutoff=0.6)
    return others.get(near[0], near[0]) if near else None


def hint_for(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a name that is none of the known ones: the one that was meant, or `otherwise`."""
    near = nearest_name(name, known)
    return f"did you mean {near!r}?" if near else otherwise


def with_our_names(given: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    """Keyword arguments with our names in place of other tools', each with a warning of one line.

    A name that is nobody's stays for the check that follows. Raises `ConfigError` for both spellings of one
    thing.
    """
    if given.keys() <= set(known):
        return dict(given)
    ours: dict[str, object] = {}
    for name, value in given.items():
        own = name if name in known else our_name(name, known) or name
        if own in ours or (own != name and own in given):
            raise ConfigError(f"{name} and {own} are the same; give one of them")
        if own != name:
            warn(f"{name} is {own} here", stacklevel=_levels_to_caller())
        ours[own] = value
    return ours


def _levels_to_caller() -> int:
    """How many frames above `with_our_names` the caller of this package is, whose line a warning names."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("parambudget."):
        frame, levels = frame.f_back, levels + 1
    return levels
