"""Families with experts that are counted exactly and not built: all but Kolibri have `counted_parts`.

Keys and defaults are those of the config classes of transformers 5. tests/formats checks them, and every
count, against the classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.formats.hf import expert_rules, layer_rules, part_rules, rules
from parambudget.formats.hf.families.deepseek import DEEPSEEK_FAMILIES, latent_defaults
from parambudget.formats.hf.families.expert_weights import (
    LATENT_ATTENTION,
    ROUTER,
    SHARED_EXPERTS,
    moe_weights,
)
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    LLAMA_KEYS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    llama_defaults,
    without_fields,
)

_ROPE_KEYS: Final = {
    "rope_theta_local": "rope_local_base_freq", "rotary_fraction": "partial_rotary_factor",
    "rotary_fraction_local": "local_partial_rotary_factor",
}  # fmt: skip

_KOLIBRI_FILES: Final = moe_weights(
    {**ATTENTION, **QK_NORMS},
    {"mlp.gate": "ffn.router", "moe.router.expert_bias": "ffn.correction", **SHARED_EXPERTS},
    norms={
        **PRE_NORMS, "post_attn_norm": "attention_out_norm", "post_ffn_norm": "ffn_out_norm",
    },
)  # fmt: skip
_KOLIBRI_CLASS: Final = moe_weights(
    {**ATTENTION, **QK_NORMS},
    {**ROUTER, **SHARED_EXPERTS},
    norms={
        **PRE_NORMS, "post_self_attn_layernorm": "attention_out_norm", "post_mlp_layernorm": "ffn_out_norm",
    },
)  # fmt: skip
_MIMO_FILES: Final = moe_weights({**ATTENTION, "self_attn.attention_sink_bias": "attention.sinks"}, ROUTER)
_MIMO_CLASS: Final = moe_weights({**ATTENTION, "self_attn.sinks": "attention.sinks"}, ROUTER)

# fmt: off
COUNTED_MOE_FAMILIES: Final[Mapping[str, Family]] = {
    "afmoe": Family(
        model_class="AfmoeForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, num_attention_heads=16, head_dim=128, intermediate_size=6144,
                vocab_size=200192, max_position_embeddings=16384, rms_norm_eps=1e-5, attention_bias=False,
                moe_intermediate_size=1408, num_experts=64, num_experts_per_tok=6, num_shared_experts=2,
                num_dense_layers=1, route_scale=1.0, sliding_window=1024, global_attn_every_n_layers=4,
                layer_types=None, mup_enabled=False,
            ),
            fixed={"qk_norm": "head", "norm_placement": "sandwich", "attention_gate": "element"},
            rules=(
                rules.attention_bias, rules.afmoe_embeddings, expert_rules.counted_sigmoid_moe,
                layer_rules.afmoe_positions,
            ),
            ignored_keys={
                "load_balance_coeff": ANY, "n_group": 1, "num_expert_groups": 1, "num_limited_groups": 1,
                "route_norm": True, "score_func": "sigmoid", "topk_group": 1, "use_grouped_mm": ANY,
            },
        ),
        weights=moe_weights(
            {**ATTENTION, **QK_NORMS, "self_attn.gate_proj": "attention.gate"},
            {"mlp.router.gate": "ffn.router", "mlp.expert_bias": "ffn.correction", **SHARED_EXPERTS},
            norms={
                "input_layernorm": "attention_norm", "post_attention_layernorm": "attention_out_norm",
                "pre_mlp_layernorm": "ffn_norm", "post_mlp_layernorm": "ffn_out_norm",
            },
        ),
    ),
    "axk1": Family(
        model_class="AXK1ForCausalLM",
        config=replace(
            DEEPSEEK_FAMILIES["deepseek_v3"].config,
            defaults=latent_defaults(
                num_attention_heads=64, vocab_size=163840, max_position_embeddings=32768,
                n_routed_experts=192, first_k_dense_replace=1, moe_layer_freq=1, mlp_layer_types=None,
            ),
            rules=(
                layer_rules.latent_attention, layer_rules.deepseek_v3_rotation, expert_rules.deepseek_v3_moe,
                part_rules.experts_out_norm,
            ),
            nullable=frozenset({"norm_topk_prob", "rope_interleave"}),
        ),
        weights=moe_weights(
            LATENT_ATTENTION,
            {**ROUTER, **SHARED_EXPERTS, "post_mlp_layernorm": "ffn.out_norm"},
            in_class={**ROUTER, **SHARED_EXPERTS, "mlp.post_mlp_layernorm": "ffn.out_norm"},
        ),
    ),
    "beam": Family(
        model_class="BeamForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "rope_theta") | {"logit_softcap": "final_logit_softcapping"},
            defaults=llama_defaults(
                rope_theta=UNREAD, hidden_size=5120, num_hidden_layers=52, num_attention_heads=48,
                num_key_value_heads=8, head_dim=128, intermediate_size=20480, vocab_size=151936,
                max_position_embeddings=8192, attention_bias=False, sliding_window=512, layer_types=None,
                mlp_layer_types=None, moe_intermediate_size=2560, num_experts=256, num_experts_per_tok=8,
                norm_topk_prob=True, n_group=8, topk_group=4, routed_scaling_factor=2.5,
                final_logit_softcapping=30.0,
            ),
            fixed={
                "qk_norm": "head", "norm_placement": "sandwich", "attention_gate": "element",
                "attention_gate_bias": True,
            },
            rules=(rules.attention_bias, expert_rules.beam_moe, layer_rules.beam_positions),
            nullable=frozenset({"final_logit_softcapping", "sliding_window"}),
            always_unsupported=(
                "gates with a bias for each head", "branches scaled by depth",
                "queries of global layers that grow with their position",
            ),
        ),
    ),
    "jetmoe": Family(
        model_class="JetMoeForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "intermediate_size") | {
                "n_heads": "num_key_value_heads", "head_dim": "kv_channels",
                "activation": "activation_function",
            },
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=12, num_attention_heads=UNREAD, num_key_value_heads=16,
                head_dim=UNREAD, kv_channels=128, intermediate_size=5632, max_position_embeddings=4096,
                hidden_act=UNREAD, activation_function="silu", tie_word_embeddings=True,
                initializer_range=0.01, num_local_experts=8, num_experts_per_tok=2,
            ),
            fixed={"attention_experts": True},
            rules=(expert_rules.experts_everywhere, part_rules.query_heads_of_experts),
            aliases={"head_dim": "kv_channels"},
            uneven_heads="round_down",
            ignored_keys={"num_attention_heads": ANY},
            always_unsupported=("experts in attention",),
        ),
    ),
    "kolibri1": Family(
        model_class="Kolibri1ForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "intermediate_size"),
            defaults=llama_defaults(
                intermediate_size=UNREAD, hidden_size=2560, num_hidden_layers=50, num_attention_heads=48,
                num_key_value_heads=4, head_dim=128, vocab_size=128000, max_position_embeddings=262144,
                sliding_window=513, layer_types=None, moe_intermediate_size=512,
                shared_expert_intermediate_size=512, num_experts=384, num_experts_per_tok=6,
                norm_topk_prob=False,
            ),
            fixed={"qk_norm": "head", "norm_placement": "sandwich"},
            rules=(expert_rules.kolibri_moe, layer_rules.kolibri_positions),
            aliases={"num_local_experts": "num_experts"},
            nullable=frozenset({"sliding_window"}),
            ignored_keys={"intermediate_size": ANY},
        ),
        weights=replace(_KOLIBRI_FILES, alternatives=_KOLIBRI_CLASS.alternatives),
    ),
    "laguna": Family(
        model_class="LagunaForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | _ROPE_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=40, num_attention_heads=48, num_key_value_heads=8,
                head_dim=128, intermediate_size=8192, vocab_size=100352, max_position_embeddings=131072,
                attention_bias=False, rope_theta=500_000.0, rope_local_base_freq=10_000.0,
                partial_rotary_factor=0.5, local_partial_rotary_factor=1.0, sliding_window=512,
                layer_types=None, gating=True,
                num_attention_heads_per_layer=None, moe_intermediate_size=512,
                shared_expert_intermediate_size=512, num_experts=256, num_experts_per_tok=8,
                mlp_layer_types=None, moe_routed_scaling_factor=1.0, moe_router_logit_softcapping=0.0,
                moe_apply_router_weight_on_input=False,
            ),
            value_types={"gating": (bool, str)},
            fixed={"qk_norm": "head"},
            rules=(
                rules.attention_bias, expert_rules.laguna_moe, layer_rules.no_windows_by_default,
                part_rules.heads_of_each_layer, part_rules.laguna_gates,
            ),
            required_values={"moe_apply_router_weight_on_input": False},
            unsupported={"moe_router_logit_softcapping": 0.0},
            rope_only_in_objects=True,
            default_rope_parameters={
                "rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5,
            },
            object_rotary_share=1.0,
        ),
        weights=moe_weights(
            {**ATTENTION, **QK_NORMS, "self_attn.g_proj": "attention.gate"},
            {
                "mlp.gate": "ffn.router", "mlp.experts.e_score_correction_bias": "ffn.correction",
                "mlp.shared_expert.gate_proj": "ffn.shared.gate",
                "mlp.shared_expert.up_proj": "ffn.shared.up",
                "mlp.shared_expert.down_proj": "ffn.shared.down",
            },
            in_class={**ROUTER, **SHARED_EXPERTS},
        ),
    ),
    "longcat_flash": Family(
        model_class="LongcatFlashForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "head_dim", "n_kv_heads") | {
                "n_layers": "num_layers", "intermediate_size": "ffn_hidden_size",
                "router_bias": "router_bias",
            },
            defaults=llama_defaults(
                head_dim=UNREAD, num_key_value_heads=UNREAD, num_hidden_layers=UNREAD,
                intermediate_size=UNREAD, hidden_size=6144, num_layers=28, num_attention_heads=64,
                vocab_size=131072, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=10_000_000.0,
                attention_bias=False, ffn_hidden_size=12288, q_lora_rank=1536, kv_lora_rank=512,
                qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, moe_topk=12, n_routed_experts=512,
                zero_expert_num=256, expert_ffn_hidden_size=2048, routed_scaling_factor=6.0,
                router_bias=False,
            ),
            aliases={
                "intermediate_size": "ffn_hidden_size", "moe_intermediate_size": "expert_ffn_hidden_size",
                "num_experts_per_tok": "moe_topk", "num_local_experts": "n_routed_experts",
            },
            rules=(layer_rules.latent_attention, part_rules.longcat_layers),
            ignored_keys={"num_key_value_heads": ANY, "head_dim": ANY, "qk_head_dim": ANY},
            always_unsupported=(
                "experts beside two layers at once", "experts that return their input",
                "queries and latents scaled by their widths",
            ),
        ),
    ),
    "mimo_v2_flash": Family(
        model_class="MiMoV2FlashForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "n_kv_heads") | _ROPE_KEYS | {
                "value_head_dim": "v_head_dim", "qkv_bias": "attention_bias",
                "value_multiplier": "attention_value_scale",
            },
            defaults=llama_defaults(
                num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=4, head_dim=192,
                v_head_dim=128, intermediate_size=16384, vocab_size=152576, max_position_embeddings=131072,
                rms_norm_eps=1e-5, attention_bias=False, rope_theta=5_000_000.0,
                rope_local_base_freq=10_000.0, partial_rotary_factor=0.334,
                local_partial_rotary_factor=0.334, attention_value_scale=0.707,
                moe_intermediate_size=2048, n_routed_experts=256, num_experts_per_tok=8,
                routed_scaling_factor=1.0, n_group=1, topk_group=1, norm_topk_prob=True, sliding_window=129,
                sliding_window_size=None, layer_types=None, mlp_layer_types=None,
            ),
            rules=(
                expert_rules.mimo_moe, layer_rules.mimo_windows, part_rules.heads_of_mimo,
            ),
            aliases={"num_local_experts": "n_routed_experts"},
            nullable=frozenset({"attention_value_scale", "routed_scaling_factor"}),
            rope_only_in_objects=True,
            default_rope_parameters={
                "rope_type": "default", "rope_theta": 5_000_000.0, "partial_rotary_factor": 0.334,
            },
            object_rotary_share=0.334,
            ignored_keys={"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        ),
        weights=replace(_MIMO_FILES, alternatives=_MIMO_CLASS.alternatives),
    ),
}
# fmt: on
