"""Small random lattices of models with experts, grouped or latent attention, each with its points by plain
enumeration: every combination that is a valid model, counted from its own table."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from hypothesis import strategies as st
from lattices import ratios

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.cost.params import active, body, total
from parambudget.errors import ConfigError
from parambudget.search.engine import Search
from parambudget.search.space import Counted, SearchSpace

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

    def search(self, target: int, counted: Counted = "total", second: int | None = None) -> Search:
        """The lattice as the package searches it."""
        space = SearchSpace.declare(target, self.fields, active=second, counted=counted)
        return Search(space, target, counted, second)

    def models(self) -> dict[tuple[int, ...], ModelConfig]:
        """Every point as a validated model."""
        found = {}
        for sizes in self._candidates():
            try:
                found[tuple(sizes[name] for name in NAMES)] = complete(self.choices | sizes).model
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
_BIASES = st.sampled_from(({}, {"expert_bias": True, "router_bias": True}, {"ffn_bias": True}))
_LATENTS = st.sampled_from((
    {"kv_lora_rank": 12, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 6},
    {"kv_lora_rank": 8, "q_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8},
))  # fmt: skip
_choices = st.builds(
    lambda *parts, **others: {key: value for part in parts for key, value in part.items()} | others,
    _LAYERS, _SHARED, _GROUPS, _BIASES,
    vocab_size=st.integers(2, 300), tied=st.booleans(), gated=st.booleans(), fused_experts=st.booleans(),
)  # fmt: skip
