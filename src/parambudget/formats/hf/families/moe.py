"""Families with a mixture of experts whose routers have softmax scores, most of them.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import expert_rules, layer_rules, rules
from parambudget.formats.hf.families.expert_weights import (
    FUSED_EXPERTS,
    GATES_AND_UPS,
    QWEN2_SHARED_EXPERT,
    ROUTER,
    SHARED_EXPERTS,
    granitemoe_weights,
    mixtral_weights,
    moe_weights,
)
from parambudget.formats.hf.schema import (
    ABSENT,
    ANY,
    ATTENTION,
    LAYERNORM,
    LLAMA_KEYS,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    ROPE_TYPES,
    UNREAD,
    ConfigSchema,
    Family,
    TensorNames,
    WeightNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

_MOE_KEYS: Final = without_fields(LLAMA_KEYS, "intermediate_size")
"""Keys of classes without dense layers, whose `intermediate_size` is the width of an expert."""


def _qwen_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        hidden_size=2048, num_hidden_layers=24, vocab_size=151936, max_position_embeddings=32768,
        use_sliding_window=False, sliding_window=4096, decoder_sparse_step=1, norm_topk_prob=False,
        mlp_only_layers=None, **others,
    )  # fmt: skip


_GPT_OSS_EXPERTS: Final[Mapping[str, TensorNames]] = {
    **FUSED_EXPERTS,
    "mlp.experts.gate_up_proj_bias": ("ffn.experts.*.gate.bias", "ffn.experts.*.up.bias"),
    "mlp.experts.down_proj_bias": "ffn.experts.*.down.bias",
}

_COHERE_MOE_NORM: Final[Mapping[str, TensorNames]] = {"input_layernorm": "attention_norm"}
_SHARED_MLP: Final[Mapping[str, TensorNames]] = {
    "shared_mlp.input_linear": ("ffn.shared.gate", "ffn.shared.up"),
    "shared_mlp.output_linear": "ffn.shared.down",
}
_GRANITE_CLASS_NAMES: Final = ("experts.gate_up_proj", "experts.down_proj", "router")
_GRANITE_FILE_NAMES: Final = ("input_linear.weight", "output_linear.weight", "router.layer")
_ERNIE_CORRECTION: Final = "mlp.moe_statics.e_score_correction_bias"
_ERNIE_CLASS_CORRECTION: Final = "mlp.gate.moe_statics.e_score_correction_bias"
_DBRX_DOWN: Final = "ffn.experts.mlp.w2"


def _granite_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        attention_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=1.0,
        logits_scaling=1.0, num_local_experts=8, num_experts_per_tok=2, **others,
    )  # fmt: skip


def _aria_weights(gate_up: str, down: str) -> WeightNames:
    experts: dict[str, TensorNames] = {
        f"mlp.experts.{gate_up}": GATES_AND_UPS, f"mlp.experts.{down}": "ffn.experts.*.down.weight",
    }  # fmt: skip
    return llama_weights(
        ATTENTION, PRE_NORMS, {"mlp.router": "ffn.router"}, SHARED_EXPERTS, experts,
        layouts=dict.fromkeys(experts, "stacked_experts_transposed"),
    )  # fmt: skip


# fmt: off
MOE_FAMILIES: Final[Mapping[str, Family]] = {
    "aria_text": Family(
        model_class="AriaTextForCausalLM",
        config=ConfigSchema(
            keys=without_fields(_MOE_KEYS, "activation") | {"ffn_bias": "mlp_bias"},
            defaults=llama_defaults(
                head_dim=None, intermediate_size=4096, attention_bias=False, mlp_bias=False,
                moe_num_experts=8, moe_topk=2, moe_num_shared_experts=2,
            ),
            fixed={"activation": "silu"},
            rules=(rules.attention_bias, expert_rules.deepseek_moe),
            uneven_heads="refuse",
            unsupported={"hidden_act": "silu"},
            descriptions={"hidden_act": "the activation of its shared experts, which its others do not have"},
        ),
        weights=replace(
            _aria_weights("fc1.weight", "fc2.weight"),
            alternatives=(_aria_weights("gate_up_proj", "down_proj"),),
        ),
    ),
    "cohere2_moe": Family(
        model_class="Cohere2MoeForCausalLM",
        config=ConfigSchema(
            keys=without_fields(_MOE_KEYS, "norm_eps") | {"logit_multiplier": "logit_scale"},
            defaults=llama_defaults(
                hidden_size=8192, num_hidden_layers=40, num_attention_heads=64, head_dim=128,
                intermediate_size=22528, vocab_size=256000, max_position_embeddings=8192,
                tie_word_embeddings=True, rms_norm_eps=None, layer_norm_eps=1e-5, attention_bias=False,
                logit_scale=0.0625, sliding_window=4096, sliding_window_pattern=4,
                prefix_dense_sliding_window_pattern=1, layer_types=None, num_experts=8,
                num_experts_per_tok=2, num_shared_experts=0, shared_expert_combination_strategy="average",
                expert_selection_fn="softmax", norm_topk_prob=True, first_k_dense_replace=0,
                mlp_layer_types=None, prefix_dense_intermediate_size=None,
            ),
            fixed={"norm_bias": False, "block": "parallel_shared_norm", "rotary_interleaved": True},
            rules=(
                rules.attention_bias, rules.cohere2_moe_norm, expert_rules.cohere2_moe,
                layer_rules.cohere2_moe_positions,
            ),
            nullable=frozenset({"sliding_window"}),
            reads_rope_scaling=False,
            unsupported={"shared_expert_combination_strategy": "sum"},
            descriptions={"shared_expert_combination_strategy": "the mean of routed and shared experts"},
        ),
        weights=moe_weights(ATTENTION, {**ROUTER, **SHARED_EXPERTS}, norms=_COHERE_MOE_NORM),
    ),
    "dbrx": Family(
        model_class="DbrxForCausalLM",
        config=ConfigSchema(
            keys={
                "dim": "d_model", "n_layers": "n_layers", "n_heads": "n_heads",
                "n_kv_heads": "attn_config.kv_n_heads", "vocab_size": "vocab_size",
                "context_length": "max_seq_len", "tied": "tie_word_embeddings",
                "init_std": "initializer_range", "rope_theta": "rope_theta",
                "qkv_clip": "attn_config.clip_qkv",
            },
            defaults={
                "d_model": 2048, "n_layers": 24, "n_heads": 16, "vocab_size": 32000, "max_seq_len": 2048,
                "tie_word_embeddings": False, "initializer_range": 0.02, "rope_theta": 10_000.0,
                "attn_config.kv_n_heads": 1, "attn_config.clip_qkv": None,
                "ffn_config.ffn_hidden_size": 3584, "ffn_config.moe_num_experts": 4,
                "ffn_config.moe_top_k": 1, "ffn_config.moe_normalize_expert_weights": 1.0,
                "ffn_config.ffn_act_fn": None, "hidden_size": ABSENT,
            },
            fixed={"norm": "layernorm", "norm_bias": False, "norm_eps": 1e-5, "activation": "silu"},
            rules=(rules.require_width_of_experts, expert_rules.dbrx_moe),
            value_types={"hidden_size": (int,)},
            aliases={
                "max_position_embeddings": "max_seq_len", "num_attention_heads": "n_heads",
                "num_hidden_layers": "n_layers",
            },
            nullable=frozenset({"ffn_config.moe_normalize_expert_weights"}),
            uneven_heads="round_down",
            required_values={"tie_word_embeddings": False},
        ),
        weights=WeightNames(
            top={"transformer.wte": "embed", "transformer.norm_f": "norm", "lm_head": "lm_head"},
            layers="transformer.blocks",
            block={
                "norm_attn_norm.norm_1": "attention_norm", "norm_attn_norm.norm_2": "ffn_norm",
                "norm_attn_norm.attn.Wqkv": ("attention.q", "attention.k", "attention.v"),
                "norm_attn_norm.attn.out_proj": "attention.out", "ffn.router.layer": "ffn.router",
                "ffn.experts.mlp.w1": "ffn.experts.*.gate.weight",
                "ffn.experts.mlp.v1": "ffn.experts.*.up.weight", _DBRX_DOWN: "ffn.experts.*.down.weight",
            },
            base="transformer.",
            layouts={_DBRX_DOWN: "concat_transposed"},
        ),
        unused_keys=("attn_config.rope_theta",),
    ),
    "ernie4_5_moe": Family(
        model_class="Ernie4_5_MoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=28, num_attention_heads=20, num_key_value_heads=4,
                intermediate_size=12288, vocab_size=103424, max_position_embeddings=131072,
                rms_norm_eps=1e-5, tie_word_embeddings=True, rope_theta=500_000.0, use_bias=False,
                moe_intermediate_size=1536, moe_k=6, moe_num_experts=64, moe_num_shared_experts=2,
                moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1, moe_norm_min=1e-12,
            ),
            fixed={"rotary_interleaved": True},
            rules=(rules.starcoder2_biases, rules.ernie_head_bias, expert_rules.ernie_moe),
            aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
            # -1 for the last layer: the rule checks it.
            value_types={"moe_layer_end_index": (float,)},
            unsupported={"moe_norm_min": 1e-12},
            ignored_keys={
                "moe_capacity": ANY, "moe_gate": "topk", "moe_use_aux_free": True, "moe_use_hard_gate": ANY,
            },
        ),
        weights=moe_weights(
            ATTENTION, {**SHARED_EXPERTS, "mlp.gate": "ffn.router", _ERNIE_CORRECTION: "ffn.correction"},
            in_class={
                **SHARED_EXPERTS, "mlp.gate": "ffn.router", _ERNIE_CLASS_CORRECTION: "ffn.correction",
            },
            layouts=dict.fromkeys((_ERNIE_CORRECTION, _ERNIE_CLASS_CORRECTION), "single_row"),
        ),
    ),
    "flex_olmo": Family(
        model_class="FlexOlmoForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS | {"norm_expert_weights": "norm_topk_prob"},
            defaults=llama_defaults(
                vocab_size=100352, max_position_embeddings=4096, rope_theta=500_000.0, attention_bias=False,
                num_experts=7, num_experts_per_tok=5, norm_topk_prob=False,
            ),
            fixed={"qk_norm": "full", "norm_placement": "reordered"},
            rules=(rules.attention_bias, expert_rules.experts_everywhere),
            aliases={"num_local_experts": "num_experts"},
        ),
        weights=moe_weights({**ATTENTION, **QK_NORMS}, ROUTER, norms=POST_NORMS),
    ),
    "flint": Family(
        model_class="FlintForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=49, num_key_value_heads=4, head_dim=128,
                intermediate_size=6144, vocab_size=150144, max_position_embeddings=262144,
                attention_bias=False, sliding_window=513, layer_types=None, decoder_sparse_step=1,
                mlp_only_layers=None, moe_intermediate_size=512, shared_expert_intermediate_size=1024,
                num_experts=256, num_experts_per_tok=6, norm_topk_prob=True,
            ),
            fixed={"qk_norm": "head", "attention_sinks": True},
            rules=(rules.attention_bias, expert_rules.flint_moe, layer_rules.flint_positions),
        ),
        weights=moe_weights(
            {**ATTENTION, **QK_NORMS},
            {**ROUTER, **QWEN2_SHARED_EXPERT, "self_attn.softmax_offset": "attention.sinks"},
            in_class={**ROUTER, **QWEN2_SHARED_EXPERT, "self_attn.sinks": "attention.sinks"},
        ),
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
                rules.attention_bias, expert_rules.experts_everywhere,
                layer_rules.alternating_windows,
            ),
            aliases={"num_experts": "num_local_experts"},
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
            defaults=_granite_defaults(),
            rules=(
                rules.attention_bias, rules.granite_multipliers,
                expert_rules.experts_everywhere,
            ),
        ),
        weights=replace(
            granitemoe_weights(*_GRANITE_FILE_NAMES),
            alternatives=(granitemoe_weights(*_GRANITE_CLASS_NAMES),),
        ),
    ),
    "granitemoe_swa": Family(
        model_class="GraniteMoeSWAForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=_granite_defaults(
                shared_intermediate_size=0, sliding_window=128, layer_types=None, layer_rope_theta=None,
            ),
            fixed={"attention_sinks": True},
            rules=(
                rules.attention_bias, rules.granite_multipliers, expert_rules.experts_everywhere,
                expert_rules.shared_expert, layer_rules.granite_positions,
            ),
            nullable=frozenset({"sliding_window"}),
        ),
        weights=granitemoe_weights(
            *_GRANITE_CLASS_NAMES, {**_SHARED_MLP, "self_attn.sinks": "attention.sinks"}
        ),
    ),
    "granitemoeshared": Family(
        model_class="GraniteMoeSharedForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=_granite_defaults(shared_intermediate_size=0),
            rules=(
                rules.attention_bias, rules.granite_multipliers, expert_rules.experts_everywhere,
                expert_rules.shared_expert,
            ),
        ),
        weights=replace(
            granitemoe_weights(*_GRANITE_FILE_NAMES, _SHARED_MLP),
            alternatives=(granitemoe_weights(*_GRANITE_CLASS_NAMES, _SHARED_MLP),),
        ),
    ),
    "hunyuan_v1_moe": Family(
        model_class="HunYuanMoEV1ForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=llama_defaults(
                vocab_size=290943, rms_norm_eps=1e-5, head_dim=None, attention_bias=False, num_experts=1,
                moe_topk=1,
            ),
            fixed={"qk_norm": "head", "qk_norm_after_rotation": True},
            rules=(rules.attention_bias, rules.require_head_dim, expert_rules.hunyuan_moe),
            rope_types=ROPE_TYPES - {"dynamic"},
            aliases={"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"},
            value_types={"moe_topk": (int, list)},
        ),
        weights=moe_weights(
            {**ATTENTION, "self_attn.query_layernorm": "attention.q_norm",
             "self_attn.key_layernorm": "attention.k_norm"},
            {
                "mlp.gate.wg": "ffn.router", "mlp.shared_mlp.gate_proj": "ffn.shared.gate",
                "mlp.shared_mlp.up_proj": "ffn.shared.up", "mlp.shared_mlp.down_proj": "ffn.shared.down",
            },
        ),
    ),
    "mellum": Family(
        model_class="MellumForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"rope_theta_local": "rope_local_base_freq"},
            defaults=llama_defaults(
                hidden_size=2304, num_hidden_layers=28, num_key_value_heads=4, head_dim=128,
                intermediate_size=7168, vocab_size=98304, max_position_embeddings=131072,
                rope_theta=500_000.0, rope_local_base_freq=10_000.0, attention_bias=False,
                sliding_window=1024, layer_types=None, mlp_layer_types=None, moe_intermediate_size=896,
                num_experts=64, num_experts_per_tok=8, norm_topk_prob=True,
            ),
            fixed={"qk_norm": "head"},
            rules=(rules.attention_bias, expert_rules.mellum_moe, layer_rules.no_windows_by_default),
            aliases={"num_local_experts": "num_experts"},
            nullable=frozenset({"sliding_window"}),
            rope_only_in_objects=True,
            ignored_keys={"mtp_layer_types": ANY, "mtp_mlp_layer_types": ANY},
        ),
        weights=moe_weights({**ATTENTION, **QK_NORMS}, ROUTER),
    ),
    "mixtral": Family(
        model_class="MixtralForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS,
            defaults=llama_defaults(
                intermediate_size=14336, num_key_value_heads=8, head_dim=None,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                sliding_window=None, num_local_experts=8, num_experts_per_tok=2,
            ),
            rules=(expert_rules.experts_everywhere, layer_rules.window_everywhere),
            aliases={"num_experts": "num_local_experts"},
            nullable=frozenset({"num_key_value_heads"}),
        ),
        weights=mixtral_weights({"mlp.gate": "ffn.router"}),
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
                expert_rules.experts_everywhere,
            ),
            aliases={"num_local_experts": "num_experts"},
            unsupported={"clip_qkv": None, "sliding_window": None},
            descriptions={
                "clip_qkv": "clip_qkv after the norms",
                "sliding_window": "a window that only some kernels of the class observe",
            },
        ),
        weights=moe_weights({**ATTENTION, **QK_NORMS}, ROUTER),
    ),
    "phimoe": Family(
        model_class="PhimoeForCausalLM",
        config=ConfigSchema(
            keys=_MOE_KEYS | {"head_bias": "lm_head_bias"},
            defaults=llama_defaults(
                intermediate_size=6400, num_key_value_heads=8, vocab_size=32064,
                max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                sliding_window=None, attention_bias=False, lm_head_bias=False, num_local_experts=16,
                num_experts_per_tok=2, router_jitter_noise=0.01,
            ),
            fixed=LAYERNORM | {"norm_expert_weights": False, "router_scores": "sparsemixer"},
            rules=(
                rules.attention_bias, expert_rules.experts_everywhere,
                expert_rules.sparse_mixer, layer_rules.window_everywhere,
            ),
            nullable=frozenset({"num_key_value_heads"}),
            unsupported={"router_jitter_noise": 0.01},
            rope_types=frozenset({"longrope"}),
            rope_recomputes_cache=True,
            rope_mscales=True,
            ignored_keys={"original_max_position_embeddings": ANY},
        ),
        weights=mixtral_weights({"mlp.router": "ffn.router"}),
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
            rules=(expert_rules.qwen2_moe, layer_rules.qwen2_moe_windows),
            unsupported_rules=(layer_rules.windows_without_tokens,),
            nullable=frozenset({"sliding_window"}),
        ),
        weights=moe_weights(ATTENTION, {**ROUTER, **QWEN2_SHARED_EXPERT}),
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
            rules=(rules.attention_bias, expert_rules.qwen_moe, layer_rules.optional_window_everywhere),
            aliases={"num_local_experts": "num_experts"},
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
            ignored_keys={"max_window_layers": ANY},
        ),
        weights=moe_weights({**ATTENTION, **QK_NORMS}, ROUTER),
    ),
}
# fmt: on
