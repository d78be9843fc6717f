"""The declared lattice: which shapes are searched, every axis printable as the flag that declares it."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final, Literal

from parambudget.arch.blocks import BLOCKS
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.sizes import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.plan.axis import Axis, read_ratio

Counted = Literal["total", "body", "active"]

SIZES: Final = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "kv_groups", "intermediate_size")
SMALL: Final = 30_000_000
UNTIED_FROM: Final = 1_000_000_000
"""Budgets from here on get an untied head when nothing is said: published models below about 1B are mostly
tied (SmolLM2, MobileLLM, Qwen3-0.6B), larger ones mostly untied (Llama, OLMo 2, Qwen from 7B)."""


@dataclass(frozen=True)
class SearchSpace:
    """A lattice of shapes around one set of architecture choices.

    A point is one (n_layers, dim, head_dim, n_heads, n_kv_heads, intermediate_size). n_heads is dim /
    head_dim unless an axis is given for it; kv heads come from `kv_groups` (query heads per kv head) or from
    an axis of their own; FFN widths are the multiples of `multiple` within `ffn_ratio` * dim, or an axis of
    their own.
    """

    choices: ModelConfig
    """Supplies every field that is not an axis (vocabulary, tying, norms, biases, ...); its own sizes are not
    read."""
    n_layers: Axis
    dim: Axis
    head_dim: Axis
    kv_groups: Axis | None
    n_kv_heads: Axis | None
    n_heads: Axis | None
    intermediate_size: Axis | None
    ffn_ratio: tuple[Fraction, Fraction] | None
    multiple: int

    @classmethod
    def declare(cls, target: int, fields: Mapping[str, Any]) -> "SearchSpace":
        """The lattice for a target, from the axes and choices given; what is not given follows the published
        rule.

        The rule is a plain box around the shapes of published models of that size: with L0 = 0.225 * N**0.228
        and d0 = 0.640 * N**0.382 (a fit over 89 published models), n_layers from L0/3 to 3*L0 and dim from
        d0/3 to 2*d0; dim and FFN widths in multiples of 64 (32 below 30M, 128 from 1B, 256 from 10B, 512 from
        100B, 1024 from 1T); head_dim 64 and 128 (32 and 64 below 30M); 1, 2, 4 or 8 query heads per kv head;
        FFN widths from 2 to 8 times dim. With only one of n_layers and dim given, the other spans all that
        the budget could fill at 8 to 28 dim^2 parameters a layer.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        _refuse_blocks(given)
        multiple = read_multiple(given.pop("multiple", granularity(target)))
        if "kv_groups" in given and "n_kv_heads" in given:
            raise ConfigError(
                "kv-groups and n-kv-heads both say how many kv heads there are; give one of them"
            )
        ratio = read_ratio(given.pop("ffn_ratio")) if "ffn_ratio" in given else None
        steps = {"dim": multiple, "intermediate_size": multiple}
        axes: dict[str, Axis] = {}
        for name in SIZES:
            if name in given:
                axes[name] = Axis.read(given.pop(name), name, steps.get(name))
        if ratio is None and "intermediate_size" not in axes:
            ratio = (Fraction(2), Fraction(8))
        if "head_dim" not in axes:
            axes["head_dim"] = Axis.of((32, 64) if target < SMALL else (64, 128), "head_dim")
        if "kv_groups" not in axes and "n_kv_heads" not in axes:
            axes["kv_groups"] = Axis.of((1, 2, 4, 8), "kv_groups")
        _fill_depth_and_width(axes, target, multiple)
        given.setdefault("tied", target < UNTIED_FROM)
        if axes["n_layers"].values[-1] > MOST_LAYERS:
            raise ConfigError(f"n_layers is {axes['n_layers'].values[-1]:,}; at most {MOST_LAYERS:,}")
        for name, axis in axes.items():
            if axis.values[-1] > LARGEST_SIZE:
                raise ConfigError(f"{name} is {axis.values[-1]:,}; at most {LARGEST_SIZE:,}")
        if given.get("position", "rotary") == "rotary":
            axes["head_dim"] = _buildable_heads(axes["head_dim"], given.get("rotary_fraction", 1.0))
        # Any valid sizes serve here: only the choices are read.
        head_dim = axes["head_dim"].values[-1]
        sizes = {"dim": head_dim, "n_layers": 1, "n_heads": 1, "head_dim": head_dim, "intermediate_size": 1}
        return cls(
            choices=complete(sizes | given).model,
            multiple=multiple,
            ffn_ratio=ratio,
            **{name: axes.get(name) for name in SIZES},  # type: ignore[arg-type]  # the three that must be there are
        )

    def flags(self) -> dict[str, str]:
        """Every axis as flag text: what `parambudget solve` takes to search this very lattice again."""
        texts = {name: axis.text for name in SIZES if (axis := getattr(self, name)) is not None}
        if self.ffn_ratio:
            texts["ffn_ratio"] = ":".join(_ratio_text(bound) for bound in self.ffn_ratio)
        return texts | {"multiple": str(self.multiple)}


