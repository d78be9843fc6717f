"""Families in the tradition of DeepSeek: latent attention, or a router with sigmoid scores and a correction.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
The classes do not have the layers for multi-token prediction.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import expert_rules, layer_rules, rules
from parambudget.formats.hf.families.expert_weights import (
    LATENT_ATTENTION,
    ROUTER,
    SHARED_EXPERTS,
    mixtral_weights,
    moe_weights,
)
from parambudget.formats.hf.schema import (
    ABSENT,
    ANY,
    ATTENTION,
    LLAMA_KEYS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    TensorNames,
    llama_defaults,
    without_fields,
)

LATENT_KEYS: Final = without_fields(LLAMA_KEYS, "head_dim", "n_kv_heads")
LATENT_IGNORED_KEYS: Final = {
    "ep_size": ANY, "head_dim": ANY, "moe_layer_freq": 1, "num_key_value_heads": ANY, "qk_head_dim": ANY,
    "seq_aux": ANY,
}  # fmt: skip
SIGMOID_IGNORED_KEYS: Final = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
_CORRECTION_BESIDE_ROUTER: Final[Mapping[str, TensorNames]] = {
    "mlp.gate": "ffn.router", "mlp.e_score_correction_bias": "ffn.correction",
}  # fmt: skip
_HY_V3_IN_FILES: Final[Mapping[str, TensorNames]] = {
    "mlp.router.gate": "ffn.router", "mlp.expert_bias": "ffn.correction",
    "mlp.shared_mlp.gate_proj": "ffn.shared.gate", "mlp.shared_mlp.up_proj": "ffn.shared.up",
    "mlp.shared_mlp.down_proj": "ffn.shared.down",
}  # fmt: skip
_LATENT_WEIGHTS: Final = moe_weights(LATENT_ATTENTION, {**ROUTER, **SHARED_EXPERTS})
_SIGMOID_WEIGHTS: Final = moe_weights({**ATTENTION, **QK_NORMS}, {**ROUTER, **SHARED_EXPERTS})


_SARVAM_ATTENTION: Final[Mapping[str, TensorNames]] = {
    "attention.query_key_value": ("attention.q", "attention.k", "attention.v"),
    "attention.dense": "attention.out", "attention.query_layernorm": "attention.q_norm",
    "attention.key_layernorm": "attention.k_norm",
}  # fmt: skip
_SARVAM_ROUTER: Final[Mapping[str, TensorNames]] = {
    "mlp.gate": "ffn.router", "mlp.gate.expert_bias": "ffn.correction",
}  # fmt: skip
_SARVAM_FILES: Final = moe_weights(_SARVAM_ATTENTION, {**_SARVAM_ROUTER, **SHARED_EXPERTS})
_SARVAM_MOE_WEIGHTS: Final = replace(
    _SARVAM_FILES,
    top={"model.word_embeddings": "embed", "model.norm": "norm", "lm_head": "lm_head"},
    alternatives=(_SIGMOID_WEIGHTS, *_SIGMOID_WEIGHTS.alternatives),
)


def latent_defaults(**others: Any) -> dict[str, Any]:
    """DeepSeek-V3's defaults, with those of another class that differ."""
    known = dict(
        num_key_value_heads=UNREAD, head_dim=UNREAD, hidden_size=7168, num_hidden_layers=61,
        num_attention_heads=128, intermediate_size=18432, vocab_size=129280, max_position_embeddings=4096,
        attention_bias=False, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
        v_head_dim=128, moe_intermediate_size=2048, num_experts_per_tok=8, n_shared_experts=1,
        n_routed_experts=256, routed_scaling_factor=2.5, n_group=8, topk_group=4, first_k_dense_replace=3,
        norm_topk_prob=True, rope_interleave=True,
    )  # fmt: skip
    return llama_defaults(**known | others)


def _glm_defaults(**others: Any) -> dict[str, Any]:
    """GLM-4.5's defaults, with those of another class that differ."""
    known = dict(
        num_hidden_layers=46, num_attention_heads=96, num_key_value_heads=8, intermediate_size=10944,
        vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1e-5, attention_bias=False,
        partial_rotary_factor=0.5, use_qk_norm=False, moe_intermediate_size=1408, num_experts_per_tok=8,
        n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0, n_group=1, topk_group=1,
        first_k_dense_replace=1, norm_topk_prob=True,
    )  # fmt: skip
    return llama_defaults(**known | others)


