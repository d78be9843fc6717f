"""Mixture of experts: published counts, the choice of experts, and what their weights do."""

import math

import pytest
import torch
from support.published_counts import PUBLISHED, Published
from support.tiny_model import SMALL, built, random_tokens

import parambudget as pb
from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.nn.mlp import router_scores, select_experts
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import verify, verify_module

EXPERTS = SMALL.replace(n_experts=6, n_experts_per_token=2, expert_intermediate_size=20)
OF_8 = {"n_experts": 8, "n_experts_per_token": 2}
LOGITS = torch.tensor([[2.0, -1.0, 1.0, 0.0, 0.5, 0.4]])


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_the_counts_are_the_published_ones(row: Published):
    counted = pb.count(row.model)
    assert (counted.total, counted.active) == (row.total, row.active)
    assert counted.by_component["router"] == row.router


@pytest.mark.parametrize("name", ["mixtral-8x7b-v0.1", "glm-4.5-air"])
def test_a_published_model_is_built_as_counted(name: str):
    assert verify(PUBLISHED[name].model.replace(fused_experts=True)).differences == ()


def by_hand(**choices: object) -> tuple[list[int], list[float]]:
    """The experts of one token, the best first, and their weights."""
    moe = EXPERTS.replace(**choices).moe
    weights, chosen = select_experts(router_scores(LOGITS, moe), None, moe)
    order = weights[0].argsort(descending=True)
    return chosen[0, order].tolist(), weights[0, order].tolist()


def test_the_weights_are_the_softmax_over_the_chosen_or_their_share_of_all():
    exp = [math.exp(logit) for logit in LOGITS[0]]
    assert by_hand()[0] == [0, 2]
    assert by_hand()[1] == pytest.approx([exp[0] / (exp[0] + exp[2]), exp[2] / (exp[0] + exp[2])])
    assert by_hand(norm_expert_weights=False)[1] == pytest.approx([exp[0] / sum(exp), exp[2] / sum(exp)])


def test_sigmoid_scores_are_each_experts_own():
    chosen, weights = by_hand(router_scores="sigmoid", norm_expert_weights=False, routing_multiplier=2.5)
    assert chosen == [0, 2]
    assert weights == pytest.approx([2.5 / (1 + math.exp(-LOGITS[0, i])) for i in chosen])


def test_experts_come_from_the_best_groups_alone():
    # Of (0, 1), (2, 3), (4, 5) the best expert is in the first group, the best pair (by sigmoid) the second.
    grouped = dict(n_expert_groups=3, n_groups_per_token=1)
    assert sorted(by_hand(**grouped)[0]) == [0, 1]
    assert sorted(by_hand(router_scores="sigmoid", **grouped)[0]) == [2, 3]


def test_a_correction_changes_the_choice_and_not_the_weights():
    moe = EXPERTS.replace(correction_bias=True, norm_expert_weights=False).moe
    correction = torch.tensor([0.0, 5.0, 0.0, 0.0, 5.0, 0.0])
    weights, chosen = select_experts(router_scores(LOGITS, moe), correction, moe)
    assert sorted(chosen[0].tolist()) == [1, 4]
    torch.testing.assert_close(weights, LOGITS.softmax(-1).gather(-1, chosen))


def test_a_correction_is_no_parameter_and_is_saved_with_the_weights():
    module = built(EXPERTS.replace(correction_bias=True))
    assert "layers.0.ffn.correction" in module.state_dict()
    assert "layers.0.ffn.correction" not in dict(module.named_parameters())


def test_with_every_expert_chosen_and_equal_the_layer_is_the_dense_one():
    width = EXPERTS.moe.expert_intermediate_size
    dense = built(SMALL.replace(intermediate_size=width))
    experts = built(EXPERTS.replace(n_experts_per_token=6))
    weights = dense.state_dict()
    for name in list(weights):
        if ".ffn." in name:
            layer, own = name.split(".ffn.")
            weights |= {f"{layer}.ffn.experts.{i}.{own}": weights[name] for i in range(6)}
            del weights[name]
    routers = {name: weight for name, weight in experts.state_dict().items() if "router" in name}
    experts.load_state_dict(weights | routers)
    tokens = random_tokens(SMALL)
    torch.testing.assert_close(experts(tokens), dense(tokens))


@pytest.mark.parametrize("bias", [True, False])
def test_fused_experts_compute_what_single_ones_do(bias: bool):
    model = EXPERTS.replace(expert_bias=bias, n_shared_experts=1)
    single, fused = built(model), built(model.replace(fused_experts=True))
    weights = fused.state_dict()
    for name in weights:
        if ".experts." in name:
            before, own = name.split(".experts.")
            weights[name] = torch.stack(
                [single.state_dict()[f"{before}.experts.{i}.{own}"] for i in range(6)]
            )
        else:
            weights[name] = single.state_dict()[name]
    fused.load_state_dict(weights)
    tokens = random_tokens(SMALL)
    torch.testing.assert_close(fused(tokens), single(tokens))


