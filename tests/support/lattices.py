"""Small random lattices for property tests, each with its points by plain enumeration."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from hypothesis import strategies as st

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.arch.sizes import with_sizes
from parambudget.cost.params import active, body, total
from parambudget.errors import ConfigError
from parambudget.search.engine import Search
from parambudget.search.space import CountKind, SearchSpace

Sizes = tuple[int, int, int, int, int, int]
"""n_layers, dim, head_dim, n_heads, n_kv_heads, intermediate_size"""


@dataclass(frozen=True)
class Declared:
    """A lattice as a user would write it, and beside it the values that are meant."""

    fields: dict[str, Any]
    choices: dict[str, Any]
    counted: CountKind
    values: dict[str, list[int]]
    ratio: tuple[Fraction, Fraction] | None
    multiple: int

    def search(self, target: int) -> Search:
        """The lattice as the package searches it."""
        space = SearchSpace.declare(target, self.fields | self.choices)
        return Search(space, target, self.counted)

    def models(self) -> dict[Sizes, ModelConfig]:
        """Every point as a validated model."""
        fields = self._choices().model_dump()
        return {sizes: ModelConfig(**fields | _named(sizes)) for sizes in self._points()}

    def counts(self) -> dict[Sizes, int]:
        """Every point with its count: the table read once for each, on ints."""
        counter = total if self.counted == "total" else body
        choices = self._choices()
        return {sizes: counter(with_sizes(choices, **_named(sizes))) for sizes in self._points()}

    def _choices(self) -> ModelConfig:
        return with_defaults({"dim": 8, "n_layers": 1, "head_dim": 8} | self.choices).model

    def _points(self) -> Iterator[Sizes]:
        v = self.values
        for dim in v["dim"]:
            for head_dim in v["head_dim"]:
                if head_dim % 2 and self.choices["position"] == "rotary":
                    continue  # rotary positions turn pairs
                free = v.get("n_heads", [] if dim % head_dim else [dim // head_dim])
                for n_heads in free:
                    for n_kv_heads in self._kv_heads(n_heads):
                        for ffn in self._ffn(dim):
                            for n_layers in v["n_layers"]:
                                yield n_layers, dim, head_dim, n_heads, n_kv_heads, ffn

    def _kv_heads(self, n_heads: int) -> list[int]:
        if "n_kv_heads" in self.values:
            return [kv for kv in self.values["n_kv_heads"] if n_heads % kv == 0]
        return [n_heads // group for group in self.values["kv_groups"] if n_heads % group == 0]

    def _ffn(self, dim: int) -> list[int]:
        widths = self.values.get("intermediate_size")
        if widths is None:
            widths = range(self.multiple, 20 * dim, self.multiple)
        low, high = self.ratio or (0, 10**6)
        return [width for width in widths if low * dim <= width <= high * dim]


def _named(sizes: Sizes) -> dict[str, int]:
    names = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size")
    return dict(zip(names, sizes, strict=True))


@st.composite
def declared(draw: st.DrawFn) -> Declared:
    """Any lattice of up to a few hundred small models, every axis in any of its forms."""
    multiple = draw(st.sampled_from((6, 8, 16)))
    axes = {
        "n_layers": draw(axis((1, 2, 3, 5, 9))),
        "dim": draw(axis((16, 24, 32, 48, 64), step=multiple)),
        "head_dim": draw(axis((4, 8, 16))),
        draw(st.sampled_from(("kv_groups", "n_kv_heads"))): draw(axis((1, 2, 3, 4))),
    }
    widths = draw(st.sampled_from(("ratio", "listed", "both")))
    if draw(st.booleans()):
        axes["n_heads"] = draw(axis((1, 2, 3, 4, 6)))
    if widths != "ratio":
        axes["intermediate_size"] = draw(axis((20, 32, 47, 64, 90), step=multiple))
    ratio, ratio_text = draw(ratios)
    values = {name: values for name, (_, values) in axes.items()}
    fields = {name: given for name, (given, _) in axes.items()} | {"multiple": multiple}
    if widths != "listed":
        fields["ffn_ratio"] = ratio_text
    return Declared(
        fields, draw(choices), draw(st.sampled_from(("total", "body"))), values,
        ratio if widths != "listed" else None, multiple,
    )  # fmt: skip


@st.composite
def axis(draw: st.DrawFn, usual: tuple[int, ...], step: int = 1) -> tuple[Any, list[int]]:
    """One axis as given (an int, a list, a range, or text of any form) and the values it means."""
    form = draw(st.sampled_from(("list", "text", "stepped", "range", "bare", "value")))
    first = draw(st.sampled_from(usual))
    if form == "value":
        return first, [first]
    if form in ("list", "text"):
        values = draw(st.lists(st.sampled_from(usual), min_size=2, max_size=3))
        return (values if form == "list" else ",".join(map(str, values))), sorted(set(values))
    by = draw(st.sampled_from(usual[:3]))
    last = first + draw(st.integers(0, 2 * by + 1))
    if form == "bare":
        last = max(last, -(-first // step) * step) if step > 1 else min(last, first + 2)
        return f"{first}:{last}", [n for n in range(first, last + 1) if n % step == 0]
    values = list(range(first, last + 1, by))
    return (range(first, last + 1, by) if form == "range" else f"{first}:{last}:{by}"), values


def _ratio(low: Fraction, width: Fraction) -> tuple[tuple[Fraction, Fraction], str]:
    return (low, low + width), f"{low}:{low + width}"


ratios = st.builds(
    _ratio,
    st.sampled_from([Fraction(n, d) for n, d in ((1, 2), (2, 3), (1, 1), (8, 7), (7, 4), (3, 1))]),
    st.sampled_from([Fraction(n, d) for n, d in ((0, 1), (1, 2), (1, 1), (12, 7), (2, 1))]),
)
"""Bounds on intermediate_size / dim that few multiples meet exactly, and their text."""

_NORMS = (
    {"norm": "rmsnorm"},
    {"norm": "rmsnorm", "norm_placement": "sandwich", "qk_norm": "head"},
    {"norm": "layernorm", "norm_bias": True, "qk_norm": "per_head"},
    {"norm": "layernorm", "norm_bias": False, "norm_placement": "reordered", "qk_norm": "full"},
)
_BIASES = (
    {},
    {"qkv_bias": True, "ffn_bias": True},
    {"attention_out_bias": True, "head_bias": True},
)
choices = st.builds(
    lambda norms, biases, **others: norms | biases | others,
    st.sampled_from(_NORMS),
    st.sampled_from(_BIASES),
    vocab_size=st.integers(2, 600),
    context_length=st.integers(2, 50),
    tied=st.booleans(),
    gated=st.booleans(),
    position=st.sampled_from(("rotary", "learned", "none")),
)
"""Choices under which the count depends on every size in turn."""


COUNTS = {"total": total, "body": body, "active": active}
NAMES = (
    "n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "n_experts", "n_experts_per_token",
    "n_shared_experts", "expert_intermediate_size", "intermediate_size",
)  # fmt: skip


@dataclass(frozen=True)
class OfExperts:
    """A lattice as a user would write it, and the values that are meant."""

    axes: dict[str, list[int]]
    choices: dict[str, Any]
    ratio: tuple[Fraction, Fraction] | None
    ratio_text: str
    multiple: int

    @property
    def fields(self) -> dict[str, Any]:
        ratio = {"ffn_ratio": self.ratio_text} if self.ratio else {}
        return self.axes | self.choices | ratio | {"multiple": self.multiple}

    def search(self, target: int, counted: CountKind = "total", second: int | None = None) -> Search:
        """The lattice as the package searches it."""
        space = SearchSpace.declare(target, self.fields, active=second, counted=counted)
        return Search(space, target, counted, second)

    def models(self) -> dict[tuple[int, ...], ModelConfig]:
        """Every point as a validated model."""
        found = {}
        for sizes in self._candidates():
            try:
                found[tuple(sizes[name] for name in NAMES)] = with_defaults(self.choices | sizes).model
            except ConfigError:
                continue
        return found

    def _candidates(self) -> Iterator[dict[str, int]]:
        own = self.choices.get("shared_intermediate_size")
        names = ("n_layers", "dim", "n_experts", "n_experts_per_token", "n_shared_experts")
        for values in product(*(self.axes.get(name, [0]) for name in names), self._heads()):
            sizes = dict(zip(names, values, strict=False)) | values[-1]
            if "n_heads" not in sizes:
                if sizes["dim"] % sizes["head_dim"]:
                    continue
                sizes["n_heads"] = sizes["dim"] // sizes["head_dim"]
            if group := sizes.pop("kv_groups", None):
                if sizes["n_heads"] % group:
                    continue
                sizes["n_kv_heads"] = sizes["n_heads"] // group
            for width in self.axes.get("expert_intermediate_size", range(self.multiple, 400, self.multiple)):
                shared = sizes["n_shared_experts"] * (width if own is None else own)
                met = sizes["n_experts_per_token"] * width + shared
                if self.ratio and not self.ratio[0] * sizes["dim"] <= met <= self.ratio[1] * sizes["dim"]:
                    continue
                for dense in self.axes.get("intermediate_size", [met]):
                    yield sizes | {"expert_intermediate_size": width, "intermediate_size": dense}

    def _heads(self) -> list[dict[str, int]]:
        if "kv_lora_rank" in self.choices:
            head_dim = self.choices["qk_nope_head_dim"] + self.choices["qk_rope_head_dim"]
            return [{"n_heads": n, "n_kv_heads": n, "head_dim": head_dim} for n in self.axes["n_heads"]]
        names = [name for name in ("head_dim", "n_heads", "kv_groups", "n_kv_heads") if name in self.axes]
        return [dict(zip(names, v, strict=True)) for v in product(*(self.axes[name] for name in names))]


def some(*values: int, most: int = 2) -> st.SearchStrategy[list[int]]:
    """One or more of these sizes, as an axis holds them."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(sorted)


