"""Families with state spaces: our config as theirs, and random keys that agree with each other."""

from collections.abc import Callable
from math import inf
from typing import Any, Final

import transformers as hf
from hypothesis import strategies as st
from support.hf_families import Family, config

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.formats.hf.schema import ConfigSchema

Draw = Callable[[st.SearchStrategy[Any]], Any]
NO_TOKENS: Final = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def alone(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words of classes without attention."""
    return config_class(
        hidden_size=m.dim, num_hidden_layers=m.n_layers, vocab_size=m.vocab_size, tie_word_embeddings=m.tied,
        layer_norm_epsilon=m.norm_eps, **NO_TOKENS, **more,
    )  # fmt: skip


def mamba(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    assert m.mamba is not None
    return alone(
        config_class, m, state_size=m.mamba.mamba_state_dim, conv_kernel=m.mamba.mamba_conv_width,
        expand=m.mamba.mamba_inner_size // m.dim, time_step_rank=m.mamba.mamba_dt_rank,
        use_bias=m.mamba.mamba_bias, use_conv_bias=m.mamba.mamba_conv_bias, **more,
    )  # fmt: skip


def mamba2(m: ModelConfig) -> hf.PreTrainedConfig:
    ssm = m.mamba2
    assert ssm is not None
    return alone(
        hf.Mamba2Config, m, num_heads=ssm.mamba2_n_heads, head_dim=ssm.mamba2_head_dim,
        state_size=ssm.mamba2_state_dim, n_groups=ssm.mamba2_n_groups, conv_kernel=ssm.mamba2_conv_width,
        use_bias=ssm.mamba2_in_bias, use_conv_bias=ssm.mamba2_conv_bias,
        expand=ssm.mamba2_n_heads * ssm.mamba2_head_dim // m.dim,
        chunk_size=8, time_step_limit=[ssm.mamba2_dt_min, ssm.mamba2_dt_max or inf],
    )  # fmt: skip


def hybrid(config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object) -> hf.PreTrainedConfig:
    """The words of classes that have Mamba-2 and attention."""
    ssm = m.mamba2
    assert ssm is not None
    return config(
        config_class, m, rms_norm_eps=m.norm_eps, mamba_chunk_size=8, mamba_n_heads=ssm.mamba2_n_heads,
        mamba_d_head=ssm.mamba2_head_dim, mamba_d_state=ssm.mamba2_state_dim,
        mamba_n_groups=ssm.mamba2_n_groups, mamba_d_conv=ssm.mamba2_conv_width,
        mamba_expand=ssm.mamba2_n_heads * ssm.mamba2_head_dim // m.dim, **more,
    )  # fmt: skip


def rwkv(m: ModelConfig) -> hf.PreTrainedConfig:
    """Without a cache: the class cannot run with one where it has more channels than dim, or fewer."""
    assert m.rwkv is not None
    return alone(
        hf.RwkvConfig, m, attention_hidden_size=m.rwkv.rwkv_inner_size, intermediate_size=m.intermediate_size,
        context_length=m.context_length, use_cache=False, rescale_every=0,
    )  # fmt: skip


def attention_layers(m: ModelConfig) -> list[int]:
    return [layer for layer in range(m.n_layers) if m.has_attention(layer)]


def mixer_types(m: ModelConfig) -> list[str]:
    words = {None: "full_attention", "mamba2": "linear_attention"}
    return [words[m.mixer_kind(layer)] for layer in range(m.n_layers)]


def bamba(m: ModelConfig) -> hf.PreTrainedConfig:
    return hybrid(hf.BambaConfig, m, attn_layer_indices=attention_layers(m))


def granite(m: ModelConfig) -> hf.PreTrainedConfig:
    moe = m.moe
    sizes = {"num_local_experts": 0, "shared_intermediate_size": m.intermediate_size}
    if moe is not None:
        sizes = {
            "num_local_experts": moe.n_experts, "num_experts_per_tok": moe.n_experts_per_token,
            "intermediate_size": moe.expert_intermediate_size,
            "shared_intermediate_size": moe.shared_expert_width,
        }  # fmt: skip
        m = m.replace(intermediate_size=moe.expert_intermediate_size)
        sizes.pop("intermediate_size")
    return hybrid(
        hf.GraniteMoeHybridConfig, m, layer_types=mixer_types(m), embedding_multiplier=m.embedding_multiplier,
        residual_multiplier=m.residual_multiplier, attention_multiplier=m.attention_multiplier,
        logits_scaling=1 / m.logit_multiplier,
        position_embedding_type="rope" if m.position == "rotary" else None,
        experts_implementation="eager", **sizes,
    )  # fmt: skip


def falcon_h1(m: ModelConfig) -> hf.PreTrainedConfig:
    ssm, factors = m.mamba2, m.multipliers
    assert ssm is not None
    assert factors is not None
    return hybrid(
        hf.FalconH1Config, m, mamba_d_ssm=ssm.mamba2_n_heads * ssm.mamba2_head_dim,
        mamba_rms_norm=ssm.mamba2_norm != "none", mamba_norm_before_gate=ssm.mamba2_norm == "before_gate",
        lm_head_multiplier=m.logit_multiplier, embedding_multiplier=m.embedding_multiplier,
        mlp_multipliers=[factors.ffn_gate_multiplier, factors.ffn_out_multiplier],
        attention_in_multiplier=factors.attention_in_multiplier,
        attention_out_multiplier=factors.attention_out_multiplier,
        ssm_in_multiplier=factors.mixer_in_multiplier, ssm_out_multiplier=factors.mixer_out_multiplier,
        ssm_multipliers=list(ssm.mamba2_multipliers),
        key_multiplier=m.attention_multiplier * m.head_dim**0.5 if m.attention_multiplier else 1.0,
    )  # fmt: skip


def nemotron_h(m: ModelConfig) -> hf.PreTrainedConfig:
    ssm, moe, experts = m.mamba2, m.moe, {}
    assert ssm is not None
    if moe is not None:
        experts = {
            "n_routed_experts": moe.n_experts, "num_experts_per_tok": moe.n_experts_per_token,
            "moe_intermediate_size": moe.expert_intermediate_size, "moe_latent_size": moe.expert_latent_size,
            "moe_shared_expert_intermediate_size": moe.shared_expert_width,
            "n_group": moe.n_expert_groups, "topk_group": moe.n_groups_per_token,
            "routed_scaling_factor": moe.routing_multiplier,
        }  # fmt: skip
    ffns = ["moe" if m.has_experts(layer) else "mlp" for layer in range(m.n_layers)]
    kinds = [mixer if m.has_mixing(at) else ffns[at] for at, mixer in enumerate(mixer_types(m))]
    return config(
        hf.NemotronHConfig, m, layers_block_type=kinds, layer_norm_epsilon=m.norm_eps,
        mamba_num_heads=ssm.mamba2_n_heads, mamba_head_dim=ssm.mamba2_head_dim,
        ssm_state_size=ssm.mamba2_state_dim, n_groups=ssm.mamba2_n_groups, conv_kernel=ssm.mamba2_conv_width,
        time_step_min=ssm.mamba2_dt_min, chunk_size=8, mlp_hidden_act=m.activation,
        experts_implementation="eager",
        **experts,
    )  # fmt: skip


def period(layers: list[int], n_layers: int) -> tuple[int, int]:
    """From one of these layers to the next, and the first of them."""
    return (layers[1] - layers[0] if len(layers) > 1 else n_layers), layers[0]


def zamba(m: ModelConfig) -> hf.PreTrainedConfig:
    assert m.mamba is not None
    return shared_blocks(
        hf.ZambaConfig, m, mamba_d_state=m.mamba.mamba_state_dim, mamba_d_conv=m.mamba.mamba_conv_width,
        mamba_expand=m.mamba.mamba_inner_size // m.dim, mamba_dt_rank=m.mamba.mamba_dt_rank,
    )  # fmt: skip


def zamba2(m: ModelConfig) -> hf.PreTrainedConfig:
    parts, ssm = m.counted_parts, m.mamba2
    assert parts is not None
    assert ssm is not None
    return shared_blocks(
        hf.Zamba2Config, m, num_mem_blocks=parts.n_shared_blocks, adapter_rank=parts.shared_adapter_rank,
        use_shared_attention_adapter=parts.shared_attention_adapters, n_mamba_heads=ssm.mamba2_n_heads,
        mamba_d_state=ssm.mamba2_state_dim, mamba_d_conv=ssm.mamba2_conv_width,
        mamba_ngroups=ssm.mamba2_n_groups, mamba_expand=ssm.mamba2_n_heads * ssm.mamba2_head_dim // m.dim,
    )  # fmt: skip


def shared_blocks(
    config_class: type[hf.PreTrainedConfig], m: ModelConfig, **more: object
) -> hf.PreTrainedConfig:
    words = ["hybrid" if m.has_attention(layer) else "mamba" for layer in range(m.n_layers)]
    return config_class(
        hidden_size=m.dim, num_hidden_layers=m.n_layers, num_attention_heads=m.n_heads,
        num_key_value_heads=m.n_kv_heads, attention_head_dim=m.head_dim, vocab_size=m.vocab_size,
        intermediate_size=m.intermediate_size, tie_word_embeddings=m.tied, layers_block_type=words, **more,
    )  # fmt: skip


def jamba(m: ModelConfig) -> hf.PreTrainedConfig:
    moe, ssm = m.moe, m.mamba
    assert moe is not None
    assert ssm is not None
    attention = period(attention_layers(m), m.n_layers)
    experts = period([layer for layer in range(m.n_layers) if m.has_experts(layer)], m.n_layers)
    return config(
        hf.JambaConfig, m, rms_norm_eps=m.norm_eps, num_experts=moe.n_experts,
        num_experts_per_tok=moe.n_experts_per_token, expert_layer_period=experts[0],
        expert_layer_offset=experts[1], attn_layer_period=attention[0], attn_layer_offset=attention[1],
        mamba_d_state=ssm.mamba_state_dim, mamba_d_conv=ssm.mamba_conv_width,
        mamba_expand=ssm.mamba_inner_size // m.dim, mamba_dt_rank=ssm.mamba_dt_rank,
        experts_implementation="eager",
    )  # fmt: skip


ALONE: Final = pb.model(
    dim=32, n_layers=2, n_heads=1, head_dim=32, vocab_size=64, position="none", ffn_pattern=["none"],
    mixer_pattern=["mamba2"], mamba2_n_heads=4, mamba2_head_dim=16, mamba2_state_dim=8, mamba2_n_groups=2,
    tied=False,
)  # fmt: skip
MAMBA: Final = pb.model(
    dim=32, n_layers=2, n_heads=1, head_dim=32, vocab_size=64, position="none", ffn_pattern=["none"],
    mixer_pattern=["mamba"], mamba_inner_size=64, mamba_dt_rank=2, mamba_state_dim=4,
)  # fmt: skip
HYBRID: Final = pb.model(
    dim=32, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=64, intermediate_size=24, tied=False,
    mixer_pattern=["mamba2", "attention", "mamba2"], mamba2_n_heads=4, mamba2_head_dim=16, mamba2_state_dim=8,
)  # fmt: skip
EXPERTS: Final = {
    "n_experts": 4, "n_experts_per_token": 2, "expert_intermediate_size": 20, "n_shared_experts": 1,
    "shared_intermediate_size": 28,
}  # fmt: skip
FAMILIES_OF_STATE_SPACES: Final = {
    "bamba": Family(hf.BambaForCausalLM, bamba, HYBRID.replace(rotary_fraction=0.5), grouped=True),
    "falcon_h1": Family(
        hf.FalconH1ForCausalLM,
        falcon_h1,
        HYBRID.replace(
            mixer_pattern=["attention+mamba2"], mamba2_norm="none", attention_in_multiplier=0.7,
            attention_out_multiplier=0.8, mixer_in_multiplier=1.2, mixer_out_multiplier=0.9,
            ffn_gate_multiplier=0.4, ffn_out_multiplier=0.6, mamba2_multipliers=[0.3, 0.5, 0.7, 1.2, 1.5],
            embedding_multiplier=3.0, logit_multiplier=0.5,
        ),
        grouped=True,
    ),
    "falcon_mamba": Family(
        hf.FalconMambaForCausalLM,
        lambda m: mamba(hf.FalconMambaConfig, m, mixer_rms_eps=m.mamba.mamba_norm_eps),
        MAMBA.replace(mamba_norm="unscaled", mamba_norm_eps=1e-3),
    ),
    "granitemoehybrid": Family(
        hf.GraniteMoeHybridForCausalLM,
        granite,
        HYBRID.replace(
            position="none", embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3,
            logit_multiplier=0.125, **EXPERTS,
        ),
        grouped=True,
    ),
    "granitemoehybrid-dense": Family(
        hf.GraniteMoeHybridForCausalLM, granite, HYBRID.replace(attention_multiplier=0.3), grouped=True
    ),
    "jamba": Family(
        hf.JambaForCausalLM,
        jamba,
        MAMBA.replace(
            n_heads=4, n_kv_heads=2, head_dim=8, n_layers=3, ffn_pattern=["ffn"], tied=False,
            mixer_pattern=["mamba", "attention", "mamba"], mamba_norm="scaled", intermediate_size=24,
            n_experts=4, n_experts_per_token=2, expert_intermediate_size=24, moe_pattern=["dense", "experts"],
            norm_expert_weights=False,
        ),
        grouped=True,
    ),
    "mamba": Family(hf.MambaForCausalLM, lambda m: mamba(hf.MambaConfig, m), MAMBA),
    "mamba2": Family(hf.Mamba2ForCausalLM, mamba2, ALONE.replace(mamba2_dt_min=0.2, mamba2_dt_max=0.9)),
    "nemotron_h": Family(
        hf.NemotronHForCausalLM,
        nemotron_h,
        HYBRID.replace(
            position="none", gated=False, activation="relu2", n_layers=4, mamba2_dt_min=0.001,
            mixer_pattern=["mamba2", "none", "attention", "none"], ffn_pattern=["none", "ffn"],
            router_scores="sigmoid", correction_bias=True, moe_pattern=["dense", "experts", "dense", "dense"],
            expert_latent_size=12, **EXPERTS,
        ),
        grouped=True,
        free_tie=False,
    ),
    "rwkv": Family(
        hf.RwkvForCausalLM,
        rwkv,
        pb.model(
            dim=32, n_layers=2, n_heads=1, vocab_size=64, position="none", norm="layernorm",
            mixer_pattern=["rwkv"], rwkv_inner_size=24, embedding_norm=True, gated=False, activation="relu2",
            channel_mix=True, tied=False,
        ),
        free_eps=False,
    ),
}  # fmt: skip
"""Every class with state spaces, with the choices that differ from one to the other."""
COUNTED_STATE_SPACES: Final = {"ZambaForCausalLM": zamba, "Zamba2ForCausalLM": zamba2}
"""Classes that have no module of ours."""


def shrunk_state_spaces(draw: Draw, like: ModelConfig, dim: int) -> dict[str, Any]:
    """Sizes of the state spaces; together they are twice as wide as the model, as the classes have it."""
    sizes: dict[str, Any] = {}
    if like.mamba is not None:
        sizes |= {
            "mamba_inner_size": 2 * dim, "mamba_dt_rank": draw(st.integers(1, 6)),
            "mamba_state_dim": draw(st.integers(1, 6)), "mamba_conv_width": draw(st.integers(2, 4)),
        }  # fmt: skip
    if like.mamba2 is not None:
        sizes |= {
            "mamba2_n_heads": 2, "mamba2_head_dim": dim, "mamba2_n_groups": draw(st.integers(1, 2)),
            "mamba2_state_dim": draw(st.integers(1, 6)), "mamba2_conv_width": draw(st.integers(2, 4)),
        }  # fmt: skip
    if like.rwkv is not None:
        # The class divides by one less than both.
        sizes |= {"rwkv_inner_size": draw(st.integers(2, 40)), "n_layers": draw(st.integers(2, 4))}
    if not like.n_attention_layers:
        sizes |= {"n_heads": 1, "n_kv_heads": 1, "head_dim": dim}
    return sizes


ALLOWED_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "mamba_hidden_act": ("silu",), "mlp_hidden_act": ("relu2", "silu"), "time_step_rank": ("auto", 3),
    "mamba_dt_rank": ("auto", 3), "position_embedding_type": (None, "rope", "nope"),
    "time_step_limit": ([0.0, inf], [0.1, 0.5]), "mlp_multipliers": (None, [0.5, 2.0]),
    "ssm_multipliers": (None, [0.25, 0.5, 2.0, 0.5, 2.0]), "conv_kernel": (2, 3), "mamba_d_conv": (2, 3),
    "moe_latent_size": (None, 8), "mamba_n_groups": (1, 2), "n_groups": (1, 2), 
    "mamba_num_heads": (8, 16), "mamba_d_ssm": (None, 16, 48), "mamba_expand": (2, 3),
    "hidden_mamba_act": ("silu",), "mamba_ngroups": (1, 2), "num_mem_blocks": (1, 2, 3),
    "attn_layer_indices": (None, [0], [1, 3]), "mamba_d_head": ("auto",),
}  # fmt: skip
PERIODS: Final = ("attn_layer", "expert_layer")
INTERDEPENDENT: Final = {
    "attention_head_dim", "attention_hidden_size", "hybrid_layer_ids", "mamba_headdim", "n_mamba_heads",
    "num_heads", "expand", "layers_block_type", "hybrid_override_pattern", "mamba_n_heads",
    *(f"{name}_{key}" for name in PERIODS for key in ("period", "offset")),
}  # fmt: skip
SMALL_SIZES: Final = {
    "mamba_d_head": "auto", "mamba_d_ssm": 32, "mamba_d_state": 8, "mamba_head_dim": 8, "mamba_n_heads": 4,
    "mamba_num_heads": 4, "moe_shared_expert_intermediate_size": 24, "n_groups": 2, "ssm_state_size": 8,
    "state_size": 8, "hybrid_override_pattern": "ME*-",
}  # fmt: skip


def agreeing_keys(draw: Draw, schema: ConfigSchema, n_layers: int, dim: int) -> dict[str, Any]:
    """Keys that must agree with others: heads that fill a width, and what each layer has."""
    keys: dict[str, Any] = {}
    if "num_heads" in schema.defaults:
        keys |= {"expand": draw(st.sampled_from([2, 4])), "num_heads": draw(st.sampled_from([8, 16]))}
        keys["head_dim"] = keys["expand"] * dim // keys["num_heads"]
    elif "expand" in schema.defaults:
        keys["expand"] = draw(st.integers(1, 3))
    if "mamba_n_heads" in schema.defaults:
        keys["mamba_n_heads"] = draw(st.sampled_from([2, 4, 8]))
    if schema.keys.get("rwkv_inner_size") and draw(st.booleans()):
        keys["attention_hidden_size"] = draw(st.sampled_from([None, 8, 24, 40]))
    for name in PERIODS:
        if f"{name}_period" in schema.defaults:
            keys[f"{name}_period"] = draw(st.integers(1, 3))
            keys[f"{name}_offset"] = draw(st.integers(0, keys[f"{name}_period"] - 1))
    if "hybrid_override_pattern" in schema.defaults:
        letters = draw(st.sampled_from("M*")) + draw(st.text("ME*-", max_size=n_layers))
        words = {"M": "mamba", "E": "moe", "*": "full_attention", "-": "mlp"}
        if draw(st.booleans()):
            keys["layers_block_type"] = [words[letter] for letter in letters]
        else:
            keys["hybrid_override_pattern"] = letters
    if "n_mamba_heads" in schema.defaults:
        keys["n_mamba_heads"] = draw(st.sampled_from([2, 4, 8]))
        words = st.sampled_from(("mamba", "linear_attention", "hybrid"))
        kinds = draw(st.lists(words, min_size=n_layers, max_size=n_layers))
        if "adapter_rank" in schema.defaults:
            keys["tie_word_embeddings"] = True
        elif kinds.count("hybrid") == 1:  # with which the class of Zamba fails
            kinds = ["mamba"] * n_layers
        keys["layers_block_type"] = kinds
    return keys


def small_chunks(schema: ConfigSchema) -> dict[str, int]:
    """Chunks of the scans of a class, which fills up the last one with zeros; they change no logit."""
    if "mamba_n_heads" in schema.defaults:
        return {"mamba_chunk_size": 8}
    return {"chunk_size": 8} if {"num_heads", "mamba_num_heads"} & schema.defaults.keys() else {}
