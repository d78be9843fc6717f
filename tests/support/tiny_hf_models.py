"""Small models of every family, at random."""

import math

from hypothesis import strategies as st
from support.hf_families import FAMILIES as DENSE
from support.hf_families import (
    FAMILIES_BEFORE_LLAMA,
    FAMILIES_BY_POSITION,
    FAMILIES_OF_EXPERTS,
    FAMILIES_OF_KIN,
    Family,
)

from parambudget.arch.config import ModelConfig

FAMILIES = DENSE | FAMILIES_OF_EXPERTS | FAMILIES_BY_POSITION | FAMILIES_BEFORE_LLAMA | FAMILIES_OF_KIN


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
    period = max(len(like.window_pattern), len(like.rotary_pattern))
    sizes = dict(
        dim=dim,
        n_layers=draw(st.integers(first, max(first + 2, period))),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        intermediate_size=family.ffn_ratio * dim if family.ffn_ratio else draw(st.integers(1, 64)),
        vocab_size=draw(st.integers(2, 60)),
        context_length=draw(st.integers(2, 16)),
        tied=draw(st.booleans()),
        norm_eps=draw(st.sampled_from((1e-5, 1e-2))) if family.free_eps else like.norm_eps,
        embedding_multiplier=math.sqrt(dim) if root_of_dim else like.embedding_multiplier,
    )
    if like.window:
        sizes["window"] = draw(st.integers(1, 12))
    if like.embedding_dim:
        sizes["embedding_dim"] = dim + draw(st.integers(1, 8))
    sizes |= shrunk_experts(draw, like) if like.moe else {}
    sizes |= shrunk_latents(draw, n_heads) if like.mla else {}
    return like.replace(**sizes)


def shrunk_latents(draw: st.DrawFn, n_heads: int) -> dict[str, int | None]:
    """Sizes of latent attention, and what follows from them; even ones, or their complex numbers do not line
    up."""
    still, turned = 2 * draw(st.integers(1, 6)), 2 * draw(st.integers(1, 4))
    return {
        "kv_lora_rank": 2 * draw(st.integers(1, 12)),
        "q_lora_rank": draw(st.none() | st.integers(1, 24)),
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
    return {
        "n_experts": n_groups * of_group,
        "n_experts_per_token": draw(st.integers(1, chosen_groups * of_group)),
        "expert_intermediate_size": draw(st.integers(1, 40)),
        "n_expert_groups": n_groups,
        "n_groups_per_token": chosen_groups,
    }
