"""Small random lattices for property tests, each with its points by plain enumeration."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.dims import with_sizes
from parambudget.cost.params import body, total
from parambudget.search.engine import Search
from parambudget.search.space import Counted, SearchSpace

Sizes = tuple[int, int, int, int, int, int]
"""n_layers, dim, head_dim, n_heads, n_kv_heads, intermediate_size"""


@dataclass(frozen=True)
class Declared:
    """A lattice as a user would write it, and beside it the values that are meant."""

    fields: dict[str, Any]
    choices: dict[str, Any]
    counted: Counted
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
        return complete({"dim": 8, "n_layers": 1, "head_dim": 8} | self.choices).model

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
