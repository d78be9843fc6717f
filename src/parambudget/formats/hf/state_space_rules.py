"""Rules of configs with state spaces: which layers have them, their sizes, and the steps of a token."""

from collections.abc import Callable, Sequence
from math import ceil, inf, sqrt
from typing import Any, Final

from parambudget.arch.validation import LARGEST_FLOAT
from parambudget.errors import ConfigError
from parambudget.formats.hf.expert_rules import (
    deepseek_v3_moe,
    experts_everywhere,
    routed_experts,
    shared_expert,
)
from parambudget.formats.hf.layer_rules import shortest_pattern
from parambudget.formats.hf.mixer_rules import mixer_fields, mixers_by_layer_types
from parambudget.formats.hf.rules import read_positive
from parambudget.formats.hf.schema import Config, Fields
from parambudget.units import short_repr

_LAYER_KINDS: Final = {
    "mamba2": ("mamba", "linear_attention"), "attention": ("attention", "full_attention"),
}  # fmt: skip
"""Our words for mixers, and what configs call them: in files of before transformers 5, and since."""
_NEMOTRON_H_LETTERS: Final = {
    "M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp",
}  # fmt: skip


def mamba2(c: Config) -> Fields:
    """Mamba-2: state spaces alone. Its biases and its heads have one key each, which must agree with a width
    that is given as well."""
    require_inner_width(c["expand"] * c["hidden_size"], c["num_heads"], c["head_dim"])
    return {"mamba2_out_bias": c["use_bias"]} | _limited_steps(c["time_step_limit"])


def granite_hybrid(c: Config) -> Fields:
    """Granite 4: Mamba-2 in all layers but those that `layer_types` gives attention, positions only if they
    are asked for, and experts beside the shared FFN, or that FFN alone."""
    words = {kind: ours for ours, kinds in _LAYER_KINDS.items() for kind in kinds}
    mixers = mixers_by_layer_types(c, words, ["mamba2"] * c["num_hidden_layers"])
    shared = c["shared_intermediate_size"]
    if c["num_local_experts"]:
        ffn = experts_everywhere(c) | shared_expert(c)
        if not shared:
            raise ConfigError("shared_intermediate_size is 0, which the class cannot run; give a width")
    else:
        ffn = {"intermediate_size": shared}
    positions = {} if c["position_embedding_type"] == "rope" else {"position": "none"}
    return mixer_fields(mixers) | ffn | positions | _mamba2_of_hybrid(c)


def bamba(c: Config) -> Fields:
    """Bamba: Mamba-2 in all layers but those of `attn_layer_indices`; half of each head is rotated."""
    layers = c["attn_layer_indices"] or []
    if any(type(layer) is not int for layer in layers):
        raise ConfigError("attn_layer_indices must list layer numbers, counted from 0")
    mixers = ["attention" if at in layers else "mamba2" for at in range(c["num_hidden_layers"])]
    return mixer_fields(mixers) | _mamba2_of_hybrid(c)


def falcon_h1(c: Config) -> Fields:
    """Falcon-H1: attention and Mamba-2 side by side in every layer, and factors on all that they compute."""
    inner = c["mamba_d_ssm"]
    inner = c["mamba_expand"] * c["hidden_size"] if inner is None else inner
    norm = "before_gate" if c["mamba_norm_before_gate"] else "after_gate"
    gate, down = _factors(c, "mlp_multipliers", 2)
    head_dim = c["hidden_size"] // c["num_attention_heads"] if c["head_dim"] is None else c["head_dim"]
    return (
        _mamba2_heads(c, inner)
        | _limited_steps(c["time_step_limit"])
        | {
            "mamba2_out_bias": c["projectors_bias"],
            "mamba2_norm": norm if c["mamba_rms_norm"] else "none",
            "mamba2_multipliers": tuple(_factors(c, "ssm_multipliers", 5)),
            "ffn_gate_multiplier": gate,
            "ffn_out_multiplier": down,
            "attention_multiplier": None
            if c["key_multiplier"] == 1
            else c["key_multiplier"] / sqrt(head_dim),
        }
    )


def nemotron_h(c: Config) -> Fields:
    """Nemotron-H: each layer has one thing alone, attention, Mamba-2, an FFN or experts."""
    kinds = _nemotron_h_layers(c)
    mixers = [
        {"full_attention": "attention", "linear_attention": "mamba2"}.get(kind, "none") for kind in kinds
    ]
    ffns = ["ffn" if kind in ("mlp", "moe") else "none" for kind in kinds]
    types = (
        ["dense" if kind == "mlp" else "sparse" for kind in kinds]
        if "moe" in kinds
        else ["dense"] * len(kinds)
    )
    experts = deepseek_v3_moe(
        {**c, "num_hidden_layers": len(kinds), "mlp_layer_types": types, "n_shared_experts": 1}
    )
    return mixer_fields(mixers) | {
        "n_layers": len(kinds),
        "ffn_pattern": shortest_pattern(ffns),
        "mamba2_out_bias": c["use_bias"],
        **(
            experts
            and experts
            | {
                "shared_intermediate_size": c["moe_shared_expert_intermediate_size"],
                "expert_latent_size": c["moe_latent_size"],
            }
        ),
    }