@st.composite
def of_experts(draw: st.DrawFn) -> OfExperts:
    """Any lattice of up to a few hundred small models with experts."""
    axes = {
        "n_layers": draw(some(1, 2, 3, 5, most=3)), "dim": draw(some(16, 24, 32)),
        "n_experts": draw(some(2, 4, 6, 7)), "n_experts_per_token": draw(some(1, 2, 3)),
    }  # fmt: skip
    choices = draw(_choices)
    axes["n_shared_experts"] = draw(some(1, 2) if "shared_expert_gate" in choices else some(0, 1, 2))
    if draw(st.booleans()):
        choices = choices | draw(_LATENTS)
        axes["n_heads"] = draw(some(1, 2, 3, 6))
    else:
        axes["head_dim"] = draw(some(4, 8))
        axes[draw(st.sampled_from(("kv_groups", "n_kv_heads")))] = draw(some(1, 2))
        if draw(st.booleans()):
            axes["n_heads"] = draw(some(2, 3, 4))
    ratio, text = draw(ratios)
    multiple = draw(st.sampled_from((6, 8)))
    if draw(st.booleans()):
        axes["expert_intermediate_size"] = draw(some(8, 16, 17, 24, 40, most=3))
        ratio = ratio if draw(st.booleans()) else None
    if draw(st.booleans()) and choices.keys() & {"n_first_dense", "moe_pattern"}:
        axes["intermediate_size"] = draw(some(20, 48, 96))
    return OfExperts(axes, choices, ratio, text, multiple)


_LAYERS = st.sampled_from((
    {}, {"n_first_dense": 1}, {"n_first_dense": 2}, {"moe_pattern": ("dense", "experts")},
    {"n_first_dense": 1, "moe_pattern": ("experts", "dense", "experts")},
))  # fmt: skip
_SHARED = st.sampled_from((
    {}, {}, {"shared_expert_gate": True}, {"shared_expert_gate": True, "shared_intermediate_size": 20},
))  # fmt: skip
_GROUPS = st.sampled_from(({}, {}, {"n_expert_groups": 2}, {"n_expert_groups": 2, "n_groups_per_token": 2}))
_EXPERT_BIASES = st.sampled_from(({}, {"expert_bias": True, "router_bias": True}, {"ffn_bias": True}))
_LATENTS = st.sampled_from((
    {"kv_lora_rank": 12, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 6},
    {"kv_lora_rank": 8, "q_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8},
))  # fmt: skip
_choices = st.builds(
    lambda *parts, **others: {key: value for part in parts for key, value in part.items()} | others,
    _LAYERS, _SHARED, _GROUPS, _EXPERT_BIASES,
    vocab_size=st.integers(2, 300), tied=st.booleans(), gated=st.booleans(), fused_experts=st.booleans(),
)  # fmt: skip
