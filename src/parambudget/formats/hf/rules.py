"""Rules of single families: fields of ours that depend on several keys of a Hugging Face config."""

from collections.abc import Mapping
from math import nextafter, sqrt
from typing import Any

from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import Config, Fields
from parambudget.units import short_repr


def attention_bias(c: Config) -> Fields:
    """`attention_bias` covers the projections of queries, keys and values, and the output projection."""
    return {"qkv_bias": c["attention_bias"], "attention_out_bias": c["attention_bias"]}


def gated_attention_bias(c: Config) -> Fields:
    """The same, and the gates that are projected together with the queries."""
    return attention_bias(c) | {"attention_gate_biased": c["attention_bias"]}


def all_biases(c: Config) -> Fields:
    """The same, and `mlp_bias` covers the FFN."""
    return attention_bias(c) | {"ffn_bias": c["mlp_bias"]}


def scaled_embeddings(c: Config) -> Fields:
    """Gemma multiplies embeddings by sqrt(dim)."""
    return {"embedding_multiplier": float(c["hidden_size"] ** 0.5)}


def afmoe_embeddings(c: Config) -> Fields:
    """AFM can do the same."""
    return scaled_embeddings(c) if c["mup_enabled"] else {}


def scaled_embeddings_of_ctrl(c: Config) -> Fields:
    """So does CTRL."""
    return {"embedding_multiplier": float(c["n_embd"] ** 0.5)}


def optionally_scaled_embeddings(c: Config) -> Fields:
    """So do BioGPT and XGLM, unless switched off."""
    width = c["d_model"] if "d_model" in c else c["hidden_size"]
    return {"embedding_multiplier": float(width**0.5)} if c["scale_embedding"] else {}


def xglm_positions(c: Config) -> Fields:
    """XGLM's sinusoids reach the base with the last pair of elements, not with the one behind it."""
    n_pairs = c["d_model"] // 2
    if n_pairs < 2 or c["d_model"] % 2:
        raise ConfigError(f"d_model is {c['d_model']}; sinusoidal positions need an even width of 4 or more")
    return {"sinusoidal_theta": 10_000.0 ** (n_pairs / (n_pairs - 1))}


def gemma_gelu(c: Config) -> Fields:
    """The first Gemma's configs say gelu, but the class computes its tanh approximation."""
    return {"activation": "gelu_tanh"} if c["hidden_act"] == "gelu" else {}


def query_scale(c: Config) -> Fields:
    """The scale of attention scores, given as the head width for which it would be the usual one."""
    width = read_positive(c, "query_pre_attn_scalar")
    return {} if width == c["head_dim"] else {"attention_multiplier": width**-0.5}


def openai_gpt_activation(c: Config) -> Fields:
    """GPT-1's gelu is the tanh approximation, and these are all the functions that it has."""
    known = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
    if c["afn"] not in known:
        raise ConfigError(f"afn {c['afn']!r} is not supported; use one of {', '.join(known)}")
    return {"activation": known[c["afn"]]}


def granite_multipliers(c: Config) -> Fields:
    """Granite has multipliers in four places; the logits are divided by theirs."""
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
    return {name: c[name] for name in names} | {"logit_multiplier": 1 / read_positive(c, "logits_scaling")}


def cohere_qk_norm(c: Config) -> Fields:
    """Command R's norms on queries and keys have weights of their own for each head."""
    return {"qk_norm": "per_head" if c["use_qk_norm"] else "none"}


def cohere2_moe_norm(c: Config) -> Fields:
    """Command A+ has RMSNorm if an epsilon for it is given, else LayerNorm."""
    if c["rms_norm_eps"] is not None:
        return {"norm": "rmsnorm", "norm_eps": c["rms_norm_eps"]}
    return {"norm": "layernorm", "norm_eps": c["layer_norm_eps"]}


def gpt_neox_block(c: Config) -> Fields:
    """Unless switched off, attention and FFN run in parallel, each behind its own norm."""
    return {"block": "parallel" if c["use_parallel_residual"] else "sequential"}


def gpt_neox_rotary_width(c: Config) -> Fields:
    """GPT-NeoX rotates a share of `head_dim`, although its heads have dim / n_heads elements."""
    head_dim = c["hidden_size"] // c["num_attention_heads"]
    if c["head_dim"] in (None, 0, head_dim):
        return {}
    # More than a head, which the class can build but not run, means all of it.
    width = int(min(c["head_dim"] * c["rotary_pct"], head_dim))
    return {"rotary_fraction": fraction_of_head(head_dim, width)}


