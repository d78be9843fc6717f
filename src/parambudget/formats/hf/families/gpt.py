"""Config classes in the line of GPT-2: their keys, and their own defaults written out.

Read from the classes of transformers 5 and held against them in tests/formats/test_hf_importer.py, which
draws their switches at random and compares total and breakdown. docs/families.md says how to add a family.
"""

from collections.abc import Mapping
from typing import Any, Final

from parambudget.formats.hf import layer_rules, rules
from parambudget.formats.hf.schema import ABSENT, LAYERNORM, SIZES, Family, without

_GPT2: Final = {
    "dim": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size",
    "context_length": "n_positions", "intermediate_size": "n_inner", "tied": "tie_word_embeddings",
    "activation": "activation_function", "norm_eps": "layer_norm_epsilon", "init_std": "initializer_range",
}  # fmt: skip
_GPT2_ALIASES: Final = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
_PLAIN: Final = LAYERNORM | {"gated": False}
_BIASED: Final = _PLAIN | {"qkv_bias": True, "attention_out_bias": True, "ffn_bias": True}
_TURNED: Final = _PLAIN | {
    "block": "parallel_shared_norm", "ffn_bias": True, "head_bias": True, "rotary_interleaved": True,
}  # fmt: skip


def _gpt2_defaults(**others: Any) -> dict[str, Any]:
    return {
        "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "tie_word_embeddings": True,
    } | others  # fmt: skip


_GPTJ: Final = _gpt2_defaults(
    vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64,
    tie_word_embeddings=False,
)  # fmt: skip

# fmt: off
GPT_LIKE: Final[Mapping[str, Family]] = {
    "bloom": Family(
        {
            "dim": "hidden_size", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size",
            "context_length": "seq_length", "tied": "tie_word_embeddings", "norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range",
        },
        {
            "hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250880, "seq_length": 2048,
            "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
            "apply_residual_connection_post_layernorm": False,
        },
        _BIASED | {"position": "alibi", "embedding_norm": True, "activation": "gelu_tanh"},
        aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "n_embed": "hidden_size"},
        unsaid={"apply_residual_connection_post_layernorm": False},
        inert={"n_inner": None},
    ),
    "codegen": Family(
        _GPT2, _GPTJ, _TURNED, (rules.rotary_dim,), aliases=_GPT2_ALIASES, inert={"scale_attn_weights": True},
    ),
    "falcon": Family(
        {
            "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
            "vocab_size": "vocab_size", "context_length": "max_position_embeddings",
            "tied": "tie_word_embeddings", "activation": "activation", "norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range", "rope_theta": "rope_theta",
        },
        {
            "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
            "max_position_embeddings": 2048, "tie_word_embeddings": True, "activation": "gelu",
            "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "num_kv_heads": None,
            "num_ln_in_parallel_attn": None, "ffn_hidden_size": None, "alibi": False,
            "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False,
            "rope_theta": 10_000.0,
        },
        _PLAIN,
        (rules.falcon,),
        aliases={"n_embed": "hidden_size"},
        unsaid={"alibi": False},
        wording={"alibi": "position biases divided by sqrt(head_dim)"},
        inert={"apply_residual_connection_post_layernorm": False},
    ),
    "gpt2": Family(
        _GPT2,
        _gpt2_defaults(
            add_cross_attention=False, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
        ),
        _BIASED | {"position": "learned"},
        (rules.unscaled_scores,),
        aliases=_GPT2_ALIASES,
        only={"add_cross_attention": False},
        unsaid={"scale_attn_by_inverse_layer_idx": False},
    ),
    "gpt_bigcode": Family(
        _GPT2,
        _gpt2_defaults(
            activation_function="gelu_pytorch_tanh", multi_query=True, add_cross_attention=False,
            scale_attn_weights=True,
        ),
        _BIASED | {"position": "learned"},
        (rules.gpt_bigcode, rules.unscaled_scores),
        aliases=_GPT2_ALIASES,
        only={"add_cross_attention": False},
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
            "window_size": 256, "attention_types": None, "attention_layers": ABSENT,
        },
        _BIASED | {"qkv_bias": False, "position": "learned", "attention_multiplier": 1.0},
        (layer_rules.alternating_types,),
        aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    ),
    "gpt_neox": Family(
        SIZES | {
            "norm_eps": "layer_norm_eps", "rotary_fraction": "rotary_pct", "rope_theta": "rotary_emb_base",
        },
        {
            "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "intermediate_size": 24576, "vocab_size": 50432, "max_position_embeddings": 2048,
            "hidden_act": "gelu", "layer_norm_eps": 1e-5, "initializer_range": 0.02,
            "tie_word_embeddings": False, "use_parallel_residual": True, "attention_bias": True,
            "rotary_pct": 0.25, "rotary_emb_base": 10_000.0,
        },
        _PLAIN | {"ffn_bias": True},
        (rules.attention_bias, rules.gpt_neox),
        heads="divide",
    ),
    "gptj": Family(
        _GPT2, _GPTJ, _TURNED, (rules.rotary_dim,), aliases=_GPT2_ALIASES,
        inert={"rotary": True, "scale_attn_weights": True},
    ),
    "mpt": Family(
        {
            "dim": "d_model", "n_layers": "n_layers", "n_heads": "n_heads", "vocab_size": "vocab_size",
            "context_length": "max_seq_len", "tied": "tie_word_embeddings", "norm_eps": "layer_norm_epsilon",
            "init_std": "initializer_range",
        },
        {
            "d_model": 2048, "n_layers": 24, "n_heads": 16, "vocab_size": 50368, "max_seq_len": 2048,
            "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
            "attn_config.clip_qkv": None, "attn_config.softmax_scale": None,
        },
        _PLAIN | {"norm_bias": False, "position": "alibi", "activation": "gelu"},
        (rules.mpt,),
        aliases={"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
        inert={
            "attn_config.alibi": True, "attn_config.alibi_bias_max": 8, "attn_config.attn_impl": "torch",
            "attn_config.attn_type": "multihead_attention", "attn_config.attn_uses_sequence_id": False,
            "attn_config.prefix_lm": False, "attn_config.qk_ln": False, "embedding_fraction": 1.0,
            "expansion_ratio": 4, "learned_pos_emb": True, "logit_scale": None, "no_bias": True,
            "norm_type": "low_precision_layernorm",
        },
    ),
    "openai-gpt": Family(
        without(_GPT2, "intermediate_size", "activation"),
        {
            "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 40478, "n_positions": 512,
            "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "afn": "gelu",
        },
        _BIASED | {"position": "learned", "norm_placement": "post", "final_norm": False},
        (rules.first_gelu,),
        aliases=_GPT2_ALIASES,
    ),
    "opt": Family(
        {
            "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
            "vocab_size": "vocab_size", "intermediate_size": "ffn_dim",
            "context_length": "max_position_embeddings", "tied": "tie_word_embeddings",
            "activation": "activation_function", "init_std": "init_std",
        },
        {
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50272,
            "ffn_dim": 3072, "max_position_embeddings": 2048, "tie_word_embeddings": True,
            "activation_function": "relu", "init_std": 0.02, "do_layer_norm_before": True,
            "_remove_final_layer_norm": False, "word_embed_proj_dim": None, "enable_bias": True,
            "layer_norm_elementwise_affine": True,
        },
        _PLAIN | {"position": "learned", "position_offset": 2, "norm_eps": 1e-5},
        (rules.opt,),
    ),
}
# fmt: on
