"""Random models for property tests: small in every size, with any value of every choice in `ModelConfig`."""

from typing import Any, get_args

from hypothesis import strategies as st

from parambudget.arch.blocks import MLAConfig, MoEConfig
from parambudget.arch.config import BLOCKS, FIELDS, ModelConfig
from parambudget.arch.dims import RopeType, pattern_at
from parambudget.arch.rope_scaling import RopeScaling

SIZES = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size",
    "vocab_size", "context_length",
)  # fmt: skip
SIZES_OF_MOE = (
    "n_experts", "n_experts_per_token", "expert_intermediate_size", "n_shared_experts",
    "shared_intermediate_size", "n_expert_groups", "n_groups_per_token", "n_first_dense",
)  # fmt: skip


@st.composite
def models(
    draw: st.DrawFn, *, uniform: bool = False, experts: bool = True, latents: bool = True
) -> ModelConfig:
    """Any valid model of a few hundred to a few ten thousand parameters, or any without experts or latents.

    A uniform one is dense and has layers of one kind.
    """
    names = [name for name in ModelConfig.model_fields if name not in (*SIZES, *BLOCKS)]
    choose = {name: draw(_values(name)) for name in names}
    _repair(choose)
    n_layers = draw(st.integers(1, 3))
    if uniform:
        choose["window_pattern"] = ("local",)
    elif experts:
        choose["moe"] = draw(st.none() | moe_blocks(n_layers))
    n_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    head_dim = draw(st.integers(1, 12))
    if choose["position"] == "rotary":
        head_dim += head_dim % 2
        pairs = draw(st.integers(1, head_dim // 2))
        choose["rotary_fraction"] = 2 * pairs / head_dim
    if latents and draw(st.booleans()):
        choose |= {"mla": draw(mla_blocks(head_dim)), "qk_norm": "none", "qkv_clip": None}
        choose["qk_norm_bias"] = None
        n_kv_heads, group = n_kv_heads * group, 1
        head_dim += choose["mla"].qk_nope_head_dim
    model = ModelConfig(
        dim=draw(st.integers(1, 24)),
        n_layers=n_layers,
        n_heads=n_kv_heads * group,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        intermediate_size=draw(st.integers(1, 40)),
        vocab_size=draw(st.integers(2, 50)),
        context_length=draw(st.integers(2, 12)),
        **choose,
    )
    if model.position == "rotary" and model.n_local_layers:
        model = model.replace(rope_theta_local=draw(st.none() | st.just(50.0)))
    if model.position == "rotary":
        model = model.replace(rope_scaling=draw(st.none() | rope_scalings(model.rotary_dim // 2)))
    projected = draw(st.none() | st.integers(1, 24))
    return model if projected == model.dim else model.replace(embedding_dim=projected)


def _repair(choose: dict[str, Any]) -> None:
    """Undo what contradicts other choices."""
    if choose["norm"] == "rmsnorm" or not choose["norm_weight"]:
        choose |= {"norm_bias": False, "qk_norm_bias": choose["qk_norm_bias"] and None}
    if choose["qk_norm"] == "none":
        choose["qk_norm_bias"] = None
    if choose["norm_placement"] == "post":
        choose["block"] = "sequential"
    if choose["norm_placement"] == "reordered" and choose["block"] == "parallel_shared_norm":
        choose["block"] = "parallel"
    if choose["window"] is None:
        choose["window_pattern"] = ("local",)
    if choose["position"] != "rotary":
        choose["rotary_pattern"] = ("rotary",)
    if choose["position"] != "learned":
        choose["position_offset"] = 0
    if not choose["gated"]:
        choose["ffn_clamp"] = None


@st.composite
def moe_blocks(draw: st.DrawFn, n_layers: int) -> MoEConfig:
    """Any valid block for that depth."""
    names = [name for name in MoEConfig.model_fields if name not in SIZES_OF_MOE]
    choose = {name: draw(_values(name)) for name in names}
    n_groups, of_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    chosen_groups, n_shared = draw(st.integers(1, n_groups)), draw(st.integers(0, 2))
    if not n_shared:
        choose["shared_expert_gate"] = False
    n_first_dense = draw(st.integers(0, n_layers - 1))
    if "experts" not in [
        pattern_at(choose["moe_pattern"], layer) for layer in range(n_first_dense, n_layers)
    ]:
        choose["moe_pattern"] = ("experts",)
    return MoEConfig(
        n_experts=n_groups * of_group,
        n_experts_per_token=draw(st.integers(1, chosen_groups * of_group)),
        expert_intermediate_size=draw(st.integers(1, 20)),
        n_shared_experts=n_shared,
        shared_intermediate_size=draw(st.none() | st.integers(1, 20)) if n_shared else None,
        n_expert_groups=n_groups,
        n_groups_per_token=chosen_groups,
        n_first_dense=n_first_dense,
        **choose,
    )


def mla_blocks(rotated: int) -> st.SearchStrategy[MLAConfig]:
    """Any valid block with heads of which that much is rotated."""
    return st.builds(
        MLAConfig,
        kv_lora_rank=st.integers(1, 12),
        q_lora_rank=st.none() | st.integers(1, 12),
        qk_nope_head_dim=st.integers(1, 8),
        qk_rope_head_dim=st.just(rotated),
        v_head_dim=st.integers(1, 12),
    )


@st.composite
def rope_scalings(draw: st.DrawFn, n_pairs: int) -> RopeScaling:
    """Any valid rescaling of heads with that many rotated pairs. No sequence is long enough for LongRoPE's
    long factors, with which a cache gives other logits than the whole sequence."""
    kinds = [kind for kind in get_args(RopeType) if kind not in ("none", *(["dynamic"] * (n_pairs == 1)))]
    kind = draw(st.sampled_from(kinds))
    factors = st.tuples(*[st.floats(0.5, 8)] * n_pairs)
    own: dict[str, st.SearchStrategy[Any]] = {"rope_factor": st.floats(1, 8)}
    if kind in ("yarn", "llama3", "longrope"):
        own["rope_original_context"] = st.integers(12, 100)
    if kind == "yarn":
        own |= {"rope_truncate": st.booleans(), "rope_attention_factor": st.none() | st.floats(0.5, 2)}
    if kind == "longrope":
        own |= {"rope_short_factors": factors, "rope_long_factors": factors}
        del own["rope_factor"]
    if kind == "proportional":
        own["rope_proportion"] = st.floats(1 / n_pairs, 1)
    return RopeScaling(rope_type=kind, **{name: draw(values) for name, values in own.items()})


def _values(name: str) -> st.SearchStrategy[Any]:
    """Any value of a choice: each of a Literal, both of a bool, a moderate one of a number."""
    annotation = FIELDS[name].annotation
    if annotation is bool:
        return st.booleans()
    if name in _NUMBERS:
        return _NUMBERS[name]
    return st.sampled_from(get_args(annotation))


_NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "rope_theta": st.sampled_from((100.0, 10_000.0, 500_000.0)),
    "rope_theta_local": st.none(),
    "rotary_fraction": st.just(1.0),
    "rotary_pattern": st.sampled_from((("rotary",), ("none", "rotary"), ("rotary", "rotary", "none"))),
    "window": st.none() | st.integers(1, 12),
    "window_pattern": st.sampled_from((("local",), ("local", "global"), ("global", "local", "local"))),
    "position_offset": st.integers(0, 2),
    "embedding_dim": st.none(),
    "qk_norm_bias": st.none() | st.booleans(),
    "ffn_clamp": st.none() | st.floats(0.01, 1),
    "attention_softcap": st.none() | st.floats(1, 50),
    "logit_multiplier": st.floats(0.1, 2),
    "qkv_clip": st.none() | st.floats(0.01, 1),
    "norm_eps": st.sampled_from((1e-6, 1e-5)),
    "logit_softcap": st.none() | st.floats(1, 50),
    "embedding_multiplier": st.floats(0.5, 50),
    "residual_multiplier": st.floats(0.1, 2),
    "attention_multiplier": st.none() | st.floats(0.01, 2),
    "init_std": st.floats(0.001, 0.5),
    "routing_multiplier": st.floats(0.5, 3),
    "moe_pattern": st.sampled_from((("experts",), ("dense", "experts"), ("experts", "dense"))),
}
