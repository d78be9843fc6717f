"""What several keys of a Hugging Face config decide together: from the config to some of our fields."""

from collections.abc import Mapping
from math import nextafter
from typing import Any, Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import Config, Family


def attention_bias(c: Config) -> dict[str, Any]:
    """`attention_bias` covers q, k, v and the output projection."""
    return {"qkv_bias": c["attention_bias"], "attention_out_bias": c["attention_bias"]}


def all_biases(c: Config) -> dict[str, Any]:
    """The same, and `mlp_bias` the FFN."""
    return attention_bias(c) | {"ffn_bias": c["mlp_bias"]}


def scaled_embeddings(c: Config) -> dict[str, Any]:
    """Embeddings are scaled by sqrt(dim): Gemma."""
    return {"embedding_multiplier": float(c["hidden_size"] ** 0.5)}


def old_gelu(c: Config) -> dict[str, Any]:
    """The first Gemma's configs say gelu and mean its tanh form; the class knows."""
    return {"activation": "gelu_tanh"} if c["hidden_act"] == "gelu" else {}


def query_scale(c: Config) -> dict[str, Any]:
    """Scores by their own scale, said as the width they would be for."""
    width = above_zero(c, "query_pre_attn_scalar")
    return {} if width == c["head_dim"] else {"attention_multiplier": width**-0.5}


def first_gelu(c: Config) -> dict[str, Any]:
    """The first GPT's gelu is the tanh form, and it has no other functions than these."""
    known = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
    if c["afn"] not in known:
        raise ConfigError(f"afn {c['afn']!r} is not known; use one of {', '.join(known)}")
    return {"activation": known[c["afn"]]}


def granite(c: Config) -> dict[str, Any]:
    """Multipliers at four places; that of the logits divides."""
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
    return {name: c[name] for name in names} | {"logit_multiplier": 1 / above_zero(c, "logits_scaling")}


def cohere(c: Config) -> dict[str, Any]:
    """Norms on queries and keys have one scale per head."""
    return {"qk_norm": "per_head" if c["use_qk_norm"] else "none"}


def gpt_neox(c: Config) -> dict[str, Any]:
    """Both branches from the same input, each behind its own norm, unless told otherwise."""
    return {"block": "parallel" if c["use_parallel_residual"] else "sequential"}


def stablelm(c: Config) -> dict[str, Any]:
    """A parallel block has one norm; norms on queries and keys have no shift."""
    block = "parallel_shared_norm" if c["use_parallel_residual"] else "sequential"
    norms = {"qk_norm": "per_head", "qk_norm_bias": False} if c["qk_layernorm"] else {}
    return {"block": block, **norms}


def phi(c: Config) -> dict[str, Any]:
    """Norms on queries and keys share one scale, of the width of a head that fills the model."""
    if not c["qk_layernorm"]:
        return {}
    usual = c["hidden_size"] // c["num_attention_heads"]
    if c["head_dim"] not in (None, usual):
        raise ConfigError(
            f"head_dim={c['head_dim']} beside qk_layernorm, whose norms are {usual} wide; drop one"
        )
    return {"qk_norm": "head"}


def norms_of_the_width(c: Config) -> dict[str, Any]:
    """OLMoE: norms on queries and keys are as wide as if heads filled the model."""
    usual = c["hidden_size"] // c["num_attention_heads"]
    if c["head_dim"] not in (None, usual):
        raise ConfigError(
            f"head_dim={c['head_dim']}, but the class has norms for heads of {usual}; leave it out"
        )
    return {}


def said_kv_heads(c: Config) -> dict[str, Any]:
    """Nemotron: the class cannot do without them."""
    if c["num_key_value_heads"] is None:
        raise ConfigError("num_key_value_heads is missing, and the class has no default for it; give it")
    return {}


def starcoder2(c: Config) -> dict[str, Any]:
    """One switch for every bias."""
    return dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["use_bias"])


def gpt_bigcode(c: Config) -> dict[str, Any]:
    """One key/value head, or as many as query heads."""
    return {"n_kv_heads": 1 if c["multi_query"] else c["n_head"]}


