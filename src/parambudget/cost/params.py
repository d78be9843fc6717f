"""How many parameters: sums over the table of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import TypedDict

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig, ModelDocument
from parambudget.arch.dims import Dims, Size
from parambudget.arch.table import COMPONENTS, Component, Tensor
from parambudget.arch.tensors import tensors

OUTSIDE_BODY: Final = frozenset({"token_embedding", "position_embedding", "lm_head"})


class ParameterCountDocument(TypedDict):
    """The exact parameters of a model. The output is accepted wherever a config file is."""

    model: ModelDocument
    total: int
    """Unique learned parameters: a tied head once, no buffers."""
    body: int
    """Total without token and position embeddings and the output head with its bias."""
    active: int
    """Parameters used per token: the total, embeddings counted fully, without the experts that a token
    skips."""
    components: dict[Component, int]
    """Parameters by component; they sum to the total."""


class FormulaDocument(TypedDict):
    """The closed formula of a parameter count."""

    total: str
    """The whole formula on one line, in SymPy's notation."""
    components: dict[Component, str]
    """The factored formula of each component that has parameters."""
    legend: dict[str, str]
    """The field of the model that each letter stands for."""
    latex: str
    """One display equation, every component under its brace."""


@dataclass(frozen=True, repr=False)
class ParameterCount(Tabular):
    """The parameters of one model, by component and tensor. Counts are exact ints."""

    model: ModelConfig
    tensors: tuple[Tensor, ...]
    total: int
    """Unique learned parameters: a tied head once, no buffers."""
    body: int
    """Total without token and position embeddings and the output head with its bias."""
    active: int
    """Parameters used per token: the total, embeddings counted fully, without the experts that a token
    skips."""
    by_component: Mapping[Component, int]
    """Sums to the total; every model has the same keys, and one with other mixers than attention `mixer`
    too."""

    def rows(self) -> list[dict[str, Any]]:
        """One dict per component that has parameters, and the total."""
        rows: list[dict[str, Any]] = [
            {"component": name, "parameters": count, "share": count / self.total}
            for name, count in self.by_component.items()
            if count
        ]
        return [*rows, {"component": "total", "parameters": self.total, "share": 1.0}]

    def as_dict(self) -> ParameterCountDocument:
        """Plain JSON values; a file of this is accepted wherever a config file is."""
        return {
            "model": self.model.model_dump(),
            "total": self.total,
            "body": self.body,
            "active": self.active,
            "components": dict(self.by_component),
        }


def count(model: ModelConfig) -> ParameterCount:
    """The exact parameter count of a model, with its breakdown. Needs no torch; `nn.verify` checks it against
    a module."""
    rows = tuple(tensors(model))
    names = COMPONENTS if model.n_mixer_layers else (name for name in COMPONENTS if name != "mixer")
    components: dict[Component, int] = dict.fromkeys(names, 0)
    for row in rows:
        if row.parameters or row.component in components:
            components[row.component] += row.parameters
    whole = sum(components.values())
    return ParameterCount(
        model, rows, total=whole, body=body(model), active=active(model),
        by_component=components,
    )  # fmt: skip


def total(m: Dims) -> Size:
    """Unique learned parameters of `m`; an array or an expression where its sizes are."""
    return sum(row.parameters for row in tensors(m))


def active(m: Dims) -> Size:
    """Parameters used per token: the total, embeddings counted fully, without the experts that a token
    skips."""
    return sum(row.active for row in tensors(m))


def body(m: Dims) -> Size:
    """Parameters without token and position embeddings and the output head with its bias: the N of most
    scaling laws."""
    return sum(row.parameters for row in tensors(m) if row.component not in OUTSIDE_BODY)


def active_body(m: Dims) -> Size:
    """Parameters of the body that are used per token."""
    return sum(row.active for row in tensors(m) if row.component not in OUTSIDE_BODY)
