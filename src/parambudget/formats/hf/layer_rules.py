"""Lists over the layers in a Hugging Face config, as our patterns: exact, or refused."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from parambudget.errors import ConfigError
from parambudget.formats.hf.schema import Config

_KINDS: Final = {"sliding_attention": "local", "full_attention": "global"}


def shortest_pattern(words: Sequence[str]) -> tuple[str, ...]:
    """The fewest words that give the list when they run again and again."""
    borders = [0] * len(
        words
    )  # how long a start of the list ends at each place: Knuth, Morris and Pratt 1977
    for at in range(1, len(words)):
        length = borders[at - 1]
        while length and words[at] != words[length]:
            length = borders[length - 1]
        borders[at] = length + (words[at] == words[length])
    return tuple(words[: len(words) - borders[-1]])


def window(size: int | None, words: Sequence[str]) -> dict[str, Any]:
    """A window of so many tokens in the layers whose word is local."""
    if size is None or "local" not in words:
        return {}
    return {"window": size, "window_pattern": shortest_pattern(words)}


def windows(c: Config, usual: Sequence[str], size: int | None) -> dict[str, Any]:
    """The window in the layers that `layer_types` names; without that list in the `usual` ones."""
    types = c["layer_types"]
    if types is None:
        return window(size, usual)
    one_per_layer("layer_types", types, c["num_hidden_layers"])
    unknown = [kind for kind in types if not isinstance(kind, str) or kind not in _KINDS]
    if unknown:
        raise ConfigError(f"layer_types has {unknown[0]!r}; only {' and '.join(_KINDS)} are read")
    return window(size, [_KINDS[kind] for kind in types])


def one_per_layer(key: str, held: Sequence[Any], n_layers: int) -> None:
    """Refuses a list that has not as many entries as there are layers."""
    if len(held) != n_layers:
        raise ConfigError(
            f"{key} has {len(held)} entries, and there are {n_layers} layers; give one per layer"
        )


def every(c: Config) -> dict[str, Any]:
    """A window in every layer."""
    return window(c["sliding_window"], ["local"])


def every_if_used(c: Config) -> dict[str, Any]:
    """The same, where a switch says so."""
    return every(c) if c["use_sliding_window"] else {}


def from_a_layer_on(c: Config) -> dict[str, Any]:
    """Qwen 2 and 3: windows from `max_window_layers` on, if they are used at all."""
    full = min(c["max_window_layers"], c["num_hidden_layers"])
    usual = ["global"] * full + ["local"] * (c["num_hidden_layers"] - full)
    return windows(c, usual, c["sliding_window"] if c["use_sliding_window"] else None)


def every_other_below(c: Config) -> dict[str, Any]:
    """Qwen2-MoE: windows in every other layer below `max_window_layers`, if they are used at all."""
    layers = range(c["num_hidden_layers"])
    usual = ["local" if at % 2 == 0 and at < c["max_window_layers"] else "global" for at in layers]
    return windows(c, usual, c["sliding_window"] if c["use_sliding_window"] else None)


def every_other(c: Config) -> dict[str, Any]:
    """Gemma 2, gpt-oss: the first layer has the window, the second has not, and so on."""
    layers = range(c["num_hidden_layers"])
    return windows(c, ["global" if at % 2 else "local" for at in layers], c["sliding_window"])


def all_but_every_nth(c: Config) -> dict[str, Any]:
    """Gemma 3, Command R7B: `sliding_window_pattern` layers, the last of them without the window."""
    period = c["sliding_window_pattern"]
    if not period:
        raise ConfigError("sliding_window_pattern is 0; give the layers from one without window to the next")
    usual = ["local" if (at + 1) % period else "global" for at in range(c["num_hidden_layers"])]
    return windows(c, usual, c["sliding_window"])


def rotary_where_local(c: Config) -> dict[str, Any]:
    """Command R7B: the same, and positions in the layers with a window alone."""
    found = all_but_every_nth(c)
    words = ["rotary" if word == "local" else "none" for word in found.get("window_pattern", ())]
    return found | ({"rotary_pattern": tuple(words)} if words else {"position": "none"})


def alternating_types(c: Config) -> dict[str, Any]:
    """GPT-Neo: `attention_types`, such as [[["global", "local"], 12]], or `attention_layers` one by one."""
    words = c["attention_layers"]
    if words is None:
        words = _expanded(c["attention_types"] or [[["global", "local"], 12]])
    if any(word not in ("global", "local") for word in words):
        raise ConfigError(
            "attention_types may name global and local layers; write it as [[[name, ...], times]]"
        )
    one_per_layer("attention_types", words, c["num_layers"])
    return window(c["window_size"], words)


def _expanded(types: Any) -> list[Any]:
    try:
        expanded = sum(len(words) * times for words, times in types) <= 10_000
        return (
            [word for words, times in types for _ in range(times) for word in words] if expanded else [None]
        )
    except (TypeError, ValueError):
        return [None]


def without_positions(c: Config) -> dict[str, Any]:
    """SmolLM3: layers whose entry is 0 rotate nothing, without a list every nth; those may have windows."""
    turns = c["no_rope_layers"]
    n_layers = c["num_hidden_layers"]
    if turns is None:
        period = c["no_rope_layer_interval"]
        if not period:
            raise ConfigError(
                "no_rope_layer_interval is 0; give the layers from one without positions to the next"
            )
        turns = [int((at + 1) % period != 0) for at in range(n_layers)]
    one_per_layer("no_rope_layers", turns, n_layers)
    if any(type(turn) is not int or turn not in (0, 1) for turn in turns):
        raise ConfigError("no_rope_layers may hold 1 for layers with positions and 0 for layers without")
    usual = ["global" if turn else "local" for turn in turns]
    size = c["sliding_window"] if c["use_sliding_window"] else None
    if not any(turns):
        return {"position": "none"} | windows(c, usual, size)
    words = ["rotary" if turn else "none" for turn in turns]
    return {"rotary_pattern": shortest_pattern(words)} | windows(c, usual, size)


def said(c: Config, key: str) -> Any:
    """The key's value, refused where the class has none either."""
    if c[key] is None:
        raise ConfigError(f"{key} is missing, and the class has no default for it; give it")
    return c[key]


