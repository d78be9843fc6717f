"""Rules about layers that differ, which have a window or positions, and about latent attention.

Hugging Face configs have lists over the layers; we have the shortest pattern that repeats.
"""

from collections.abc import Sequence
from typing import Any, Final

from parambudget.arch.dims import pattern_at
from parambudget.errors import ConfigError
from parambudget.formats.hf.rules import read_object
from parambudget.formats.hf.schema import Config, Fields
from parambudget.units import count_phrase, short_repr

_LAYER_TYPES: Final = {"sliding_attention": "local", "full_attention": "global"}
_SPARSE: Final = "minimax_m3_sparse"
_MINIMAX_M3_NAMES: Final = {
    "index_n_heads": "sparse_num_index_heads", "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size", "index_topk_blocks": "sparse_topk_blocks",
    "index_local_blocks": "sparse_local_block",
}  # fmt: skip
_INDEXER_TYPES: Final = {"full": "own", "shared": "shared"}
_INDEXER_LETTERS: Final = {"F": "full", "S": "shared"}
_MLP_TYPES: Final = {"dense": False, "sparse": True}
_LATENT_NORM_EPS: Final = 1e-6
_MOST_LAYERS_OF_A_LIST: Final = 10_000


def shortest_pattern(words: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that gives the list when it is repeated."""
    # At each place, the length of the longest proper prefix that ends there: Knuth, Morris and Pratt 1977.
    borders = [0] * len(words)
    for at in range(1, len(words)):
        length = borders[at - 1]
        while length and words[at] != words[length]:
            length = borders[length - 1]
        borders[at] = length + (words[at] == words[length])
    return tuple(words[: len(words) - borders[-1]])


def require_one_per_layer(key: str, entries: Sequence[object], n_layers: int) -> None:
    """Refuse a list that does not have as many entries as there are layers."""
    if len(entries) != n_layers:
        raise ConfigError(
            f"{key} has {count_phrase(len(entries), 'entry')}, and the model has "
            f"{count_phrase(n_layers, 'layer')}; give one per layer"
        )


def require_value(c: Config, key: str) -> Any:
    """The key's value; refuses a missing one, for which the class has no default either."""
    if c[key] is None:
        raise ConfigError(f"{key} is missing, and the class has no default for it; give it")
    return c[key]


def read_first(c: Config, keys: Sequence[str], default: Any = None) -> Any:
    """The value of the first of the keys that the class reads, the default if it reads none; refuses a
    missing value that has no default in the class."""
    key = next((key for key in keys if key in c), None)
    return default if key is None else require_value(c, key)


def expert_layers(c: Config) -> list[bool]:
    """Which layers have experts: those that `mlp_layer_types` calls sparse; without that list, those after
    the first dense ones, of which there is one unless a key says their number."""
    n_layers, types = c["num_hidden_layers"], c.get("mlp_layer_types")
    if types is None:
        first = read_first(
            c, ("first_k_dense_replace", "num_dense_layers"), 1 if "mlp_layer_types" in c else 0
        )
        period = read_first(c, ("moe_layer_freq",), 1)
        if not period:
            raise ConfigError(
                "moe_layer_freq is 0; give the number of layers from one with experts to the next"
            )
        return [at >= first and at % period == 0 for at in range(n_layers)]
    require_one_per_layer("mlp_layer_types", types, n_layers)
    unknown = [word for word in types if not isinstance(word, str) or word not in _MLP_TYPES]
    if unknown:
        raise ConfigError(
            f"mlp_layer_types has {unknown[0]!r}; only {' and '.join(_MLP_TYPES)} are supported"
        )
    return [_MLP_TYPES[word] for word in types]


def window_fields(window: int | None, words: Sequence[str]) -> Fields:
    """A window in the layers whose word is "local"."""
    if window is None or "local" not in words:
        return {}
    return {"window": window, "window_pattern": shortest_pattern(words)}


def _window_per_layer_type(c: Config, default: Sequence[str], window: int | None) -> Fields:
    """A window in the layers that `layer_types` names; without that list, in those of the default."""
    types = c["layer_types"]
    if types is None:
        return window_fields(window, default)
    require_one_per_layer("layer_types", types, c["num_hidden_layers"])
    unknown = [word for word in types if not isinstance(word, str) or word not in _LAYER_TYPES]
    if unknown:
        raise ConfigError(f"layer_types has {unknown[0]!r}; only {' and '.join(_LAYER_TYPES)} are supported")
    return window_fields(window, [_LAYER_TYPES[word] for word in types])


def local_layers(windows: Fields, n_layers: int) -> list[bool]:
    """Which layers have a window, as those fields say."""
    pattern = windows.get("window_pattern", ("global",))
    return [pattern_at(pattern, layer) == "local" for layer in range(n_layers)]


def _rotary_fields(rotates: Sequence[bool]) -> Fields:
    """Rotary positions in those layers only."""
    if not any(rotates):
        return {"position": "none"}
    return {"rotary_pattern": shortest_pattern(["rotary" if entry else "none" for entry in rotates])}


def window_everywhere(c: Config) -> Fields:
    """A window in every layer."""
    return window_fields(c["sliding_window"], ["local"])


def window_by_layer_types(c: Config) -> Fields:
    """A window in the layers that `layer_types` names; without that list, in every layer."""
    return _window_per_layer_type(c, ["local"] * c["num_hidden_layers"], c["sliding_window"])


def optional_window_everywhere(c: Config) -> Fields:
    """The same, behind the switch `use_sliding_window`."""
    return window_everywhere(c) if c["use_sliding_window"] else {}


def qwen_windows(c: Config) -> Fields:
    """Qwen 2 and 3: if enabled, windows in the layers from `max_window_layers` on."""
    n_full = min(c["max_window_layers"], c["num_hidden_layers"])
    default = ["global"] * n_full + ["local"] * (c["num_hidden_layers"] - n_full)
    return _window_per_layer_type(c, default, c["sliding_window"] if c["use_sliding_window"] else None)


def dots1_windows(c: Config) -> Fields:
    """dots.llm1: windows in the layers from `max_window_layers` on, without a switch."""
    return qwen_windows({**c, "use_sliding_window": True})


def qwen2_moe_windows(c: Config) -> Fields:
    """Qwen2-MoE: if enabled, windows in every other layer below `max_window_layers`."""
    layers = range(c["num_hidden_layers"])
    default = ["local" if at % 2 == 0 and at < c["max_window_layers"] else "global" for at in layers]
    return _window_per_layer_type(c, default, c["sliding_window"] if c["use_sliding_window"] else None)


def windows_without_tokens(c: Config) -> list[str]:
    """Qwen2-MoE: without the switch `use_sliding_window`, the class gives a window of 0 tokens to the layers
    that `layer_types` calls local."""
    local = "sliding_attention" in (c["layer_types"] or ())
    return [] if c["use_sliding_window"] or not local else ["windows of 0 tokens (use_sliding_window=False)"]


def alternating_windows(c: Config) -> Fields:
    """Gemma 2 and gpt-oss: a window in every other layer, beginning with the first."""
    layers = range(c["num_hidden_layers"])
    return _window_per_layer_type(c, ["global" if at % 2 else "local" for at in layers], c["sliding_window"])


def three_windows_of_four(c: Config) -> Fields:
    """OLMo 3: every fourth layer is without a window."""
    default = ["local" if (at + 1) % 4 else "global" for at in range(c["num_hidden_layers"])]
    return _window_per_layer_type(c, default, c["sliding_window"])


def full_attention_first(c: Config) -> Fields:
    """CWM: the same, but beginning with the layer without a window; a window of 0 means none."""
    default = ["local" if at % 4 else "global" for at in range(c["num_hidden_layers"])]
    return _window_per_layer_type(c, default, c["sliding_window"] or None)


def periodic_full_attention(c: Config) -> Fields:
    """Gemma 3 and Command R7B: every `sliding_window_pattern`th layer is without a window."""
    period = c["sliding_window_pattern"]
    if not period:
        raise ConfigError(
            "sliding_window_pattern is 0; give the number of layers from one without a window to the next"
        )
    default = ["local" if (at + 1) % period else "global" for at in range(c["num_hidden_layers"])]
    return _window_per_layer_type(c, default, c["sliding_window"])


def modernbert_windows(c: Config) -> Fields:
    """ModernBERT's decoder: every third layer, beginning with the first, is without a window; the window is
    half of what the config says."""
    period = c["global_attn_every_n_layers"]
    if not period:
        raise ConfigError(
            "global_attn_every_n_layers is 0; give the number of layers from one without a window to the next"
        )
    default = ["local" if at % period else "global" for at in range(c["num_hidden_layers"])]
    window = (c["local_attention"] or 0) // 2 if c["sliding_window"] is None else c["sliding_window"]
    return _window_per_layer_type(c, default, window or None)


def gemma3n_windows(c: Config) -> Fields:
    """Gemma 3n: every fifth layer is without a window."""
    default = ["local" if (at + 1) % 5 else "global" for at in range(c["num_hidden_layers"])]
    return _window_per_layer_type(c, default, c["sliding_window"])


def gemma4_windows(c: Config) -> Fields:
    """Gemma 4: every sixth layer is without a window, and the last one always."""
    return _window_per_layer_type({**c, "layer_types": gemma4_layer_types(c)}, (), c["sliding_window"])


def gemma4_layer_types(c: Config) -> list[Any]:
    """Gemma 4's list over the layers."""
    n_layers, types = c["num_hidden_layers"], c["layer_types"]
    if types is None:
        types = ["sliding_attention" if (at + 1) % 6 else "full_attention" for at in range(n_layers)]
    require_one_per_layer("layer_types", types, n_layers)
    return [*types[:-1], "full_attention"]


def cohere2_positions(c: Config) -> Fields:
    """Command R7B: only the layers with a window have positions."""
    windows = periodic_full_attention(c)
    words = ["rotary" if word == "local" else "none" for word in windows.get("window_pattern", ())]
    return windows | ({"rotary_pattern": tuple(words)} if words else {"position": "none"})


def cohere2_moe_positions(c: Config) -> Fields:
    """Command A+: the same, with a period of their own for the first dense layers. If that is 1, they have
    positions without a window, as dense layers have."""
    n_first, n_layers = c["first_k_dense_replace"], c["num_hidden_layers"]
    periods = c["prefix_dense_sliding_window_pattern"], c["sliding_window_pattern"]
    if n_first > n_layers:
        raise ConfigError(
            f"first_k_dense_replace={n_first} is more than num_hidden_layers={n_layers}; lower it"
        )
    if not all(periods):
        name = "sliding_window_pattern" if periods[0] else "prefix_dense_sliding_window_pattern"
        raise ConfigError(f"{name} is 0; give the number of layers from one without a window to the next")
    default = [
        "local" if (at + 1) % period else "global"
        for period, n in ((periods[0], n_first), (periods[1], n_layers - n_first))
        for at in range(n)
    ]
    windows = _window_per_layer_type(c, default, c["sliding_window"])
    local = local_layers(windows, n_layers)
    dense = [not has_experts for has_experts in expert_layers(c)]
    return windows | _rotary_fields(
        [is_local or (is_dense and periods[0] == 1) for is_local, is_dense in zip(local, dense, strict=True)]
    )


def granite_positions(c: Config) -> Fields:
    """Granite: three of four layers have a window, and `layer_rope_theta` has a rotary base for each layer,
    or 0 for none."""
    n_layers = c["num_hidden_layers"]
    default = ["local" if at % 4 else "global" for at in range(n_layers)]
    windows = _window_per_layer_type(c, default, c["sliding_window"])
    bases = c["layer_rope_theta"]
    if bases is None:
        return windows
    require_one_per_layer("layer_rope_theta", bases, n_layers)
    if any(isinstance(base, bool) or not isinstance(base, int | float) for base in bases):
        raise ConfigError("layer_rope_theta must list numbers, 0 for a layer without positions")
    local = local_layers(windows, n_layers)
    of_local = {base for base, is_local in zip(bases, local, strict=True) if base and is_local}
    of_global = {base for base, is_local in zip(bases, local, strict=True) if base and not is_local}
    if len(of_local) > 1 or len(of_global) > 1:
        raise ConfigError(
            "layer_rope_theta has several bases for layers of one type; only one for layers with a window "
            "and one for the others is supported"
        )
    own = {"rope_theta": float(*of_global)} if of_global else {"rope_theta": c["rope_theta"]}
    if of_local and of_local != {own["rope_theta"]}:
        own["rope_theta_local"] = float(*of_local)
    return windows | _rotary_fields([bool(base) for base in bases]) | own


def exaone_positions(c: Config) -> Fields:
    """K-EXAONE: the same. A pattern in letters, such as LLLG, is not read beside a list of layer types."""
    if c["layer_types"] is not None:
        return cohere2_positions({**c, "sliding_window_pattern": 1})
    if isinstance(c["sliding_window_pattern"], str):
        raise ConfigError(
            f"sliding_window_pattern is {short_repr(c['sliding_window_pattern'])}, which the class does not "
            "make a list of; give layer_types"
        )
    return cohere2_positions(c)


def afmoe_positions(c: Config) -> Fields:
    """AFM: the same, under another key."""
    return cohere2_positions({**c, "sliding_window_pattern": c["global_attn_every_n_layers"]})


def no_windows_by_default(c: Config) -> Fields:
    """Windows in the layers that `layer_types` names; without that list, in none."""
    return _window_per_layer_type(c, ["global"] * c["num_hidden_layers"], c["sliding_window"])


def flint_positions(c: Config) -> Fields:
    """Flint: the first two layers, every fourth after them and the last one have no window; only the layers
    with a window have positions."""
    last = c["num_hidden_layers"] - 1
    default = ["global" if at < 2 or at % 4 == 1 or at == last else "local" for at in range(last + 1)]
    windows = _window_per_layer_type(c, default, c["sliding_window"])
    return windows | _rotary_fields(local_layers(windows, last + 1))


def kolibri_positions(c: Config) -> Fields:
    """Kolibri: every fifth layer has no window, and no positions where others have one."""
    default = ["local" if (at + 1) % 5 else "global" for at in range(c["num_hidden_layers"])]
    windows = _window_per_layer_type(c, default, c["sliding_window"] or 1)
    if c["sliding_window"]:
        return windows | _rotary_fields(local_layers(windows, c["num_hidden_layers"]))
    if windows:
        raise ConfigError("sliding_window is missing, which layers with sliding_attention need; give it")
    return {}


def beam_positions(c: Config) -> Fields:
    """Beam: every sixth layer and the last one have no window, and no positions."""
    last = c["num_hidden_layers"] - 1
    default = ["local" if (at + 1) % 6 and at != last else "global" for at in range(last + 1)]
    windows = _window_per_layer_type(c, default, c["sliding_window"])
    return windows | _rotary_fields(local_layers(windows, last + 1))


def mimo_windows(c: Config) -> Fields:
    """MiMo-V2-Flash: no window in the first layer and every sixth; published configs give the tokens before a
    query, without itself."""
    default = ["global" if at == 0 or (at + 1) % 6 == 0 else "local" for at in range(c["num_hidden_layers"])]
    before = c["sliding_window_size"]
    return _window_per_layer_type(c, default, c["sliding_window"] if before is None else before + 1)


def exaone4_positions(c: Config) -> Fields:
    """EXAONE 4: the same, but without a window in the config, all layers have positions."""
    if c["sliding_window"] is not None:
        return exaone_positions(c)
    require_value(c, "layer_types")
    return _window_per_layer_type(c, (), None)


def gpt_neo_windows(c: Config) -> Fields:
    """GPT-Neo: `attention_types`, such as [[["global", "local"], 12]], or `attention_layers` one by one."""
    words = c["attention_layers"]
    if words is None:
        words = _expand_attention_types(c["attention_types"] or [[["global", "local"], 12]])
    if any(word not in ("global", "local") for word in words):
        raise ConfigError(
            "attention_types may name global and local layers; write it as [[[name, ...], times]]"
        )
    require_one_per_layer("attention_types", words, c["num_layers"])
    return window_fields(c["window_size"], words)


def _expand_attention_types(types: Any) -> list[Any]:
    """The words layer by layer; [None] for anything that is not [[[name, ...], times], ...]."""
    try:
        if sum(len(words) * times for words, times in types) > _MOST_LAYERS_OF_A_LIST:
            return [None]
        return [word for words, times in types for _ in range(times) for word in words]
    except (TypeError, ValueError):
        return [None]


def smollm3_positions(c: Config) -> Fields:
    """SmolLM3: layers with a 0 in `no_rope_layers`, by default every nth one, have no positions; if enabled,
    the same layers have a window. A list of layer types has its windows without that switch."""
    has_rope = c["no_rope_layers"]
    n_layers = c["num_hidden_layers"]
    if has_rope is None:
        period = c["no_rope_layer_interval"]
        if not period:
            raise ConfigError(
                "no_rope_layer_interval is 0; give the number of layers from one without positions to the "
                "next"
            )
        has_rope = [int((at + 1) % period != 0) for at in range(n_layers)]
    require_one_per_layer("no_rope_layers", has_rope, n_layers)
    if any(type(entry) is not int or entry not in (0, 1) for entry in has_rope):
        raise ConfigError("no_rope_layers must list 1 for a layer with positions and 0 for one without")
    has_windows = c["use_sliding_window"] or c["layer_types"] is not None
    window = c["sliding_window"] if has_windows else None
    windows = _window_per_layer_type(c, ["global" if entry else "local" for entry in has_rope], window)
    return _rotary_fields(has_rope) | windows


def llama4_attention(c: Config) -> Fields:
    """Llama 4: layers with a 0 in `no_rope_layers`, by default every nth one, have no positions, and queries
    that may grow with theirs; the others attend within chunks, and may norm what they have rotated."""
    n_layers, period = c["num_hidden_layers"], c["no_rope_layer_interval"]
    if not period:
        raise ConfigError(
            "no_rope_layer_interval is 0; give the number of layers from one without positions to the next"
        )
    has_rope = c["no_rope_layers"] or [int((at + 1) % period != 0) for at in range(n_layers)]
    require_one_per_layer("no_rope_layers", has_rope, n_layers)
    types = c["layer_types"]
    if types is None:
        types = ["chunked_attention" if entry else "full_attention" for entry in has_rope]
    require_one_per_layer("layer_types", types, n_layers)
    unknown = [word for word in types if word not in ("chunked_attention", "full_attention")]
    if unknown:
        raise ConfigError(
            f"layer_types has {unknown[0]!r}; only chunked_attention and full_attention are supported"
        )
    words = ["local" if word == "chunked_attention" else "global" for word in types]
    windows = window_fields(c["attention_chunk_size"], words)
    windows |= {"window_kind": "chunked"} if windows else {}
    norms = {"qk_norm": "l2"} if c["use_qk_norm"] and any(has_rope) else {}
    scaled: Fields = {}
    if c["attn_temperature_tuning"] and not all(has_rope):
        strength, length = c["attn_scale"], c["floor_scale"]
        scaled = {
            "query_scale": "log_next", "query_scale_strength": strength, "query_scale_length": length,
        }  # fmt: skip
    return _rotary_fields(has_rope) | windows | norms | scaled


def latent_attention(c: Config) -> Fields:
    """Multi-head latent attention; every head has its own keys, whatever `num_key_value_heads` says."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {name: require_value(c, name) for name in names} | {
        "q_lora_rank": c["q_lora_rank"],
        "n_kv_heads": c["num_attention_heads"],
        "head_dim": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "qkv_bias": c["attention_bias"],
        "attention_out_bias": c["attention_bias"],
        # The classes never pass their epsilon on to the norms of the latents.
        "latent_norm_eps": None if c["rms_norm_eps"] == _LATENT_NORM_EPS else _LATENT_NORM_EPS,
    }


def indexer(c: Config) -> Fields:
    """DeepSeek-V3.2's sparse attention: an indexer in every layer, which turns elements half the width apart
    although attention turns neighbours."""
    return {
        "n_index_heads": c["index_n_heads"], "index_head_dim": c["index_head_dim"],
        "index_top_k": c["index_topk"],
    }  # fmt: skip


def glm_indexer(c: Config) -> Fields:
    """GLM-5: the same, but that it turns neighbours too, and that some layers share the choice of the last
    layer with an indexer before them: those that `indexer_types` calls shared, or else `index_topk_pattern`
    in letters, or else all but every `index_topk_freq`th from a layer on."""
    n_layers, types = c["num_hidden_layers"], c["indexer_types"]
    if types is None and c["index_topk_pattern"] is not None:
        types = [_INDEXER_LETTERS.get(one, one) for one in c["index_topk_pattern"]]
    if types is None:
        period, offset = max(c["index_topk_freq"], 1), c["index_skip_topk_offset"]
        types = ["shared" if max(at - offset + 1, 0) % period else "full" for at in range(n_layers)]
    require_one_per_layer("indexer_types", types, n_layers)
    unknown = [word for word in types if not isinstance(word, str) or word not in _INDEXER_TYPES]
    if unknown:
        raise ConfigError(
            f"indexer_types has {short_repr(unknown[0])}; only {' and '.join(_INDEXER_TYPES)} are supported"
        )
    if types[0] != "full":
        raise ConfigError(
            "indexer_types begins with shared, and no layer is before the first; begin with full"
        )
    pattern = shortest_pattern([_INDEXER_TYPES[word] for word in types])
    return indexer(c) | {"indexer_pattern": pattern, "index_rotary_interleaved": True}


def hy_v4_indexer(c: Config) -> Fields:
    """Hy4: the first layer has an indexer, and every fourth one from the second on."""
    n_layers, types = c["num_hidden_layers"], c["indexer_types"]
    if types is None:
        types = ["shared" if at and (at - 1) % 4 else "full" for at in range(n_layers)]
    shared = {"index_topk_pattern": None, "indexer_types": types}
    return glm_indexer({**c, **shared}) | {"index_rotary_interleaved": False}


def minimax_m3_indexer(c: Config) -> Fields:
    """MiniMax-M3: in the layers that `layer_types` calls sparse, an indexer of blocks. An object of published
    configs says the same in other words, and wins."""
    given = read_object(c, "sparse_attention_config")
    own: dict[str, Any] = {key: given.get(theirs, c[key]) for key, theirs in _MINIMAX_M3_NAMES.items()}
    for key, value in own.items():
        if type(value) is not int or value < 0:
            raise ConfigError(f"{_MINIMAX_M3_NAMES[key]} is {short_repr(value)}; it must be a whole number")
    types, n_layers = c["layer_types"], c["num_hidden_layers"]
    if types is None and "sparse_attention_freq" in given:
        flags = given["sparse_attention_freq"]
        types = [_SPARSE if flag else "full_attention" for flag in flags] if isinstance(flags, list) else []
    if types is None:
        return {}
    require_one_per_layer("layer_types", types, n_layers)
    if unknown := [word for word in types if word not in (_SPARSE, "full_attention")]:
        raise ConfigError(
            f"layer_types has {short_repr(unknown[0])}; only {_SPARSE} and full_attention are supported"
        )
    if _SPARSE not in types:
        return {}
    return {
        "n_block_index_heads": own["index_n_heads"], "block_index_head_dim": own["index_head_dim"],
        "block_index_keys": own["index_block_size"] * own["index_topk_blocks"],
        "block_indexer_pattern": shortest_pattern(
            ["sparse" if word == _SPARSE else "full" for word in types]
        ),
    }  # fmt: skip


def minicpm3_attention(c: Config) -> Fields:
    """MiniCPM3: the same, with values as wide as heads that fill the width unless their width is given."""
    width = c["hidden_size"] // c["num_attention_heads"] if c["v_head_dim"] is None else c["v_head_dim"]
    return latent_attention({**c, "v_head_dim": width})


def deepseek_v3_rotation(c: Config) -> Fields:
    """Unless switched off, DeepSeek-V3 rotates neighbouring elements together."""
    return {"rotary_interleaved": bool(c["rope_interleave"])}


def glm4_moe_qk_norm(c: Config) -> Fields:
    """GLM-4.5 has norms on queries and keys if enabled."""
    return {"qk_norm": "head" if c["use_qk_norm"] else "none"}