def choices_of(model: ModelConfig) -> dict[str, Any]:
    """A model's choices, vocabulary and context, without the sizes that a lattice searches."""
    return {name: value for name, value in model if name not in SIZES}


def read_multiple(given: Any) -> int:
    """The granularity of FFN widths, and of dim in ranges without a step, from an int or text."""
    values = Axis.read(given, "multiple").values
    if len(values) > 1 or values[0] > LARGEST_SIZE:
        raise ConfigError(
            f"multiple is {given!r}; use one whole number, such as 64, at most {LARGEST_SIZE:,}"
        )
    return values[0]


def _refuse_blocks(given: Mapping[str, Any]) -> None:
    """No axis of the lattice is a size of a block: what is asked for would be searched wrongly."""
    for name, block in BLOCKS.items():
        said = next((field for field in (name, *block.model_fields) if field in given), None)
        if said:
            kind = {"moe": "experts", "mla": "latent attention"}[name]
            raise ConfigError(
                f"models with {kind} ({said}) are not searched yet; leave {kind} out, or say the sizes and "
                "count them with parambudget count"
            )


def granularity(target: int) -> int:
    """The step of dim and of FFN widths at a size, where none is given."""
    steps = ((SMALL, 32), (10**9, 64), (10**10, 128), (10**11, 256), (10**12, 512))
    return next((step for below, step in steps if target < below), 1024)


def _fill_depth_and_width(axes: dict[str, Axis], target: int, multiple: int) -> None:
    if "dim" not in axes and "n_layers" not in axes:
        layers, width = 0.225 * target**0.228, 0.640 * target**0.382
        axes["n_layers"] = Axis.of(range(max(1, floor(layers / 3)), ceil(3 * layers) + 1), "n_layers")
        low, high = floor(width / 3 / multiple), ceil(2 * width / multiple)
        axes["dim"] = Axis.of(range(max(1, low) * multiple, high * multiple + 1, multiple), "dim")
    elif "n_layers" not in axes:
        deepest = ceil(target / (8 * axes["dim"].values[0] ** 2))
        axes["n_layers"] = Axis.of(range(1, min(max(deepest, 1), 1000) + 1), "n_layers")
    elif "dim" not in axes:
        narrowest = (target / (28 * axes["n_layers"].values[-1])) ** 0.5 / 4
        widest = (target / (8 * axes["n_layers"].values[0])) ** 0.5
        low, high = max(1, floor(narrowest / multiple)), max(1, ceil(widest / multiple))
        axes["dim"] = Axis.of(range(low * multiple, high * multiple + 1, multiple), "dim")


def _buildable_heads(heads: Axis, rotated_share: Any) -> Axis:
    """Rotary positions turn pairs: an odd rotated width is no point of the lattice."""
    if not isinstance(rotated_share, int | float):
        return heads  # named by the config's own check
    fits = [
        value
        for value in heads.values
        if int(value * rotated_share) >= 2 and int(value * rotated_share) % 2 == 0
    ]
    if not fits:
        raise ConfigError(
            f"head_dim {heads.text} leaves an odd width to rotate; use even values, or position none"
        )
    return heads if len(fits) == len(heads.values) else Axis.of(fits, "head_dim")


def _ratio_text(bound: Fraction) -> str:
    """The bound as a decimal where that is exact and short, else as a quotient."""
    if bound.denominator == 1:
        return str(bound)
    written = f"{float(bound):.6g}"
    return written if Fraction(written) == bound else str(bound)