def in_every_layer(n_experts: str) -> Callable[[Config], dict[str, Any]]:
    """Experts in every layer, as wide as `intermediate_size` says: Mixtral and most after it."""

    def read(c: Config) -> dict[str, Any]:
        return {
            "n_experts": said(c, n_experts),
            "n_experts_per_token": said(c, "num_experts_per_tok"),
            "expert_intermediate_size": c["intermediate_size"],
        }

    return read


def qwen(c: Config) -> dict[str, Any]:
    """Experts in every `decoder_sparse_step`th layer that `mlp_only_layers` does not name."""
    step, dense = c["decoder_sparse_step"], c["mlp_only_layers"] or []
    if not step:
        raise ConfigError("decoder_sparse_step is 0; give the layers from one with experts to the next")
    if any(type(layer) is not int for layer in dense):
        raise ConfigError("mlp_only_layers may hold numbers of layers, counted from 0")
    without = set(dense) if c["num_experts"] else set(range(c["num_hidden_layers"]))
    experts = _where([(at + 1) % step == 0 and at not in without for at in range(c["num_hidden_layers"])])
    return experts and experts | {
        "n_experts": c["num_experts"],
        "n_experts_per_token": c["num_experts_per_tok"],
        "expert_intermediate_size": c["moe_intermediate_size"],
        "norm_expert_weights": c["norm_topk_prob"],
    }


def qwen2(c: Config) -> dict[str, Any]:
    """The same, and one shared expert of its own width behind a gate."""
    experts = qwen(c)
    width = c["shared_expert_intermediate_size"]
    if experts and not width:
        raise ConfigError(
            "shared_expert_intermediate_size is 0, which leaves a gate on nothing; give a width"
        )
    shared = {"n_shared_experts": 1, "shared_intermediate_size": width, "shared_expert_gate": True}
    return experts and experts | shared


def deepseek(c: Config) -> dict[str, Any]:
    """Experts from `first_k_dense_replace` on, and shared ones of the same width."""
    first = said(c, "first_k_dense_replace")
    experts = _where([at >= first for at in range(c["num_hidden_layers"])])
    if not c["n_shared_experts"] and c.get("mlp_bias"):
        raise ConfigError("mlp_bias without shared experts leaves a bias of nothing; set one of them")
    return experts and experts | {
        "n_experts": c["n_routed_experts"],
        "n_experts_per_token": said(c, "num_experts_per_tok"),
        "expert_intermediate_size": c["moe_intermediate_size"],
        "n_shared_experts": c["n_shared_experts"],
        "routing_multiplier": c["routed_scaling_factor"],
    }


def deepseek2(c: Config) -> dict[str, Any]:
    """DeepSeek-V2's router: softmax, not divided by its sum; experts of all groups, or of the best by their
    best expert."""
    method = c["topk_method"]
    if method not in ("greedy", "group_limited_greedy"):
        raise ConfigError(f"topk_method is {method!r}; only 'greedy' and 'group_limited_greedy' are read")
    experts = deepseek(c)
    groups = _groups(c) if method == "group_limited_greedy" else {}
    return experts and experts | groups | {"norm_expert_weights": False}


def deepseek3(c: Config) -> dict[str, Any]:
    """DeepSeek-V3's router: sigmoid, a bias for the choice, experts of the best groups by their two best."""
    router = {
        "router_scores": "sigmoid", "correction_bias": True,
        "norm_expert_weights": bool(c["norm_topk_prob"]),
    }  # fmt: skip
    experts = deepseek(c)
    return experts and experts | router | _groups(c)


def latent(c: Config) -> dict[str, Any]:
    """Multi-head latent attention; every head has keys of its own whatever `num_key_value_heads` says."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {name: said(c, name) for name in names} | {
        "q_lora_rank": c["q_lora_rank"],
        "n_kv_heads": c["num_attention_heads"],
        "head_dim": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "qkv_bias": c["attention_bias"],
        "attention_out_bias": c["attention_bias"],
    }


def interleaved(c: Config) -> dict[str, Any]:
    """DeepSeek-V3 turns neighbours together, unless told otherwise."""
    return {"rotary_interleaved": bool(c["rope_interleave"])}


def glm4(c: Config) -> dict[str, Any]:
    """GLM-4.5 may norm queries and keys."""
    return {"qk_norm": "head" if c["use_qk_norm"] else "none"}


def _groups(c: Config) -> dict[str, Any]:
    return {"n_expert_groups": said(c, "n_group"), "n_groups_per_token": said(c, "topk_group")}


def _where(layers: Sequence[bool]) -> dict[str, Any]:
    """Which layers have experts, as our two fields say it; nothing where none has."""
    if not any(layers):
        return {}
    first = list(layers).index(True)
    if all(layers[first:]):
        return {"n_first_dense": first}
    return {"moe_pattern": shortest_pattern(["experts" if there else "dense" for there in layers])}
