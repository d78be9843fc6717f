"""Random models for property tests: small in every size, with any value of every choice in `ModelConfig`."""

import contextlib
from typing import Any, get_args

from hypothesis import strategies as st

from parambudget.arch.blocks import BranchMultipliers, IndexerConfig, MLAConfig, MoEConfig
from parambudget.arch.config import BLOCKS, FIELDS, ModelConfig
from parambudget.arch.dims import RopeType, pattern_at
from parambudget.arch.mixers.config import (
    GatedDeltaNetConfig,
    LightningAttentionConfig,
    Mamba2Config,
    MambaConfig,
    RGLRUConfig,
    RWKVConfig,
    ShortConvolutionConfig,
)
from parambudget.arch.rope_scaling import RopeScaling
from parambudget.errors import ConfigError

SIZES = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size",
    "vocab_size", "context_length",
)  # fmt: skip
SIZES_OF_MOE = (
    "n_experts", "n_experts_per_token", "expert_intermediate_size", "n_shared_experts",
    "shared_intermediate_size", "expert_latent_size", "n_expert_groups", "n_groups_per_token",
    "n_first_dense",
)  # fmt: skip


@st.composite
def models(
    draw: st.DrawFn, *, uniform: bool = False, experts: bool = True, latents: bool = True, rare: bool = False
) -> ModelConfig:
    """Any valid model of a few hundred to a few ten thousand parameters, or any without experts or latents;
    with `rare` also of the choices that few families have.

    A uniform one is dense and has layers of one kind.
    """
    names = [
        name for name in ModelConfig.model_fields if name not in (*SIZES, *BLOCKS) and not _is_rare(name)
    ]
    choose = {name: draw(_values(name)) for name in names}
    _repair(choose)
    n_layers = draw(st.integers(1, 3))
    if uniform:
        choose["window_pattern"] = ("local",)
    elif experts:
        choose["moe"] = draw(st.none() | moe_blocks(n_layers))
        if choose["moe"] and choose["activation"] == "xielu":
            choose["activation"] = "relu2"
    n_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    head_dim = draw(st.integers(1, 12))
    if latents and draw(st.booleans()):
        choose["mla"], choose["attention_gate"] = True, "none"
    if choose["position"] == "rotary":
        head_dim += head_dim % 2
        pairs = draw(st.integers(1, head_dim // 2))
        choose["rotary_fraction"] = 2 * pairs / head_dim
    if choose.get("mla"):
        choose |= {"mla": draw(mla_blocks(head_dim)), "qk_norm": "none", "qkv_clip": None}
        choose["qk_norm_bias"] = None
        n_kv_heads, group = n_kv_heads * group, 1
        if choose["position"] != "alibi":
            choose["indexer"] = draw(st.none() | indexer_blocks(head_dim, uniform=uniform))
        if choose.get("indexer"):
            choose |= {"window": None, "window_pattern": ("local",), "window_kind": "sliding"}
            choose["rotary_fraction_local"] = None
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
    model = model if projected == model.dim else model.replace(embedding_dim=projected)
    return _with_rare_choices(draw, model) if rare and draw(st.booleans()) else model


def _is_rare(name: str) -> bool:
    return name in _RARE and name not in _NUMBERS


def _with_rare_choices(draw: st.DrawFn, model: ModelConfig) -> ModelConfig:
    """The model with choices that few families have, as far as they go together."""
    for name, values in _RARE.items():
        with contextlib.suppress(ConfigError):
            model = model.replace(**{name: draw(values)})
    return model


@st.composite
def hybrids(draw: st.DrawFn) -> ModelConfig:
    """Any valid model with a mixer other than attention in some layers, or without an FFN in some."""
    model = draw(models())
    if model.norm_placement == "post":
        model = model.replace(norm_placement="pre")
    kind = draw(st.sampled_from(sorted(_MIXER_BLOCKS)))
    beside = (f"attention+{kind}",) if kind in ("mamba", "mamba2") else ()
    choices = (kind, *beside, "attention", "none")
    words = draw(st.lists(st.sampled_from(choices), min_size=0, max_size=2))
    fed = ["ffn" if word == "none" else draw(st.sampled_from(("ffn", "none"))) for word in words]
    changes = {"mixer_pattern": [kind, *words], "ffn_pattern": ["ffn", *fed], "block": "sequential"}
    if model.moe is not None:
        changes |= {"n_first_dense": 0, "moe_pattern": ["experts"]}
    changes |= {"rope_theta_local": None, "indexer": None}
    if kind == "rwkv" and model.moe is None and draw(st.booleans()):
        model = with_channel_mix(model)
    if draw(st.booleans()):
        changes["multipliers"] = BranchMultipliers(mixer_in_multiplier=0.5, attention_out_multiplier=2.0)
    return model.replace(**changes, **{kind: draw(_MIXER_BLOCKS[kind])})


def with_channel_mix(model: ModelConfig) -> ModelConfig:
    """A model without experts with an FFN that mixes each token with the one before it."""
    activation = "relu2" if model.activation == "xielu" else model.activation
    return model.replace(channel_mix=True, gated=False, ffn_clamp=None, activation=activation)


def _repair(choose: dict[str, Any]) -> None:
    """Undo what contradicts other choices."""
    if choose["norm"] == "rmsnorm" or not choose["norm_weight"]:
        choose |= {"norm_bias": False, "qk_norm_bias": choose["qk_norm_bias"] and None}
    if choose["qk_norm"] == "none":
        choose["qk_norm_bias"] = None
    if choose["norm_placement"] in ("post", "stream"):
        choose["block"] = "sequential"
    if choose["norm_placement"] == "reordered" and choose["block"] == "parallel_shared_norm":
        choose["block"] = "parallel"
    if choose["window"] is None:
        choose["window_pattern"] = ("local",)
    if choose["position"] != "rotary":
        choose["rotary_pattern"] = ("rotary",)
    if choose["position"] != "learned":
        choose["position_offset"] = 0
    if choose["activation"] == "xielu":
        choose["gated"] = False
    if not choose["gated"]:
        choose["ffn_clamp"] = None


@st.composite
def _delta_nets(draw: st.DrawFn) -> GatedDeltaNetConfig:
    n_key_heads, of_each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return GatedDeltaNetConfig(
        delta_n_key_heads=n_key_heads, delta_n_value_heads=n_key_heads * of_each,
        delta_key_dim=draw(st.integers(1, 8)), delta_value_dim=draw(st.integers(1, 8)),
        delta_conv_width=draw(st.integers(2, 4)), delta_gate_rank=draw(st.none() | st.integers(1, 5)),
        delta_channel_decay=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def _mambas(draw: st.DrawFn) -> MambaConfig:
    return MambaConfig(
        mamba_inner_size=draw(st.integers(1, 24)), mamba_dt_rank=draw(st.integers(1, 4)),
        mamba_state_dim=draw(st.integers(1, 6)), mamba_conv_width=draw(st.integers(2, 4)),
        mamba_conv_bias=draw(st.booleans()), mamba_bias=draw(st.booleans()),
        mamba_norm=draw(st.sampled_from(("none", "unscaled", "scaled"))),
    )  # fmt: skip


@st.composite
def _mamba2s(draw: st.DrawFn) -> Mamba2Config:
    n_groups, of_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return Mamba2Config(
        mamba2_n_heads=n_groups * of_group, mamba2_n_groups=n_groups,
        mamba2_head_dim=draw(st.integers(1, 8)), mamba2_state_dim=draw(st.integers(1, 8)),
        mamba2_conv_width=draw(st.integers(2, 4)), mamba2_conv_bias=draw(st.booleans()),
        mamba2_in_bias=draw(st.booleans()), mamba2_out_bias=draw(st.booleans()),
        mamba2_norm=draw(st.sampled_from(("none", "before_gate", "after_gate"))),
        mamba2_dt_min=draw(st.sampled_from((0.0, 0.01))), mamba2_dt_max=draw(st.none() | st.just(0.5)),
    )  # fmt: skip


_SMALL = st.integers(1, 4)
_MIXER_BLOCKS = {
    "gated_delta_net": _delta_nets(),
    "mamba": _mambas(),
    "mamba2": _mamba2s(),
    "short_convolution": st.builds(
        ShortConvolutionConfig, short_conv_width=st.integers(1, 4), short_conv_bias=st.booleans()
    ),
    "lightning_attention": st.builds(
        LightningAttentionConfig, lightning_n_heads=_SMALL, lightning_head_dim=_SMALL
    ),
    "rg_lru": st.builds(RGLRUConfig, lru_n_blocks=_SMALL, lru_block_width=_SMALL, lru_conv_width=_SMALL),
    "rwkv": st.builds(RWKVConfig, rwkv_inner_size=st.integers(1, 24)),
}


@st.composite
def moe_blocks(draw: st.DrawFn, n_layers: int) -> MoEConfig:
    """Any valid block for that depth."""
    names = [name for name in MoEConfig.model_fields if name not in SIZES_OF_MOE and not _is_rare(name)]
    choose = {name: draw(_values(name)) for name in names}
    n_groups, of_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    chosen_groups, n_shared = draw(st.integers(1, n_groups)), draw(st.integers(0, 2))
    if not n_shared:
        choose["shared_expert_gate"] = False
    if not choose["correction_bias"]:
        choose["correction_counted"] = False
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
        expert_latent_size=draw(st.none() | st.integers(1, 12)),
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
        latent_norm_eps=st.none() | st.just(1e-3),
    )


@st.composite
def indexer_blocks(draw: st.DrawFn, rotated: int, *, uniform: bool) -> IndexerConfig:
    """Any valid block for heads of which at most that much is rotated."""
    uses = st.just("own") if uniform else st.sampled_from(("own", "shared"))
    return IndexerConfig(
        n_index_heads=draw(st.integers(1, 3)),
        index_head_dim=rotated + draw(st.integers(0, 4)),
        index_top_k=draw(st.integers(1, 12)),
        indexer_pattern=("own", *draw(st.lists(uses, max_size=2))),
        index_rotary_interleaved=draw(st.booleans()),
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
    if name in _NUMBERS:
        return _NUMBERS[name]
    if annotation is bool:
        return st.booleans()
    return st.sampled_from(get_args(annotation))


_RARE: dict[str, st.SearchStrategy[Any]] = {
    "window_kind": st.sampled_from(("sliding", "chunked")),
    "value_head_dim": st.none() | st.integers(1, 12),
    "global_head_dim": st.none() | st.sampled_from((2, 4, 8)),
    "global_n_heads": st.none() | st.integers(1, 6),
    "global_n_kv_heads": st.none() | st.integers(1, 3),
    "global_keys_as_values": st.booleans(),
    "n_kv_shared_layers": st.integers(0, 2),
    "kv_shared_ffn_factor": st.integers(1, 2),
    "per_layer_embedding_dim": st.none() | st.integers(1, 6),
    "per_layer_vocab_size": st.none() | st.integers(1, 50),
    "attention_gate_activation": st.sampled_from(("sigmoid", "softplus")),
    "attention_gate_biased": st.booleans(),
    "differential_attention": st.booleans(),
    "qk_norm_after_rotation": st.booleans(),
    "value_norm": st.booleans(),
    "value_multiplier": st.floats(0.5, 2),
    "sub_norms": st.booleans(),
    "local_sinks": st.booleans(),
    "layer_scale": st.booleans(),
    "channel_mix": st.booleans(),
    "experts_beside_ffn": st.booleans(),
    "experts_out_norm": st.booleans(),
    "weights_on_inputs": st.booleans(),
    "correction_on_logits": st.booleans(),
    "expert_latent_size": st.none() | st.integers(1, 8),
    "router_scores": st.sampled_from(("softmax", "sigmoid", "sparsemixer")),
    "qk_norm": st.sampled_from(("none", "head", "l2")),
    "position": st.sampled_from(("rotary", "sinusoidal")),
    "query_scale": st.sampled_from(("none", "log", "log_next", "power")),
    "query_scale_strength": st.floats(0.1, 1),
    "query_scale_length": st.integers(1, 6),
    "rotary_fraction_local": st.none() | st.sampled_from((0.5, 1.0)),
    "sinusoidal_theta": st.sampled_from((100.0, 10_000.0)),
}
"""Choices of few families; a value that contradicts what was drawn before it is left out."""
_NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "qk_norm": st.sampled_from(("none", "head", "per_head", "full")),
    "position": st.sampled_from(("rotary", "learned", "alibi", "none")),
    "mixer_pattern": st.just(("attention",)),
    "router_scores": st.sampled_from(("softmax", "sigmoid")),
    "ffn_pattern": st.just(("ffn",)),
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
    "mixer_pre_norm": st.just(False),
    "stream_multiplier": st.just(1.0) | st.floats(0.5, 4),
    "attention_multiplier": st.none() | st.floats(0.01, 2),
    "init_std": st.floats(0.001, 0.5),
    "routing_multiplier": st.floats(0.5, 3),
    "moe_pattern": st.sampled_from((("experts",), ("dense", "experts"), ("experts", "dense"))),
}
