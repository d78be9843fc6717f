"""Families with a mixture of experts, those with multi-head latent attention among them.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.

Published files have one tensor for each matrix of each expert. The classes of transformers 5 have all experts
of a layer in one, which is read too. The classes do not have the layers of DeepSeek and Kimi for multi-token
prediction.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    GATED_MLP,
    LAYERNORM,
    LLAMA_KEYS,
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

_MOE_KEYS: Final = without_fields(LLAMA_KEYS, "intermediate_size")
"""Keys of classes without dense layers, whose `intermediate_size` is the width of an expert."""
_LATENT_KEYS: Final = without_fields(LLAMA_KEYS, "head_dim", "n_kv_heads")
_LATENT_NORM_NOTE: Final = {"rms_norm_eps": "latent norms with epsilon 1e-06, whatever rms_norm_eps says"}
_LATENT_IGNORED_KEYS: Final = {
    "ep_size": ANY, "head_dim": ANY, "moe_layer_freq": 1, "num_key_value_heads": ANY, "qk_head_dim": ANY,
    "seq_aux": ANY,
}  # fmt: skip


def _qwen_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        hidden_size=2048, num_hidden_layers=24, vocab_size=151936, max_position_embeddings=32768,
        use_sliding_window=False, sliding_window=4096, decoder_sparse_step=1, norm_topk_prob=False,
        mlp_only_layers=None, **others,
    )  # fmt: skip


_GATES_AND_UPS: Final = ("ffn.experts.*.gate.weight", "ffn.experts.*.up.weight")
_SEPARATE_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.experts.*.gate_proj": "ffn.experts.*.gate", "mlp.experts.*.up_proj": "ffn.experts.*.up",
    "mlp.experts.*.down_proj": "ffn.experts.*.down",
}  # fmt: skip
_FUSED_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.experts.gate_up_proj": _GATES_AND_UPS, "mlp.experts.down_proj": "ffn.experts.*.down.weight",
}  # fmt: skip
_FUSED_LAYOUTS: Final[Mapping[str, Layout]] = dict.fromkeys(_FUSED_EXPERTS, "stacked_experts")
_GPT_OSS_EXPERTS: Final[Mapping[str, TensorNames]] = {
    **_FUSED_EXPERTS,
    "mlp.experts.gate_up_proj_bias": ("ffn.experts.*.gate.bias", "ffn.experts.*.up.bias"),
    "mlp.experts.down_proj_bias": "ffn.experts.*.down.bias",
}
_MIXTRAL_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "block_sparse_moe.gate": "ffn.router", "block_sparse_moe.experts.*.w1": "ffn.experts.*.gate",
    "block_sparse_moe.experts.*.w2": "ffn.experts.*.down",
    "block_sparse_moe.experts.*.w3": "ffn.experts.*.up",
}  # fmt: skip
_ROUTER: Final[Mapping[str, TensorNames]] = {
    "mlp.gate": "ffn.router", "mlp.gate.e_score_correction_bias": "ffn.correction",
}  # fmt: skip
_SHARED_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "mlp.shared_experts.gate_proj": "ffn.shared.gate", "mlp.shared_experts.up_proj": "ffn.shared.up",
    "mlp.shared_experts.down_proj": "ffn.shared.down",
}  # fmt: skip
_QWEN2_SHARED_EXPERT: Final[Mapping[str, TensorNames]] = {
    "mlp.shared_expert.gate_proj": "ffn.shared.gate", "mlp.shared_expert.up_proj": "ffn.shared.up",
    "mlp.shared_expert.down_proj": "ffn.shared.down", "mlp.shared_expert_gate": "ffn.shared_gate",
}  # fmt: skip
_LATENT_ATTENTION: Final[Mapping[str, TensorNames]] = {
    "self_attn.q_proj": "attention.q", "self_attn.q_a_proj": "attention.q_down",
    "self_attn.q_a_layernorm": "attention.q_latent_norm", "self_attn.q_b_proj": "attention.q_up",
    "self_attn.kv_a_proj_with_mqa": "attention.kv_down",
    "self_attn.kv_a_layernorm": "attention.kv_latent_norm", "self_attn.kv_b_proj": "attention.kv_up",
    "self_attn.o_proj": "attention.out",
}  # fmt: skip


def _moe_weights(attention: Mapping[str, TensorNames], router: Mapping[str, TensorNames]) -> WeightNames:
    """Names of experts one by one; as an alternative, all of a layer in one tensor."""

    def with_experts(experts: Mapping[str, TensorNames]) -> WeightNames:
        return llama_weights(attention, GATED_MLP, PRE_NORMS, router, experts)

    fused = replace(with_experts(_FUSED_EXPERTS), layouts=_FUSED_LAYOUTS)
    return replace(with_experts(_SEPARATE_EXPERTS), alternatives=(fused,))


def _mixtral_weights(router: str) -> WeightNames:
    """Mixtral's names of experts one by one; as an alternative, those of the class, which calls the router
    `router` and has all experts of a layer in one tensor."""
    fused = llama_weights(
        ATTENTION, PRE_NORMS, {router: "ffn.router"}, _FUSED_EXPERTS, layouts=_FUSED_LAYOUTS
    )
    return replace(llama_weights(ATTENTION, PRE_NORMS, _MIXTRAL_EXPERTS), alternatives=(fused,))


def _granitemoe_weights(gate_up: str, down: str, router: str) -> WeightNames:
    block: dict[str, TensorNames] = {
        f"block_sparse_moe.{gate_up}": _GATES_AND_UPS,
        f"block_sparse_moe.{down}": "ffn.experts.*.down.weight",
        f"block_sparse_moe.{router}": "ffn.router",
    }
    layouts: dict[str, Layout] = {f"block_sparse_moe.{name}": "stacked_experts" for name in (gate_up, down)}
    return llama_weights(ATTENTION, PRE_NORMS, block, layouts=layouts)


_DEEPSEEK_WEIGHTS: Final = _moe_weights(_LATENT_ATTENTION, {**_ROUTER, **_SHARED_EXPERTS})

# fmt: off
_DEEPSEEK_V3: Final = Family(
    model_class="DeepseekV3ForCausalLM",
    config=ConfigSchema(
        keys=_LATENT_KEYS,
        defaults=llama_defaults(
            num_key_value_heads=UNREAD, head_dim=UNREAD, hidden_size=7168, num_hidden_layers=61,
            num_attention_heads=128, intermediate_size=18432, vocab_size=129280, max_position_embeddings=4096,
            attention_bias=False, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
            qk_rope_head_dim=64, v_head_dim=128, moe_intermediate_size=2048, num_experts_per_tok=8,
            n_shared_experts=1, n_routed_experts=256, routed_scaling_factor=2.5, n_group=8, topk_group=4,
            first_k_dense_replace=3, norm_topk_prob=True, rope_interleave=True,
        ),
        rules=(layer_rules.latent_attention, layer_rules.deepseek_v3_rotation, layer_rules.deepseek_v3_moe),
        aliases={"num_local_experts": "n_routed_experts"},
        nullable=frozenset({"norm_topk_prob", "q_lora_rank", "rope_interleave"}),
        unsupported={"rms_norm_eps": 1e-6},
        descriptions=_LATENT_NORM_NOTE,
        ignored_keys=_LATENT_IGNORED_KEYS | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    ),
    weights=_DEEPSEEK_WEIGHTS,
)

MOE_FAMILIES: Final[Mapping[str, Family]] = {
    "deepseek_v2": Family(
        model_class="DeepseekV2ForCausalLM",
        config=ConfigSchema(
            keys=_LATENT_KEYS | {"ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                num_key_value_heads=UNREAD, head_dim=UNREAD, vocab_size=102400, attention_bias=False,
                mlp_bias=False, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
                qk_rope_head_dim=64, v_head_dim=128, moe_intermediate_size=1407, num_experts_per_tok=None,
                n_shared_experts=2, n_routed_experts=64, routed_scaling_factor=1.0, n_group=None,
                topk_group=None, topk_method="greedy", first_k_dense_replace=0,
            ),
            fixed={"rotary_interleaved": True},
            rules=(layer_rules.latent_attention, layer_rules.deepseek_v2_moe),
            aliases={"num_experts": "n_routed_experts"},
            nullable=frozenset({"q_lora_rank"}),
            uneven_heads="refuse",
            unsupported={"rms_norm_eps": 1e-6},
            descriptions=_LATENT_NORM_NOTE,
            ignored_keys=_LATENT_IGNORED_KEYS | {"norm_topk_prob": False, "scoring_func": "softmax"},
        ),
        weights=_DEEPSEEK_WEIGHTS,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "glm4_moe": Family(
        model_class="Glm4MoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"rotary_fraction": "partial_rotary_factor", "qkv_bias": "attention_bias"},
            defaults=llama_defaults(
                num_hidden_layers=46, num_attention_heads=96, num_key_value_heads=8, intermediate_size=10944,
                vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1e-5, attention_bias=False,
                partial_rotary_factor=0.5, use_qk_norm=False, moe_intermediate_size=1408,
                num_experts_per_tok=8, n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0,
                n_group=1, topk_group=1, first_k_dense_replace=1, norm_topk_prob=True,
            ),
            rules=(layer_rules.deepseek_v3_moe, layer_rules.glm4_moe_qk_norm),
            aliases={"num_local_experts": "n_routed_experts"},
            uneven_heads="round_down",
        ),
        weights=_moe_weights({**ATTENTION, **QK_NORMS}, {**_ROUTER, **_SHARED_EXPERTS}),
    ),
    "gpt_oss": Family(
        model_class="GptOssForCausalLM",
        config=ConfigSchema(
            keys=without_fields(_MOE_KEYS, "activation") | {"ffn_clamp": "swiglu_limit"},
            defaults=llama_defaults(
                hidden_size=2880, num_hidden_layers=36, num_attention_heads=64, num_key_value_heads=8,
                head_dim=64, hidden_act=UNREAD, intermediate_size=2880, vocab_size=201088,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=150_000.0, attention_bias=True,
                num_local_experts=128, num_experts_per_tok=4, sliding_window=128, layer_types=None,
                swiglu_limit=7.0, swiglu_alpha=1.702,
            ),
            fixed={
                "attention_sinks": True, "activation": "quick_gelu", "expert_bias": True,
                "router_bias": True,
            },
            rules=(
                rules.attention_bias, layer_rules.experts_everywhere("num_local_experts"),
                layer_rules.alternating_windows,
            ),
            nullable=frozenset({"sliding_window"}),
            unsupported={"swiglu_alpha": 1.702},
            default_rope_parameters={
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            ignored_keys={"experts_per_token": ANY, "hidden_act": "silu", "initial_context_length": ANY},
        ),
        weights=llama_weights(
            ATTENTION, {"self_attn.sinks": "attention.sinks"}, PRE_NORMS, {"mlp.router": "ffn.router"},
            _GPT_OSS_EXPERTS, layouts=dict.fromkeys(_GPT_OSS_EXPERTS, "interleaved_experts"),
        ),
    ),
    "granitemoe": Family(
        model_class="GraniteMoeForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=llama_defaults(
                attention_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0,
                attention_multiplier=1.0, logits_scaling=1.0, num_local_experts=8, num_experts_per_tok=2,
            ),
            rules=(
                rules.attention_bias, rules.granite_multipliers,
                layer_rules.experts_everywhere("num_local_experts"),
            ),
        ),
        weights=replace(
            _granitemoe_weights("input_linear.weight", "output_linear.weight", "router.layer"),
            alternatives=(_granitemoe_weights("experts.gate_up_proj", "experts.down_proj", "router"),),
        ),
    ),
    "kimi_k2": replace(_DEEPSEEK_V3, model_class=None),
    "mixtral": Family(
        model_class="MixtralForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=llama_defaults(
                intermediate_size=14336, num_key_value_heads=8, head_dim=None,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                sliding_window=None, num_local_experts=8, num_experts_per_tok=2,
            ),
            rules=(layer_rules.experts_everywhere("num_local_experts"), layer_rules.window_everywhere),
            aliases={"num_experts": "num_local_experts"},
            nullable=frozenset({"num_key_value_heads"}),
        ),
        weights=_mixtral_weights("mlp.gate"),
    ),
    "olmoe": Family(
        model_class="OlmoeForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS | {"norm_expert_weights": "norm_topk_prob"},
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, intermediate_size=2048,
                vocab_size=50304, max_position_embeddings=4096, rms_norm_eps=1e-5, attention_bias=False,
                clip_qkv=None, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False,
                sliding_window=None,
            ),
            fixed={"qk_norm": "full"},
            rules=(
                rules.attention_bias, rules.require_default_head_dim,
                layer_rules.experts_everywhere("num_experts"),
            ),
            aliases={"num_local_experts": "num_experts"},
            unsupported={"clip_qkv": None, "sliding_window": None},
            descriptions={
                "clip_qkv": "clip_qkv after the norms",
                "sliding_window": "a window that only some kernels of the class observe",
            },
        ),
        weights=_moe_weights({**ATTENTION, **QK_NORMS}, _ROUTER),
    ),
    "phimoe": Family(
        model_class="PhimoeForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS | {"head_bias": "lm_head_bias"},
            defaults=llama_defaults(
                intermediate_size=6400, num_key_value_heads=8, vocab_size=32064,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                sliding_window=None, attention_bias=False, lm_head_bias=False, num_local_experts=16,
                num_experts_per_tok=2,
            ),
            fixed=LAYERNORM | {"norm_expert_weights": False},
            rules=(
                rules.attention_bias, layer_rules.experts_everywhere("num_local_experts"),
                layer_rules.sparse_mixer, layer_rules.window_everywhere,
            ),
            nullable=frozenset({"num_key_value_heads"}),
            always_unsupported=("the sparse mixer's expert weights",),
            rope_types=frozenset({"longrope"}),
            rope_recomputes_cache=True,
            rope_mscales=True,
            ignored_keys={"original_max_position_embeddings": ANY},
        ),
        weights=_mixtral_weights("mlp.router"),
    ),
    "qwen2_moe": Family(
        model_class="Qwen2MoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"qkv_bias": "qkv_bias"},
            defaults=_qwen_defaults(
                num_attention_heads=16, num_key_value_heads=16, intermediate_size=5632, max_window_layers=28,
                layer_types=None, moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
                num_experts_per_tok=4, num_experts=60, qkv_bias=True,
            ),
            rules=(layer_rules.qwen2_moe, layer_rules.qwen2_moe_windows),
            nullable=frozenset({"sliding_window"}),
        ),
        weights=_moe_weights(ATTENTION, {**_ROUTER, **_QWEN2_SHARED_EXPERT}),
    ),
    "qwen3_moe": Family(
        model_class="Qwen3MoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_qwen_defaults(
                num_attention_heads=32, num_key_value_heads=4, intermediate_size=6144, attention_bias=False,
                moe_intermediate_size=768, num_experts_per_tok=8, num_experts=128,
            ),
            fixed={"qk_norm": "head"},
            rules=(rules.attention_bias, layer_rules.qwen_moe, layer_rules.optional_window_everywhere),
            aliases={"num_local_experts": "num_experts"},
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
            ignored_keys={"max_window_layers": ANY},
        ),
        weights=_moe_weights({**ATTENTION, **QK_NORMS}, _ROUTER),
    ),
}
# fmt: on
