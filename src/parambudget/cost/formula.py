"""The closed formula of a model's parameter count, factored per component: as text and LaTeX, rendered in a
notebook.

It is the table of tensors evaluated on symbols, so there is no second formula to keep in step.
"""

from dataclasses import dataclass
from typing import Final

import sympy

from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import sizes_of, with_sizes
from parambudget.arch.table import COMPONENTS, Component
from parambudget.arch.tensors import tensors
from parambudget.cost.params import FormulaDocument

SYMBOLS: Final = {
    "vocab_size": "V", "context_length": "s", "dim": "d", "n_layers": "L", "n_heads": "H", "n_kv_heads": "K",
    "head_dim": "h", "intermediate_size": "f", "embedding_dim": "d_v",
    "n_dense_layers": "L_f", "n_moe_layers": "L_e",
    "n_experts": "E", "n_experts_per_token": "E_t", "expert_intermediate_size": "e",
    "shared_intermediate_size": "e_s", "expert_latent_size": "d_e",
    "kv_lora_rank": "r_kv", "q_lora_rank": "r_q",
    "n_local_layers": "L_l", "n_global_layers": "L_g", "n_kv_shared_local_layers": "S_l",
    "n_kv_shared_global_layers": "S_g", "global_head_dim": "h_g", "global_n_kv_heads": "K_g",
    "per_layer_embedding_dim": "p", "per_layer_vocab_size": "V_p", "n_altup_streams": "a",
    "laurel_rank": "r_l", "global_n_heads": "H_g", "value_head_dim": "h_w",
    "n_attention_layers": "L_a", "n_mixer_layers": "L_m", "n_mixing_layers": "L_x", "n_ffn_layers": "L_n",
    "delta_n_key_heads": "H_k", "delta_n_value_heads": "H_v", "delta_key_dim": "h_k",
    "delta_value_dim": "h_d", "delta_conv_width": "c", "delta_gate_rank": "r_d",
    "short_conv_width": "c_s", "lightning_n_heads": "H_l", "lightning_head_dim": "h_l",
    "lru_n_blocks": "B_r", "lru_block_width": "w_r", "lru_conv_width": "c_r",
    "rwkv_inner_size": "A",
    "mamba_inner_size": "i", "mamba_dt_rank": "r_t", "mamba_state_dim": "n_m", "mamba_conv_width": "c_m",
    "mamba2_n_heads": "H_s", "mamba2_head_dim": "h_s", "mamba2_state_dim": "n", "mamba2_n_groups": "G",
    "mamba2_conv_width": "c_2",
    "n_block_index_heads": "H_b", "block_index_head_dim": "h_b", "n_block_indexed_layers": "L_b",
    "n_shared_blocks": "B", "shared_adapter_rank": "r_a", "gated_norm_rank": "r_g", "n_hyper_streams": "n_h",
    "n_index_heads": "H_i", "index_head_dim": "h_i", "n_indexed_layers": "L_i",
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

    def component_latex(self) -> dict[Component, str]:
        """The expression of each component."""
        return {name: sympy.latex(expression) for name, expression in self.components.items()}

    def latex(self) -> str:
        """One display equation, every component under its brace."""
        terms = (
            rf"\underbrace{{{expression}}}_{{\text{{{name.replace('_', ' ')}}}}}"
            for name, expression in self.component_latex().items()
        )
        return "N = " + " + ".join(terms)

    def as_dict(self) -> FormulaDocument:
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
