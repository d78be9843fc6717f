"""Rules about layers that differ: which have a window, positions or experts; and about experts themselves.

Hugging Face configs have lists over the layers; we have the shortest pattern that repeats.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import Config, Fields
from parambudget.units import count_phrase

_LAYER_TYPES: Final = {"sliding_attention": "local", "full_attention": "global"}
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


def _window_fields(window: int | None, words: Sequence[str]) -> Fields:
    """A window in the layers whose word is "local"."""
    if window is None or "local" not in words:
        return {}
    return {"window": window, "window_pattern": shortest_pattern(words)}


def _window_per_layer_type(c: Config, default: Sequence[str], window: int | None) -> Fields:
    """A window in the layers that `layer_types` names; without that list, in those of the default."""
    types = c["layer_types"]
    if types is None:
        return _window_fields(window, default)
    require_one_per_layer("layer_types", types, c["num_hidden_layers"])
    unknown = [word for word in types if not isinstance(word, str) or word not in _LAYER_TYPES]
    if unknown:
        raise ConfigError(f"layer_types has {unknown[0]!r}; only {' and '.join(_LAYER_TYPES)} are supported")
    return _window_fields(window, [_LAYER_TYPES[word] for word in types])


def window_everywhere(c: Config) -> Fields:
    """A window in every layer."""
    return _window_fields(c["sliding_window"], ["local"])


def optional_window_everywhere(c: Config) -> Fields:
    """The same, behind the switch `use_sliding_window`."""
    return window_everywhere(c) if c["use_sliding_window"] else {}


def qwen_windows(c: Config) -> Fields:
    """Qwen 2 and 3: if enabled, windows in the layers from `max_window_layers` on."""
    n_full = min(c["max_window_layers"], c["num_hidden_layers"])
    default = ["global"] * n_full + ["local"] * (c["num_hidden_layers"] - n_full)
    return _window_per_layer_type(c, default, c["sliding_window"] if c["use_sliding_window"] else None)


def qwen2_moe_windows(c: Config) -> Fields:
    """Qwen2-MoE: if enabled, windows in every other layer below `max_window_layers`."""
    layers = range(c["num_hidden_layers"])
    default = ["local" if at % 2 == 0 and at < c["max_window_layers"] else "global" for at in layers]
    return _window_per_layer_type(c, default, c["sliding_window"] if c["use_sliding_window"] else None)


def alternating_windows(c: Config) -> Fields:
    """Gemma 2 and gpt-oss: a window in every other layer, beginning with the first."""
    layers = range(c["num_hidden_layers"])
    return _window_per_layer_type(c, ["global" if at % 2 else "local" for at in layers], c["sliding_window"])


def periodic_full_attention(c: Config) -> Fields:
    """Gemma 3 and Command R7B: every `sliding_window_pattern`th layer is without a window."""
    period = c["sliding_window_pattern"]
    if not period:
        raise ConfigError(
            "sliding_window_pattern is 0; give the number of layers from one without a window to the next"
        )
    default = ["local" if (at + 1) % period else "global" for at in range(c["num_hidden_layers"])]
    return _window_per_layer_type(c, default, c["sliding_window"])


def cohere2_positions(c: Config) -> Fields:
    """Command R7B: only the layers with a window have positions."""
    windows = periodic_full_attention(c)
    words = ["rotary" if word == "local" else "none" for word in windows.get("window_pattern", ())]
    return windows | ({"rotary_pattern": tuple(words)} if words else {"position": "none"})


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
    return _window_fields(c["window_size"], words)


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
    if not any(has_rope):
        return {"position": "none"} | windows
    return {
        "rotary_pattern": shortest_pattern(["rotary" if entry else "none" for entry in has_rope])
    } | windows


def experts_everywhere(n_experts: str) -> Callable[[Config], Fields]:
    """Experts in every layer, `intermediate_size` wide: Mixtral and most after it. `n_experts` is the key of
    their number."""

    def rule(c: Config) -> Fields:
        return {
            "n_experts": require_value(c, n_experts),
            "n_experts_per_token": require_value(c, "num_experts_per_tok"),
            "expert_intermediate_size": c["intermediate_size"],
        }

    return rule


def qwen_moe(c: Config) -> Fields:
    """Experts in every `decoder_sparse_step`th layer that `mlp_only_layers` does not name."""
    step, dense = c["decoder_sparse_step"], c["mlp_only_layers"] or []
    if not step:
        raise ConfigError(
            "decoder_sparse_step is 0; give the number of layers from one with experts to the next"
        )
    if any(type(layer) is not int for layer in dense):
        raise ConfigError("mlp_only_layers must list layer numbers, counted from 0")
    without = set(dense) if c["num_experts"] else set(range(c["num_hidden_layers"]))
    has_experts = [(at + 1) % step == 0 and at not in without for at in range(c["num_hidden_layers"])]
    placement = _expert_placement(has_experts)
    return placement and placement | {
        "n_experts": c["num_experts"],
        "n_experts_per_token": c["num_experts_per_tok"],
        "expert_intermediate_size": c["moe_intermediate_size"],
        "norm_expert_weights": c["norm_topk_prob"],
    }


def qwen2_moe(c: Config) -> Fields:
    """The same, and one shared expert of its own width behind a gate."""
    experts = qwen_moe(c)
    width = c["shared_expert_intermediate_size"]
    if experts and not width:
        raise ConfigError(
            "shared_expert_intermediate_size is 0, but the class has a gate for a shared expert; give a width"
        )
    shared = {"n_shared_experts": 1, "shared_intermediate_size": width, "shared_expert_gate": True}
    return experts and experts | shared


def sparse_mixer(_: Config) -> Fields:
    """Phi-3.5-MoE's router chooses two experts, whatever `num_experts_per_tok` says."""
    return {"n_experts_per_token": 2}


