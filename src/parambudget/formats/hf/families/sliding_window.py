"""Config classes in the line of Llama whose layers differ: windows here and there, or no positions.

Read from the classes of transformers 5 and held against them in tests/formats/test_hf_importer.py, which
draws their switches at random and compares total and breakdown. docs/families.md says how to add a family.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import ANY, LLAMA, UNREAD, Family, llama_defaults

_GEMMA: Final = LLAMA | {
    "activation": "hidden_activation", "logit_softcap": "final_logit_softcapping",
    "attention_softcap": "attn_logit_softcapping",
}  # fmt: skip


def _gemma_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4, head_dim=256,
        intermediate_size=9216, hidden_act=UNREAD, hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        attention_bias=False, query_pre_attn_scalar=256, sliding_window=4096, layer_types=None, **others,
    )  # fmt: skip


def _qwen_defaults(**others: Any) -> dict[str, Any]:
    return llama_defaults(
        num_key_value_heads=32, intermediate_size=22016, vocab_size=151936, max_position_embeddings=32768,
        use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None, **others,
    )  # fmt: skip


# fmt: off
WINDOWED_LIKE: Final[Mapping[str, Family]] = {
    "cohere2": Family(
        LLAMA | {"norm_eps": "layer_norm_eps", "logit_multiplier": "logit_scale"},
        llama_defaults(
            rms_norm_eps=UNREAD, hidden_size=8192, num_hidden_layers=40, num_attention_heads=64,
            intermediate_size=22528,
            vocab_size=256000, max_position_embeddings=8192, tie_word_embeddings=True, layer_norm_eps=1e-5,
            attention_bias=False, logit_scale=0.0625, sliding_window=4096, layer_types=None,
            sliding_window_pattern=4,
        ),
        {
            "norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm",
            "rotary_interleaved": True,
        },
        (rules.attention_bias, layer_rules.rotary_where_local),
        nullable=frozenset({"sliding_window"}),
    ),
    "gemma2": Family(
        _GEMMA,
        _gemma_defaults(
            vocab_size=256000, max_position_embeddings=8192, final_logit_softcapping=30.0,
            attn_logit_softcapping=50.0, use_bidirectional_attention=None,
        ),
        {"norm_placement": "sandwich"},
        (rules.attention_bias, rules.scaled_embeddings, rules.query_scale, layer_rules.every_other),
        nullable=frozenset({"attn_logit_softcapping", "final_logit_softcapping", "sliding_window"}),
        heads="divide",
        unsaid={"use_bidirectional_attention": None},
        inert={"hidden_act": "gelu_pytorch_tanh", "cache_implementation": ANY},
    ),
    "gemma3_text": Family(
        _GEMMA | {"rope_theta_local": "rope_local_base_freq"},
        _gemma_defaults(
            vocab_size=262208, max_position_embeddings=131072, rope_theta=1_000_000.0,
            rope_local_base_freq=10_000.0, final_logit_softcapping=None, attn_logit_softcapping=None,
            sliding_window_pattern=6, use_bidirectional_attention=False,
        ),
        {"norm_placement": "sandwich", "qk_norm": "head"},
        (rules.attention_bias, rules.scaled_embeddings, rules.query_scale, layer_rules.all_but_every_nth),
        nullable=frozenset({"sliding_window", "use_bidirectional_attention"}),
        heads="divide",
        unsaid={"use_bidirectional_attention": False},
    ),
    "qwen2": Family(
        LLAMA, _qwen_defaults(), {"qkv_bias": True}, (layer_rules.from_a_layer_on,),
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
    ),
    "qwen3": Family(
        LLAMA,
        _qwen_defaults(head_dim=128, attention_bias=False),
        {"qk_norm": "head"},
        (rules.attention_bias, layer_rules.from_a_layer_on),
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
    ),
    "smollm3": Family(
        LLAMA,
        llama_defaults(
            hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=4,
            vocab_size=128256, max_position_embeddings=32768, tie_word_embeddings=True,
            rope_theta=2_000_000.0, attention_bias=False, mlp_bias=False, no_rope_layers=None,
            no_rope_layer_interval=4, use_sliding_window=False, sliding_window=None, layer_types=None,
        ),
        derive=(rules.all_biases, layer_rules.without_positions),
        nullable=frozenset({"num_key_value_heads"}),
        inert={"max_window_layers": ANY},
    ),
}
# fmt: on