# fmt: off
_DEEPSEEK_V3: Final = Family(
    model_class="DeepseekV3ForCausalLM",
    config=ConfigSchema(
        keys=LATENT_KEYS,
        defaults=latent_defaults(),
        rules=(layer_rules.latent_attention, layer_rules.deepseek_v3_rotation, expert_rules.deepseek_v3_moe),
        aliases={"num_local_experts": "n_routed_experts"},
        nullable=frozenset({"norm_topk_prob", "q_lora_rank", "rope_interleave"}),
        ignored_keys=LATENT_IGNORED_KEYS | SIGMOID_IGNORED_KEYS,
    ),
    weights=_LATENT_WEIGHTS,
)
_GLM4_MOE: Final = Family(
    model_class="Glm4MoeForCausalLM",
    config=ConfigSchema(
        keys=LLAMA_KEYS | {"rotary_fraction": "partial_rotary_factor", "qkv_bias": "attention_bias"},
        defaults=_glm_defaults(),
        rules=(expert_rules.deepseek_v3_moe, layer_rules.glm4_moe_qk_norm),
        aliases={"num_local_experts": "n_routed_experts"},
        uneven_heads="round_down",
    ),
    weights=_SIGMOID_WEIGHTS,
)

DEEPSEEK_FAMILIES: Final[Mapping[str, Family]] = {
    "deepseek_v2": Family(
        model_class="DeepseekV2ForCausalLM",
        config=ConfigSchema(
            keys=LATENT_KEYS | {"ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                num_key_value_heads=UNREAD, head_dim=UNREAD, vocab_size=102400, attention_bias=False,
                mlp_bias=False, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
                qk_rope_head_dim=64, v_head_dim=128, moe_intermediate_size=1407, num_experts_per_tok=None,
                n_shared_experts=2, n_routed_experts=64, routed_scaling_factor=1.0, n_group=None,
                topk_group=None, topk_method="greedy", first_k_dense_replace=0,
            ),
            fixed={"rotary_interleaved": True},
            rules=(layer_rules.latent_attention, expert_rules.deepseek_v2_moe),
            aliases={"num_experts": "n_routed_experts"},
            nullable=frozenset({"q_lora_rank"}),
            uneven_heads="refuse",
            ignored_keys=LATENT_IGNORED_KEYS | {"norm_topk_prob": False, "scoring_func": "softmax"},
        ),
        weights=_LATENT_WEIGHTS,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "dots1": Family(
        model_class="Dots1ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=4608, num_hidden_layers=62, num_key_value_heads=32, intermediate_size=10944,
                vocab_size=152064, attention_bias=False, moe_intermediate_size=1408,
                num_experts_per_tok=None, n_shared_experts=None, n_routed_experts=None,
                routed_scaling_factor=1.0, n_group=1, topk_group=1, first_k_dense_replace=0,
                norm_topk_prob=False, sliding_window=4096, max_window_layers=62, layer_types=None,
            ),
            fixed={"qk_norm": "head"},
            rules=(rules.attention_bias, expert_rules.deepseek_v3_moe, layer_rules.dots1_windows),
            aliases={"num_local_experts": "n_routed_experts"},
            nullable=frozenset({"norm_topk_prob", "num_key_value_heads", "sliding_window"}),
            ignored_keys=SIGMOID_IGNORED_KEYS | {"moe_layer_freq": 1},
        ),
        weights=_SIGMOID_WEIGHTS,
    ),
    "exaone_moe": Family(
        model_class="ExaoneMoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                num_key_value_heads=32, intermediate_size=16384, vocab_size=102400, rms_norm_eps=1e-5,
                moe_intermediate_size=1024, num_experts_per_tok=8, num_shared_experts=1, num_experts=64,
                routed_scaling_factor=2.5, n_group=1, topk_group=1, first_k_dense_replace=1,
                mlp_layer_types=None, norm_topk_prob=True, sliding_window=4096, sliding_window_pattern=4,
                layer_types=None,
            ),
            fixed={"qk_norm": "head"},
            rules=(expert_rules.deepseek_v3_moe, layer_rules.exaone_positions),
            value_types={"sliding_window_pattern": (int, str)},
            ignored_keys=SIGMOID_IGNORED_KEYS,
        ),
        weights=moe_weights(
            {**ATTENTION, **QK_NORMS}, {**_CORRECTION_BESIDE_ROUTER, **SHARED_EXPERTS},
            in_class={**ROUTER, **SHARED_EXPERTS},
        ),
    ),
    "glm4_moe": _GLM4_MOE,
    "glm4_moe_lite": Family(
        model_class="Glm4MoeLiteForCausalLM",
        config=replace(
            _DEEPSEEK_V3.config,
            defaults=latent_defaults(
                first_k_dense_replace=UNREAD, hidden_size=2048, num_hidden_layers=47, num_attention_heads=20,
                intermediate_size=10240, vocab_size=154880, max_position_embeddings=202752,
                rms_norm_eps=1e-5, q_lora_rank=768, qk_nope_head_dim=192, v_head_dim=256,
                moe_intermediate_size=1536, num_experts_per_tok=4, n_routed_experts=64,
                routed_scaling_factor=1.8, n_group=1, topk_group=1, mlp_layer_types=None,
            ),
            aliases={"head_dim": "qk_rope_head_dim", "num_local_experts": "n_routed_experts"},
            nullable=frozenset({"q_lora_rank"}),
            ignored_keys=LATENT_IGNORED_KEYS | SIGMOID_IGNORED_KEYS | {"first_k_dense_replace": 1},
        ),
        weights=_LATENT_WEIGHTS,
    ),
    "hy_v3": Family(
        model_class="HYV3ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
                intermediate_size=13312, vocab_size=120832, max_position_embeddings=131072,
                rms_norm_eps=1e-5, initializer_range=0.006, rope_theta=11_158_840.0, attention_bias=False,
                mlp_bias=False, moe_intermediate_size=1536, num_experts_per_tok=8, num_shared_experts=1,
                num_experts=192, router_scaling_factor=2.826, mlp_layer_types=None,
            ),
            fixed={"qk_norm": "head"},
            rules=(rules.attention_bias, expert_rules.hy_v3_moe),
            aliases={"num_local_experts": "num_experts"},
            ignored_keys={"enable_moe_fp32_combine": ANY},
        ),
        weights=moe_weights(
            {**ATTENTION, **QK_NORMS}, _HY_V3_IN_FILES,
            in_class={**_CORRECTION_BESIDE_ROUTER, **SHARED_EXPERTS},
        ),
    ),
    "kimi_k2": replace(_DEEPSEEK_V3, model_class=None),
    "minimax_m2": Family(
        model_class="MiniMaxM2ForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "intermediate_size") | {
                "rotary_fraction": "partial_rotary_factor",
            },
            defaults=llama_defaults(
                hidden_size=3072, num_hidden_layers=62, num_attention_heads=48, num_key_value_heads=8,
                head_dim=128, intermediate_size=1536, vocab_size=200064, max_position_embeddings=196608,
                rope_theta=5_000_000.0, partial_rotary_factor=ABSENT, rotary_dim=None, num_local_experts=256,
                num_experts_per_tok=8,
            ),
            fixed={"qk_norm": "full", "router_scores": "sigmoid", "correction_bias": True},
            rules=(rules.minimax_m2_rotary_width, expert_rules.experts_everywhere),
            value_types={"partial_rotary_factor": (float,)},
            aliases={"num_experts": "num_local_experts"},
            ignored_keys={
                "attn_type_list": ANY, "layernorm_full_attention_beta": 1.0,
                "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0,
                "mlp_intermediate_size": ANY, "mtp_transformer_layers": ANY, "num_mtp_modules": ANY,
                "qk_norm_type": "per_layer", "scoring_func": "sigmoid", "shared_moe_mode": ANY,
                "use_mtp": ANY, "use_qk_norm": True, "use_routing_bias": True,
            },
        ),
        weights=mixtral_weights(_CORRECTION_BESIDE_ROUTER, {**ATTENTION, **QK_NORMS}),
    ),
    "sarvam_mla": replace(
        _DEEPSEEK_V3,
        config=replace(
            _DEEPSEEK_V3.config,
            defaults=latent_defaults(
                hidden_size=4096, num_hidden_layers=32, num_attention_heads=64, intermediate_size=16384,
                vocab_size=262144, initializer_range=0.006, q_lora_rank=None, n_routed_experts=128,
                n_group=1, topk_group=1, first_k_dense_replace=1,
            ),
            aliases={
                "num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts",
                "num_shared_experts": "n_shared_experts",
            },
            rope_type_aliases={"deepseek_yarn": "yarn"},
            ignored_keys={**_DEEPSEEK_V3.config.ignored_keys, "q_head_dim": ANY},
        ),
    ),
    "sarvam_moe": replace(
        _GLM4_MOE,
        config=replace(
            _GLM4_MOE.config,
            defaults=_glm_defaults(
                num_hidden_layers=19, num_attention_heads=64, num_key_value_heads=4, head_dim=64,
                intermediate_size=8192, vocab_size=262144, rms_norm_eps=1e-6, initializer_range=0.006,
                rope_theta=8_000_000.0, partial_rotary_factor=1.0, use_qk_norm=True,
                moe_intermediate_size=1024, num_experts_per_tok=6, routed_scaling_factor=2.5,
            ),
            aliases={
                "num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts",
                "num_shared_experts": "n_shared_experts", "use_qkv_bias": "attention_bias",
            },
        ),
        weights=_SARVAM_MOE_WEIGHTS,
    ),
    "solar_open": Family(
        model_class="SolarOpenForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "intermediate_size") | {"qkv_bias": "attention_bias"},
            defaults=llama_defaults(
                num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
                intermediate_size=UNREAD, vocab_size=196608, max_position_embeddings=131072,
                rms_norm_eps=1e-5, rope_theta=1_000_000.0, attention_bias=False, moe_intermediate_size=1280,
                num_experts_per_tok=8, n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0,
                n_group=1, topk_group=1, norm_topk_prob=True,
            ),
            rules=(expert_rules.deepseek_v3_moe,),
            aliases={"num_local_experts": "n_routed_experts"},
            ignored_keys=SIGMOID_IGNORED_KEYS | {
                "first_k_dense_replace": ANY, "intermediate_size": ANY, "use_qk_norm": False,
            },
        ),
        weights=moe_weights(ATTENTION, {**ROUTER, **SHARED_EXPERTS}),
    ),
}
# fmt: on
