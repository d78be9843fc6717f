"""Families with mixers other than attention in some or all layers.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import expert_rules, layer_rules, mixer_rules, rules
from parambudget.formats.hf.families.expert_weights import (
    FUSED_EXPERTS,
    FUSED_LAYOUTS,
    LATENT_ATTENTION,
    MIXTRAL_EXPERTS,
    QWEN2_SHARED_EXPERT,
    ROUTER,
    SEPARATE_EXPERTS,
    SHARED_EXPERTS,
    moe_weights,
)
from parambudget.formats.hf.schema import (
    ABSENT,
    ANY,
    ATTENTION,
    GATED_MLP,
    LLAMA_KEYS,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    Layout,
    TensorNames,
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

# fmt: off
GATED_ATTENTION: Final[Mapping[str, TensorNames]] = {
    **ATTENTION, **QK_NORMS, "self_attn.q_proj": ("attention.q", "attention.gate"),
}
_DELTA_NET: Final[Mapping[str, TensorNames]] = {
    "linear_attn.conv1d": "mixer.conv", "linear_attn.dt_bias": "mixer.decay_bias",
    "linear_attn.A_log": "mixer.log_rate", "linear_attn.norm": "mixer.out_norm",
    "linear_attn.out_proj": "mixer.out",
}
_JOINED_DELTA_NET: Final[Mapping[str, TensorNames]] = {
    "linear_attn.in_proj_qkvz": ("mixer.q", "mixer.k", "mixer.v", "mixer.gate"),
    "linear_attn.in_proj_ba": ("mixer.beta", "mixer.decay"),
}
_QWEN3_5_DELTA_NET: Final[Mapping[str, TensorNames]] = {
    "linear_attn.in_proj_qkv": ("mixer.q", "mixer.k", "mixer.v"), "linear_attn.in_proj_z": "mixer.gate",
    "linear_attn.in_proj_b": "mixer.beta", "linear_attn.in_proj_a": "mixer.decay",
}
_QWEN3_5_LAYOUTS: Final[Mapping[str, Layout]] = {
    "self_attn.q_proj": "per_head", "linear_attn.conv1d": "convolution",
}
_QWEN3_NEXT_LAYOUTS: Final[Mapping[str, Layout]] = {
    **_QWEN3_5_LAYOUTS, "linear_attn.in_proj_qkvz": "per_key_head",
    "linear_attn.in_proj_ba": "per_key_head",
}
_DELTA_DEFAULTS: Final = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "full_attention_interval": 4,
    "layer_types": None,
}
_QWEN: Final[Mapping[str, Any]] = {
    "keys": LLAMA_KEYS | {"rotary_fraction": "partial_rotary_factor"},
    "fixed": {"qk_norm": "head", "attention_gate": "element"},
    "unsupported": {"hidden_act": "silu"},
    "descriptions": {"hidden_act": "the same activation in convolutions (hidden_act)"},
}

_KIMI_DELTA: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "mixer.q", "self_attn.k_proj": "mixer.k", "self_attn.v_proj": "mixer.v",
    "self_attn.b_proj": "mixer.beta", "self_attn.g_a_proj": "mixer.gate_down",
    "self_attn.g_b_proj": "mixer.gate_up", "self_attn.o_norm": "mixer.out_norm",
    "self_attn.o_proj": "mixer.out",
}
_KIMI_FORGET_GATE: Final[Mapping[str, TensorNames]] = {
    "f_a_proj": "mixer.decay_down", "f_b_proj": "mixer.decay_up", "dt_bias": "mixer.decay_bias",
    "A_log": "mixer.log_rate",
}


def _kimi_weights() -> WeightNames:
    """Names in published files; as alternatives, those that the class saves, which differ in dense layers,
    and those of the class itself, which joins the convolutions and all experts of a layer."""
    moe = "block_sparse_moe."
    router = {name.replace("mlp.", moe): ours for name, ours in {**ROUTER, **SHARED_EXPERTS}.items()}
    experts = {name: ours for name, ours in MIXTRAL_EXPERTS.items() if ".experts." in name}
    delta = {
        **_KIMI_DELTA, **{f"self_attn.{name}": ours for name, ours in _KIMI_FORGET_GATE.items()},
        **{f"self_attn.{name}_conv1d": f"mixer.conv.{name}" for name in ("q", "k", "v")},
    }
    layouts: dict[str, Layout] = {
        "self_attn.A_log": "one_per_head",
        **dict.fromkeys(("self_attn.q_conv1d", "self_attn.k_conv1d", "self_attn.v_conv1d"), "convolution"),
    }

    def in_files(dense: Mapping[str, TensorNames]) -> WeightNames:
        others = {**PRE_NORMS, **dense, **router, **experts}
        names = llama_weights(LATENT_ATTENTION, others, layouts=layouts)
        return replace(names, mixer_block={**delta, **others}, separate_convolutions=True)

    own_delta = {
        **_KIMI_DELTA, "self_attn.conv1d": "mixer.conv",
        **{f"self_attn.forget_gate.{name}": ours for name, ours in _KIMI_FORGET_GATE.items()},
    }
    own = {**PRE_NORMS, **GATED_MLP, **ROUTER, **SHARED_EXPERTS, **FUSED_EXPERTS}
    own_layouts: dict[str, Layout] = {
        **FUSED_LAYOUTS, "self_attn.conv1d": "convolution", "self_attn.forget_gate.A_log": "one_per_head",
    }
    in_class = llama_weights(LATENT_ATTENTION, own, layouts=own_layouts)
    in_class = replace(in_class, mixer_block={**own_delta, **own})
    saved = in_files({name.replace("mlp.", moe): ours for name, ours in GATED_MLP.items()})
    return replace(in_files(GATED_MLP), alternatives=(saved, in_class))


def _bailing_weights() -> WeightNames:
    """Names in published files; as an alternative those of the class, which joins the convolutions and all
    experts of a layer."""
    delta = {name: ours for name, ours in _KIMI_DELTA.items() if not name.startswith("self_attn.g_")}
    delta |= {"self_attn.g_proj": "mixer.gate"}
    decays = {"f_proj": "mixer.decay", "dt_bias": "mixer.decay_bias", "A_log": "mixer.log_rate"}
    attention = {**LATENT_ATTENTION, "self_attn.g_proj": "attention.gate"}
    others = {**PRE_NORMS, **GATED_MLP, **ROUTER, **SHARED_EXPERTS}
    kernels = ("q", "k", "v")

    def in_official_names(names: Mapping[str, TensorNames]) -> dict[str, TensorNames]:
        changes = (("self_attn.", "attention."), ("attention.o_proj", "attention.dense"))
        stems = dict(names)
        for before, after in changes:
            stems = {name.replace(before, after): ours for name, ours in stems.items()}
        return stems

    own = {**others, **FUSED_EXPERTS}
    layouts: dict[str, Layout] = {**FUSED_LAYOUTS, "self_attn.conv1d": "convolution"}
    in_class = replace(
        llama_weights(attention, own, layouts=layouts),
        mixer_block={
            **delta, "self_attn.conv1d": "mixer.conv",
            **{f"self_attn.forget_gate.{name}": ours for name, ours in decays.items()}, **own,
        },
    )
    stored = {name.replace("e_score_correction_bias", "expert_bias"): ours for name, ours in others.items()}
    stored |= SEPARATE_EXPERTS
    return replace(
        llama_weights(
            in_official_names(attention), stored,
            layouts=dict.fromkeys((f"attention.{name}_conv1d" for name in kernels), "convolution"),
        ),
        top={"model.word_embeddings": "embed", "model.norm": "norm", "lm_head": "lm_head"},
        mixer_block={
            **in_official_names(delta), **{f"attention.{name}": ours for name, ours in decays.items()},
            **{f"attention.{name}_conv1d": f"mixer.conv.{name}" for name in kernels}, **stored,
        },
        separate_convolutions=True, alternatives=(in_class,),
    )


def _olmo_weights() -> WeightNames:
    """Names in published files; as alternatives, those that the class saves, which differ in layers with
    attention, and those of the class itself, which joins the convolutions."""
    delta = {
        **{f"linear_attn.{name}_proj": f"mixer.{ours}" for name, ours in (
            ("q", "q"), ("k", "k"), ("v", "v"), ("g", "gate"), ("b", "beta"), ("a", "decay"), ("o", "out"),
        )},
        "linear_attn.dt_bias": "mixer.decay_bias", "linear_attn.A_log": "mixer.log_rate",
        "linear_attn.o_norm": "mixer.out_norm",
    }
    kernels = {f"linear_attn.{name}_conv1d": f"mixer.conv.{name}" for name in ("q", "k", "v")}
    stored_norms = {"attention_layer_norm": "attention_norm", "feedforward_layer_norm": "ffn_norm"}
    saved_norms = {
        "feedforward_layer_norm": "attention_out_norm", "post_feedforward_layernorm": "ffn_out_norm",
    }

    def in_files(norms: Mapping[str, TensorNames]) -> WeightNames:
        return replace(
            llama_weights(
                ATTENTION, QK_NORMS, GATED_MLP, norms, layouts=dict.fromkeys(kernels, "convolution")
            ),
            mixer_block={**delta, **kernels, **GATED_MLP, **stored_norms}, separate_convolutions=True,
        )

    in_class = replace(
        llama_weights(
            ATTENTION, QK_NORMS, GATED_MLP, POST_NORMS, layouts={"linear_attn.conv1d": "convolution"}
        ),
        mixer_block={**delta, "linear_attn.conv1d": "mixer.conv", **GATED_MLP, **PRE_NORMS},
    )
    return replace(in_files(POST_NORMS), alternatives=(in_files(saved_norms), in_class))


HYBRID_FAMILIES: Final[dict[str, Family]] = {
    "bailing_hybrid": Family(
        model_class="BailingHybridForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "head_dim", "n_kv_heads", "tied"),
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=42, num_key_value_heads=32, head_dim=128,
                intermediate_size=6144, vocab_size=157184, max_position_embeddings=262144,
                rope_theta=6_000_000.0, tie_word_embeddings=UNREAD, attention_bias=False,
                moe_intermediate_size=768, n_shared_experts=1, routed_scaling_factor=2.5, kv_lora_rank=512,
                q_lora_rank=None, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=8,
                topk_group=4, num_experts_per_tok=8, first_k_dense_replace=2, norm_topk_prob=True,
                num_local_experts=512, short_conv_kernel_size=4, layer_group_size=6, kda_safe_gate=True,
                kda_lower_bound=-5.0, layer_types=None, mlp_layer_types=None,
            ),
            fixed={"tied": False, "attention_gate": "head", "rotary_interleaved": True},
            rules=(
                layer_rules.latent_attention, expert_rules.deepseek_v3_moe,
                mixer_rules.bailing_delta_attention,
            ),
            aliases={
                "model_max_length": "max_position_embeddings", "moe_renormalize": "norm_topk_prob",
                "num_expert_group": "n_group", "num_experts": "num_local_experts",
                "num_experts_per_token": "num_experts_per_tok", "num_shared_experts": "n_shared_experts",
            },
            nullable=frozenset({"num_key_value_heads"}),
            unsupported={"hidden_act": "silu"},
            descriptions={"hidden_act": "the same activation in convolutions (hidden_act)"},
            ignored_keys={"tie_word_embeddings": False, "mtp_loss_scaling_factor": ANY,
                # set by the class itself
                "linear_conv_kernel_dim": ANY, "linear_head_dim": ANY, "linear_num_heads": ANY},
        ),
        weights=_bailing_weights(),
    ),
    "kimi_linear": Family(
        model_class="KimiLinearForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "rope_theta", "head_dim", "n_kv_heads", "tied"),
            defaults=llama_defaults(
                hidden_size=2304, num_hidden_layers=27, num_key_value_heads=32, head_dim=UNREAD,
                intermediate_size=9216, vocab_size=163840, max_position_embeddings=1048576,
                rms_norm_eps=1e-5, rope_theta=UNREAD, tie_word_embeddings=UNREAD, attention_bias=False,
                moe_intermediate_size=1024,
                n_shared_experts=1, routed_scaling_factor=2.446, kv_lora_rank=512, q_lora_rank=None,
                qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=1, topk_group=1,
                num_experts_per_tok=8, norm_topk_prob=True, num_local_experts=256, mlp_layer_types=None,
                first_k_dense_replace=1, layer_types=None, linear_head_dim=128, linear_num_heads=32,
                linear_conv_kernel_dim=4,
                **dict.fromkeys((
                    "linear_attn_config.full_attn_layers", "linear_attn_config.head_dim",
                    "linear_attn_config.kda_layers", "linear_attn_config.num_heads",
                    "linear_attn_config.short_conv_kernel_size",
                ), ABSENT),
            ),
            fixed={"position": "none", "tied": False},
            rules=(
                layer_rules.latent_attention, expert_rules.deepseek_v3_moe, mixer_rules.kimi_delta_attention,
            ),
            aliases={
                "model_max_length": "max_position_embeddings", "moe_renormalize": "norm_topk_prob",
                "num_expert_group": "n_group", "num_experts": "num_local_experts",
                "num_experts_per_token": "num_experts_per_tok", "num_shared_experts": "n_shared_experts",
            },
            nullable=frozenset({"num_key_value_heads"}),
            unsupported={"hidden_act": "silu"},
            descriptions={"hidden_act": "the same activation in convolutions (hidden_act)"},
            ignored_keys={
                "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid", "mla_use_nope": True,
                "use_grouped_topk": True, "head_dim": ANY, "rope_theta": ANY, "tie_word_embeddings": False,
            },
        ),
        weights=_kimi_weights(),
    ),
    "olmo_hybrid": Family(
        model_class="OlmoHybridForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=3840, num_attention_heads=30, intermediate_size=11008,
                vocab_size=100352, max_position_embeddings=65536, attention_bias=False, layer_types=None,
                linear_num_key_heads=None, linear_num_value_heads=None, linear_key_head_dim=None,
                linear_value_head_dim=None, linear_conv_kernel_dim=4, linear_allow_neg_eigval=True,
            ),
            fixed={"norm_placement": "reordered", "mixer_pre_norm": True, "qk_norm": "full"},
            rules=(rules.attention_bias, mixer_rules.olmo_hybrid),
            unsupported={"hidden_act": "silu"},
            descriptions={"hidden_act": "the same activation in convolutions (hidden_act)"},
            ignored_keys=dict.fromkeys(
                ("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max",
                 "linear_dt_init_floor"), ANY,
            ),
        ),
        weights=_olmo_weights(),
    ),
    "qwen3_5_moe_text": Family(
        model_class="Qwen3_5MoeForCausalLM",
        config=ConfigSchema(
            **{**_QWEN, "keys": without_fields(_QWEN["keys"], "intermediate_size")},
            defaults=llama_defaults(
                **_DELTA_DEFAULTS, hidden_size=2048, num_hidden_layers=40, num_attention_heads=16,
                num_key_value_heads=2, head_dim=256, intermediate_size=UNREAD, vocab_size=248320,
                max_position_embeddings=32768, partial_rotary_factor=0.25, attention_bias=False,
                moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts_per_tok=8,
                num_experts=256,
            ),
            rules=(rules.gated_attention_bias, expert_rules.qwen3_5_moe, mixer_rules.gated_delta_net),
        ),
        weights=moe_weights(
            {**GATED_ATTENTION, **_QWEN3_5_DELTA_NET, **_DELTA_NET}, {**ROUTER, **QWEN2_SHARED_EXPERT},
            layouts=_QWEN3_5_LAYOUTS, norm_offset=1,
        ),
    ),
    "qwen3_5_text": Family(
        model_class="Qwen3_5ForCausalLM",
        config=ConfigSchema(
            **_QWEN,
            defaults=llama_defaults(
                **_DELTA_DEFAULTS, hidden_size=4096, num_hidden_layers=32, num_attention_heads=16,
                num_key_value_heads=4, head_dim=256, intermediate_size=12288, vocab_size=248320,
                max_position_embeddings=32768, partial_rotary_factor=0.25, attention_bias=False,
            ),
            rules=(rules.gated_attention_bias, mixer_rules.gated_delta_net),
        ),
        weights=llama_weights(
            GATED_ATTENTION, _QWEN3_5_DELTA_NET, _DELTA_NET, GATED_MLP, PRE_NORMS, layouts=_QWEN3_5_LAYOUTS,
            norm_offset=1,
        ),
    ),
    "qwen3_next": Family(
        model_class="Qwen3NextForCausalLM",
        config=ConfigSchema(
            **_QWEN,
            defaults=llama_defaults(
                **_DELTA_DEFAULTS, hidden_size=2048, num_hidden_layers=48, num_attention_heads=16,
                num_key_value_heads=2, head_dim=256, intermediate_size=5632, vocab_size=151936,
                max_position_embeddings=32768, partial_rotary_factor=0.25, attention_bias=False,
                decoder_sparse_step=1, moe_intermediate_size=512, shared_expert_intermediate_size=512,
                num_experts_per_tok=10, num_experts=512, norm_topk_prob=True, mlp_only_layers=None,
            ),
            rules=(rules.gated_attention_bias, expert_rules.qwen2_moe, mixer_rules.gated_delta_net),
        ),
        weights=moe_weights(
            {**GATED_ATTENTION, **_JOINED_DELTA_NET, **_DELTA_NET}, {**ROUTER, **QWEN2_SHARED_EXPERT},
            layouts=_QWEN3_NEXT_LAYOUTS, norm_offset=1,
        ),
    ),
}
# fmt: on
