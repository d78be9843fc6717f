import re
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest
import sympy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.strategies import hybrids, models
from torch import nn

from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import sizes_of, with_sizes
from parambudget.arch.table import COMPONENTS
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import active, body, count, total
from parambudget.errors import CheckFailed
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import Verification, verify, verify_module

# No deadline: building a module takes milliseconds that depend on what else the machine does.
hundreds = settings(max_examples=300, deadline=None)
a_hundred = settings(max_examples=100, deadline=None)

READINGS = st.sampled_from([total, body, active, flops_per_token])
SMALL = ModelConfig(
    dim=32, n_layers=10, n_heads=4, n_kv_heads=2, head_dim=8, intermediate_size=48,
    vocab_size=50, context_length=16,
)  # fmt: skip


def counted_tensors(model):
    """The parameters of the module, and the corrections of its routers where the classes count them."""
    module = Transformer(model, device="meta")
    yield from module.named_parameters()
    if model.moe and model.moe.correction_counted:
        yield from ((name, one) for name, one in module.named_buffers() if name.endswith(".correction"))


@hundreds
@given(models(rare=True) | hybrids())
def test_every_tensor_of_the_built_model_is_in_the_table(model):
    built = Counter(
        (re.sub(r"\.\d+\.", ".*.", name), tuple(tensor.shape)) for name, tensor in counted_tensors(model)
    )
    expected = Counter()
    for row in tensors(model):
        if row.shared_with is None:
            expected[row.name, row.shape] += row.copies
    assert built == +expected


@a_hundred
@given(models(rare=True) | hybrids())
def test_the_count_is_the_number_of_parameters_of_the_built_model(model):
    assert sum(tensor.numel() for _, tensor in counted_tensors(model)) == count(model).total


@hundreds
@given(models(rare=True) | hybrids())
def test_verify_finds_no_difference_in_any_architecture(model):
    assert verify(model).differences == ()


def test_a_verification_states_how_much_was_compared():
    assert verify(SMALL) == Verification(SMALL, n_tensors=92, total=count(SMALL).total, differences=())


def test_a_model_of_70_billion_parameters_is_verified_on_this_machine():
    llama = ModelConfig(
        dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, head_dim=128, intermediate_size=28672,
        vocab_size=128256, tied=False,
    )  # fmt: skip
    assert verify(llama).total == 70_553_706_496


def delete_a_gate(module: Transformer) -> None:
    module.layers[3].ffn.gate = None


def narrow_a_matrix(module: Transformer) -> None:
    module.layers[3].ffn.up = nn.Linear(32, 47, bias=False)


def add_a_bias(module: Transformer) -> None:
    module.layers[3].ffn.up.bias = nn.Parameter(torch.zeros(48))


def untie_the_head(module: Transformer) -> None:
    module.lm_head.weight = nn.Parameter(torch.zeros(50, 32))


def drop_the_last_layers(module: Transformer) -> None:
    module.layers = module.layers[:8]


def repeat_a_layer(module: Transformer) -> None:
    module.layers.append(nn.ModuleDict({"attention_norm": nn.RMSNorm(32)}))


def share_a_matrix_between_layers(module: Transformer) -> None:
    module.layers[4].attention.q.weight = module.layers[2].attention.q.weight


def leave_out_the_final_norm(module: Transformer) -> None:
    module.norm = nn.Identity()


