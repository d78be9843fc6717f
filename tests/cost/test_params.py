"""The count and its breakdown: the planning note's figures, the sums, the FLOPs read from the same table."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.strategies import models

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.arch.sizes import with_sizes
from parambudget.arch.table import COMPONENTS
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import matmul_parameters
from parambudget.cost.params import active, body, total

# The planning note's models, instantiated: gated, RMSNorm, tied, vocabulary 50,257.
NOTE = {
    "current": ((1024, 24, 16, 4096), 454_166_528),
    "narrower": ((896, 24, 14, 3584), 353_355_520),
    "shallower": ((1024, 18, 16, 4096), 353_490_944),
    "balanced": ((960, 20, 15, 3840), 343_198_080),
}

OF_EVERY_MODEL = tuple(name for name in COMPONENTS if name != "mixer")


@pytest.mark.parametrize("name", NOTE)
def test_the_planning_notes_models_have_their_true_counts(name: str):
    (dim, n_layers, n_heads, width), exact = NOTE[name]
    counted = pb.count(dim=dim, n_layers=n_layers, n_heads=n_heads, intermediate_size=width)
    assert counted.total == exact


def test_the_body_is_the_total_less_tables_and_head():
    counted = pb.count(dim=896, n_layers=24, n_heads=14, intermediate_size=3584, tied=False)
    assert counted.total - counted.body == 2 * 50257 * 896
    learned = pb.count("gpt2")
    assert learned.total - learned.body == (50257 + 1024) * 768


@given(models())
def test_the_components_sum_to_the_total(model: ModelConfig):
    counted = pb.count(model)
    assert tuple(counted.by_component) == OF_EVERY_MODEL
    assert sum(counted.by_component.values()) == counted.total == total(model)
    assert counted.body == body(model)
    assert counted.active == active(model)


@given(models())
def test_a_token_meets_everything_but_the_experts_not_chosen(model: ModelConfig):
    counted = pb.count(model)
    routed = sum(row.parameters for row in tensors(model) if ".experts." in row.name)
    if model.moe is None:
        assert counted.active == counted.total
    else:
        idle = model.moe.n_experts - model.moe.n_experts_per_token
        assert (counted.total - counted.active) * model.moe.n_experts == routed * idle


@given(models(), st.integers(0, 10**4), st.integers(0, 10**4))
def test_the_count_is_outside_plus_that_of_each_kind_of_layer(
    model: ModelConfig, dense: int, with_experts: int
):
    def at(dense: int, with_experts: int) -> int:
        kinds = {"n_dense_layers": dense, "n_moe_layers": with_experts}
        return int(total(with_sizes(model, n_layers=dense + with_experts, **kinds)))

    # Layers that share an indexer are a kind of their own; the search's tests have all kinds.
    assume(model.indexer is None or set(model.indexer.indexer_pattern) == {"own"})
    of_dense, of_experts = at(1, 0) - at(0, 0), at(0, 1) - at(0, 0)
    assert at(dense, with_experts) == at(0, 0) + dense * of_dense + with_experts * of_experts


@given(models(), st.integers(1, 60))
def test_layers_of_each_kind_are_those_that_are_built_so(model: ModelConfig, n_layers: int):
    deep = model.replace(n_layers=model.n_layers + n_layers)
    assert deep.n_moe_layers == sum(deep.has_experts(layer) for layer in range(deep.n_layers))
    assert deep.n_dense_layers == deep.n_layers - deep.n_moe_layers


@given(models(uniform=True), st.integers(1, 10**6))
def test_the_count_is_affine_in_the_ffn_width_and_in_the_depth(model: ModelConfig, size: int):
    def at(**sizes: int) -> int:
        return int(total(with_sizes(model, **sizes)))

    width = at(intermediate_size=1) - at(intermediate_size=0)
    assert at(intermediate_size=size) == at(intermediate_size=0) + size * width
    layer = at(n_layers=1) - at(n_layers=0)
    assert at(n_layers=size) == at(n_layers=0) + size * layer


def test_a_tied_head_is_no_parameter_and_still_a_matmul():
    tied, untied = (pb.model("gpt2", tied=tied) for tied in (True, False))
    assert total(untied) - total(tied) == 50257 * 768
    assert matmul_parameters(untied) == matmul_parameters(tied)


def test_the_rows_show_each_component_that_has_parameters_and_the_total():
    rows = pb.count("gpt2").rows()
    assert [row["component"] for row in rows] == [
        "token_embedding", "position_embedding", "attention", "ffn", "norm", "total",
    ]  # fmt: skip
    assert rows[-1] == {"component": "total", "parameters": 124_439_808, "share": 1.0}
    assert sum(row["share"] for row in rows[:-1]) == pytest.approx(1)


def test_the_json_of_a_count_holds_model_counts_and_all_components():
    written = pb.count("gpt2").as_dict()
    assert ModelConfig(**written["model"]) == pb.preset("gpt2")
    assert (written["total"], written["active"]) == (124_439_808, 124_439_808)
    assert tuple(written["components"]) == OF_EVERY_MODEL


def test_a_model_itself_a_preset_and_fields_are_all_counted():
    model = pb.preset("gpt2")
    assert pb.count(model) == pb.count("gpt2")
    assert pb.count(model, n_layers=6).model.n_layers == 6
    assert pb.model(model) is model
