"""Solving for models with experts and with latent attention: two budgets, choices taken from a model, the
ways out of one, and what is handed on."""

import json
import shlex
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import parambudget as pb
from parambudget.cli.main import main
from parambudget.errors import InputError, NoSolution
from parambudget.nn.verify import verify
from parambudget.search.solutions import Solutions

EXPERTS = [
    name for name in ("olmoe-1b-7b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b", "glm-4.5-air")
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in this process that succeeds: its standard output."""

    def run_command(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["parambudget", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert end.value.code == 0, printed.err
        return printed.out

    return run_command


@pytest.fixture(scope="module")
def eight() -> Solutions:
    return pb.solve("8B", active="1B")


def test_both_counts_of_every_model_are_within_tolerance_and_exact(eight: Solutions):
    for solution in eight:
        counted = pb.count(solution.model)
        assert solution.counted == counted.total == 8_000_000_000 + solution.error
        assert solution.active == counted.active == 1_000_000_000 + solution.active_error
        assert abs(solution.error) <= 40_000_000
        assert abs(solution.active_error) <= 5_000_000


def test_the_first_answer_for_8b_of_which_1b_is_a_practitioners(eight: Solutions):
    m = eight[0].model
    assert m.moe is not None
    assert m.moe.n_experts in (32, 64, 128, 256)
    assert m.moe.n_experts_per_token in (4, 6, 8)
    assert m.head_dim == 128
    assert m.moe.expert_intermediate_size % 128 == 0


def test_no_point_is_nearer_than_the_certificate_says(eight: Solutions):
    c = eight.certificate
    closest = pb.solve("8B", active="1B", rank="closest", top=3)[0]
    shares = (Fraction(abs(closest.error), 8 * 10**9), Fraction(abs(closest.active_error), 10**9))
    assert max(shares) == c.best_error
    assert c.best_error < c.next_best_error


def test_rows_and_json_have_experts_and_both_errors(eight: Solutions):
    row = eight.rows()[0]
    assert row["n_experts"] == eight[0].model.moe.n_experts
    assert (row["active_error"], row["error"]) == (eight[0].active_error, eight[0].error)
    assert "intermediate_size" not in row
    written = json.loads(json.dumps(eight.as_dict()))
    assert written["certificate"]["active"] == 10**9
    assert 0 < written["certificate"]["best_error"] < 0.005
    assert written["solutions"][0]["active_error"] == eight[0].active_error


def test_dense_answers_have_no_columns_of_experts():
    assert not {"n_experts", "active", "active_error"} & set(
        pb.solve("350M", n_layers=24)[0:1][0].as_dict()["model"]
    )
    assert "active" not in pb.solve("350M", n_layers=24).rows()[0]
    assert "active" not in pb.solve("350M", n_layers=24).certificate.as_dict()


@pytest.mark.parametrize(
    "asked",
    [
        ["--target", "3M", "--active", "2M", "--tolerance", "2%", "--vocab-size", "1000"],
        ["--target", "8B", "--like", "deepseek-v2-lite"],
        ["--target", "5M", "--kv-lora-rank", "32", "--vocab-size", "1000", "--top", "2"],
        ["--target", "12B", "--from", "qwen1.5-moe-a2.7b"],
        ["--target", "9B", "--counted", "active", "--like", "gpt-oss-20b"],
        ["--target", "300M", "--like", "recurrentgemma-2b", "--top", "2"],
        ["--target", "300M", "--like", "recurrentgemma-2b", "--lru-n-blocks", "4", "--top", "1"],
        ["--target", "1B", "--from", "recurrentgemma-2b"],
        ["--target", "300M", "--like", "recurrentgemma-2b", "--activation", "silu", "--top", "1"],
        ["--target", "1B", "--from", "recurrentgemma-2b", "--activation", "silu"],
        ["--target", "60M", "--like", "rwkv-4-169m", "--hours", "1", "--gpu", "h100", "--top", "1"],
        ["--target", "20B", "--from", "gemma-4-31b"],
        ["--target", "3M", "--differential-attention", "--vocab-size", "4096"],
    ],
)
def test_the_printed_command_gives_the_same_answer(asked: list[str], run: Callable[..., str]):
    first = json.loads(run("solve", *asked, "--json"))
    again = run(*shlex.split(first["command"])[1:], "--json")
    assert json.loads(again) == first


def test_the_screen_shows_experts_both_errors_and_what_was_searched(run: Callable[..., str]):
    shown = run("solve", "--target", "30B", "--active", "3B").splitlines()
    assert shown[0].split()[6:12] == ["experts", "width", "ffn/dim", "total", "error", "active"]
    assert any(
        "of 30,000,000,000 total and 3,000,000,000 active; the closest is 0.0" in line for line in shown
    )
    assert run("solve", "--target", "8B", "--like", "deepseek-v2-lite").split()[8] == "dense"


@pytest.mark.parametrize("name", EXPERTS)
def test_like_keeps_all_choices_and_the_mix_and_searches_the_sizes(name: str):
    like = pb.preset(name)
    for solution in pb.solve("5B", like=name, top=3):
        m = solution.model
        sizes = {"dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "moe"}
        assert m.model_dump(exclude=sizes) == like.model_dump(exclude=sizes)
        kept = like.moe.model_dump(exclude={"expert_intermediate_size"})
        assert m.moe.model_dump(exclude={"expert_intermediate_size"}) == kept
        assert abs(pb.count(m).total - 5 * 10**9) <= 25_000_000


def test_like_with_a_second_budget_keeps_the_mix_unless_it_is_given():
    kept = pb.solve("30B", active="3.3B", like="qwen3-30b-a3b", tolerance="2%")
    assert {(s.model.moe.n_experts, s.model.moe.n_experts_per_token) for s in kept} == {(128, 8)}
    given = pb.solve("30B", active="5B", like="qwen3-30b-a3b", n_experts="32,64", tolerance="2%")
    assert {s.model.moe.n_experts for s in given} <= {32, 64}
    assert {s.model.qk_norm for s in given} == {"head"}


def test_a_dense_model_lends_its_choices_to_experts():
    found = pb.solve("8B", active="1B", like="qwen3-0.6b", tied=False)
    assert {s.model.qk_norm for s in found} == {"head"}
    assert {s.model.vocab_size for s in found} == {151936}
    assert all(s.model.moe for s in found)


def test_patterns_and_bases_of_local_layers_leave_out_the_depths_that_have_none():
    like = pb.preset("gemma-3-1b")
    found = pb.solve("500M", like=like.replace(window_pattern=("global", "global", "local")), n_layers="1:9")
    assert found.certificate.lattice["n_layers"] == "3:9"
    assert all(s.model.n_local_layers for s in found)


def test_a_mix_that_cannot_be_as_sparse_names_the_nearest_and_what_to_change():
    with pytest.raises(NoSolution) as caught:
        pb.solve("8B", active="1B", n_experts=8, n_experts_per_token=2)
    said = str(caught.value)
    assert said.startswith(
        "no model within 0.5% of 8,000,000,000 total and 1,000,000,000 active parameters; nearest is "
    )
    assert " active +" in said
    assert "more n_experts or fewer n_experts_per_token" in said
    with pytest.raises(NoSolution, match="fewer n_experts or more n_experts_per_token"):
        pb.solve("8B", active="4B", n_experts=512, n_experts_per_token=1)


def test_the_tolerance_that_is_offered_is_enough():
    with pytest.raises(NoSolution) as caught:
        pb.solve("8B", active="1B", n_experts=8, n_experts_per_token=2)
    offered = str(caught.value).split("allow tolerance ")[1].split(",")[0]
    assert len(pb.solve("8B", active="1B", n_experts=8, n_experts_per_token=2, tolerance=offered))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"active": "9B"}, "`active` is 9,000,000,000, more than the target of 8,000,000,000"),
        ({"active": "1B", "counted": "active"}, "`active` is a second target, and `counted=active` makes"),
        ({"n_experts": 0}, "n_experts is 0; sizes start at 1"),
        ({"n_shared_experts": "-1"}, "n_shared_experts is -1; sizes start at 0"),
        ({"n_experts": 8, "n_experts_per_token": 9}, "n_experts_per_token=9 is more than n_experts=8"),
        ({"active": "1B", "n_first_dense": 999}, "no layer of n_layers=77 has experts"),
        ({"active": "1B", "shared_expert_gate": True}, "shared_expert_gate needs shared experts"),
        ({"active": "1B", "intermediate_size": 99}, "`intermediate_size` is the width of dense layers, but "),
        ({"kv_lora_rank": 64, "kv_groups": 2}, "in latent attention every head has keys of its own; "),
        ({"kv_lora_rank": 64, "head_dim": 100}, "head_dim=100 is not qk_nope_head_dim + qk_rope_head_dim"),
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0; it must be greater than or equal to 1"),
        ({"kv_lora_rank": 64, "v_head_dim": "x"}, "v_head_dim is 'x'; it must be a valid integer"),
        (
            {"active": "1B", "budget": pb.Budget(hours=1), "machine": "h100", "target": None},
            "`active` is a second target in addition to the first",
        ),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_in_one_line(asked: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        pb.solve(**{"target": "8B"} | asked)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "target"), [("olmoe-1b-7b", "5B"), ("deepseek-v2-lite", "20B")])
def test_every_way_out_of_a_model_with_experts_keeps_its_mix_and_latents(name: str, target: str):
    now = pb.preset(name)
    found = pb.resize(now, target, multiple=16)
    assert len(found) == 4
    for solution in found:
        m = solution.model
        assert pb.count(m).total == solution.counted
        assert m.moe.model_dump(exclude={"expert_intermediate_size"}) == now.moe.model_dump(
            exclude={"expert_intermediate_size"}
        )
        assert (m.mla, m.head_dim, m.kv_group) == (now.mla, now.head_dim, now.kv_group)
    thin = next(s.model for s in found if s.label in ("thinner", "fatter"))
    assert (thin.n_layers, thin.dim, thin.n_heads) == (now.n_layers, now.dim, now.n_heads)
    assert thin.moe.expert_intermediate_size != now.moe.expert_intermediate_size


def test_the_ways_out_may_have_two_budgets():
    found = pb.resize("deepseek-v2-lite", "12B", active="2B")
    for solution in found:
        assert abs(solution.active_error) <= 10_000_000
    with pytest.raises(InputError, match="already within 1% of 15,700,000,000"):
        pb.resize("deepseek-v2-lite", "15.7B", active="2.66B", tolerance="1%")
    assert pb.resize("deepseek-v2-lite", "15.7B", active="2.2B", tolerance="1%")


SMALL: dict[str, dict[str, Any]] = {
    "experts": {"target": "3M", "active": "2M"},
    "latents": {"target": "2M", "kv_lora_rank": 32, "v_head_dim": 16},
    "both": {"target": "4M", "active": "2M", "kv_lora_rank": 32, "v_head_dim": 16, "n_shared_experts": 1,
             "n_first_dense": 1},
}  # fmt: skip


@pytest.mark.parametrize("asked", SMALL.values(), ids=SMALL)
def test_what_is_written_is_built_as_counted(asked: dict[str, Any], tmp_path: Path, run: Callable[..., str]):
    file = tmp_path / "config.json"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    run("solve", *words, "--vocab-size=500", "--context-length=64", "--tolerance=3%", "-o", str(file))
    model = pb.model(file)
    assert verify(model).differences == ()
    provenance = json.loads(file.read_text())["provenance"]
    assert pb.count(file).total == provenance["count"]
    assert ("active_error" in provenance) == ("active" in asked)
