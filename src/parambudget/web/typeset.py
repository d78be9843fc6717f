"""The formula of a count typeset as MathML, which browsers draw themselves."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from latex2mathml.converter import convert

from parambudget import api
from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.sizes import sizes_of


@dataclass(frozen=True)
class TypesetFormula:
    """The closed form of a count."""

    components: dict[str, str]
    """MathML of each component's parameters."""
    legend: dict[str, str]
    """MathML of each letter, by the field that it stands for."""


def known_formula(model: ModelConfig) -> TypesetFormula | None:
    """The formula of the model's choices, if it was typeset before; this takes no time."""
    return _known.get(_choices(model))


def typeset_formula(model: ModelConfig) -> TypesetFormula:
    """The formula of the model's choices, which models that differ in sizes share.

    The first of a process imports sympy and takes seconds, others tenths of one; known ones take nothing.
    """
    choices = _choices(model)
    formula = _known.get(choices)
    if formula is None:
        closed = api.formula(model)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        formula = TypesetFormula(
            {str(name): convert(latex) for name, latex in closed.component_latex().items()},
            {name: convert(_SUBSCRIPT.sub(r"_{\1}", letter)) for letter, name in closed.legend.items()},
        )
        _known[choices] = formula
    return formula  # another thread may have cleared what is known by now


_known: Final[dict[Hashable, TypesetFormula]] = {}
_MOST_KNOWN: Final = 256
_SUBSCRIPT: Final = re.compile(r"_(\w+)")


def _choices(model: ModelConfig) -> Hashable:
    """All that a formula depends on: which sizes a model has, and everything that is not a size."""
    sizes = sizes_of(model)
    return tuple(sizes), tuple(each for each in flat_fields(model).items() if each[0] not in sizes)
