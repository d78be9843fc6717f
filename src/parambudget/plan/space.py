"""The declared lattice: which shapes are searched, every axis printable as the flag that declares it."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from parambudget.arch.config import ModelConfig, flat
from parambudget.search.axis import Axis
from parambudget.search.space import AXES, SIZES, Counted, Given, read_axes


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A lattice of shapes around one set of architecture choices.

    A point is one (n_layers, dim, head_dim, n_heads, n_kv_heads, intermediate_size). n_heads is dim /
    head_dim unless an axis is given for it; kv heads come from `kv_groups` (query heads per kv head) or from
    an axis of their own; FFN widths are the multiples of `multiple` within `ffn_ratio` * dim, or an axis of
    their own.

    With experts a point also has n_experts, n_experts_per_token, n_shared_experts and
    expert_intermediate_size. The ratio then compares dim with the width that a token meets, of its own and
    of the shared experts together; dense layers beside experts are as wide as that, unless an axis is given.
    In latent attention every head has keys of its own.
    """

    choices: ModelConfig
    """Supplies every field that is not an axis (vocabulary, tying, norms, biases, ...); its own sizes are not
    read."""
    size: int
    """The count whose usual shapes are meant: the target, or with experts what is active of it."""
    n_layers: Axis
    dim: Axis
    head_dim: Axis
    kv_groups: Axis | None
    n_kv_heads: Axis | None
    n_heads: Axis | None
    intermediate_size: Axis | None
    ffn_ratio: tuple[Fraction, Fraction] | None
    multiple: int
    n_experts: Axis | None = None
    n_experts_per_token: Axis | None = None
    n_shared_experts: Axis | None = None
    expert_intermediate_size: Axis | None = None

    @classmethod
    def declare(
        cls, target: int, fields: Mapping[str, Any], *, active: int | None = None, counted: Counted = "total"
    ) -> "SearchSpace":
        """The lattice for a target, from the axes and choices given; what is not given follows the published
        rule.

        The rule is a plain box around the shapes of published models of that size: with L0 = 0.225 * N**0.228
        and d0 = 0.640 * N**0.382 (a fit over 89 published models), n_layers from L0/3 to 3*L0 and dim from
        d0/3 to 2*d0; dim and FFN widths in multiples of 64 (32 below 30M, 128 from 1B, 256 from 10B, 512 from
        100B, 1024 from 1T); head_dim 64 and 128 (32 and 64 below 30M); 1, 2, 4 or 8 query heads per kv head;
        FFN widths from 2 to 8 times dim. With only one of n_layers and dim given, the other spans all that
        the budget could fill at 8 to 28 dim^2 parameters a layer.

        With experts, which any field of theirs or an `active` budget asks for, N is what is active (of a
        total alone about total / (n_experts / n_experts_per_token)**0.81), experts are the numbers of
        `box.USUAL_EXPERTS`, 1, 2, 4, 6 or 8 for a token, and their widths multiples of 64 at most. Heads
        are free of dim where nothing is said of dim or heads, and always in latent attention, see
        `box.fill_free_heads`.
        """
        read, choices = read_axes(Given.of(target, fields, active, counted))
        return cls(
            choices=choices,
            size=read.size,
            multiple=read.multiple,
            ffn_ratio=read.ratio,
            **{name: read.axes.get(name) for name in AXES},  # type: ignore[arg-type]  # the three that must be there are
        )

    def flags(self) -> dict[str, str]:
        """Every axis as flag text: what `parambudget solve` takes to search this very lattice again."""
        implied = {"head_dim", "kv_groups"} if self.choices.mla else set()
        texts = {
            name: axis.text
            for name in AXES
            if (axis := getattr(self, name)) is not None and name not in implied and axis.values != (0,)
        }
        latents = self.choices.mla or ()
        texts |= {name: str(value) for name, value in latents if value is not None}
        if self.ffn_ratio:
            texts["ffn_ratio"] = ":".join(_ratio_text(bound) for bound in self.ffn_ratio)
        return texts | {"multiple": str(self.multiple)}


def choices_of(model: ModelConfig) -> dict[str, Any]:
    """A model's choices, vocabulary and context, its numbers of experts and the widths of its latents,
    without the sizes that a lattice searches."""
    return {name: value for name, value in flat(model).items() if name not in SIZES}


def _ratio_text(bound: Fraction) -> str:
    """The bound as a decimal where that is exact and short, else as a quotient."""
    if bound.denominator == 1:
        return str(bound)
    written = f"{float(bound):.6g}"
    return written if Fraction(written) == bound else str(bound)