def _nemotron_h_layers(c: Config) -> list[str]:
    kinds, letters = c["layers_block_type"], c["hybrid_override_pattern"]
    if kinds is None and letters is not None:
        unknown = [letter for letter in letters if letter not in _NEMOTRON_H_LETTERS]
        if unknown:
            raise ConfigError(
                f"hybrid_override_pattern has {unknown[0]!r}; only {' '.join(_NEMOTRON_H_LETTERS)} are "
                "supported"
            )
        kinds = [_NEMOTRON_H_LETTERS[letter] for letter in letters]
    if kinds is None:
        kinds = ["linear_attention", "moe", "full_attention", "mlp"]
    known = {kind: kinds[-1] for kinds in _LAYER_KINDS.values() for kind in kinds} | {
        "mlp": "mlp",
        "moe": "moe",
    }
    for kind in kinds:
        if not isinstance(kind, str) or kind not in known:
            raise ConfigError(f"layers_block_type has {kind!r}; only {' and '.join(known)} are supported")
    if not kinds:
        raise ConfigError("layers_block_type has no layers; give one or more")
    return [known[kind] for kind in kinds]


def mamba(c: Config) -> Fields:
    """Mamba: state spaces alone, or those with norms within them of Falcon Mamba."""
    return {"mamba_inner_size": c["expand"] * c["hidden_size"]} | dt_rank(c, "time_step_rank")


def jamba(c: Config) -> Fields:
    """Jamba: attention in one layer of every period, Mamba in the others, and experts in layers of another
    period."""
    layers = range(c["num_hidden_layers"])
    attention = _periodic(c, "attn_layer")
    mixers = ["attention" if attention(at) else "mamba" for at in layers]
    expert = _periodic(c, "expert_layer")
    experts = routed_experts(c, [c["num_experts"] > 1 and expert(at) for at in layers])
    return (
        mixer_fields(mixers)
        | dt_rank(c, "mamba_dt_rank")
        | {
            "mamba_inner_size": c["mamba_expand"] * c["hidden_size"],
            **(experts and experts | {"norm_expert_weights": False}),
        }
    )


def _periodic(c: Config, name: str) -> Callable[[int], bool]:
    """Whether a layer, counted from 0, is the one of its period."""
    period, offset = c[f"{name}_period"], c[f"{name}_offset"]
    if offset >= period:
        raise ConfigError(f"{name}_offset={offset} is not less than {name}_period={period}; lower it")
    return lambda at: at % period == offset


def dt_rank(c: Config, key: str) -> Fields:
    """The width of the projected steps; "auto" is a sixteenth of the model's."""
    rank = c[key]
    if isinstance(rank, str):
        if rank != "auto":
            raise ConfigError(f"{key} is {rank!r}; it must be a whole number or 'auto'")
        rank = ceil(c["hidden_size"] / 16)
    return {"mamba_dt_rank": rank}


def _mamba2_of_hybrid(c: Config) -> Fields:
    """The sizes of Mamba-2 in classes whose keys of it begin with mamba."""
    steps = _limited_steps(c["time_step_limit"])
    return (
        _mamba2_heads(c, c["mamba_expand"] * c["hidden_size"])
        | steps
        | {"mamba2_out_bias": c["mamba_proj_bias"]}
    )


def _mamba2_heads(c: Config, inner: int) -> Fields:
    """The width of the heads, by default what fills the width of the mixer."""
    n_heads, head_dim = read_positive(c, "mamba_n_heads"), c["mamba_d_head"]
    if isinstance(head_dim, str):
        if head_dim != "auto":
            raise ConfigError(f"mamba_d_head is {head_dim!r}; it must be a whole number or 'auto'")
        head_dim = inner // n_heads
    require_inner_width(inner, n_heads, head_dim)
    return {"mamba2_head_dim": head_dim}


def _factors(c: Config, key: str, n: int) -> list[float]:
    """So many factors of a list; a missing one means 1 for each."""
    factors = [1.0] * n if c[key] is None else c[key]
    if len(factors) != n or any(type(factor) not in (int, float) for factor in factors):
        raise ConfigError(f"{key} is {short_repr(factors)}; it must be a list of {n} numbers")
    return factors


def _limited_steps(limits: Sequence[Any]) -> Fields:
    """The shortest and the longest step; a step is never less than 0."""
    numbers = [_read_number(limit) for limit in limits]
    if len(numbers) != 2 or any(type(number) not in (int, float) for number in numbers):
        raise ConfigError(f"time_step_limit is {short_repr(limits)}; it must be two numbers")
    low, high = numbers
    # What is not a number, or reaches beyond both, would clamp every step to one value.
    if not (low <= high and low <= LARGEST_FLOAT and high > 0):
        raise ConfigError(
            f"time_step_limit is {short_repr(limits)}; it must be the shortest and the longest step"
        )
    return {"mamba2_dt_min": max(float(low), 0.0), "mamba2_dt_max": _finite_limit(high)}


def _read_number(value: object) -> Any:
    """The number; JSON has no infinity, and transformers 5 writes {"__float__": "Infinity"} for it."""
    if isinstance(value, dict) and value.keys() == {"__float__"}:
        value = {"Infinity": inf, "-Infinity": -inf}.get(value["__float__"])
    return value


def _finite_limit(high: float) -> float | None:
    return float(high) if high <= LARGEST_FLOAT else None


def require_inner_width(inner: int, n_heads: int, head_dim: int) -> None:
    """Refuse heads that do not fill the width of the mixer, as the classes do."""
    if n_heads * head_dim != inner:
        raise ConfigError(
            f"{n_heads} heads of {head_dim} in the mixer do not fill its width of {inner}; change one of them"
        )
