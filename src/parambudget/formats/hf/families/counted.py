"""Families that are counted exactly and not built: most have `counted_parts`, Llama 4 a function of its own.

Keys and defaults are those of the config classes of transformers 5. tests/formats checks them, and every
count, against the classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from parambudget.formats.hf import expert_rules, layer_rules, part_rules, rules
from parambudget.formats.hf.families.expert_weights import GATES_AND_UPS
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    COMMON_KEYS,
    GATED_MLP,
    LAYERNORM,
    LLAMA_KEYS,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    TensorNames,
    llama_defaults,
    llama_weights,
    without_fields,
)

_GEMMA_KEYS: Final = LLAMA_KEYS | {
    "activation": "hidden_activation", "logit_softcap": "final_logit_softcapping",
    "rope_theta_local": "rope_local_base_freq",
}  # fmt: skip
_GEMMA_FIXED: Final = {
    "norm_placement": "sandwich", "qk_norm": "head", "attention_multiplier": 1.0, "value_norm": True,
}  # fmt: skip


def _gemma_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        num_attention_heads=8, head_dim=256, hidden_act=UNREAD, hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True, attention_bias=False, sliding_window=512, layer_types=None,
        rope_theta=1_000_000.0, rope_local_base_freq=10_000.0, num_kv_shared_layers=0,
    ) | others  # fmt: skip


def _gemma4_defaults(**others: Any) -> dict[str, Any]:
    return _gemma_defaults(
        hidden_size=2304, num_hidden_layers=30, num_key_value_heads=4, intermediate_size=9216,
        vocab_size=262144, final_logit_softcapping=None, attention_k_eq_v=False, use_double_wide_mlp=False,
        global_head_dim=512, num_global_key_value_heads=None, per_layer_config=None,
    ) | others  # fmt: skip


_GEMMA4_RULES: Final = (
    rules.attention_bias, rules.scaled_embeddings, layer_rules.gemma4_windows,
    part_rules.heads_of_global_layers, part_rules.shared_keys,
)  # fmt: skip

_GEMMA4_EXPERTS: Final[Mapping[str, TensorNames]] = {
    "router.scale": "experts_ffn.input_scale", "router.per_expert_scale": "experts_ffn.expert_scale",
    "router.proj": "experts_ffn.router",
    "experts.gate_up_proj": ("experts_ffn.experts.*.gate.weight", "experts_ffn.experts.*.up.weight"),
    "experts.down_proj": "experts_ffn.experts.*.down.weight",
    "post_feedforward_layernorm_1": "ffn_branch_norm",
    "pre_feedforward_layernorm_2": "experts_norm", "post_feedforward_layernorm_2": "experts_branch_norm",
}  # fmt: skip
_LLAMA_NAMES: Final = llama_weights(
    ATTENTION, GATED_MLP, QK_NORMS, POST_NORMS, _GEMMA4_EXPERTS,
    {
        "input_layernorm": "attention_norm", "pre_feedforward_layernorm": "ffn_norm",
        "per_layer_input_gate": "per_layer_input.gate", "per_layer_projection": "per_layer_input.out",
        "post_per_layer_input_norm": "per_layer_input.norm", "layer_scalar": "layer_scale",
    },
    layouts=dict.fromkeys(("experts.gate_up_proj", "experts.down_proj"), "stacked_experts"),
)  # fmt: skip
_GEMMA4_WEIGHTS: Final = replace(
    _LLAMA_NAMES,
    top={
        **_LLAMA_NAMES.top,
        "model.embed_tokens_per_layer": "per_layer.embed",
        "model.per_layer_model_projection": "per_layer.project",
        "model.per_layer_projection_norm": "per_layer.norm",
    },
)

# fmt: off
_GEMMA4: Final = Family(
    model_class="Gemma4ForCausalLM",
    config=ConfigSchema(
        keys=_GEMMA_KEYS,
        defaults=_gemma4_defaults(
            max_position_embeddings=131072, vocab_size_per_layer_input=262144,
            hidden_size_per_layer_input=256, enable_moe_block=False, num_experts=None, top_k_experts=None,
            moe_intermediate_size=None, use_bidirectional_attention=None,
        ),
        value_types={"use_bidirectional_attention": (str,)},
        fixed=_GEMMA_FIXED | {"layer_scale": True},
        rules=(*_GEMMA4_RULES, part_rules.per_layer_embeddings, part_rules.experts_beside_ffn),
        uneven_heads="round_down",
        unsupported={"use_bidirectional_attention": None},
        rope_only_in_objects=True,
        default_rope_parameters={
            "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0,
        },
    ),
    weights=_GEMMA4_WEIGHTS,
)

COUNTED_FAMILIES: Final[Mapping[str, Family]] = {
    "bitnet": Family(
        model_class="BitNetForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2560, num_hidden_layers=30, num_attention_heads=20, num_key_value_heads=5,
                intermediate_size=6912, vocab_size=128256, hidden_act="relu2", rms_norm_eps=1e-5,
                rope_theta=500_000.0, attention_bias=False,
            ),
            fixed={"sub_norms": True},
            rules=(rules.attention_bias, rules.require_default_head_dim),
            nullable=frozenset({"num_key_value_heads"}),
        ),
        weights=llama_weights(
            ATTENTION, GATED_MLP, PRE_NORMS,
            {"self_attn.attn_sub_norm": "attention.sub_norm", "mlp.ffn_sub_norm": "ffn.sub_norm"},
        ),
    ),
    "doge": Family(
        model_class="DogeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=1024, intermediate_size=2048, num_attention_heads=8, vocab_size=32768,
                attention_bias=False, mlp_bias=False, sliding_window=None, is_moe=False,
            ),
            fixed={"qk_norm": "head", "dynamic_mask": True},
            rules=(rules.all_biases, layer_rules.window_everywhere),
            required_values={"is_moe": False},
            uneven_heads="refuse",
            ignored_keys={
                "keep_window_size": ANY, "num_experts": ANY, "num_experts_per_tok": ANY,
                "norm_topk_prob": ANY,
            },
            always_unsupported=("masks that are learned", "a scale of the stream before each branch"),
        ),
    ),
    "modernbert-decoder": Family(
        model_class="ModernBertDecoderForCausalLM",
        config=ConfigSchema(
            keys={
                **without_fields(COMMON_KEYS, "activation"), "activation": "hidden_activation",
                "norm_eps": "norm_eps", "norm_bias": "norm_bias", "head_bias": "decoder_bias",
                "ffn_bias": "mlp_bias", "rope_theta": "global_rope_theta",
                "rope_theta_local": "local_rope_theta",
            },
            defaults={
                "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12, "vocab_size": 50368,
                "intermediate_size": 1152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
                "hidden_activation": "gelu", "initializer_range": 0.02, "norm_eps": 1e-5,
                "norm_bias": False, "attention_bias": False, "mlp_bias": False, "decoder_bias": True,
                "classifier_bias": False, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
                "local_attention": 128, "sliding_window": None, "layer_types": None,
                "global_attn_every_n_layers": 3,
            },
            fixed={"norm": "layernorm", "embedding_norm": True, "no_first_norm": True},
            rules=(rules.attention_bias, part_rules.modernbert_head, layer_rules.modernbert_windows),
            nullable=frozenset({"local_attention"}),
            rescales_local_layers=True,
            uneven_heads="refuse",
            ignored_keys={"classifier_activation": "gelu", "initializer_cutoff_factor": ANY},
            always_unsupported=("a projection and a norm before the output head", "no first norm"),
        ),
    ),
    "gpt_neox_japanese": Family(
        model_class="GPTNeoXJapaneseForCausalLM",
        config=ConfigSchema(
            keys=without_fields(COMMON_KEYS, "intermediate_size") | {
                "norm_eps": "layer_norm_eps", "rotary_fraction": "rotary_pct",
                "rope_theta": "rotary_emb_base",
            },
            defaults={
                "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
                "intermediate_multiple_size": 4, "max_position_embeddings": 2048, "hidden_act": "gelu",
                "layer_norm_eps": 1e-5, "initializer_range": 0.02, "tie_word_embeddings": True,
                "rotary_pct": 1.0, "rotary_emb_base": 10_000.0,
            },
            fixed=LAYERNORM | {"gated": False, "last_attention_out_bias": True},
            rules=(part_rules.multiple_of_width,),
            uneven_heads="round_down",
            always_unsupported=("a bias in the last layer alone",),
        ),
    ),
    "cohere_compass_text": Family(
        model_class="CohereCompassForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "rope_theta") | {
                "norm_eps": "layer_norm_eps", "logit_multiplier": "logit_scale",
            },
            defaults=llama_defaults(
                rms_norm_eps=UNREAD, rope_theta=UNREAD, hidden_size=8192, num_hidden_layers=40,
                num_attention_heads=64, intermediate_size=22528, vocab_size=256000,
                max_position_embeddings=8192, tie_word_embeddings=True, layer_norm_eps=1e-5,
                attention_bias=False, logit_scale=None, sliding_window=4096, layer_types=None,
            ),
            value_types={"logit_scale": (float,)},
            fixed={"norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm"},
            rules=(rules.attention_bias, layer_rules.no_windows_by_default),
            nullable=frozenset({"sliding_window"}),
            ignored_keys={"pooling": ANY},
            always_unsupported=("positions that its config gives or leaves out by the type of a layer",),
        ),
    ),
    "diffllama": Family(
        model_class="DiffLlamaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, rms_norm_eps=1e-5,
                attention_bias=False, head_dim=None,
            ),
            fixed={"differential_attention": True},
            rules=(rules.attention_bias, part_rules.even_kv_heads),
            ignored_keys={"lambda_std_dev": 0.1},
        ),
        weights=llama_weights(
            ATTENTION, GATED_MLP, PRE_NORMS,
            {
                f"self_attn.{name}": f"attention.{name}"
                for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
            },
        ),
    ),
    "gemma3n_text": Family(
        model_class="Gemma3nForCausalLM",
        config=ConfigSchema(
            keys=without_fields(_GEMMA_KEYS, "intermediate_size"),
            defaults=_gemma_defaults(
                hidden_size=2048, num_hidden_layers=35, num_key_value_heads=2, intermediate_size=16384,
                vocab_size=262400, max_position_embeddings=32768, final_logit_softcapping=30.0,
                vocab_size_per_layer_input=262144, hidden_size_per_layer_input=256, altup_active_idx=0,
                altup_coef_clip=120.0, altup_correct_scale=True, altup_num_inputs=4, num_kv_shared_layers=15,
                laurel_rank=64, activation_sparsity_pattern=None,
            ),
            fixed=_GEMMA_FIXED,
            rules=(
                rules.attention_bias, rules.scaled_embeddings, layer_rules.gemma3n_windows,
                part_rules.one_ffn_width, part_rules.shared_keys, part_rules.per_layer_embeddings,
                part_rules.altup_and_laurel,
            ),
            value_types={
                "intermediate_size": (int, list), "activation_sparsity_pattern": (float, list),
            },
            uneven_heads="refuse",
            ignored_keys={"use_bidirectional_attention": False},
            always_unsupported=("AltUp", "LAuReL", "sparse activations of the first layers"),
        ),
    ),
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": replace(
        _GEMMA4,
        model_class="Gemma4UnifiedForCausalLM",
        config=replace(
            _GEMMA4.config,
            defaults=_gemma4_defaults(
                max_position_embeddings=262144, sliding_window=1024, use_bidirectional_attention="vision",
            ),
            rules=_GEMMA4_RULES,
            nullable=frozenset({"use_bidirectional_attention"}),
            unsupported={"use_bidirectional_attention": "vision"},
        ),
    ),
    "llama4_text": Family(
        model_class="Llama4ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"intermediate_size": "intermediate_size_mlp"},
            defaults=llama_defaults(
                hidden_size=5120, num_hidden_layers=48, num_attention_heads=40, num_key_value_heads=8,
                head_dim=128, intermediate_size=8192, vocab_size=202048, max_position_embeddings=131072,
                rms_norm_eps=1e-5, rope_theta=500_000.0, attention_bias=False, intermediate_size_mlp=16384,
                num_experts_per_tok=1, num_local_experts=16, moe_layers=None, interleave_moe_layer_step=1,
                no_rope_layers=None, no_rope_layer_interval=4, attention_chunk_size=8192, layer_types=None,
                use_qk_norm=True, attn_temperature_tuning=True, attn_scale=0.1, floor_scale=8192,
            ),
            fixed={"rotary_interleaved": True},
            rules=(rules.attention_bias, expert_rules.llama4_moe, layer_rules.llama4_attention),
            value_types={"attn_temperature_tuning": (bool, int)},
            nullable=frozenset({"attention_chunk_size"}),
            uneven_heads="round_down",
        ),
        weights=llama_weights(
            ATTENTION, PRE_NORMS,
            {
                "feed_forward.gate_proj": "ffn.gate", "feed_forward.up_proj": "ffn.up",
                "feed_forward.down_proj": "ffn.down", "feed_forward.router": "ffn.router",
                "feed_forward.shared_expert.gate_proj": "ffn.shared.gate",
                "feed_forward.shared_expert.up_proj": "ffn.shared.up",
                "feed_forward.shared_expert.down_proj": "ffn.shared.down",
                "feed_forward.experts.gate_up_proj": GATES_AND_UPS,
                "feed_forward.experts.down_proj": "ffn.experts.*.down.weight",
            },
            layouts=dict.fromkeys(
                ("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
                "stacked_experts_transposed",
            ),
        ),
    ),
}
# fmt: on
