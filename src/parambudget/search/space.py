"""Which shapes are searched: the axes that are given, the default ranges of the others, and the choices they
are declared around.

`default_ranges` is the published rule for what is not given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import ceil, floor, lcm
from typing import Final, TypeGuard, cast

from pydantic import BaseModel

from parambudget.arch.blocks import CountedParts, MLAConfig, MoEConfig
from parambudget.arch.config import BLOCKS, MIXERS, ModelConfig, flat_fields, without_unnamed_mixers
from parambudget.arch.defaults import names_attention, with_defaults
from parambudget.arch.dims import (
    can_route,
    has_attention_layers,
    has_dense_layers,
    has_ffn_layers,
    is_pattern,
    mixers_of,
    whole_layer_share,
)
from parambudget.arch.fields import ModelFields
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS, plain_numbers
from parambudget.errors import ConfigError
from parambudget.search.axis import Axis, AxisLike, RatioLike, parse_ratio
from parambudget.search.options import CountKind
from parambudget.units import short_repr

SIZES: Final = (
    "n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "kv_groups", "intermediate_size",
    "expert_intermediate_size",
)  # fmt: skip
"""Sizes that a lattice searches around the choices of a model."""
EXPERT_AXES: Final = ("n_experts", "n_experts_per_token", "n_shared_experts")
"""Sizes that are axes too, and that belong to a model's choices."""
AXES: Final = (*SIZES[:-1], *EXPERT_AXES, SIZES[-1])
LATENT_SIZES: Final = tuple(MLAConfig.model_fields)
"""Sizes of latent attention: one value each."""
MIXER_DIM: Final = "mixer_dim"
"""No field of a model: the width at which a mixer has the sizes given; elsewhere they are in proportion."""
AXIS_SETTINGS: Final = ("kv_groups", "ffn_ratio", "multiple")
"""What describes axes without being a field of a model."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A lattice of shapes around one set of architecture choices.

    A point is one (n_layers, dim, head_dim, n_heads, n_kv_heads, intermediate_size). n_heads is dim /
    head_dim unless an axis is given for it; kv heads come from `kv_groups` (query heads per kv head) or from
    an axis of their own; FFN widths are the multiples of `multiple` within `ffn_ratio` * dim, or an axis of
    their own, and none where no layer has an FFN.

    With experts a point also has n_experts, n_experts_per_token, n_shared_experts and
    expert_intermediate_size. The ratio then compares dim with the active width: a token's routed experts and
    the shared ones together. Dense layers beside experts are that wide too, unless an axis is given. In
    latent attention every head has keys of its own.
    """

    choices: ModelConfig
    """Supplies every field that is not an axis (vocabulary, tying, norms, biases, ...); its own sizes are not
    read."""
    size: int
    """The count whose usual shapes are meant: the target, or with experts its active part."""
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
    mixer_follows_dim: bool = False
    """Whether the sizes of the choices' mixer are those at their dim, and at others in proportion; else they
    are the same at every dim."""

    @classmethod
    def declare(
        cls, target: int, fields: Mapping[str, object], *, active: int | None = None,
        counted: CountKind = "total",
    ) -> "SearchSpace":  # fmt: skip
        """The lattice for a target, from the axes and choices given (the keys of `SearchFields`); what is not
        given follows `default_ranges`.

        Any field of experts or an `active` target asks for models with experts, any field of latent attention
        for models with that.
        """
        return SpaceBuilder(target, fields, active, counted).build()

    def axis(self, name: str) -> Axis | None:
        """The axis of that name; None where the lattice has none."""
        found: Axis | None = getattr(self, name)
        return found

    def flags(self) -> dict[str, str]:
        """Every axis as flag text: what `parambudget solve` takes to search this very lattice again."""
        implied = {"head_dim", "kv_groups"} if self.choices.mla else set()
        implied = implied if has_attention_layers(self.choices) else {"head_dim", "kv_groups", "n_heads"}
        texts = {
            name: axis.text
            for name in AXES
            if (axis := self.axis(name)) is not None and name not in implied and axis.values != (0,)
        }
        latents = self.choices.mla or ()
        texts |= {name: str(value) for name, value in latents if value is not None}
        if self.ffn_ratio:
            texts["ffn_ratio"] = ":".join(_ratio_text(bound) for bound in self.ffn_ratio)
        return texts | {"multiple": str(self.multiple)}


