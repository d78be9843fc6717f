"""Which small runs a ladder has: within their share, of one family, and only where they tell something."""

import json
from itertools import pairwise

import pytest
from jsonschema import Draft202012Validator
from support.training_data import write_text

import parambudget as pb
from parambudget.arch.config import flat_fields
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.cli.schema import command_schema
from parambudget.errors import InputError, NoSolution
from parambudget.ladders.design import LadderRequest, Target, choose_rungs, embedding_share, simulate
from parambudget.ladders.ladder_plan import choose_target, design_ladder
from parambudget.planning.budget import Scenario
from parambudget.scaling.hyperparameters import law_update_tokens

MODEL = pb.model(dim=128, n_layers=4, n_heads=2, intermediate_size=512, vocab_size=512, context_length=256)
TARGET = Target(MODEL, 4_500_000, 5_600_000)
REQUEST = LadderRequest(share=1.3, ratios=(5, 15))


@pytest.fixture(scope="module")
def rungs():
    return choose_rungs(TARGET, REQUEST, on_cpu=True)


def test_the_rungs_cost_no_more_than_their_share(rungs):
    assert 0.5 * 1.3 < sum(rung.flops for rung in rungs) / TARGET.flops <= 1.3


def test_the_rungs_are_of_one_family_and_no_table_of_embeddings(rungs):
    assert {(r.model.vocab_size, r.model.context_length, r.model.tied) for r in rungs} == {(512, 256, True)}
    assert max(embedding_share(rung.model) for rung in rungs) <= 2 / 3
    assert len({rung.model for rung in rungs}) == 5


def test_one_seed_of_all_comes_before_the_second_of_any_and_the_largest_has_one(rungs):
    assert [rung.config.seed for rung in rungs] == [0] * 10 + [1] * 8
    first = [rung.flops for rung in rungs[:10]]
    assert first == sorted(first)
    assert len({rung.name for rung in rungs}) == 18


def test_every_rung_is_evaluated_once_on_the_same_tokens(rungs):
    assert {rung.config.eval_tokens for rung in rungs} == {2**18}
    assert all(rung.config.eval_every == rung.config.steps for rung in rungs)


def test_the_interval_is_wider_without_any_of_the_largest_runs(rungs):
    found = simulate(TARGET, rungs)
    largest = max(rung.n_parameters for rung in rungs)
    assert min(width for (n, _), width in found.without.items() if n == largest) > found.width
    assert 0.01 < found.width < found.neighbours < 0.5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"share": 0.0}, "`share=0` is not a share"),
        ({"n_sizes": 2}, "`sizes=2` is too few"),
        ({"n_seeds": 0}, "`seeds=0` is not"),
        ({"ratios": (5, 6)}, "`ratios=5,6` are no tokens per parameter that tell size from text"),
    ],
)
def test_an_impossible_design_says_what_to_use(changes, problem):
    with pytest.raises(InputError, match=problem):
        LadderRequest(**changes)


def test_a_share_that_buys_no_ladder_is_refused():
    with pytest.raises(NoSolution, match=r"too little for a ladder: .* give a larger `share`"):
        choose_rungs(TARGET, LadderRequest(share=0.01), on_cpu=True)


def test_a_ladder_that_could_not_tell_neighbouring_sizes_apart_is_refused():
    large = pb.model(dim=1024, n_layers=24, n_heads=16, vocab_size=512, context_length=256)
    few = LadderRequest(share=1e-4, n_sizes=3, n_seeds=1)
    with pytest.raises(InputError, match=r"could not tell them apart; give a larger `share` or more `seeds`"):
        design_ladder(Target(large, 2 * 10**10, 2 * 10**10), few, None, data=None, source=None)


def test_a_target_that_reads_its_text_often_is_warned_of():
    assert Target(MODEL, 4_000_000, 1_000_000).overfitting_warning is None
    warning = Target(MODEL, 13_500_000, 1_000_000).overfitting_warning
    assert warning is not None
    assert warning.startswith("the target reads its text 13.5 times: ")


def test_no_rung_alone_reads_its_text_again():
    target = Target(MODEL, 4_500_000, 4_600_000)
    found = choose_rungs(target, LadderRequest(share=2.0, ratios=(5, 15)), on_cpu=True)
    assert max(rung.tokens for rung in found) <= 4_600_000 + 4_096
    assert max(rung.n_parameters * 15 for rung in found) > 4_600_000


def test_rungs_are_of_the_family_of_their_target(rungs):
    for rung in rungs:
        assert rung.model.intermediate_size == 4 * rung.model.dim
        assert rung.model.kv_group == 1
        assert rung.model.n_layers >= 2
        assert rung.model.n_heads >= 2
    grouped = pb.model(
        dim=1536, n_layers=24, n_heads=12, n_kv_heads=4, intermediate_size=4096, vocab_size=32768
    )
    for rung in choose_rungs(Target(grouped, 10**10, 10**11), LadderRequest(), on_cpu=False):
        assert (rung.model.kv_group, rung.model.intermediate_size) == (3, round(rung.model.dim * 8 / 3))


