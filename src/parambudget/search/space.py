"""The axes of a lattice from what a person gives: read, completed by the published rule, and freed of values
that make no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import ceil, floor
from typing import Any, Final, Literal

from parambudget.arch.blocks import MLAConfig, MoEConfig
from parambudget.arch.config import BLOCKS, ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.arch.dims import can_route, has_dense_layers
from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.search.axis import Axis, read_ratio

SMALL: Final = 30_000_000
USUAL_EXPERTS: Final = (8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512)
"""Numbers of experts that are searched: powers of two, and the multiples of 32 between that are published."""
_FINEST_EXPERTS: Final = 64
"""Widths of experts are multiples of this at most: 1408 (DeepSeek) and 2880 (gpt-oss) are of 128 or 64."""
_SPARSITY: Final = 0.81
"""Power of n_experts / n_experts_per_token by which the total exceeds the active count: least squares over
the 31 models of benchmarks/expert_models.py."""


def granularity(target: int) -> int:
    """The step of dim and of FFN widths at a size, where none is given."""
    steps = ((SMALL, 32), (10**9, 64), (10**10, 128), (10**11, 256), (10**12, 512))
    return next((step for below, step in steps if target < below), 1024)


def granularity_of_experts(size: int) -> int:
    """The same of the width of experts, by what is active: 64 from 30M, at any size."""
    return min(granularity(size), _FINEST_EXPERTS)


def granularity_of_dim(size: int) -> int:
    """The same of dim beside experts, which multiply the lattice: twice as coarse from 100B active."""
    return granularity(size) * (2 if size >= 10**11 else 1)


def fill_experts(axes: dict[str, Axis]) -> None:
    """From 8 to 512 experts, 1, 2, 4, 6 or 8 of them for a token, and none shared."""
    axes.setdefault("n_experts", Axis.of(USUAL_EXPERTS, "n_experts"))
    axes.setdefault("n_experts_per_token", Axis.of((1, 2, 4, 6, 8), "n_experts_per_token"))
    axes.setdefault("n_shared_experts", Axis.of((0,), "n_shared_experts", least=0))


def active_of(total: int, axes: dict[str, Axis]) -> int:
    """About what is active of a total, at the middle of the axes of experts."""
    experts, chosen = (
        values[len(values) // 2] for values in (axes["n_experts"].values, axes["n_experts_per_token"].values)
    )
    share: float = min(1.0, chosen / experts) ** _SPARSITY
    return max(1, round(total * share))


def fill_depth_and_width(axes: dict[str, Axis], size: int, step: int) -> None:
    """n_layers from L0/3 to 3*L0 and dim from d0/3 to 2*d0 in that step, around L0 = 0.225 * size**0.228 and
    d0 = 0.640 * size**0.382; with one of the two given, the other spans all that the budget could fill at 8
    to 28 dim^2 parameters a layer."""
    if "dim" not in axes and "n_layers" not in axes:
        layers, width = 0.225 * size**0.228, 0.640 * size**0.382
        axes["n_layers"] = Axis.of(range(max(1, floor(layers / 3)), ceil(3 * layers) + 1), "n_layers")
        low, high = floor(width / 3 / step), ceil(2 * width / step)
        axes["dim"] = Axis.of(range(max(1, low) * step, high * step + 1, step), "dim")
    elif "n_layers" not in axes:
        deepest = ceil(size / (8 * axes["dim"].values[0] ** 2))
        axes["n_layers"] = Axis.of(range(1, min(max(deepest, 1), 1000) + 1), "n_layers")
    elif "dim" not in axes:
        narrowest = (size / (28 * axes["n_layers"].values[-1])) ** 0.5 / 4
        widest = (size / (8 * axes["n_layers"].values[0])) ** 0.5
        low, high = max(1, floor(narrowest / step)), max(1, ceil(widest / step))
        axes["dim"] = Axis.of(range(low * step, high * step + 1, step), "dim")


def latent_parts(given: dict[str, Any], size: int) -> dict[str, Any]:
    """What latent attention leaves out: values of 128 from 1B and of 64 below, keys without their position as
    wide, a rotated part of half that."""
    usual = 128 if size >= 10**9 else 64
    value = given.get("v_head_dim", usual)
    nope = given.get("qk_nope_head_dim", value if type(value) is int else usual)
    parts = {"qk_nope_head_dim": nope, "v_head_dim": nope}
    return parts | ({"qk_rope_head_dim": max(nope // 2, 1)} if type(nope) is int else {})


def fill_free_heads(axes: dict[str, Axis], width: int) -> None:
    """Heads of that width, of their values in latent attention, that are free of dim: they fill from half of
    the narrowest dim to 2.5 times the widest, in multiples of 4, 8, 16, ... so that there are 20 at most."""
    narrowest, widest = axes["dim"].values[0], axes["dim"].values[-1]
    most = max(1, ceil(2.5 * widest / width))
    step = 4 if most >= 8 else 1
    while most > 18 * step:
        step *= 2
    least = max(step, narrowest // (2 * width) // step * step)
    axes.setdefault("n_heads", Axis.of(range(least, -(-most // step) * step + 1, step), "n_heads"))


Counted = Literal["total", "body", "active"]

SIZES: Final = (
    "n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "kv_groups", "intermediate_size",
    "expert_intermediate_size",
)  # fmt: skip
"""Sizes that a lattice searches around the choices of a model."""
MIX: Final = ("n_experts", "n_experts_per_token", "n_shared_experts")
"""Sizes that are axes too, and that a model's choices keep."""
AXES: Final = (*SIZES[:-1], *MIX, SIZES[-1])
LATENT_SIZES: Final = tuple(MLAConfig.model_fields)
"""Sizes of latent attention: one value each."""
_LAYOUT: Final = ("dim", "head_dim", "n_heads", "n_kv_heads", "kv_groups")
UNTIED_FROM: Final = 1_000_000_000
"""Budgets from here on get an untied head when nothing is said: published models below about 1B are mostly
tied (SmolLM2, MobileLLM, Qwen3-0.6B), larger ones mostly untied (Llama, OLMo 2, Qwen from 7B)."""