def choices_of(model: ModelConfig) -> dict[str, object]:
    """A model's choices, vocabulary and context, its numbers of experts and the widths of its latents,
    without the sizes that a lattice searches. With a mixer other than attention, `MIXER_DIM` says at which
    width it has the sizes that it has."""
    choices = {name: value for name, value in flat_fields(model).items() if name not in SIZES}
    return choices | ({MIXER_DIM: model.dim} if model.n_mixer_layers else {})


def choices_like(model: ModelConfig, given: Mapping[str, object]) -> dict[str, object]:
    """The model's choices, and in their place what is given; a size of a mixer that is given fixes all of
    them. A mixer that a given pattern does not name is none of the choices."""
    choices = without_unnamed_mixers(choices_of(model), given)
    if not MIXER_SIZES.isdisjoint(given) or MIXER_SIZES.isdisjoint(choices):
        choices.pop(MIXER_DIM, None)
    return choices | dict(given)


MIXER_SIZES: Final = frozenset(name for block in MIXERS.values() for name in block.model_fields)
"""Fields of the blocks of mixers."""
SMALL: Final = 30_000_000
UNTIED_FROM: Final = 1_000_000_000
"""Targets from here on get an untied head unless tying is given: published models below about 1B are mostly
tied (SmolLM2, MobileLLM, Qwen3-0.6B), larger ones mostly untied (Llama, OLMo 2, Qwen from 7B)."""
DEFAULT_FFN_RATIO: Final = (Fraction(2), Fraction(8))
DEFAULT_EXPERTS: Final = (8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512)
"""Numbers of experts that are searched: powers of two, and the multiples of 32 between that are published."""
_FINEST_EXPERTS: Final = 64
"""Widths of experts are multiples of this at most: 1408 (DeepSeek) and 2880 (gpt-oss) are of 128 or 64."""
_SPARSITY: Final = 0.81
"""Power of n_experts / n_experts_per_token by which the total exceeds the active count: least squares over
the 31 models of benchmarks/expert_models.py."""


def default_ranges(
    given: Mapping[str, Axis], size: int, dim_step: int, *, free_heads_of: int | None = None,
    latent: bool = False, whole_layers: float = 1.0,
) -> dict[str, Axis]:  # fmt: skip
    """The axes of a search around a size: those given, and for the others the published rule.

    It is a plain box around the shapes of published models of that size N: with L0 = 0.225 * N**0.228 and
    d0 = 0.640 * N**0.382 (a fit over 89 published models), n_layers from L0/3 to 3*L0 and dim from d0/3 to
    2*d0; dim and FFN widths in multiples of 64 (`default_multiple`); head_dim 64 and 128 (32 and 64 below
    30M); 1, 2, 4 or 8 query heads per kv head; FFN widths from 2 to 8 times dim (`DEFAULT_FFN_RATIO`). With
    only one of n_layers and dim given, the other spans all that the target could fill at 8 to 28 dim^2
    parameters a layer. Where layers have a mixer or an FFN alone (`whole_layers` is how much of a layer they
    are), two of them count as one.

    With experts, N is the active count (`estimate_active`), experts are those of `default_expert_ranges`, and
    their widths are multiples of 64 at most. Heads are free of dim (of the width `free_heads_of`) where
    neither dim nor heads are given, and always in latent attention.
    """
    axes = dict(given)
    _set_depth_and_width(axes, size, dim_step, whole_layers)
    if free_heads_of is not None:
        axes.setdefault("n_heads", _free_heads(axes["dim"], free_heads_of))
    if latent:
        axes["kv_groups"] = Axis.from_values([1], "kv_groups")
    axes.setdefault("head_dim", Axis.from_values((32, 64) if size < SMALL else (64, 128), "head_dim"))
    if "n_kv_heads" not in axes:
        axes.setdefault("kv_groups", Axis.from_values((1, 2, 4, 8), "kv_groups"))
    return axes


