"""Config classes in the line of Llama: their keys, and their own defaults written out.

Read from the classes of transformers 5.23 and held against them in tests/test_hf.py, which draws their
switches at random and compares total and breakdown. To add a family, add its row here and its switches there.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.hf import rules
from parambudget.arch.hf.family import LAYERNORM, ROPE, SIZES, Family

_LLAMA: Final = SIZES | {"n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps"}
_WINDOW: Final = {"sliding_window": None}


def _llama_defaults(**others: Any) -> dict[str, Any]:
    return {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None,
        "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "initializer_range": 0.02, "tie_word_embeddings": False, **ROPE,
    } | others  # fmt: skip


# fmt: off
_LLAMA_FAMILY: Final = Family(
    _LLAMA | {"head_dim": "head_dim"},
    _llama_defaults(head_dim=None, attention_bias=False, mlp_bias=False),
    derive=rules.all_biases,
)

LLAMA_LIKE: Final[Mapping[str, Family]] = {
    "cohere": Family(
        SIZES | {"n_kv_heads": "num_key_value_heads", "norm_eps": "layer_norm_eps"},
        _llama_defaults(
            hidden_size=8192, num_hidden_layers=40, num_attention_heads=64, intermediate_size=22528,
            vocab_size=256000, max_position_embeddings=8192, tie_word_embeddings=True, layer_norm_eps=1e-5,
            rope_theta=500_000.0, attention_bias=False, use_qk_norm=False, logit_scale=0.0625,
        ),
        {"norm": "layernorm", "norm_bias": False, "block": "parallel_shared_norm"},
        rules.cohere,
        unsaid={"logit_scale": 1.0},
    ),
    "gemma": Family(
        _LLAMA | {"head_dim": "head_dim"},
        _llama_defaults(
            hidden_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16,
            head_dim=256, intermediate_size=24576, vocab_size=256000, max_position_embeddings=8192,
            hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True, attention_bias=False,
        ),
        derive=rules.gemma,
    ),
    "gemma2": Family(
        _LLAMA | {
            "head_dim": "head_dim", "activation": "hidden_activation",
            "logit_softcap": "final_logit_softcapping",
        },
        _llama_defaults(
            hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
            head_dim=256, intermediate_size=9216, vocab_size=256000, max_position_embeddings=8192,
            hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, attention_bias=False,
            query_pre_attn_scalar=256, sliding_window=4096, final_logit_softcapping=30.0,
            attn_logit_softcapping=50.0,
        ),
        {"norm_placement": "sandwich"},
        rules.gemma2,
        unsaid=_WINDOW | {"attn_logit_softcapping": None},
    ),
    "gemma3_text": Family(
        _LLAMA | {
            "head_dim": "head_dim", "activation": "hidden_activation",
            "logit_softcap": "final_logit_softcapping",
        },
        _llama_defaults(
            hidden_size=2304, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
            head_dim=256, intermediate_size=9216, vocab_size=262208, max_position_embeddings=131072,
            hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, rope_theta=1_000_000.0,
            attention_bias=False, query_pre_attn_scalar=256, sliding_window=4096,
            final_logit_softcapping=None, attn_logit_softcapping=None,
        ),
        {"norm_placement": "sandwich", "qk_norm": "head"},
        rules.gemma2,
        unsaid=_WINDOW | {"attn_logit_softcapping": None},
    ),
    "glm": Family(
        _LLAMA | {
            "head_dim": "head_dim", "qkv_bias": "attention_bias",
            "rotary_fraction": "partial_rotary_factor",
        },
        _llama_defaults(
            num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
            vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7, attention_bias=True,
            partial_rotary_factor=0.5,
        ),
    ),
    "glm4": Family(
        _LLAMA | {
            "head_dim": "head_dim", "qkv_bias": "attention_bias",
            "rotary_fraction": "partial_rotary_factor",
        },
        _llama_defaults(
            num_hidden_layers=40, num_key_value_heads=2, head_dim=128, intermediate_size=13696,
            vocab_size=151552, max_position_embeddings=131072, rms_norm_eps=1.5625e-7, attention_bias=True,
            partial_rotary_factor=0.5,
        ),
        {"norm_placement": "sandwich"},
    ),
    "granite": Family(
        _LLAMA,
        _llama_defaults(
            attention_bias=False, mlp_bias=False, embedding_multiplier=1.0, residual_multiplier=1.0,
            attention_multiplier=1.0, logits_scaling=1.0,
        ),
        derive=rules.granite,
        unsaid={"logits_scaling": 1.0},
    ),
    "llama": _LLAMA_FAMILY,
    "mistral": Family(
        _LLAMA | {"head_dim": "head_dim"},
        _llama_defaults(
            intermediate_size=14336, num_key_value_heads=8, head_dim=None, max_position_embeddings=131072,
            sliding_window=4096,
        ),
        unsaid=_WINDOW,
    ),
    "mobilellm": Family(
        {**_LLAMA_FAMILY.keys, "tied": "share_embedding"},
        {**_LLAMA_FAMILY.defaults, "share_embedding": False},
        derive=rules.all_biases,
    ),
    "olmo": Family(
        {name: key for name, key in _LLAMA.items() if name != "norm_eps"},
        _llama_defaults(vocab_size=50304, attention_bias=False, clip_qkv=None),
        {"norm": "layernorm", "norm_weight": False, "norm_bias": False, "norm_eps": 1e-5},
        rules.attention_bias,
        unsaid={"clip_qkv": None},
    ),
    "olmo2": Family(
        _LLAMA,
        _llama_defaults(vocab_size=50304, rms_norm_eps=1e-5, attention_bias=False),
        {"norm_placement": "reordered", "qk_norm": "full"},
        rules.attention_bias,
    ),
    "phi": Family(
        SIZES | {
            "n_kv_heads": "num_key_value_heads", "norm_eps": "layer_norm_eps",
            "rotary_fraction": "partial_rotary_factor",
        },
        _llama_defaults(
            hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, vocab_size=51200,
            hidden_act="gelu_new", layer_norm_eps=1e-5, qk_layernorm=False, partial_rotary_factor=0.5,
        ),
        LAYERNORM | {
            "gated": False, "block": "parallel_shared_norm", "qkv_bias": True, "attention_out_bias": True,
            "ffn_bias": True, "head_bias": True,
        },
        rules.phi,
    ),
    "phi3": Family(
        _LLAMA | {"rotary_fraction": "partial_rotary_factor"},
        _llama_defaults(
            hidden_size=3072, intermediate_size=8192, vocab_size=32064, max_position_embeddings=4096,
            rms_norm_eps=1e-5, partial_rotary_factor=1.0, sliding_window=None,
        ),
        unsaid=_WINDOW,
    ),
    "qwen2": Family(
        _LLAMA,
        _llama_defaults(
            num_key_value_heads=32, intermediate_size=22016, vocab_size=151936,
            max_position_embeddings=32768, use_sliding_window=False,
        ),
        {"qkv_bias": True},
        unsaid={"use_sliding_window": False},
    ),
    "qwen3": Family(
        _LLAMA | {"head_dim": "head_dim"},
        _llama_defaults(
            num_key_value_heads=32, head_dim=128, intermediate_size=22016, vocab_size=151936,
            max_position_embeddings=32768, attention_bias=False, use_sliding_window=False,
        ),
        {"qk_norm": "head"},
        rules.attention_bias,
        unsaid={"use_sliding_window": False},
    ),
    "smollm3": Family(
        _LLAMA,
        _llama_defaults(
            hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=4,
            vocab_size=128256, max_position_embeddings=32768, tie_word_embeddings=True,
            rope_theta=2_000_000.0, attention_bias=False, mlp_bias=False, no_rope_layer_interval=4,
            use_sliding_window=False,
        ),
        derive=rules.all_biases,
        unsaid={"no_rope_layer_interval": 0, "use_sliding_window": False},
    ),
    "stablelm": Family(
        SIZES | {
            "n_kv_heads": "num_key_value_heads", "norm_eps": "layer_norm_eps",
            "rotary_fraction": "partial_rotary_factor",
        },
        _llama_defaults(
            hidden_size=2560, num_key_value_heads=32, intermediate_size=6912, vocab_size=50304,
            max_position_embeddings=4096, layer_norm_eps=1e-5, use_qkv_bias=False, qk_layernorm=False,
            use_parallel_residual=False, partial_rotary_factor=0.25,
        ),
        LAYERNORM,
        rules.stablelm,
        only={"qk_layernorm": False},
    ),
    "starcoder2": Family(
        SIZES | {"n_kv_heads": "num_key_value_heads", "norm_eps": "norm_epsilon"},
        _llama_defaults(
            hidden_size=3072, num_hidden_layers=30, num_attention_heads=24, num_key_value_heads=2,
            intermediate_size=12288, vocab_size=49152, max_position_embeddings=4096,
            hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, initializer_range=0.018042,
            tie_word_embeddings=True, use_bias=True, sliding_window=None,
        ),
        LAYERNORM | {"gated": False},
        rules.starcoder2,
        unsaid=_WINDOW,
    ),
}
# fmt: on
