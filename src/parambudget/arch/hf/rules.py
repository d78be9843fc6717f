"""What several keys of a Hugging Face config decide together: from the config to some of our fields."""

from typing import Any

from parambudget.arch.hf.family import Config


def attention_bias(c: Config) -> dict[str, Any]:
    """`attention_bias` covers q, k, v and the output projection."""
    return {"qkv_bias": c["attention_bias"], "attention_out_bias": c["attention_bias"]}


def all_biases(c: Config) -> dict[str, Any]:
    """The same, and `mlp_bias` the FFN."""
    return attention_bias(c) | {"ffn_bias": c["mlp_bias"]}


def gemma(c: Config) -> dict[str, Any]:
    """Embeddings are scaled by sqrt(dim)."""
    return attention_bias(c) | {"embedding_multiplier": c["hidden_size"] ** 0.5}


def gemma2(c: Config) -> dict[str, Any]:
    """The same, and scores by their own scale."""
    return gemma(c) | {"attention_multiplier": c["query_pre_attn_scalar"] ** -0.5}


def granite(c: Config) -> dict[str, Any]:
    """Multipliers at four places; the one on the logits cannot be said."""
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
    return all_biases(c) | {name: c[name] for name in names}


def cohere(c: Config) -> dict[str, Any]:
    """Norms on queries and keys have one scale per head."""
    return attention_bias(c) | {"qk_norm": "per_head" if c["use_qk_norm"] else "none"}


def gpt_neox(c: Config) -> dict[str, Any]:
    """Both branches from the same input, each behind its own norm, unless told otherwise."""
    block = "parallel" if c["use_parallel_residual"] else "sequential"
    return attention_bias(c) | {"block": block}


def stablelm(c: Config) -> dict[str, Any]:
    """A parallel block has one norm."""
    block = "parallel_shared_norm" if c["use_parallel_residual"] else "sequential"
    return {"qkv_bias": c["use_qkv_bias"], "block": block}


def phi(c: Config) -> dict[str, Any]:
    """Norms on queries and keys share one scale."""
    return {"qk_norm": "head" if c["qk_layernorm"] else "none"}


def starcoder2(c: Config) -> dict[str, Any]:
    """One switch for every bias."""
    return {name: c["use_bias"] for name in ("qkv_bias", "attention_out_bias", "ffn_bias")}


def gpt_bigcode(c: Config) -> dict[str, Any]:
    """One key/value head, or as many as query heads."""
    return {"n_kv_heads": 1 if c["multi_query"] else c["n_head"]}


def rotary_dim(c: Config) -> dict[str, Any]:
    """The rotated width in elements; null turns all."""
    head_dim = c["n_embd"] // c["n_head"]
    return {"rotary_fraction": min(1.0, (c["rotary_dim"] or head_dim) / head_dim)}


def falcon(c: Config) -> dict[str, Any]:
    """Three generations of block in one class."""
    heads = c["num_attention_heads"]
    grouped = c["num_kv_heads"] if c["num_kv_heads"] is not None else heads
    norms = c["num_ln_in_parallel_attn"]
    if norms is None and c["new_decoder_architecture"]:
        norms = 2
    parallel = "parallel" if norms == 2 else "parallel_shared_norm"
    width = c["ffn_hidden_size"]
    return {
        "n_kv_heads": grouped if c["new_decoder_architecture"] else 1 if c["multi_query"] else heads,
        "block": parallel if c["parallel_attn"] else "sequential",
        "intermediate_size": 4 * c["hidden_size"] if width is None else width,
        **{name: c["bias"] for name in ("qkv_bias", "attention_out_bias", "ffn_bias")},
    }