def deepseek_moe(c: Config) -> Fields:
    """Experts from layer `first_k_dense_replace` on, and shared ones of the same width."""
    first = require_value(c, "first_k_dense_replace")
    placement = _expert_placement([at >= first for at in range(c["num_hidden_layers"])])
    if not c["n_shared_experts"] and c.get("mlp_bias"):
        raise ConfigError(
            "mlp_bias is true, but there are no shared experts to give biases to; change one of the two"
        )
    return placement and placement | {
        "n_experts": c["n_routed_experts"],
        "n_experts_per_token": require_value(c, "num_experts_per_tok"),
        "expert_intermediate_size": c["moe_intermediate_size"],
        "n_shared_experts": c["n_shared_experts"],
        "routing_multiplier": c["routed_scaling_factor"],
    }


def deepseek_v2_moe(c: Config) -> Fields:
    """DeepSeek-V2's router: softmax whose chosen weights are not renormalised; it chooses among all experts,
    or among those of the groups with the best single expert."""
    method = c["topk_method"]
    if method not in ("greedy", "group_limited_greedy"):
        raise ConfigError(
            f"topk_method is {method!r}; only 'greedy' and 'group_limited_greedy' are supported"
        )
    experts = deepseek_moe(c)
    groups = _expert_groups(c) if method == "group_limited_greedy" else {}
    return experts and experts | groups | {"norm_expert_weights": False}


def deepseek_v3_moe(c: Config) -> Fields:
    """DeepSeek-V3's router: sigmoid with a bias that counts for the choice only; it chooses among the experts
    of the groups whose best two are best."""
    router = {
        "router_scores": "sigmoid", "correction_bias": True,
        "norm_expert_weights": bool(c["norm_topk_prob"]),
    }  # fmt: skip
    experts = deepseek_moe(c)
    return experts and experts | router | _expert_groups(c)


def latent_attention(c: Config) -> Fields:
    """Multi-head latent attention; every head has its own keys, whatever `num_key_value_heads` says."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {name: require_value(c, name) for name in names} | {
        "q_lora_rank": c["q_lora_rank"],
        "n_kv_heads": c["num_attention_heads"],
        "head_dim": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "qkv_bias": c["attention_bias"],
        "attention_out_bias": c["attention_bias"],
    }


def deepseek_v3_rotation(c: Config) -> Fields:
    """Unless switched off, DeepSeek-V3 rotates neighbouring elements together."""
    return {"rotary_interleaved": bool(c["rope_interleave"])}


def glm4_moe_qk_norm(c: Config) -> Fields:
    """GLM-4.5 has norms on queries and keys if enabled."""
    return {"qk_norm": "head" if c["use_qk_norm"] else "none"}


def _expert_groups(c: Config) -> Fields:
    return {
        "n_expert_groups": require_value(c, "n_group"),
        "n_groups_per_token": require_value(c, "topk_group"),
    }


def _expert_placement(has_experts: Sequence[bool]) -> Fields:
    """Which layers have experts, as one of our two fields; empty if none has."""
    if not any(has_experts):
        return {}
    first = list(has_experts).index(True)
    if all(has_experts[first:]):
        return {"n_first_dense": first}
    return {"moe_pattern": shortest_pattern(["experts" if moe else "dense" for moe in has_experts])}
