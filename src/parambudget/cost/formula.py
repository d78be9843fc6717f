"""The closed formula of a model's parameter count, factored per component: as text and LaTeX, rendered in a
notebook.

It is the table of tensors evaluated on symbols, so there is no second formula to keep in step.
"""

from dataclasses import dataclass
from typing import Any, Final

import sympy

from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import sizes_of, with_sizes
from parambudget.arch.tensors import COMPONENTS, Component, tensors

SYMBOLS: Final = {
    "vocab_size": "V", "context_length": "s", "dim": "d", "n_layers": "L", "n_heads": "H", "n_kv_heads": "K",
    "head_dim": "h", "intermediate_size": "f", "embedding_dim": "d_v",
    "n_dense_layers": "L_f", "n_moe_layers": "L_e",
    "n_experts": "E", "n_experts_per_token": "E_t", "expert_intermediate_size": "e",
    "shared_intermediate_size": "e_s", "kv_lora_rank": "r_kv", "q_lora_rank": "r_q",
    "qk_nope_head_dim": "h_n", "qk_rope_head_dim": "h_r", "v_head_dim": "h_v",
}  # fmt: skip
"""Field to letter. The symbols are positive integers, so that sympy may factor freely."""


@dataclass(frozen=True)
class Formula:
    """The parameters of every model with these choices, in terms of its sizes."""

    components: dict[Component, sympy.Expr]
    """Factored; only those that have parameters."""
    sizes: dict[str, int]
    """The sizes of the model that the formula describes, by field."""

    @property
    def total(self) -> sympy.Expr:
        """The sum of the components, each factored."""
        return sympy.Add(*self.components.values(), evaluate=False)

    @property
    def legend(self) -> dict[str, str]:
        """Letter to field, for the letters that occur."""
        letters = {str(symbol) for symbol in self.total.free_symbols}
        return {letter: name for name, letter in SYMBOLS.items() if letter in letters}

    def evaluate(self, **sizes: int) -> int:
        """The count for these sizes; those that are not given are the model's."""
        numbers = {_symbol(name): value for name, value in (self.sizes | sizes).items()}
        return int(sum(expression.subs(numbers) for expression in self.components.values()))

    def latex(self) -> str:
        """One display equation, every component under its brace."""
        terms = (
            rf"\underbrace{{{sympy.latex(expression)}}}_{{\text{{{name.replace('_', ' ')}}}}}"
            for name, expression in self.components.items()
        )
        return "N = " + " + ".join(terms)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        components = {name: str(expression) for name, expression in self.components.items()}
        return {"total": str(self), "components": components, "legend": self.legend, "latex": self.latex()}

    def __str__(self) -> str:
        """The formula on one line."""
        return " + ".join(str(expression) for expression in self.components.values())

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"


def formula(model: ModelConfig) -> Formula:
    """The closed formula of the parameter count for the choices of `model`, with its sizes as symbols."""
    sizes = sizes_of(model)
    m = with_sizes(model, **{name: _symbol(name) for name in sizes})
    sums: dict[Component, sympy.Expr] = dict.fromkeys(COMPONENTS, sympy.Integer(0))
    for row in tensors(m):
        sums[row.component] += row.parameters
    components = {name: sympy.factor(expression) for name, expression in sums.items() if expression != 0}
    return Formula(components, sizes)


def _symbol(field: str) -> sympy.Symbol:
    return sympy.Symbol(SYMBOLS[field], integer=True, positive=True)