def default_multiple(size: int) -> int:
    """The step of dim and of FFN widths: 32 below 30M, 64, 128 from 1B, 256 from 10B, 512 from 100B, 1024
    from 1T, 2048 from 10T and 4096 from 100T."""
    steps = (
        (SMALL, 32), (10**9, 64), (10**10, 128), (10**11, 256), (10**12, 512), (10**13, 1024), (10**14, 2048)
    )  # fmt: skip
    return next((step for below, step in steps if size < below), 4096)


def default_expert_multiple(active: int) -> int:
    """The same for the width of experts, by the active count: 64 from 30M, at any size."""
    return min(default_multiple(active), _FINEST_EXPERTS)


def default_dim_step_beside_experts(active: int) -> int:
    """The same for dim beside experts, which multiply the lattice: twice as coarse from 100B active."""
    return default_multiple(active) * (2 if active >= 10**11 else 1)


def default_expert_ranges(given: Mapping[str, Axis]) -> dict[str, Axis]:
    """From 8 to 512 experts, 1, 2, 4, 6 or 8 of them per token, and none shared, unless given."""
    return {
        "n_experts": Axis.from_values(DEFAULT_EXPERTS, "n_experts"),
        "n_experts_per_token": Axis.from_values((1, 2, 4, 6, 8), "n_experts_per_token"),
        "n_shared_experts": Axis.from_values((0,), "n_shared_experts", least=0),
    } | dict(given)


