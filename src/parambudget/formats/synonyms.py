"""What other tools call our fields and settings, for flags and keyword arguments alike.

The keys of Hugging Face configs come from the families that the importer knows; what other tools say stands
here. Only looked up for a name that is none of ours.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from parambudget.arch.config import FIELDS
from parambudget.errors import suggest

_MODEL: Final = {
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


@cache
def synonyms() -> Mapping[str, str]:
    """Other tools' names to ours, all with underscores."""
    from parambudget.formats.hf.families.registry import FAMILIES  # forty families: for an unknown name only

    keys = {key: field for family in FAMILIES.values() for field, key in family.config.keys.items()}
    return {name: ours for name, ours in (_TRAINING | keys | _MODEL).items() if name not in FIELDS}


def our_name(name: str, known: Iterable[str]) -> str | None:
    """Which of the `known` names another tool's name stands for; None where it stands for none of them."""
    ours = synonyms().get(name)
    return ours if ours in set(known) else None


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant: spelled alike, or the meaning of a name spelled alike."""
    names = sorted(known)
    others = {other: ours for other, ours in synonyms().items() if ours in names}
    near = suggest(name, [*names, *others], cutoff=0.75) or suggest(name, names, cutoff=0.6)
    return others.get(near[0], near[0]) if near else None