def unscaled_scores(c: Config) -> dict[str, Any]:
    """GPT-2's switch for the scale of scores."""
    return {} if c["scale_attn_weights"] else {"attention_multiplier": 1.0}


def rotary_dim(c: Config) -> dict[str, Any]:
    """The rotated width in elements; more than a head has, which the class builds and cannot run, is all."""
    head_dim = c["n_embd"] // c["n_head"]
    return {"rotary_fraction": share_of(head_dim, min(above_zero(c, "rotary_dim"), head_dim))}


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
        "position": "alibi" if c["alibi"] else "rotary",
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["bias"]),
    }


def opt(c: Config) -> dict[str, Any]:
    """The norm's place, OPT-350M's projected embedding, and switches that no published OPT has turned."""
    before, width, affine = (
        c["do_layer_norm_before"],
        c["word_embed_proj_dim"],
        c["layer_norm_elementwise_affine"],
    )
    return {
        "norm_placement": "pre" if before else "post",
        "final_norm": before and not c["_remove_final_layer_norm"],
        "embedding_dim": None if width == c["hidden_size"] else width,
        "norm_weight": affine,
        "norm_bias": affine,
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["enable_bias"]),
    }


def mpt(c: Config) -> dict[str, Any]:
    """What MPT keeps in a config of its own for attention; a clip of 0 is none."""
    return {
        "qkv_clip": c["attn_config.clip_qkv"] or None,
        "attention_multiplier": c["attn_config.softmax_scale"],
    }


def shared_embedding(c: Config) -> dict[str, Any]:
    """MobileLLM ties through a key of its own, and through the usual one too."""
    return {"tied": c["share_embedding"] or c["tie_word_embeddings"]}


def share_of(head_dim: int, turned: int) -> float:
    """The share of a head that is so many elements when it is multiplied out and cut off."""
    share = turned / head_dim
    return share if int(head_dim * share) == turned else nextafter(share, 1)


def above_zero(c: Config, key: str) -> Any:
    """The key's number, refused where the class would divide by it or take its root."""
    if c[key] > 0:
        return c[key]
    raise ConfigError(f"{key} is {c[key]}; it must be greater than 0")


_IN_AN_OBJECT: Final = {"rope_theta": "rope_theta", "rotary_fraction": "partial_rotary_factor"}
"""Our fields, and the keys that say them in an object."""


def rotary_keys(family: Family, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The family's keys for what an object says of rotation, and what of it `ModelConfig` cannot say.

    The object wins over keys beside it, and `rope_scaling` over `rope_parameters`, as in the classes.
    """
    scaling, parameters = read_object(given, "rope_scaling"), read_object(given, "rope_parameters")
    if "rope_theta" not in family.keys:
        return {}, []
    if "rope_theta_local" in family.keys:
        return _by_kind_of_layer(scaling, parameters)
    held = scaling or parameters or family.usual_rotation
    if any(isinstance(value, dict) for value in held.values()):
        raise ConfigError("rope_parameters differ from layer to layer, which the class does not read")
    names = {key: family.keys[name] for name, key in _IN_AN_OBJECT.items() if name in family.keys}
    return {name: held[key] for key, name in names.items() if key in held}, _rescaled(held)


def _by_kind_of_layer(
    scaling: Mapping[str, Any], parts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Gemma 3: an object for full layers and one for local ones; `rope_scaling` is of full ones."""
    full, local = {**read_object(parts, "full_attention"), **scaling}, read_object(parts, "sliding_attention")
    named = {"rope_theta": full, "rope_local_base_freq": local}
    said = {key: held["rope_theta"] for key, held in named.items() if "rope_theta" in held}
    return said, _rescaled(full) + _rescaled(local)


def read_object(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty where there is none."""
    held = given.get(key)
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise ConfigError(f"{key} is {held!r}; it must be an object or null")
    return held


def _rescaled(held: Mapping[str, Any]) -> list[str]:
    """Frequencies other than the plain ones."""
    kind = held.get("rope_type", held.get("type", "default"))
    return [] if kind == "default" else [f"rescaled rotary frequencies ({kind})"]