def estimate_active(total: int, axes: Mapping[str, Axis]) -> int:
    """About the active part of a total, at the middle of the axes of experts: total / (n_experts /
    n_experts_per_token)**0.81."""
    experts, per_token = (
        values[len(values) // 2] for values in (axes["n_experts"].values, axes["n_experts_per_token"].values)
    )
    share: float = min(1.0, per_token / experts) ** _SPARSITY
    return max(1, round(total * share))


def conventional_depth(size: float) -> float:
    """L0, the layers of published models of that size."""
    return float(0.225 * size**0.228)


WIDTH_FIT: Final = (0.640, 0.382)
"""d0 of N parameters is the first times N to the power of the second."""


def conventional_width(size: float) -> float:
    """d0, the dim of published models of that size."""
    factor, power = WIDTH_FIT
    return float(factor * size**power)


def _set_depth_and_width(axes: dict[str, Axis], size: int, step: int, whole_layers: float = 1.0) -> None:
    """Add n_layers and dim where they are missing."""
    if "dim" not in axes and "n_layers" not in axes:
        layers, width = conventional_depth(size) / whole_layers, conventional_width(size)
        depths = range(max(1, floor(layers / 3)), ceil(3 * layers) + 1)
        axes["n_layers"] = Axis.from_values(depths, "n_layers")
        low, high = floor(width / 3 / step), ceil(2 * width / step)
        axes["dim"] = Axis.from_values(range(max(1, low) * step, high * step + 1, step), "dim")
    elif "n_layers" not in axes:
        deepest = ceil(size / (8 * whole_layers * axes["dim"].values[0] ** 2))
        axes["n_layers"] = Axis.from_values(range(1, min(max(deepest, 1), 1000) + 1), "n_layers")
    elif "dim" not in axes:
        narrowest = (size / (28 * whole_layers * axes["n_layers"].values[-1])) ** 0.5 / 4
        widest = (size / (8 * whole_layers * axes["n_layers"].values[0])) ** 0.5
        low, high = max(1, floor(narrowest / step)), max(1, ceil(widest / step))
        axes["dim"] = Axis.from_values(range(low * step, high * step + 1, step), "dim")


def _free_heads(dim: Axis, width: int) -> Axis:
    """Numbers of heads of that width that are free of dim: together they are from half as wide as the
    narrowest dim to 2.5 times as wide as the widest, in multiples of 4, 8, 16, ... so that there are 20 at
    most."""
    narrowest, widest = dim.values[0], dim.values[-1]
    most = max(1, ceil(2.5 * widest / width))
    step = 4 if most >= 8 else 1
    while most > 18 * step:
        step *= 2
    least = max(step, narrowest // (2 * width) // step * step)
    return Axis.from_values(range(least, -(-most // step) * step + 1, step), "n_heads")


def _default_latent_sizes(given: Mapping[str, object], size: int) -> dict[str, object]:
    """The sizes of latent attention that are not given: values of 128 from 1B and of 64 below, keys without
    their position as wide, a rotated part of half that."""
    usual = 128 if size >= 10**9 else 64
    value = given.get("v_head_dim", usual)
    nope = given.get("qk_nope_head_dim", value if type(value) is int else usual)
    sizes = {"qk_nope_head_dim": nope, "v_head_dim": nope}
    return sizes | ({"qk_rope_head_dim": max(nope // 2, 1)} if type(nope) is int else {})


class SpaceBuilder:
    """A search space while it is put together: axes are parsed, completed and rid of values that make no
    model."""

    def __init__(
        self, target: int, fields: Mapping[str, object], active: int | None, counted: CountKind
    ) -> None:
        _check_active(target, active, counted)
        self.given = _named_fields(fields)
        self.mixer_dim = cast(int | None, self.given.pop(MIXER_DIM, None))
        self.with_experts = active is not None or not self.given.keys().isdisjoint(MoEConfig.model_fields)
        if self.with_experts and lacks_ffn(self.given):
            of_experts = [name for name in self.given if name in MoEConfig.model_fields]
            raise ConfigError(
                f"no layer has an FFN that experts could take the place of, so {[*of_experts, 'active'][0]} "
                "has no effect; leave it out, or name `ffn` in ffn_pattern"
            )
        self.is_latent = not self.given.keys().isdisjoint(LATENT_SIZES)
        self.fields = dict(self.given)
        """Fields that are not an axis, once the axes are parsed."""
        self.axes: dict[str, Axis] = {
            name: self._parse_axis(name, least=int(name != "n_shared_experts"))
            for name in EXPERT_AXES
            if name in self.fields
        }
        if self.with_experts:
            self.axes = default_expert_ranges(self.axes)
        if active is not None:
            self.size = active
        elif self.with_experts and counted != "active":
            self.size = estimate_active(target, self.axes)
        else:
            self.size = target
        self.multiple = self._parse_multiple()
        self.fields.setdefault("tied", target < UNTIED_FROM)

    def build(self) -> SearchSpace:
        """The finished space."""
        self._parse_sizes()
        ratio = self._parse_ratio()
        dim_step = default_dim_step_beside_experts(self.size) if self.with_experts else self.multiple
        if self.is_latent:
            self._complete_latent(dim_step)
        else:
            self._complete(dim_step)
        self._check_bounds()
        self._drop_embedding_width()
        choices = self._choices()
        axes = self.axes
        return SearchSpace(
            choices=choices,
            size=self.size,
            n_layers=_possible_depths(axes["n_layers"], choices),
            dim=axes["dim"],
            head_dim=axes["head_dim"],
            kv_groups=axes.get("kv_groups"),
            n_kv_heads=axes.get("n_kv_heads"),
            n_heads=axes.get("n_heads"),
            intermediate_size=axes.get("intermediate_size"),
            ffn_ratio=ratio,
            multiple=self.multiple,
            n_experts=axes.get("n_experts"),
            n_experts_per_token=axes.get("n_experts_per_token"),
            n_shared_experts=axes.get("n_shared_experts"),
            expert_intermediate_size=axes.get("expert_intermediate_size"),
            mixer_follows_dim=self.mixer_dim is not None,
        )

    def _parse_axis(self, name: str, step: int | None = None, least: int = 1) -> Axis:
        return Axis.parse(cast(AxisLike, self.fields.pop(name)), name, step, least)

    def _parse_multiple(self) -> int:
        usual = default_expert_multiple(self.size) if self.with_experts else default_multiple(self.size)
        return parse_multiple(self.fields.pop("multiple", usual))

    def _parse_sizes(self) -> None:
        if "kv_groups" in self.fields and "n_kv_heads" in self.fields:
            raise ConfigError(
                "`kv_groups` and `n_kv_heads` both set the number of key/value heads; give one of them"
            )
        steps = dict.fromkeys(("dim", "intermediate_size", "expert_intermediate_size"), self.multiple)
        for name in SIZES:
            if name in self.fields:
                self.axes[name] = self._parse_axis(name, steps.get(name))

    def _parse_ratio(self) -> tuple[Fraction, Fraction] | None:
        """The bounds on FFN widths; None where widths are an axis without any, or no layer has an FFN."""
        if lacks_ffn(self.given):
            if unused := {"intermediate_size", "ffn_ratio"} & self.given.keys():
                raise ConfigError(f"no layer has an FFN, so {min(unused)} has no effect; leave it out")
            return None
        if "ffn_ratio" in self.fields:
            return parse_ratio(cast(RatioLike, self.fields.pop("ffn_ratio")))
        widths = "expert_intermediate_size" if self.with_experts else "intermediate_size"
        return None if widths in self.axes else DEFAULT_FFN_RATIO

    def _complete(self, dim_step: int) -> None:
        """Depth, width and heads. With experts, where neither dim nor heads are given, heads are free of dim,
        as those of Qwen3, GLM-4.5 and gpt-oss."""
        if not names_attention(self.fields):
            heads = {"n_heads", "n_kv_heads", "kv_groups", "head_dim"} & self.given.keys()
            if heads:
                raise ConfigError(f"no layer has attention, so {min(heads)} has no effect; leave it out")
            self.axes |= {name: Axis.from_values([1], name) for name in ("n_heads", "kv_groups")}
            # Any that can be rotated: the lattice has dim in its place.
            self.axes["head_dim"] = Axis.from_values([64], "head_dim")
        layout = ("dim", "head_dim", "n_heads", "n_kv_heads", "kv_groups")
        free = self.with_experts and self.given.keys().isdisjoint(layout)
        width = 128 if self.size >= SMALL else 64
        self.axes = default_ranges(
            self.axes, self.size, dim_step, free_heads_of=width if free else None,
            whole_layers=share_of_whole_layers(self.fields),
        )  # fmt: skip
        if self.fields.get("position", "rotary") == "rotary":
            fraction = self.fields.get("rotary_fraction", 1.0)
            factors = self.fields.get("rope_short_factors")
            self.axes["head_dim"] = _buildable_heads(self.axes["head_dim"], fraction, factors)

    def _complete_latent(self, dim_step: int) -> None:
        """Depth, width and the heads of latent attention: their parts, and how many there are."""
        axes, fields = self.axes, self.fields
        needless = next((name for name in ("kv_groups", "n_kv_heads") if name in axes), None)
        if needless:
            raise ConfigError(f"in latent attention every head has keys of its own; leave {needless} out")
        for name, size in _default_latent_sizes(fields, self.size).items():
            fields.setdefault(name, size)
        nope, rope = fields["qk_nope_head_dim"], fields.get("qk_rope_head_dim")
        value = fields["v_head_dim"]
        if _is_size(nope) and _is_size(rope) and _is_size(value):
            axes.setdefault("head_dim", Axis.from_values([nope + rope], "head_dim"))
            self.axes = default_ranges(
                axes, self.size, dim_step, free_heads_of=value, latent=True,
                whole_layers=share_of_whole_layers(fields),
            )  # fmt: skip
        else:
            _set_depth_and_width(axes, self.size, dim_step)  # the config's own check names the wrong size

    def _check_bounds(self) -> None:
        for name, axis in self.axes.items():
            most = MOST_LAYERS if name == "n_layers" else LARGEST_SIZE
            if axis.values[-1] > most:
                raise ConfigError(f"{name} is {axis.values[-1]:,}; at most {most:,}")

    def _drop_embedding_width(self) -> None:
        """A model as wide as its embedding needs no projection: that width is not a point of the lattice."""
        width = self.fields.get("embedding_dim")
        values = [value for value in self.axes["dim"].values if value != width]
        if values and len(values) < len(self.axes["dim"].values):
            self.axes["dim"] = Axis.from_values(values, "dim")

    def _choices(self) -> ModelConfig:
        """The fields that are not an axis as a validated model, of any possible sizes on the axes."""
        parts = CountedParts.model_fields.items()
        if counted_only := [
            name for name, info in parts if self.fields.get(name, info.default) != info.default
        ]:
            raise ConfigError(
                f"a model with {', '.join(counted_only)} is counted and not built, so it is not searched; "
                "leave them out, or start from another model"
            )
        axes, fields = self.axes, self.fields
        sizes: dict[str, object] = {name: axes[name].values[-1] for name in ("dim", "n_layers")}
        sizes |= {"head_dim": axes["head_dim"].values[-1]} if "head_dim" in axes else {}
        sizes |= {"n_heads": self._least_heads(), "intermediate_size": 1}
        if not self.with_experts:
            return self._with_mixer(with_defaults(sizes | fields).model)
        sizes |= {"expert_intermediate_size": 1, **self._routable_experts()}
        *others, last = axes["n_shared_experts"].values
        model = self._with_mixer(with_defaults(sizes | fields | {"n_shared_experts": last}).model)
        for n_shared in others:
            model.replace(n_shared_experts=n_shared)  # refuses a gate for shared experts that do not exist
        if "intermediate_size" in axes and not has_dense_layers(model):
            raise ConfigError(
                "`intermediate_size` is the width of dense layers, but every layer has experts; give "
                "`expert_intermediate_size` instead, or `n_first_dense` or `moe_pattern` for dense layers"
            )
        return model

    def _least_heads(self) -> int:
        """A number of heads that every choice allows."""
        own = self.fields.get("global_n_kv_heads") if self.fields.get("global_n_heads") is None else None
        pairs = 2 if self.fields.get("differential_attention") else 1
        return lcm(own, pairs) if _is_size(own) else pairs

    def _with_mixer(self, model: ModelConfig) -> ModelConfig:
        """The model with its mixer in proportion to its dim, if the mixer's sizes are those of another."""
        if self.mixer_dim is None:
            return model
        return model.replace(
            **cast(ModelFields, mixer_sizes_at(model.replace(dim=self.mixer_dim), model.dim))
        )

    def _routable_experts(self) -> dict[str, int]:
        """Numbers of experts on the axes that the groups allow; the first ones where none are."""
        pairs = list(product(self.axes["n_experts"].values, self.axes["n_experts_per_token"].values))
        groups = self.fields.get("n_expert_groups", 1)
        per_token = self.fields.get("n_groups_per_token", 1)
        found = pairs[0]
        if _is_size(groups) and _is_size(per_token):
            found = next((pair for pair in pairs if can_route(*pair, groups, per_token)), found)
        return {"n_experts": found[0], "n_experts_per_token": found[1]}


def parse_multiple(given: object) -> int:
    """The granularity of FFN widths, and of dim in ranges without a step, from an int or text."""
    values = Axis.parse(cast(AxisLike, given), "multiple").values
    if len(values) > 1 or values[0] > LARGEST_SIZE:
        raise ConfigError(
            f"`multiple` is {given!r}; use one whole number, such as 64, at most {LARGEST_SIZE:,}"
        )
    return values[0]


def _check_active(target: int, active: int | None, counted: CountKind) -> None:
    if active is not None and counted == "active":
        raise ConfigError(
            "`active` is a second target, and `counted=active` makes the first one count the same; leave out "
            "one of them"
        )
    if active is not None and active > target:
        raise ConfigError(
            f"`active` is {active:,}, more than the target of {target:,}; a token uses only part of all "
            "parameters"
        )


def _named_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that are given, those of blocks by their own names."""
    blocks = {name: fields[name] for name in BLOCKS if fields.get(name) is not None}
    for name, block in blocks.items():
        if not isinstance(block, Mapping | BaseModel):
            raise ConfigError(f"{name} is {short_repr(block)}; give a {BLOCKS[name].__name__} or its fields")
    own = flat_fields((name, value) for name, value in fields.items() if name not in BLOCKS)
    in_blocks = {
        name: value
        for block in blocks.values()
        for name, value in dict(cast(Mapping[str, object], block)).items()
    }
    given = {name: value for name, value in (in_blocks | own).items() if value is not None}
    return plain_numbers(given)


def lacks_ffn(fields: Mapping[str, object]) -> bool:
    """Whether choices say that no layer has an FFN."""
    pattern = fields.get("ffn_pattern")
    return is_pattern(pattern) and "ffn" not in pattern


def share_of_whole_layers(fields: Mapping[str, object]) -> float:
    """`whole_layer_share` of choices that are no model yet."""
    mixers, ffns = fields.get("mixer_pattern", ("attention",)), fields.get("ffn_pattern", ("ffn",))
    if not (is_pattern(mixers) and is_pattern(ffns)):
        return 1.0  # the model's own error names it
    return whole_layer_share(mixers, ffns) or 1.0


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= LARGEST_SIZE


def _possible_depths(depths: Axis, choices: ModelConfig) -> Axis:
    """The depths at which there are layers of every kind that the choices name; deeper ones have them too."""
    least = _least_depth(choices)
    deep = [n_layers for n_layers in depths.values if n_layers >= least]
    if not deep:
        raise ConfigError(
            f"n_layers {depths.text} is too few for every kind of layer in mixer_pattern and ffn_pattern; "
            f"use {least} or more, or other patterns"
        )
    if len(deep) < len(depths.values):
        depths = Axis.from_values(deep, "n_layers")
    if choices.moe is None and choices.rope_theta_local is None:
        return depths
    for i, n_layers in enumerate(depths.values):
        try:
            choices.replace(n_layers=n_layers)
        except ConfigError:
            continue
        return depths if i == 0 else Axis.from_values(depths.values[i:], "n_layers")
    raise AssertionError("the choices were validated at the greatest depth")


def _least_depth(choices: ModelConfig) -> int:
    """The fewest layers among which there is one of every kind of mixer, and one with an FFN if any has it:
    what shallower models do not have would be an axis without an effect."""
    words = [mixers_of([word]) for word in choices.mixer_pattern]
    first = [next(i for i, here in enumerate(words) if kind in here) for kind in set().union(*words)]
    return 1 + max([*first, choices.ffn_pattern.index("ffn") if has_ffn_layers(choices) else 0])


def _buildable_heads(heads: Axis, rotary_fraction: object, factors: object) -> Axis:
    """Rotary positions turn pairs, so a head with an odd rotated width is not a point of the lattice; nor is
    one with more or fewer pairs than there are factors of LongRoPE."""
    if not isinstance(rotary_fraction, int | float) or not 0 < rotary_fraction <= 1:
        return heads  # the config's own check names it
    widths = {value: int(value * rotary_fraction) for value in heads.values}
    even = [value for value, width in widths.items() if width >= 2 and width % 2 == 0]
    if isinstance(factors, Sequence):
        fitting = [value for value in even if widths[value] == 2 * len(factors)]
        even = fitting or even  # the config's own check names the others
    if not even:
        raise ConfigError(
            f"head_dim {heads.text} leaves an odd width to rotate; use even values, or `position=none`"
        )
    return heads if len(even) == len(heads.values) else Axis.from_values(even, "head_dim")


def _ratio_text(bound: Fraction) -> str:
    """The bound as a decimal where that is exact and short, else as a quotient."""
    if bound.denominator == 1:
        return str(bound)
    text = f"{float(bound):.6g}"
    return text if Fraction(text) == bound else str(bound)