def test_a_gate_scales_what_the_shared_experts_answer():
    model = EXPERTS.replace(n_shared_experts=1, shared_expert_gate=True)
    module, x = built(model).layers[0].ffn, torch.randn(1, 3, SMALL.dim)
    module.shared_gate.weight.data.zero_()
    gated, _ = module(x)
    module.shared_gate = None
    shared = module.shared(x)
    whole, _ = module(x)
    torch.testing.assert_close(whole - gated, shared / 2)


def test_verify_names_an_expert_that_is_missing_and_layers_without_experts():
    model = EXPERTS.replace(n_first_dense=1)
    module = Transformer(model, device="meta")
    module.layers[1].ffn.experts[4].up = None
    first = verify_module(module, model).differences[0]
    assert str(first).startswith("layers.*.ffn.experts.*.up.weight: the table has 6 tensors of 20 × 32, the ")
    assert first.module == "none in layer 1.4"
    sparse = model.replace(n_first_dense=0)
    assert verify_module(Transformer(model, device="meta"), sparse).differences[0].module == "none in layer 0"


def test_an_expert_without_tokens_gets_a_gradient_of_zero():
    module = built(EXPERTS.replace(n_layers=1))
    module(torch.zeros(1, 1, dtype=torch.long)).sum().backward()
    sizes = [expert.up.weight.grad.abs().sum().item() for expert in module.layers[0].ffn.experts]
    assert sum(size > 0 for size in sizes) == 2


def test_compiled_the_experts_compute_the_same():
    torch.compiler.reset()
    module, tokens = built(EXPERTS), random_tokens(EXPERTS)
    compiled = torch.compile(module, backend="eager")
    # With gradients dynamo warns of a tensor that it looks at behind a break; here warnings are errors.
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), module(tokens))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n_experts": 8}, "n_experts_per_token is missing (routed experts per token); give it"),
        ({**OF_8, "n_experts": -8}, "n_experts is -8; it must be greater than or equal to 1"),
        ({**OF_8, "n_experts_per_token": 9}, "n_experts_per_token=9 is more than n_experts=8; give "),
        ({**OF_8, "n_first_dense": 4}, "no layer of n_layers=4 has experts "),
        ({**OF_8, "n_expert_groups": 3}, "n_expert_groups=3 does not divide "),
        ({**OF_8, "n_groups_per_token": 2}, "n_groups_per_token=2 of n_expe"),
        ({**OF_8, "n_experts_per_token": 5, "n_expert_groups": 2}, "n_groups_per_token=1 of n_expert_"),
        ({**OF_8, "shared_expert_gate": True}, "shared_expert_gate needs sha"),
        ({**OF_8, "shared_intermediate_size": 3}, "shared_intermediate_size "),
        ({**OF_8, "moe_pattern": ["moe"]}, "moe_pattern is 'moe'; it must be "),
        ({**OF_8, "moe_pattern": []}, "moe_pattern is []; it must be one word"),
        ({"moe": {"n_expert": 8}}, "unknown field 'moe.n_expert'; did you mean 'n_experts'?"),
        ({"moe": 8}, "moe is 8; it must be a valid dictionary"),
        ({"n_expert": 8}, "unknown field 'n_expert'; did you mean 'n_experts'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError) as caught:
        pb.model(dim=64, n_layers=4, **fields)
    assert str(caught.value).startswith(says)


def test_a_block_and_its_own_fields_are_the_same_model():
    fields = dict(n_experts=4, n_experts_per_token=1, expert_intermediate_size=96)
    model = pb.model(dim=64, n_layers=2, **fields)
    assert model == pb.model(dim=64, n_layers=2, moe=fields) == pb.model(dim=64, n_layers=2, moe=model.moe)
    assert model == pb.model(dim=64, n_layers=2, moe=fields | {"n_experts": 9}, n_experts=4)
    assert isinstance(model.replace(n_experts=8), ModelConfig)
    assert model.replace(n_experts=8).moe.n_experts == 8
    assert model.replace(moe=None).moe is None


def test_an_expert_takes_the_width_that_is_given_and_a_dense_layer_that_of_what_a_token_meets():
    said = dict(dim=64, n_layers=3, n_experts=8, n_experts_per_token=2, n_shared_experts=1, n_first_dense=1)
    assert pb.model(**said, intermediate_size=100).moe.expert_intermediate_size == 100
    assert pb.model(**said, expert_intermediate_size=48).intermediate_size == 3 * 48
