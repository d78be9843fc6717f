"""Config classes with a mixture of experts: their keys, and their own defaults written out.

Read from the classes of transformers 5 and held against them in tests/formats/test_hf_importer.py, which
draws their switches at random and compares total and breakdown. docs/families.md says how to add a family.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import ANY, LAYERNORM, LLAMA, UNREAD, Family, llama_defaults, without

_ONLY_EXPERTS: Final = without(LLAMA, "intermediate_size")
"""Keys where `intermediate_size` is the width of an expert, and no layer is dense."""


def _qwen_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        hidden_size=2048, num_hidden_layers=24, vocab_size=151936, max_position_embeddings=32768,
        use_sliding_window=False, sliding_window=4096, decoder_sparse_step=1, norm_topk_prob=False,
        mlp_only_layers=None, **others,
    )  # fmt: skip


# fmt: off
EXPERTS_LIKE: Final[Mapping[str, Family]] = {
    "glm4_moe": Family(
        LLAMA | {"rotary_fraction": "partial_rotary_factor", "qkv_bias": "attention_bias"},
        llama_defaults(
            num_hidden_layers=46, num_attention_heads=96, num_key_value_heads=8, intermediate_size=10944,
            vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1e-5, attention_bias=False,
            partial_rotary_factor=0.5, use_qk_norm=False, moe_intermediate_size=1408, num_experts_per_tok=8,
            n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0, n_group=1, topk_group=1,
            first_k_dense_replace=1, norm_topk_prob=True,
        ),
        derive=(layer_rules.deepseek3, layer_rules.glm4),
        aliases={"num_local_experts": "n_routed_experts"},
        heads="fit",
    ),
    "gpt_oss": Family(
        without(_ONLY_EXPERTS, "activation") | {"ffn_clamp": "swiglu_limit"},
        llama_defaults(
            hidden_size=2880, num_hidden_layers=36, num_attention_heads=64, num_key_value_heads=8,
            head_dim=64, hidden_act=UNREAD, intermediate_size=2880, vocab_size=201088,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5, rope_theta=150_000.0, attention_bias=True, num_local_experts=128,
            num_experts_per_tok=4, sliding_window=128, layer_types=None, swiglu_limit=7.0,
            swiglu_alpha=1.702,
        ),
        {
            "attention_sinks": True, "activation": "quick_gelu", "expert_bias": True, "router_bias": True,
        },
        (rules.attention_bias, layer_rules.in_every_layer("num_local_experts"), layer_rules.every_other),
        nullable=frozenset({"sliding_window"}),
        unsaid={"swiglu_alpha": 1.702},
        usual_rotation={"rope_type": "yarn"},
        inert={"experts_per_token": ANY, "hidden_act": "silu", "initial_context_length": ANY},
    ),
    "granitemoe": Family(
        _ONLY_EXPERTS,
        llama_defaults(
            attention_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0,
            attention_multiplier=1.0, logits_scaling=1.0, num_local_experts=8, num_experts_per_tok=2,
        ),
        derive=(rules.attention_bias, rules.granite, layer_rules.in_every_layer("num_local_experts")),
    ),
    "mixtral": Family(
        _ONLY_EXPERTS,
        llama_defaults(
            intermediate_size=14336, num_key_value_heads=8, head_dim=None, max_position_embeddings=131072,
            rms_norm_eps=1e-5, rope_theta=1_000_000.0, sliding_window=None, num_local_experts=8,
            num_experts_per_tok=2,
        ),
        derive=(layer_rules.in_every_layer("num_local_experts"), layer_rules.every),
        aliases={"num_experts": "num_local_experts"},
        nullable=frozenset({"num_key_value_heads"}),
    ),
    "olmoe": Family(
        _ONLY_EXPERTS | {"norm_expert_weights": "norm_topk_prob"},
        llama_defaults(
            hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, intermediate_size=2048,
            vocab_size=50304, max_position_embeddings=4096, rms_norm_eps=1e-5, attention_bias=False,
            clip_qkv=None, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False,
        ),
        {"qk_norm": "full"},
        (rules.attention_bias, rules.norms_of_the_width, layer_rules.in_every_layer("num_experts")),
        aliases={"num_local_experts": "num_experts"},
        unsaid={"clip_qkv": None},
        wording={"clip_qkv": "clip_qkv after the norms"},
    ),
    "phimoe": Family(
        _ONLY_EXPERTS | {"head_bias": "lm_head_bias"},
        llama_defaults(
            intermediate_size=6400, num_key_value_heads=8, vocab_size=32064, max_position_embeddings=131072,
            rms_norm_eps=1e-5, rope_theta=1_000_000.0, sliding_window=None, attention_bias=False,
            lm_head_bias=False, num_local_experts=16, num_experts_per_tok=2,
        ),
        LAYERNORM | {"norm_expert_weights": False},
        (rules.attention_bias, layer_rules.in_every_layer("num_local_experts"), layer_rules.every),
        nullable=frozenset({"num_key_value_heads"}),
        always_unsaid=("the sparse mixer's weights of experts",),
        inert={"original_max_position_embeddings": ANY},
    ),
    "qwen2_moe": Family(
        LLAMA | {"qkv_bias": "qkv_bias"},
        _qwen_defaults(
            num_attention_heads=16, num_key_value_heads=16, intermediate_size=5632, max_window_layers=28,
            layer_types=None, moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
            num_experts_per_tok=4, num_experts=60, qkv_bias=True,
        ),
        derive=(layer_rules.qwen2, layer_rules.every_other_below),
        nullable=frozenset({"sliding_window"}),
    ),
    "qwen3_moe": Family(
        LLAMA,
        _qwen_defaults(
            num_attention_heads=32, num_key_value_heads=4, intermediate_size=6144, attention_bias=False,
            moe_intermediate_size=768, num_experts_per_tok=8, num_experts=128,
        ),
        {"qk_norm": "head"},
        (rules.attention_bias, layer_rules.qwen, layer_rules.every_if_used),
        aliases={"num_local_experts": "num_experts"},
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        inert={"max_window_layers": ANY},
    ),
}
# fmt: on