@pytest.mark.parametrize(
    ("damage", "name", "table", "built"),
    [
        (delete_a_gate, "layers.*.ffn.gate.weight", "10 tensors of 48 × 32", "none in layer 3"),
        (narrow_a_matrix, "layers.*.ffn.up.weight", "48 × 32", "47 × 32 in layer 3"),
        (add_a_bias, "layers.*.ffn.up.bias", "none", "1 tensor of 48 in layer 3"),
        (untie_the_head, "lm_head.weight", "embed.weight itself", "a tensor of its own"),
        (drop_the_last_layers, "layers.*.attention.q.weight", "10 tensors of 32 × 32", "none in layers 8, 9"),
        (repeat_a_layer, "layers.*.attention_norm.weight", "10 tensors of 32", "more in layer 10"),
        (
            share_a_matrix_between_layers,
            "layers.*.attention.q.weight",
            "a tensor of its own",
            "layers.2.attention.q.weight itself in layer 4",
        ),
        (leave_out_the_final_norm, "norm.weight", "1 tensor of 32", "none"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, Callable) else "",
)
def test_a_damaged_module_is_named_with_both_sides(damage, name, table, built):
    module = Transformer(SMALL)
    damage(module)
    assert astuple(verify_module(module, SMALL).differences[0]) == (name, table, built)


def test_a_wrong_total_is_the_last_difference():
    module = Transformer(SMALL)
    delete_a_gate(module)
    last = verify_module(module, SMALL).differences[-1]
    assert str(last) == "total: the table has 79,072 parameters, the module has 77,536"


def test_a_head_that_should_be_untied_and_is_not_is_named():
    untied = SMALL.replace(tied=False)
    module = Transformer(untied)
    module.lm_head.weight = module.embed.weight
    assert astuple(verify_module(module, untied).differences[0]) == (
        "lm_head.weight", "a tensor of its own", "embed.weight itself"
    )  # fmt: skip


def test_a_tensor_missing_from_every_layer_is_one_difference():
    gated, plain = SMALL, SMALL.replace(gated=False)
    first = verify_module(Transformer(plain), gated).differences[0]
    assert str(first) == "layers.*.ffn.gate.weight: the table has 10 tensors of 48 × 32, the module has none"


def test_many_damaged_layers_are_listed_in_short():
    difference = verify_module(Transformer(SMALL.replace(n_layers=1)), SMALL).differences[0]
    assert difference.module == "none in layers 1, 2, 3, 4, 5, 6 and 3 more"


def test_a_module_that_is_not_the_model_is_refused_in_one_line():
    verification = verify_module(Transformer(SMALL.replace(intermediate_size=47)), SMALL)
    with pytest.raises(CheckFailed, match=r"^the built model differs from the count: .* \(and 3 more\)$"):
        verification.require_agreement()


def test_a_module_that_is_the_model_is_not_refused():
    verify(SMALL).require_agreement()


def size_columns(draw: st.DrawFn, model: ModelConfig) -> dict[str, list[int]]:
    """Some values for every size: sizes as they come, not only those that make a valid model."""
    n, derived = draw(st.integers(1, 5)), draw(st.booleans())
    names = [name for name in sizes_of(model) if not (derived and name in ("n_dense_layers", "n_moe_layers"))]
    return {name: draw(st.lists(st.integers(0, 3000), min_size=n, max_size=n)) for name in names}


@hundreds
@given(models(), st.data(), READINGS)
def test_a_count_over_arrays_is_the_count_of_every_element(model, data, reading):
    columns = size_columns(data.draw, model)
    at_once = reading(with_sizes(model, **{name: np.array(column) for name, column in columns.items()}))
    one_by_one = [
        reading(with_sizes(model, **dict(zip(columns, row, strict=True))))
        for row in zip(*columns.values(), strict=True)
    ]
    assert at_once.tolist() == one_by_one


LEADING = SMALL.replace(
    window=4, window_pattern=("local", "global"), n_experts=4, n_experts_per_token=2,
    expert_intermediate_size=16, n_first_dense=2,
)  # fmt: skip


@a_hundred
@given(models(rare=True) | hybrids())
@example(LEADING)
def test_the_formula_with_numbers_put_in_is_the_count_of_every_component(model):
    symbols = {name: sympy.Symbol(name) for name in sizes_of(model)}
    numbers = {symbol: sizes_of(model)[name] for name, symbol in symbols.items()}
    formulas = dict.fromkeys(COMPONENTS, sympy.Integer(0))
    for row in tensors(with_sizes(model, **symbols)):
        formulas[row.component] += row.parameters
    counted = count(model).by_component
    assert {name: formula.subs(numbers) for name, formula in formulas.items()} == {"mixer": 0} | counted


@hundreds
@given(models(), st.integers(1, 10**5), READINGS)
def test_the_count_is_affine_in_intermediate_size(model, size, reading):
    def at(intermediate_size: int) -> int:
        return reading(with_sizes(model, intermediate_size=intermediate_size))

    assert at(size) == at(0) + size * (at(1) - at(0))


@hundreds
@given(models(uniform=True), st.integers(1, 10**3), st.integers(1, 10**5), READINGS)
def test_the_count_is_outside_plus_layers_times_an_affine_function_of_the_width(model, layers, size, reading):
    def at(n_layers: int, intermediate_size: int) -> int:
        return reading(with_sizes(model, n_layers=n_layers, intermediate_size=intermediate_size))

    outside = at(0, 0)
    per_layer, per_width = at(1, 0) - outside, at(1, 1) - at(1, 0)
    assert at(layers, size) == outside + layers * (per_layer + size * per_width)