@dataclass(frozen=True)
class Given:
    """What a person asks for: a budget and fields, of which some are axes."""

    target: int
    fields: dict[str, Any]
    active: int | None
    counted: Counted

    @classmethod
    def of(cls, target: int, fields: Mapping[str, Any], active: int | None, counted: Counted) -> "Given":
        """The fields that are given, those of blocks by their own names."""
        blocks = {name: fields[name] for name in BLOCKS if fields.get(name) is not None}
        own = flat_fields((name, value) for name, value in fields.items() if name not in BLOCKS)
        said = {name: value for block in blocks.values() for name, value in dict(block).items()} | own
        if active is not None and counted == "active":
            raise ConfigError(
                "--active is a second budget, and --counted active makes the target one of the same; "
                "leave out one of them"
            )
        if active is not None and active > target:
            raise ConfigError(
                f"active is {active:,}, more than the target of {target:,}; a token meets a part of all "
                "parameters"
            )
        return cls(
            target, {name: value for name, value in said.items() if value is not None}, active, counted
        )

    @cached_property
    def experts(self) -> bool:
        """Whether models with experts are meant."""
        return self.active is not None or not self.fields.keys().isdisjoint(MoEConfig.model_fields)

    @cached_property
    def latent(self) -> bool:
        """Whether models with latent attention are meant."""
        return not self.fields.keys().isdisjoint(LATENT_SIZES)


