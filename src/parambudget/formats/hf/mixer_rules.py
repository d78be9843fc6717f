"""Rules of configs whose layers have mixers other than attention."""

from collections.abc import Mapping, Sequence
from math import frexp
from typing import Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.layer_rules import (
    require_one_per_layer,
    require_value,
    shortest_pattern,
    window_fields,
)
from parambudget.formats.hf.schema import Config, Fields

_LINEAR: Final = {"linear_attention": "gated_delta_net", "full_attention": "attention"}
_CONVOLUTIONS: Final = {"conv": "short_convolution", "full_attention": "attention"}


def mixer_fields(words: Sequence[str]) -> Fields:
    """The pattern of those mixers, one word per layer; attention everywhere needs none."""
    return {} if set(words) == {"attention"} else {"mixer_pattern": shortest_pattern(words)}


def mixers_by_layer_types(c: Config, words: Mapping[str, str], default: Sequence[str]) -> list[str]:
    """The mixer of each layer that `layer_types` names in the class's `words`; without that list, those of
    the default."""
    types = c["layer_types"]
    if types is None:
        return list(default)
    require_one_per_layer("layer_types", types, c["num_hidden_layers"])
    unknown = [word for word in types if not isinstance(word, str) or word not in words]
    if unknown:
        raise ConfigError(f"layer_types has {unknown[0]!r}; only {' and '.join(words)} are supported")
    return [words[word] for word in types]


def periodic_attention(c: Config) -> list[bool]:
    """Which layers have attention: the last of every `full_attention_interval`."""
    period = c["full_attention_interval"]
    if not period:
        raise ConfigError(
            "full_attention_interval is 0; give the number of layers from one with attention to the next"
        )
    return [(at + 1) % period == 0 for at in range(c["num_hidden_layers"])]


def gated_delta_net(c: Config) -> Fields:
    """Qwen3-Next: gated delta nets, and attention in every fourth layer."""
    default = ["attention" if has else "gated_delta_net" for has in periodic_attention(c)]
    return _delta_fields(c, mixers_by_layer_types(c, _LINEAR, default))


def _delta_fields(c: Config, mixers: Sequence[str]) -> Fields:
    if "gated_delta_net" not in mixers:
        return {}
    return mixer_fields(mixers) | {
        "delta_n_key_heads": c["linear_num_key_heads"], "delta_n_value_heads": c["linear_num_value_heads"],
        "delta_key_dim": c["linear_key_head_dim"], "delta_value_dim": c["linear_value_head_dim"],
        "delta_conv_width": c["linear_conv_kernel_dim"],
    }  # fmt: skip


def biased_gates(c: Config) -> Fields:
    """Qwen3-Next: gates have a bias where queries have one, of whose matrix they are a part."""
    return {"attention_gate_biased": c["attention_bias"]}


def bailing_delta_attention(c: Config) -> Fields:
    """Ling 3: as many heads as attention has, a decay for each channel that may be bounded, and attention in
    the last layer of every group."""
    period, heads = c["layer_group_size"], c["num_attention_heads"]
    if not period:
        raise ConfigError(
            "layer_group_size is 0; give the number of layers from one with attention to the next"
        )
    layers = range(c["num_hidden_layers"])
    default = ["attention" if (at + 1) % period == 0 else "gated_delta_net" for at in layers]
    width, bound = c["head_dim"], -c["kda_lower_bound"]
    sizes = {
        "linear_num_key_heads": heads, "linear_num_value_heads": heads, "linear_key_head_dim": width,
        "linear_value_head_dim": width, "linear_conv_kernel_dim": c["short_conv_kernel_size"],
    }  # fmt: skip
    if c["kda_safe_gate"] and bound <= 0:
        raise ConfigError(f"kda_lower_bound is {-bound}; it must be less than 0")
    fields = _delta_fields({**c, **sizes}, mixers_by_layer_types(c, _LINEAR, default))
    return fields and fields | {
        "delta_channel_decay": True, "delta_gate_activation": "sigmoid",
        "delta_decay_bound": bound if c["kda_safe_gate"] else None,
    }  # fmt: skip


