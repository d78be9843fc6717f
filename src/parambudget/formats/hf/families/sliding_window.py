"""Families in the tradition of Llama whose layers differ: some have a sliding window, or no positions.

Keys and defaults are those of the config classes of transformers 5, weight names are those under which the
classes save. tests/formats checks both against the classes; docs/families.md explains how to add a family.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.families.llama import LLAMA_FAMILIES
from parambudget.formats.hf.schema import (
    ANY,
    ATTENTION,
    GATED_MLP,
    LLAMA_KEYS,
    LLAMA_WEIGHTS,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    UNREAD,
    ConfigSchema,
    Family,
    TensorNames,
    llama_defaults,
    llama_weights,
)

_GEMMA_KEYS: Final = LLAMA_KEYS | {
    "activation": "hidden_activation", "logit_softcap": "final_logit_softcapping",
}  # fmt: skip
_GEMMA_NORMS: Final[Mapping[str, TensorNames]] = {
    "input_layernorm": "attention_norm", "pre_feedforward_layernorm": "ffn_norm", **POST_NORMS,
}  # fmt: skip


def _gemma_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4, head_dim=256,
        intermediate_size=9216, hidden_act=UNREAD, hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True, attention_bias=False, query_pre_attn_scalar=256, sliding_window=4096,
        layer_types=None, **others,
    )  # fmt: skip


def _qwen_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        num_key_value_heads=32, intermediate_size=22016, vocab_size=151936, max_position_embeddings=32768,
        use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None, **others,
    )  # fmt: skip


# fmt: off
SLIDING_WINDOW_FAMILIES: Final[Mapping[str, Family]] = {
    "cohere2": Family(
        model_class="Cohere2ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS | {"norm_eps": "layer_norm_eps", "logit_multiplier": "logit_scale"},
            defaults=llama_defaults(
                rms_norm_eps=UNREAD, hidden_size=8192, num_hidden_layers=40, num_attention_heads=64,
                intermediate_size=22528, vocab_size=256000, max_position_embeddings=8192,
                tie_word_embeddings=True, layer_norm_eps=1e-5, attention_bias=False, logit_scale=0.0625,
                sliding_window=4096, layer_types=None, sliding_window_pattern=4,
            ),
            fixed={
                "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm",
                "rotary_interleaved": True,
            },
            rules=(rules.attention_bias, layer_rules.cohere2_positions),
            nullable=frozenset({"sliding_window"}),
        ),
        weights=LLAMA_FAMILIES["cohere"].weights,
    ),
    "gemma2": Family(
        model_class="Gemma2ForCausalLM",
        config=ConfigSchema(
            keys=_GEMMA_KEYS | {"attention_softcap": "attn_logit_softcapping"},
            defaults=_gemma_defaults(
                vocab_size=256000, max_position_embeddings=8192, final_logit_softcapping=30.0,
                attn_logit_softcapping=50.0, use_bidirectional_attention=None,
            ),
            fixed={"norm_placement": "sandwich"},
            rules=(
                rules.attention_bias, rules.scaled_embeddings, rules.query_scale,
                layer_rules.alternating_windows,
            ),
            nullable=frozenset({"attn_logit_softcapping", "final_logit_softcapping", "sliding_window"}),
            uneven_heads="refuse",
            unsupported={"use_bidirectional_attention": None},
            ignored_keys={"hidden_act": "gelu_pytorch_tanh", "cache_implementation": ANY},
        ),
        weights=llama_weights(ATTENTION, GATED_MLP, _GEMMA_NORMS, norm_offset=1),
    ),
    "gemma3_text": Family(
        model_class="Gemma3ForCausalLM",
        config=ConfigSchema(
            keys=_GEMMA_KEYS | {"rope_theta_local": "rope_local_base_freq"},
            defaults=_gemma_defaults(
                vocab_size=262208, max_position_embeddings=131072, rope_theta=1_000_000.0,
                rope_local_base_freq=10_000.0, final_logit_softcapping=None, sliding_window_pattern=6,
                use_bidirectional_attention=False,
            ),
            fixed={"norm_placement": "sandwich", "qk_norm": "head"},
            rules=(
                rules.attention_bias, rules.scaled_embeddings, rules.query_scale,
                layer_rules.periodic_full_attention,
            ),
            nullable=frozenset({"sliding_window", "use_bidirectional_attention"}),
            uneven_heads="refuse",
            unsupported={"use_bidirectional_attention": False},
            # The class has an attribute for it, and does not cap its scores.
            ignored_keys={"attn_logit_softcapping": None},
        ),
        weights=llama_weights(ATTENTION, GATED_MLP, _GEMMA_NORMS, QK_NORMS, norm_offset=1),
    ),
    "qwen2": Family(
        model_class="Qwen2ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_qwen_defaults(),
            fixed={"qkv_bias": True},
            rules=(layer_rules.qwen_windows,),
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        ),
        weights=LLAMA_WEIGHTS,
    ),
    "qwen3": Family(
        model_class="Qwen3ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=_qwen_defaults(head_dim=128, attention_bias=False),
            fixed={"qk_norm": "head"},
            rules=(rules.attention_bias, layer_rules.qwen_windows),
            nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        ),
        weights=llama_weights(ATTENTION, GATED_MLP, PRE_NORMS, QK_NORMS),
    ),
    "smollm3": Family(
        model_class="SmolLM3ForCausalLM",
        config=ConfigSchema(
            keys=LLAMA_KEYS,
            defaults=llama_defaults(
                hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=4,
                vocab_size=128256, max_position_embeddings=32768, tie_word_embeddings=True,
                rope_theta=2_000_000.0, attention_bias=False, mlp_bias=False, no_rope_layers=None,
                no_rope_layer_interval=4, use_sliding_window=False, sliding_window=None, layer_types=None,
            ),
            rules=(rules.all_biases, layer_rules.smollm3_positions),
            nullable=frozenset({"num_key_value_heads"}),
            ignored_keys={"max_window_layers": ANY},
        ),
        weights=LLAMA_WEIGHTS,
    ),
}
# fmt: on
