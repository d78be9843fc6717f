"""Families whose attention is left with the keys that an indexer chooses: DeepSeek-V3.2 and its kin.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
The classes do not have the layers for multi-token prediction.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from parambudget.formats.hf import expert_rules, layer_rules, part_rules, rules
from parambudget.formats.hf.families.deepseek import (
    LATENT_IGNORED_KEYS,
    LATENT_KEYS,
    SIGMOID_IGNORED_KEYS,
    latent_defaults,
)
from parambudget.formats.hf.families.expert_weights import (
    INDEXED_LATENT_ATTENTION,
    ROUTER,
    SHARED_EXPERTS,
    moe_weights,
)
from parambudget.formats.hf.schema import (
    ANY,
    LLAMA_KEYS,
    UNREAD,
    ConfigSchema,
    Family,
    llama_defaults,
    without_fields,
)

# fmt: off
_DEEPSEEK_V32: Final = Family(
    model_class="DeepseekV32ForCausalLM",
    config=ConfigSchema(
        keys=LATENT_KEYS,
        defaults=latent_defaults(
            rope_interleave=UNREAD, max_position_embeddings=163840, index_n_heads=64, index_head_dim=128,
            index_topk=2048, mlp_layer_types=None,
        ),
        fixed={"rotary_interleaved": True},
        rules=(layer_rules.latent_attention, layer_rules.indexer, expert_rules.deepseek_v3_moe),
        aliases={"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"},
        ignored_keys=LATENT_IGNORED_KEYS | SIGMOID_IGNORED_KEYS | {
            "layer_types": ANY, "mlp_bias": False, "rope_interleave": True,
        },
    ),
    weights=moe_weights(INDEXED_LATENT_ATTENTION, {**ROUTER, **SHARED_EXPERTS}),
)

_HY_V4: Final = Family(
    model_class="HYV4ForCausalLM",
    config=ConfigSchema(
        keys=LATENT_KEYS,
        defaults=latent_defaults(
            rope_interleave=UNREAD, first_k_dense_replace=UNREAD, hidden_size=2816, num_hidden_layers=34,
            num_attention_heads=32, intermediate_size=6912, vocab_size=120832,
            max_position_embeddings=262144, initializer_range=0.006, rms_norm_eps=1e-5,
            qk_nope_head_dim=192, v_head_dim=256, moe_intermediate_size=768, routed_scaling_factor=2.827,
            n_group=1, topk_group=1, index_n_heads=16, index_head_dim=128, index_topk=2048,
            mlp_layer_types=None, indexer_types=None, hc_mult=4, swiglu_limit=10.0,
        ),
        rules=(
            layer_rules.latent_attention, layer_rules.hy_v4_indexer, expert_rules.deepseek_v3_moe,
            part_rules.hy_v4_streams,
        ),
        aliases={"num_local_experts": "n_routed_experts"},
        ignored_keys=LATENT_IGNORED_KEYS | SIGMOID_IGNORED_KEYS | {
            "first_k_dense_replace": ANY, "hc_eps": ANY, "hc_magnitude": ANY, "layer_types": ANY,
            "learnable_sink_init": ANY,
        },
        unsupported={"swiglu_limit": 0.0},
        always_unsupported=("hyper-connections", "gates on the output of attention"),
    ),
)

SPARSE_ATTENTION_FAMILIES: Final[Mapping[str, Family]] = {
    "axk2": Family(
        model_class="AXK2ForCausalLM",
        config=ConfigSchema(
            keys=LATENT_KEYS | {"gated_norm_rank": "gated_norm_rank"},
            defaults=latent_defaults(
                rope_interleave=UNREAD, hidden_size=2048, num_hidden_layers=48, num_attention_heads=32,
                intermediate_size=5120, vocab_size=163840, max_position_embeddings=131072, q_lora_rank=384,
                kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
                moe_intermediate_size=512, n_routed_experts=128, n_group=None, topk_group=None,
                index_n_heads=16, index_head_dim=128, index_topk=2048, mlp_layer_types=None,
                gated_norm_rank=16, first_k_dense_replace=1, moe_layer_freq=1,
            ),
            fixed={"latent_gate": "latent", "rotary_interleaved": True},
            rules=(layer_rules.latent_attention, layer_rules.indexer, expert_rules.axk2_moe),
            aliases={"num_local_experts": "n_routed_experts"},
            ignored_keys=LATENT_IGNORED_KEYS | SIGMOID_IGNORED_KEYS | {"layer_types": ANY},
            always_unsupported=("gates on norms and on the output of attention",),
        ),
    ),
    "deepseek_v32": _DEEPSEEK_V32,
    "glm_moe_dsa": replace(
        _DEEPSEEK_V32,
        model_class="GlmMoeDsaForCausalLM",
        config=replace(
            _DEEPSEEK_V32.config,
            defaults=latent_defaults(
                rope_interleave=UNREAD, hidden_size=6144, num_hidden_layers=78, num_attention_heads=64,
                intermediate_size=12288, vocab_size=154880, max_position_embeddings=202752,
                rms_norm_eps=1e-5, q_lora_rank=2048, qk_nope_head_dim=192, v_head_dim=256, n_group=1,
                topk_group=1, index_n_heads=32, index_head_dim=128, index_topk=2048, mlp_layer_types=None,
                indexer_types=None, index_topk_pattern=None, index_topk_freq=1, index_skip_topk_offset=2,
            ),
            rules=(layer_rules.latent_attention, layer_rules.glm_indexer, expert_rules.deepseek_v3_moe),
            value_types={"index_topk_pattern": (list, str)},
            ignored_keys={
                **_DEEPSEEK_V32.config.ignored_keys, "indexer_rope_interleave": True,
            },
        ),
    ),
    "hy_v4": _HY_V4,
    "minimax_m3_vl_text": Family(
        model_class="MiniMaxM3VLForCausalLM",
        config=ConfigSchema(
            keys=without_fields(LLAMA_KEYS, "activation") | {
                "intermediate_size": "dense_intermediate_size", "ffn_clamp": "swiglu_limit",
            },
            defaults=llama_defaults(
                hidden_act=UNREAD, hidden_size=6144, num_hidden_layers=60, num_attention_heads=64,
                num_key_value_heads=4, head_dim=128, intermediate_size=3072, vocab_size=200064,
                max_position_embeddings=524288, rope_theta=5_000_000.0, dense_intermediate_size=12288,
                shared_intermediate_size=3072, rotary_dim=64, num_local_experts=128, num_experts_per_tok=4,
                routed_scaling_factor=2.0, swiglu_limit=7.0, swiglu_alpha=1.702, mlp_layer_types=None,
                moe_layer_freq=None, layer_types=None, index_n_heads=4, index_head_dim=128,
                index_block_size=128, index_topk_blocks=16, index_local_blocks=1,
                sparse_attention_config=None,
            ),
            fixed={"qk_norm": "head", "activation": "quick_gelu"},
            rules=(
                rules.minimax_m3_rotary_width, expert_rules.minimax_m3_moe, layer_rules.minimax_m3_indexer,
            ),
            value_types={"moe_layer_freq": (list,)},
            aliases={"num_experts": "num_local_experts"},
            unsupported={"swiglu_alpha": 1.702},
            ignored_keys={"hidden_act": ANY},
            always_unsupported=("attention to blocks of keys that an indexer chooses",),
        ),
    ),
}
# fmt: on
