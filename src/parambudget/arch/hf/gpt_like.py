"""Config classes in the line of GPT-2: their keys, and their own defaults written out.

Read from the classes of transformers 5.23 and held against them in tests/test_hf.py, which draws their
switches at random and compares total and breakdown. To add a family, add its row here and its switches there.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.hf import rules
from parambudget.arch.hf.family import LAYERNORM, ROPE, SIZES, Family

_GPT2: Final = {
    "dim": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "intermediate_size": "n_inner", "tied": "tie_word_embeddings", "activation": "activation_function",
    "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
}  # fmt: skip
_GPT2_ALIASES: Final = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}  # fmt: skip


def _gpt2_defaults(**others: Any) -> dict[str, Any]:
    return {
        "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "tie_word_embeddings": True,
    } | others  # fmt: skip


# fmt: off
GPT_LIKE: Final[Mapping[str, Family]] = {
    "codegen": Family(
        _GPT2,
        _gpt2_defaults(
            vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64,
            tie_word_embeddings=False,
        ),
        LAYERNORM | {"gated": False, "block": "parallel_shared_norm", "ffn_bias": True, "head_bias": True},
        rules.rotary_dim,
        aliases=_GPT2_ALIASES,
    ),
    "falcon": Family(
        {
            "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
            "vocab_size": "vocab_size", "context_length": "max_position_embeddings",
            "tied": "tie_word_embeddings", "activation": "activation", "norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range",
        },
        {
            "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
            "max_position_embeddings": 2048, "tie_word_embeddings": True, "activation": "gelu",
            "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "num_kv_heads": None,
            "num_ln_in_parallel_attn": None, "ffn_hidden_size": None, "alibi": False,
            "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False,
            **ROPE,
        },
        LAYERNORM | {"gated": False},
        rules.falcon,
        unsaid={"alibi": False},
        aliases={
            "n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
            "n_head_kv": "num_kv_heads",
        },
    ),
    "gpt2": Family(
        _GPT2,
        _gpt2_defaults(
            add_cross_attention=False, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
        ),
        LAYERNORM | {
            "gated": False, "position": "learned", "qkv_bias": True, "attention_out_bias": True,
            "ffn_bias": True,
        },
        only={"add_cross_attention": False},
        unsaid={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        aliases=_GPT2_ALIASES,
    ),
    "gpt_bigcode": Family(
        _GPT2,
        _gpt2_defaults(
            activation_function="gelu_pytorch_tanh", multi_query=True, add_cross_attention=False,
            scale_attn_weights=True,
        ),
        LAYERNORM | {
            "gated": False, "position": "learned", "qkv_bias": True, "attention_out_bias": True,
            "ffn_bias": True,
        },
        rules.gpt_bigcode,
        only={"add_cross_attention": False},
        unsaid={"scale_attn_weights": True},
        aliases=_GPT2_ALIASES,
    ),
    "gpt_neo": Family(
        {
            "dim": "hidden_size", "n_layers": "num_layers", "n_heads": "num_heads",
            "vocab_size": "vocab_size", "intermediate_size": "intermediate_size",
            "context_length": "max_position_embeddings", "tied": "tie_word_embeddings",
            "activation": "activation_function", "norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range",
        },
        {
            "hidden_size": 2048, "num_layers": 24, "num_heads": 16, "vocab_size": 50257,
            "intermediate_size": None, "max_position_embeddings": 2048, "tie_word_embeddings": True,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
            "window_size": 256,
        },
        LAYERNORM | {
            "gated": False, "position": "learned", "attention_out_bias": True, "ffn_bias": True,
            "attention_multiplier": 1.0,
        },
        unsaid={"window_size": None},
        aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    ),
    "gpt_neox": Family(
        SIZES | {"norm_eps": "layer_norm_eps", "rotary_fraction": "partial_rotary_factor"},
        {
            "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "intermediate_size": 24576, "vocab_size": 50432, "max_position_embeddings": 2048,
            "hidden_act": "gelu", "layer_norm_eps": 1e-5, "initializer_range": 0.02,
            "tie_word_embeddings": False, "use_parallel_residual": True, "attention_bias": True,
            "partial_rotary_factor": 0.25, **ROPE,
        },
        LAYERNORM | {"gated": False, "ffn_bias": True},
        rules.gpt_neox,
        aliases={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
    ),
    "gptj": Family(
        _GPT2,
        _gpt2_defaults(
            vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64,
            tie_word_embeddings=False,
        ),
        LAYERNORM | {"gated": False, "block": "parallel_shared_norm", "ffn_bias": True, "head_bias": True},
        rules.rotary_dim,
        aliases=_GPT2_ALIASES,
    ),
}
# fmt: on