def test_batches_are_as_far_from_the_law_as_the_target_s(rungs):
    share = 4_096 / law_update_tokens(MODEL, TARGET.tokens)
    for rung in rungs:
        wished = share * law_update_tokens(rung.model, rung.tokens)
        batch = rung.config.step.tokens_per_update(256)
        assert abs(batch - wished) <= max(128, wished / 7)


def test_sizes_without_an_ffn_are_as_even_as_others():
    rungs = choose_rungs(
        Target(pb.preset("mamba-370m"), 5 * 10**9, 10**11), LadderRequest(share=0.4), on_cpu=False
    )
    sizes = sorted({rung.n_parameters for rung in rungs})
    assert len(sizes) == 5
    steps = [larger / smaller for smaller, larger in pairwise(sizes)]
    assert max(steps) / min(steps) < 1.25


@pytest.mark.parametrize("name", ["mamba-1.4b", "rwkv-4-1.5b"])
def test_rungs_of_a_target_without_attention_are_of_its_family(name):
    like = pb.preset(name)
    for rung in choose_rungs(Target(like, 10**11, 10**11), LadderRequest(), on_cpu=False):
        m = rung.model
        assert (m.mixer_pattern, m.ffn_pattern) == (like.mixer_pattern, like.ffn_pattern)
        assert (m.n_heads, m.head_dim) == (1, m.dim)
        assert mixer_sizes_at(like, m.dim).items() <= flat_fields(m).items()
        if like.n_ffn_layers:
            assert m.intermediate_size == 4 * m.dim


def test_a_target_with_experts_is_refused():
    experts = pb.preset("mixtral-8x7b-v0.1")
    with pytest.raises(InputError, match="this target has experts"):
        choose_rungs(Target(experts, 10**9, 10**9), REQUEST, on_cpu=True)


def test_a_ladder_is_planned_into_a_folder_once(tmp_path):
    small = pb.model(dim=64, n_layers=2, n_heads=2, intermediate_size=160, vocab_size=300, context_length=64)
    text = write_text(tmp_path / "text", n_documents=400)
    folder = tmp_path / "ladder"
    made = pb.plan_ladder(
        target=small, tokens="1.5M", data=text, share="200%", ratios=[4, 12], sizes=3, seeds=1, out=folder
    )
    assert made.plan is not None
    assert [entry.name for entry in made.document.rungs] == [rung.name for rung in made.plan.rungs]
    config = json.loads((folder / "configs" / f"{made.plan.rungs[0].name}.json").read_text())
    assert config["model"] == made.plan.rungs[0].model.model_dump()
    document = json.loads(json.dumps(made.plan.as_dict()))
    Draft202012Validator(command_schema("ladder plan")).validate(document)
    with pytest.raises(InputError, match="holds a ladder already"):
        pb.plan_ladder(target=small, tokens="1.5M", data=text, out=folder)
    with pytest.raises(InputError, match="nothing says how long the large run is"):
        pb.plan_ladder(target=small, data=text, out=tmp_path / "other")
    with pytest.raises(InputError, match="both set the length of the target's run"):
        pb.plan_ladder(pb.Budget(flops=1e15), target=small, tokens="1.5M", data=text, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_text_with_more_tokens_in_its_vocabulary_than_the_target_is_refused(data):
    scenario = Scenario(pb.Budget(flops=1e15))
    narrow = MODEL.replace(vocab_size=data.entries - 1)
    problem = (
        f"a tokenizer of {data.entries} entries, more than the vocabulary of the target, {data.entries - 1}"
    )
    with pytest.raises(InputError, match=problem):
        choose_target(scenario, data, narrow, 10**6, {})
    target = choose_target(scenario, data, narrow.replace(vocab_size=data.entries), 10**6, {})
    assert (target.tokens, target.unique_tokens) == (10**6, data.n_unique_tokens)


def test_no_rung_is_larger_than_its_target_whatever_its_share():
    found = choose_rungs(TARGET, LadderRequest(share=10.0, n_seeds=1), on_cpu=True)
    assert max(rung.n_parameters for rung in found) == TARGET.n_parameters
    assert found[0].n_parameters < TARGET.n_parameters / 5


def test_a_target_that_is_hardly_larger_than_its_smallest_rung_is_refused():
    small = pb.model(dim=32, n_layers=1, n_heads=2, vocab_size=300, context_length=64)
    with pytest.raises(
        NoSolution, match=r"38.37K parameters is too small for a ladder: .*; train the target"
    ):
        choose_rungs(Target(small, 20_000_000, 10**8), LadderRequest(share=2.0), on_cpu=True)
