"""Small models of every family, at random."""

import math

import torch
from hypothesis import strategies as st
from support.hf_families import FAMILIES as DENSE
from support.hf_families import (
    FAMILIES_BEFORE_LLAMA,
    FAMILIES_BY_EXPORT,
    FAMILIES_BY_POSITION,
    FAMILIES_OF_EXPERTS,
    FAMILIES_OF_KIN,
    Family,
)
from support.hf_state_spaces import FAMILIES_OF_STATE_SPACES, shrunk_state_spaces

from parambudget.arch.config import ModelConfig

# The first ones first: of two types with one class, presets are counted by the later one's config.
FAMILIES = (
    DENSE
    | FAMILIES_BY_EXPORT
    | FAMILIES_OF_EXPERTS
    | FAMILIES_BY_POSITION
    | FAMILIES_BEFORE_LLAMA
    | FAMILIES_OF_KIN
    | FAMILIES_OF_STATE_SPACES
)


def shrunk(draw: st.DrawFn, family: Family) -> ModelConfig:
    """The family's choices with random small sizes, and plain rotary angles."""
    like = family.example
    if like.rope_scaling:
        score_scale = None if like.mla else like.attention_multiplier  # DeepSeek's is part of its YaRN
        like = like.replace(rope_type="none", attention_multiplier=score_scale)
    head_dim = 8 * draw(st.integers(1, 3))
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * (draw(st.integers(1, 3)) if family.grouped else 1)
    dim = n_heads * (draw(st.integers(2, 24)) if family.grouped else head_dim)
    root_of_dim = like.embedding_multiplier == math.sqrt(like.dim)  # Gemma's multiplier is no constant
    first = 1 + like.moe.n_first_dense if like.moe else 1
    period = max(len(like.window_pattern), len(like.rotary_pattern), len(like.mixer_pattern))
    first = max(first, 2) if like.moe and "dense" in like.moe.moe_pattern else first
    first = max(first, len(like.mixer_pattern))
    sizes = dict(
        dim=dim,
        n_layers=draw(st.integers(first, max(first + 2, period))),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        intermediate_size=family.ffn_ratio * dim if family.ffn_ratio else draw(st.integers(1, 64)),
        vocab_size=draw(st.integers(2, 60)),
        context_length=draw(st.integers(2, 16)),
        tied=draw(st.booleans()) if family.free_tie else like.tied,
        norm_eps=draw(st.sampled_from((1e-5, 1e-2))) if family.free_eps else like.norm_eps,
        embedding_multiplier=math.sqrt(dim) if root_of_dim else like.embedding_multiplier,
    )
    if like.query_scale != "none":
        sizes["n_layers"] = period  # of Llama 4, whose last one has no positions
    if like.position == "sinusoidal" and like.position_offset:  # XGLM's base follows from the width
        sizes["dim"] = dim = max(dim, 8 * n_heads)
        sizes["sinusoidal_theta"] = 10_000.0 ** (dim / (dim - 2))
    if like.global_head_dim:
        sizes["n_layers"] = like.n_kv_shared_layers * 2 or period * draw(st.integers(1, 2))
        sizes["global_head_dim"] = head_dim + 8
        sizes["global_n_kv_heads"] = 1 if like.global_n_kv_heads and n_kv_heads > 1 else None
    if like.per_layer_embedding_dim:
        sizes |= {"per_layer_embedding_dim": draw(st.integers(1, 8)), "per_layer_vocab_size": 60}
    if like.differential_attention:
        sizes |= {"n_kv_heads": 2 * n_kv_heads, "n_heads": 2 * n_heads}
    if like.local_sinks:
        sizes |= {"n_layers": 2, "global_n_kv_heads": n_kv_heads, "value_head_dim": draw(st.integers(1, 20))}
        sizes |= {"n_kv_heads": 2 * n_kv_heads, "n_heads": 2 * n_heads, "dim": 2 * dim}
    if like.lightning_attention:
        sizes |= {"lightning_n_heads": n_heads, "lightning_head_dim": head_dim}
    if like.rg_lru:
        sizes |= {"lru_n_blocks": n_heads, "lru_block_width": draw(st.integers(1, 8))}
        sizes |= {"dim": n_heads * head_dim, "context_length": like.context_length}
        sizes["embedding_multiplier"] = bfloat16_root(n_heads * head_dim)
    if like.window:
        sizes["window"] = draw(st.integers(1, 12))
    if like.embedding_dim:
        sizes["embedding_dim"] = dim + draw(st.integers(1, 8))
    sizes |= shrunk_experts(draw, like) if like.moe else {}
    sizes |= shrunk_latents(draw, like, n_heads) if like.mla else {}
    if like.gated_delta_net and like.gated_delta_net.delta_decay_bound:  # Ling has as many of these heads
        sizes |= {"delta_n_key_heads": n_heads, "delta_n_value_heads": n_heads}
        # Its class writes this width over that of the delta net.
        width = sizes["qk_rope_head_dim"]
        sizes |= {"delta_key_dim": width, "delta_value_dim": width}
    if like.moe and like.moe.experts_out_norm:
        sizes["q_lora_rank"] = 8  # which A.X K1 cannot do without
    sizes |= shrunk_state_spaces(draw, like, dim)
    if like.mamba and like.moe:  # Jamba's experts are as wide as its other FFNs
        sizes["expert_intermediate_size"] = sizes["intermediate_size"]
    return like.replace(**sizes)


def bfloat16_root(dim: int) -> float:
    """RecurrentGemma's factor on embeddings."""
    return float(torch.tensor(dim**0.5, dtype=torch.bfloat16))


def shrunk_latents(draw: st.DrawFn, like: ModelConfig, n_heads: int) -> dict[str, int | None]:
    """Sizes of latent attention, and what follows from them; even ones, or their complex numbers do not line
    up."""
    still, turned = 2 * draw(st.integers(1, 6)), 2 * draw(st.integers(1, 4))
    return {
        "kv_lora_rank": 2 * draw(st.integers(1, 12)),
        # An indexer has its queries from their latent.
        "q_lora_rank": draw(st.integers(1, 24) if like.indexer else st.none() | st.integers(1, 24)),
        "qk_nope_head_dim": still,
        "qk_rope_head_dim": turned,
        "v_head_dim": draw(st.integers(1, 12)),
        "head_dim": still + turned,
        "n_kv_heads": n_heads,
    }


def shrunk_experts(draw: st.DrawFn, like: ModelConfig) -> dict[str, int]:
    """Sizes of the experts; groups of 2 or 3 where the family has groups."""
    n_groups = draw(st.integers(1, 3)) if like.moe.n_expert_groups > 1 else 1
    of_group = draw(st.integers(2, 4))
    chosen_groups = draw(st.integers(1, n_groups))
    always_two = like.moe.router_scores == "sparsemixer"
    return {
        "n_experts": n_groups * of_group,
        "n_experts_per_token": 2 if always_two else draw(st.integers(1, chosen_groups * of_group)),
        "expert_intermediate_size": draw(st.integers(1, 40)),
        "n_expert_groups": n_groups,
        "n_groups_per_token": chosen_groups,
    }