def stablelm_block(c: Config) -> Fields:
    """A parallel block has one norm only; norms on queries and keys have no bias."""
    block = "parallel_shared_norm" if c["use_parallel_residual"] else "sequential"
    norms = {"qk_norm": "per_head", "qk_norm_bias": False} if c["qk_layernorm"] else {}
    return {"block": block, **norms}


def persimmon_qk_norm(c: Config) -> Fields:
    """Norms on queries and keys, unless switched off."""
    return {"qk_norm": "head" if c["qk_layernorm"] else "none"}


def phi_qk_norm(c: Config) -> Fields:
    """Phi builds its norms on queries and keys for heads of dim / n_heads, whatever head_dim says."""
    if not c["qk_layernorm"]:
        return {}
    default = c["hidden_size"] // c["num_attention_heads"]
    if c["head_dim"] not in (None, default):
        raise ConfigError(
            f"head_dim={c['head_dim']} does not go with qk_layernorm, whose norms are {default} wide; "
            "leave one of them out"
        )
    return {"qk_norm": "head"}


def require_default_head_dim(c: Config) -> Fields:
    """OLMoE builds its norms on queries and keys for heads of dim / n_heads, whatever head_dim says."""
    default = c["hidden_size"] // c["num_attention_heads"]
    if c["head_dim"] not in (None, default):
        raise ConfigError(
            f"head_dim={c['head_dim']}, but the class has norms for heads of {default}; leave it out"
        )
    return {}


def require_kv_heads(c: Config) -> Fields:
    """Nemotron's class fails without `num_key_value_heads`."""
    return _require(c, "num_key_value_heads")


def require_head_dim(c: Config) -> Fields:
    """Some classes fail without `head_dim`: Ministral, HunYuan."""
    return _require(c, "head_dim")


def _require(c: Config, key: str) -> Fields:
    if c[key] is None:
        raise ConfigError(f"{key} is missing, and the class has no default for it; give it")
    return {}


def require_heads_that_fill_the_width(c: Config) -> Fields:
    """Helium's output projection has the model's width on both sides: other heads do not run."""
    width = c["num_attention_heads"] * c["head_dim"]
    if width != c["hidden_size"]:
        raise ConfigError(
            f"num_attention_heads={c['num_attention_heads']} heads of head_dim={c['head_dim']} do not fill "
            f"hidden_size={c['hidden_size']}, which the class needs; change one of them"
        )
    return {}


def require_width_of_experts(c: Config) -> Fields:
    """DBRX's class takes `hidden_size` for `d_model`, but not in its experts: another one does not run."""
    if c["hidden_size"] not in (None, c["d_model"]):
        raise ConfigError(
            f"hidden_size={c['hidden_size']} differs from d_model={c['d_model']}, which is the width of the "
            "class's experts; give d_model alone"
        )
    return {}


def internlm3_biases(c: Config) -> Fields:
    """InternLM3's class refuses biases in attention without biases in the FFN, and the reverse."""
    if c["attention_bias"] != c["mlp_bias"]:
        raise ConfigError("qkv_bias differs from bias, which the class does not support; make them equal")
    return all_biases(c)


def hyperclovax_norms(c: Config) -> Fields:
    """HyperCLOVA X normalizes each branch once more before it is added, unless switched off."""
    return {"norm_placement": "sandwich" if c["use_post_norm"] else "pre"}


def minicpm_multipliers(c: Config) -> Fields:
    """MiniCPM scales branches by depth, and logits by width."""
    depth, base = c["scale_depth"], c["dim_model_base"]
    return {
        "residual_multiplier": None if depth is None else depth / sqrt(c["num_hidden_layers"]),
        "logit_multiplier": None if base is None else read_positive(c, "dim_model_base") / c["hidden_size"],
    }


def youtu_init_std(c: Config) -> Fields:
    """Unless given, Youtu's initial weights are as wide as its layers ask for."""
    return {"init_std": 2 / sqrt(5 * c["hidden_size"])} if c["initializer_range"] is None else {}


def starcoder2_biases(c: Config) -> Fields:
    """One switch for every bias."""
    return dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["use_bias"])


