"""When two models are the same: what their fields come to, and where they differ."""

import math
from dataclasses import dataclass
from typing import Any, Final

from parambudget.arch.config import FIELDS, ModelConfig, flat

_ONLY_THE_START: Final = ("init_std", "zero_init_out")
"""Fields that decide the initial weights and nothing after."""
_ONLY_THE_FORM: Final = ("fused_experts", "n_first_dense")
"""Fields that say what others say too, or how tensors are laid out."""
_ONLY_ROTARY: Final = ("rope_theta", "rotary_fraction", "rotary_interleaved", "rotary_pattern")
_CLOSE: Final = 1e-9
"""Relative difference of floats that are one number: a square root, squared and written as text."""


@dataclass(frozen=True)
class Difference:
    """One field that two models say differently."""

    field: str
    wanted: Any
    got: Any


def differences(wanted: ModelConfig, got: ModelConfig) -> list[Difference]:
    """Where the models differ in count or function, in the order of the fields; nothing where both are one.

    Initial weights are no difference, nor is whether the matrices of experts lie in one tensor.
    """
    ours, theirs = meaning(wanted), meaning(got)
    if wanted.position != got.position:
        ours |= {name: theirs.get(name) for name in (*_ONLY_ROTARY, "rope_theta_local")}
    say_ours, say_theirs = flat(wanted), flat(got)
    found = []
    for field in FIELDS:
        if _one(ours.get(field), theirs.get(field)):
            continue
        pair = _said(say_ours, ours, field), _said(say_theirs, theirs, field)
        # The same words of different models, such as a share of heads of other widths.
        pair = (ours.get(field), theirs.get(field)) if pair[0] == pair[1] else pair
        found.append(Difference(field, *pair))
    return found


def meaning(m: ModelConfig) -> dict[str, Any]:
    """The fields of a model, those that come to the same in the same form: patterns layer by layer, shared
    experts as one, a scale or share worked out; None for what nothing reads."""
    fields = flat(m)
    for name in (*_ONLY_THE_START, *_ONLY_THE_FORM):
        fields.pop(name, None)
    layers = range(m.n_layers)
    local = tuple(m.is_local(layer) for layer in layers)
    fields["window"] = m.window if any(local) else None
    fields["window_pattern"] = local
    if m.position == "rotary":
        fields["rotary_fraction"] = m.rotary_dim
        fields["rotary_pattern"] = tuple(m.rotates(layer) for layer in layers)
        fields["rope_theta_local"] = (m.rope_theta_local or m.rope_theta) if any(local) else None
    else:
        fields |= dict.fromkeys(_ONLY_ROTARY)
    if m.attention_multiplier is None:
        fields["attention_multiplier"] = m.head_dim**-0.5
    fields["qk_norm_bias"] = m.qk_norm != "none" and (
        m.norm_bias if m.qk_norm_bias is None else m.qk_norm_bias
    )
    return fields | _of_ffn(m)


def _of_ffn(m: ModelConfig) -> dict[str, Any]:
    moe = m.moe
    fields: dict[str, Any] = {} if m.n_dense_layers else {"intermediate_size": None}
    if moe is None:
        return fields
    if not m.n_dense_layers and not moe.n_shared_experts:
        fields["ffn_bias"] = False
    shared = moe.n_shared_experts * (moe.shared_intermediate_size or moe.expert_intermediate_size)
    fields |= {"n_shared_experts": int(shared > 0), "shared_intermediate_size": shared}
    fields["moe_pattern"] = tuple(m.has_experts(layer) for layer in range(m.n_layers))
    if moe.n_groups_per_token == moe.n_expert_groups:
        fields |= {"n_expert_groups": 1, "n_groups_per_token": 1}
    return fields


def _one(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=_CLOSE)
    return bool(wanted == got)


def _said(fields: dict[str, Any], means: dict[str, Any], field: str) -> Any:
    """The field as it was said, or what it comes to where it was not."""
    said = fields.get(field)
    return means.get(field) if said is None and not isinstance(means.get(field), tuple) else said