def kimi_delta_attention(c: Config) -> Fields:
    """Kimi Linear: keys and values of one width, a decay for each channel, and gates of low rank. The object
    of published configs wins over the class's own keys; it counts layers from 1."""
    n_layers = c["num_hidden_layers"]
    names = {"linear_head_dim": "head_dim", "linear_num_heads": "num_heads",
             "linear_conv_kernel_dim": "short_conv_kernel_size"}  # fmt: skip
    given = {ours: c[f"linear_attn_config.{theirs}"] for ours, theirs in names.items()}
    heads, width, conv = (
        c[name] if given[name] is None else given[name]
        for name in ("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    )
    default = ["attention" if at and at % 4 == 0 else "gated_delta_net" for at in range(n_layers)]
    listed = [c[f"linear_attn_config.{name}"] for name in ("full_attn_layers", "kda_layers")]
    if None not in listed:
        words = dict.fromkeys(listed[0], "attention") | dict.fromkeys(listed[1], "gated_delta_net")
        default = [words.get(layer, "") for layer in range(1, n_layers + 1)]
        if "" in default and c["layer_types"] is None:
            raise ConfigError(
                f"linear_attn_config names no mixer for layer {default.index('') + 1}; add it to "
                "full_attn_layers or kda_layers"
            )
    sizes = {
        "linear_num_key_heads": heads, "linear_num_value_heads": heads, "linear_key_head_dim": width,
        "linear_value_head_dim": width, "linear_conv_kernel_dim": conv,
    }  # fmt: skip
    fields = _delta_fields({**c, **sizes}, mixers_by_layer_types(c, _LINEAR, default))
    return fields and fields | {
        "delta_gate_rank": width, "delta_channel_decay": True, "delta_gate_activation": "sigmoid",
    }  # fmt: skip


def olmo_hybrid(c: Config) -> Fields:
    """OLMo Hybrid: widths that follow from the model's own where they are not given, and attention in every
    fourth layer, or in the last one of fewer."""
    n_layers, heads = c["num_hidden_layers"], c["num_attention_heads"]
    default = ["attention" if at % 4 == 3 else "gated_delta_net" for at in range(n_layers)]
    if "attention" not in default:
        default[-1] = "attention"
    mixers = mixers_by_layer_types(c, _LINEAR, default)
    if len(set(mixers)) == 1:
        raise ConfigError(
            f"layer_types has {mixers[0]} in every layer, which the class refuses; give both of its kinds"
        )
    keys = heads if c["linear_num_key_heads"] is None else c["linear_num_key_heads"]
    values = heads if c["linear_num_value_heads"] is None else c["linear_num_value_heads"]
    if not keys:
        raise ConfigError("linear_num_key_heads is 0; it must be 1 or more")
    key_dim = c["linear_key_head_dim"]
    key_dim = int(0.75 * c["hidden_size"] / keys) if key_dim is None else key_dim
    value_dim = 2 * key_dim if c["linear_value_head_dim"] is None else c["linear_value_head_dim"]
    sizes = {
        "linear_num_key_heads": keys, "linear_num_value_heads": values, "linear_key_head_dim": key_dim,
        "linear_value_head_dim": value_dim,
    }  # fmt: skip
    return _delta_fields({**c, **sizes}, mixers) | {
        "delta_negative_eigenvalues": c["linear_allow_neg_eigval"],
        "delta_norm_eps": 1e-5,  # whatever the config says
    }


def short_convolutions(c: Config) -> Fields:
    """LFM2: gated convolutions in the layers that `layer_types` calls conv; attention in all without it, or
    in those of the older list of layers with attention."""
    layers = range(c["num_hidden_layers"])
    listed = c.get("full_attn_idxs")
    attends = layers if listed is None else listed
    default = ["attention" if at in attends else "short_convolution" for at in layers]
    return _convolution_fields(c, mixers_by_layer_types(c, _CONVOLUTIONS, default))


def lfm2_moe_layers(c: Config) -> Fields:
    """LFM2-MoE: the same, but its class does not run without the list."""
    require_value(c, "layer_types")
    return short_convolutions(c)


def lfm3_layers(c: Config) -> Fields:
    """LFM3: attention in every second layer from the third on, every other one with a window."""
    layers = range(c["num_hidden_layers"])
    kinds = {0: "sliding_attention", 2: "full_attention"}
    types = [kinds.get(at % 4, "conv") if at else "conv" for at in layers]
    types = types if c["layer_types"] is None else c["layer_types"]
    words = _CONVOLUTIONS | {"sliding_attention": "attention"}
    mixers = mixers_by_layer_types({**c, "layer_types": types}, words, ())
    spans = ["local" if word == "sliding_attention" else "global" for word in types]
    return _convolution_fields(c, mixers) | window_fields(c["sliding_window"], spans)


def _convolution_fields(c: Config, mixers: Sequence[str]) -> Fields:
    if "short_convolution" not in mixers:
        return {}
    return mixer_fields(mixers) | {
        "short_conv_width": c["conv_L_cache"],
        "short_conv_bias": c["conv_bias"],
    }


def lfm2_ffn(c: Config) -> Fields:
    """Unless switched off, LFM2 takes two thirds of the given width, times a factor, rounded up."""
    width, factor, multiple = (
        c[name] for name in ("intermediate_size", "block_ffn_dim_multiplier", "block_multiple_of")
    )
    if not c["block_auto_adjust_ff_dim"]:
        return {}
    if not multiple:
        raise ConfigError("block_multiple_of is 0; give the number of which the FFN's width is a multiple")
    width = int(factor * int(2 * width / 3))
    return {"intermediate_size": multiple * ((width + multiple - 1) // multiple)}


def lfm3_attention(c: Config) -> Fields:
    """LFM3: a gate for each head, and norms behind the branches too, unless switched off."""
    return {
        "attention_gate": "head" if c["use_attention_gate"] else "none",
        "norm_placement": "sandwich" if c["use_sandwich_norm"] else "pre",
    }


def lightning_attention(c: Config) -> Fields:
    """MiniMax: lightning attention in every other layer unless `layer_types` says otherwise."""
    layers = range(c["num_hidden_layers"])
    default = ["lightning_attention" if at % 2 else "attention" for at in layers]
    words = {"linear_attention": "lightning_attention", "full_attention": "attention"}
    mixers = mixers_by_layer_types(c, words, default)
    if "lightning_attention" not in mixers:
        return {}
    heads = c["num_attention_heads"]
    return mixer_fields(mixers) | {
        "lightning_n_heads": heads,
        "lightning_head_dim": c["head_dim"] or c["hidden_size"] // heads,
        "lightning_norm_eps": 1e-6,  # whatever the config says
    }


_BRANCHES: Final = ("full_attn", "linear_attn", "mlp")


def minimax_factors(c: Config) -> Fields:
    """MiniMax: a factor on the stream and one on the branch, the same for all branches."""
    return {
        "stream_multiplier": c["full_attn_alpha_factor"],
        "residual_multiplier": c["full_attn_beta_factor"],
    }


def unequal_minimax_factors(c: Config) -> list[str]:
    """The factors of branches where they differ."""
    keys = [[f"{branch}_{name}_factor" for branch in _BRANCHES] for name in ("alpha", "beta")]
    return [f"different {', '.join(own)}" for own in keys if len({c[key] for key in own}) > 1]


def rg_lru(c: Config) -> Fields:
    """RecurrentGemma: two recurrences, then attention with a window, unless `block_types` has others."""
    types, heads = c["block_types"], c["num_attention_heads"]
    unknown = [word for word in types if word not in ("recurrent", "attention")]
    if unknown or not types:
        got = repr(unknown[0]) if unknown else "no entry"
        raise ConfigError(f"block_types has {got}; only recurrent and attention are supported")
    # The class takes every other word for attention, and a list repeated no more than a hundred times.
    words = [types[at % len(types)] for at in range(c["num_hidden_layers"])]
    mixers = ["rg_lru" if word == "recurrent" else "attention" for word in words]
    window = window_fields(c["attention_window_size"], ["local"])
    if "rg_lru" not in mixers:
        return window
    width = c["hidden_size"] if c["lru_width"] is None else c["lru_width"]
    if width % heads:
        raise ConfigError(
            f"num_attention_heads={heads} does not divide lru_width={width}; change one of them"
        )
    return (
        mixer_fields(mixers)
        | (window if "attention" in mixers else {})
        | {"lru_n_blocks": heads, "lru_block_width": width // heads, "lru_conv_width": c["conv1d_width"]}
    )


def weighted_means(c: Config) -> Fields:
    """RWKV: as many channels as the model is wide, unless it says otherwise."""
    channels = c["attention_hidden_size"]
    return {"rwkv_inner_size": c["hidden_size"] if channels is None else channels}


def qkv_bias(c: Config) -> Fields:
    """`attention_bias` without the output projection."""
    return {"qkv_bias": c["attention_bias"]}


def recurrent_gemma_embeddings(c: Config) -> Fields:
    """RecurrentGemma multiplies embeddings by the bfloat16 next to sqrt(dim)."""
    fraction, exponent = frexp(c["hidden_size"] ** 0.5)
    return {"embedding_multiplier": round(fraction * 256) / 256 * 2**exponent}