def ernie_head_bias(c: Config) -> Fields:
    """Ernie's switch covers the output head too."""
    return {"head_bias": c["use_bias"]}


def qwen_ffn(c: Config) -> Fields:
    """The first Qwen counts the gate and the up projection together."""
    return {"intermediate_size": c["intermediate_size"] // 2}


def gpt_bigcode_kv_heads(c: Config) -> Fields:
    """One key/value head, or as many as query heads."""
    return {"n_kv_heads": 1 if c["multi_query"] else c["n_head"]}


def gpt2_score_scale(c: Config) -> Fields:
    """GPT-2 can leave attention scores unscaled."""
    return {} if c["scale_attn_weights"] else {"attention_multiplier": 1.0}


def rotary_dim(c: Config) -> Fields:
    """The rotated width in elements. More than head_dim, which the class can build but not run, means all."""
    head_dim = c["n_embd"] // c["n_head"]
    return {"rotary_fraction": fraction_of_head(head_dim, min(read_positive(c, "rotary_dim"), head_dim))}


def minimax_m2_rotary_width(c: Config) -> Fields:
    """The rotated width in elements, where `partial_rotary_factor` does not say a share, even one of 1."""
    if c["rotary_dim"] is None or c["partial_rotary_factor"] is not None:
        return {}
    return {"rotary_fraction": read_positive(c, "rotary_dim") / c["head_dim"]}


def minimax_m3_rotary_width(c: Config) -> Fields:
    """The rotated width in elements; more than a head has means all of it."""
    width = min(read_positive(c, "rotary_dim"), c["head_dim"])
    return {"rotary_fraction": fraction_of_head(c["head_dim"], width)}


def falcon_block(c: Config) -> Fields:
    """Falcon's class covers three generations of blocks."""
    heads = c["num_attention_heads"]
    kv_heads = c["num_kv_heads"] if c["num_kv_heads"] is not None else heads
    norms = c["num_ln_in_parallel_attn"]
    if norms is None and c["new_decoder_architecture"]:
        norms = 2
    parallel = "parallel" if norms == 2 else "parallel_shared_norm"
    width = c["ffn_hidden_size"]
    return {
        "n_kv_heads": kv_heads if c["new_decoder_architecture"] else 1 if c["multi_query"] else heads,
        "block": parallel if c["parallel_attn"] else "sequential",
        "intermediate_size": 4 * c["hidden_size"] if width is None else width,
        "position": "alibi" if c["alibi"] else "rotary",
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["bias"]),
    }


def opt_switches(c: Config) -> Fields:
    """The place of the norms, OPT-350M's projected embedding, and switches that no published OPT uses."""
    pre_norm, width = c["do_layer_norm_before"], c["word_embed_proj_dim"]
    return {
        "norm_placement": "pre" if pre_norm else "post",
        "final_norm": pre_norm and not c["_remove_final_layer_norm"],
        "embedding_dim": None if width == c["hidden_size"] else width,
        "norm_weight": c["layer_norm_elementwise_affine"],
        "norm_bias": c["layer_norm_elementwise_affine"],
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "ffn_bias"), c["enable_bias"]),
    }


def mpt_attention(c: Config) -> Fields:
    """MPT keeps these in an object of its own; a clip of 0 means none."""
    return {
        "qkv_clip": c["attn_config.clip_qkv"] or None,
        "attention_multiplier": c["attn_config.softmax_scale"],
    }


def mobilellm_tying(c: Config) -> Fields:
    """MobileLLM ties its head by a key of its own as well as by the usual one."""
    return {"tied": c["share_embedding"] or c["tie_word_embeddings"]}


def fraction_of_head(head_dim: int, rotary_dim: int) -> float:
    """The `rotary_fraction` that gives exactly `rotary_dim` when multiplied by head_dim and truncated."""
    fraction = rotary_dim / head_dim
    return fraction if int(head_dim * fraction) == rotary_dim else nextafter(fraction, 1)


def read_positive(c: Config, key: str) -> Any:
    """The key's number; refuses one that the class would divide by, or take the root of."""
    if c[key] > 0:
        return c[key]
    raise ConfigError(f"{key} is {c[key]}; it must be greater than 0")


def read_object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; empty if there is none."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is {short_repr(value)}; it must be an object or null")
    return value
