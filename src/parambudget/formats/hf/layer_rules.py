"""Lists over the layers in a Hugging Face config, as our patterns: exact, or refused."""

from collections.abc import Sequence
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