@dataclass
class Axes:
    """The axes while they are read."""

    given: Given
    size: int
    """The count whose usual shapes are meant."""
    multiple: int
    ratio: tuple[Fraction, Fraction] | None
    axes: dict[str, Axis]
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields that are no axis."""


def read_axes(given: Given) -> tuple[Axes, ModelConfig]:
    """Every axis of the lattice, and the choices that it is declared around."""
    fields = dict(given.fields)
    axes: dict[str, Axis] = {
        name: Axis.read(fields.pop(name), name, least=int(name != MIX[2])) for name in MIX if name in fields
    }
    if given.experts:
        fill_experts(axes)
    size = _size(given, axes)
    usual = granularity_of_experts(size) if given.experts else granularity(size)
    read = Axes(given, size, read_multiple(fields.pop("multiple", usual)), None, axes, fields)
    _read_sizes(read)
    step = granularity_of_dim(size) if given.experts else read.multiple
    fill_depth_and_width(axes, size, step)
    if given.latent:
        _fill_latents(read)
    else:
        _fill_heads(read)
    fields.setdefault("tied", given.target < UNTIED_FROM)
    _check_bounds(axes)
    _leave_out_the_width_of_embeddings(read)
    choices = _choices(read)
    axes["n_layers"] = _possible_depths(axes["n_layers"], choices)
    return read, choices


def read_multiple(given: Any) -> int:
    """The granularity of FFN widths, and of dim in ranges without a step, from an int or text."""
    values = Axis.read(given, "multiple").values
    if len(values) > 1 or values[0] > LARGEST_SIZE:
        raise ConfigError(
            f"multiple is {given!r}; use one whole number, such as 64, at most {LARGEST_SIZE:,}"
        )
    return values[0]


def _size(given: Given, axes: dict[str, Axis]) -> int:
    """The count whose usual shapes are meant: of a model with experts what is active."""
    if given.active is not None:
        return given.active
    return active_of(given.target, axes) if given.experts and given.counted != "active" else given.target


def _read_sizes(read: Axes) -> None:
    """The axes that are given, and the ratio."""
    fields, axes = read.fields, read.axes
    if "kv_groups" in fields and "n_kv_heads" in fields:
        raise ConfigError("kv-groups and n-kv-heads both say how many kv heads there are; give one of them")
    read.ratio = read_ratio(fields.pop("ffn_ratio")) if "ffn_ratio" in fields else None
    steps = {name: read.multiple for name in ("dim", "intermediate_size", "expert_intermediate_size")}
    for name in SIZES:
        if name in fields:
            axes[name] = Axis.read(fields.pop(name), name, steps.get(name))
    widths = "expert_intermediate_size" if read.given.experts else "intermediate_size"
    if read.ratio is None and widths not in axes:
        read.ratio = (Fraction(2), Fraction(8))


def _fill_heads(read: Axes) -> None:
    """The layout of heads. With experts, where nothing is said of it or of dim, heads are free of dim, as
    those of Qwen3, GLM-4.5 and gpt-oss."""
    axes = read.axes
    if read.given.experts and read.given.fields.keys().isdisjoint(_LAYOUT):
        fill_free_heads(axes, 128 if read.size >= SMALL else 64)
    if "head_dim" not in axes:
        axes["head_dim"] = Axis.of((32, 64) if read.size < SMALL else (64, 128), "head_dim")
    if "kv_groups" not in axes and "n_kv_heads" not in axes:
        axes["kv_groups"] = Axis.of((1, 2, 4, 8), "kv_groups")
    if read.fields.get("position", "rotary") == "rotary":
        axes["head_dim"] = _buildable_heads(axes["head_dim"], read.fields.get("rotary_fraction", 1.0))


def _fill_latents(read: Axes) -> None:
    """Heads of latent attention: their parts, and how many there are."""
    axes, fields = read.axes, read.fields
    told = next((name for name in ("kv_groups", "n_kv_heads") if name in axes), None)
    if told:
        raise ConfigError(f"in latent attention every head has keys of its own; leave {told} out")
    for name, value in latent_parts(fields, read.size).items():
        fields.setdefault(name, value)
    parts = [fields["qk_nope_head_dim"], fields.get("qk_rope_head_dim"), fields["v_head_dim"]]
    if not all(type(part) is int and 0 < part <= LARGEST_SIZE for part in parts):
        return  # the config's own check names it
    axes.setdefault("head_dim", Axis.of([parts[0] + parts[1]], "head_dim"))
    axes["kv_groups"] = Axis.of([1], "kv_groups")
    fill_free_heads(axes, parts[2])


def _check_bounds(axes: dict[str, Axis]) -> None:
    if axes["n_layers"].values[-1] > MOST_LAYERS:
        raise ConfigError(f"n_layers is {axes['n_layers'].values[-1]:,}; at most {MOST_LAYERS:,}")
    for name, axis in axes.items():
        if axis.values[-1] > LARGEST_SIZE:
            raise ConfigError(f"{name} is {axis.values[-1]:,}; at most {LARGEST_SIZE:,}")


def _choices(read: Axes) -> ModelConfig:
    """The fields that are no axis as a validated model, of any sizes that are on the axes and possible."""
    axes, fields = read.axes, read.fields
    sizes: dict[str, Any] = {name: axes[name].values[-1] for name in ("dim", "n_layers") if name in axes}
    sizes |= {"head_dim": axes["head_dim"].values[-1]} if "head_dim" in axes else {}
    sizes |= {"n_heads": 1, "intermediate_size": 1}
    if not read.given.experts:
        return with_defaults(sizes | fields).model
    mixes = list(product(*(axes[name].values for name in MIX[:2])))
    groups = (fields.get("n_expert_groups", 1), fields.get("n_groups_per_token", 1))
    counted = all(type(group) is int and group > 0 for group in groups)
    mix = next((mix for mix in mixes if counted and can_route(mix[0], mix[1], *groups)), mixes[0])
    sizes |= {"expert_intermediate_size": 1, **dict(zip(MIX, mix, strict=False))}
    *others, last = axes["n_shared_experts"].values
    model = with_defaults(sizes | fields | {"n_shared_experts": last}).model
    for n_shared in others:
        model.replace(n_shared_experts=n_shared)  # refuses a gate of experts that there are not
    if "intermediate_size" in axes and not has_dense_layers(model.moe):
        raise ConfigError(
            "intermediate_size is the width of dense layers, and every layer has experts; say "
            "expert_intermediate_size, or n_first_dense or moe_pattern for dense layers"
        )
    return model


def _possible_depths(depths: Axis, choices: ModelConfig) -> Axis:
    """The depths at which there are layers of every kind that the choices speak of; deeper ones have them
    too."""
    if choices.moe is None and choices.rope_theta_local is None:
        return depths
    for i, n_layers in enumerate(depths.values):
        try:
            choices.replace(n_layers=n_layers)
        except ConfigError:
            continue
        return depths if i == 0 else Axis.of(depths.values[i:], "n_layers")
    raise AssertionError("the choices were validated at the greatest depth")


def _leave_out_the_width_of_embeddings(read: Axes) -> None:
    """A projection from a width to the same is no point of the lattice."""
    width, dims = read.fields.get("embedding_dim"), read.axes["dim"]
    others = [dim for dim in dims.values if dim != width]
    if others and len(others) < len(dims.values):
        read.axes["dim"] = Axis.of(others, "dim")


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
    return {name: value for name, value in flat_fields(model).items() if name not in SIZES}


def _ratio_text(bound: Fraction) -> str:
    """The bound as a decimal where that is exact and short, else as a quotient."""
    if bound.denominator == 1:
        return str(bound)
    written = f"{float(bound):.6g}"
    return written if Fraction(written) == bound else str(bound)
