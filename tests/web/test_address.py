"""A link holds the page: what is written is read again, and what is wrong in it is one line."""

import pytest

import parambudget as pb
from parambudget.web.address import (
    MOST_COMPARED,
    NamedModel,
    PageState,
    PlanForm,
    SolveForm,
    read_address,
    write_address,
)

START = PageState(NamedModel(pb.model(dim=1024, n_layers=24), "this model"))


def read(query):
    return read_address(query, START)


@pytest.mark.parametrize("name", pb.PRESETS)
def test_a_link_to_a_preset_is_short_and_gives_it_again(name):
    state = PageState(NamedModel(pb.PRESETS[name].model, name, name))
    assert write_address(state) == f"model={name}"
    assert read(f"model={name}") == (state, None)


@pytest.mark.parametrize("name", pb.PRESETS)
def test_a_model_without_its_presets_name_is_read_from_its_fields(name):
    state = PageState(NamedModel(pb.PRESETS[name].model, "this model"))
    assert read(write_address(state)) == (state, None)


def test_a_preset_with_changes_is_its_name_and_the_changes():
    model = pb.preset("gpt2").replace(n_layers=6, tied=False)
    state = PageState(NamedModel(model, "gpt2, changed", "gpt2"))
    assert write_address(state) == "model=gpt2&n_layers=6&tied=false"
    assert read(write_address(state)) == (state, None)


def test_everything_that_was_chosen_is_in_the_link():
    state = PageState(
        NamedModel(pb.preset("mixtral-8x7b-v0.1"), "big", "mixtral-8x7b-v0.1"), "plan", "dark",
        SolveForm(target="", hours="1.5", gpu="h100-sxm", rank="loss"), PlanForm(gpus="8", tokens="10B"),
        (NamedModel(pb.model(dim=896, n_layers=24), "narrower"),), ("runs/a", "runs/b"),
    )  # fmt: skip
    assert read(write_address(state)) == (state, None)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("tap=plan", "'tap' in the address is not known"),
        ("tab=money", "tab=money in the address; use shape or solve or plan or runs"),
        ("dim=wide", "dim 'wide' is not a whole number"),
        ("dim=0&n_layers=2", "dim"),
        ("model=gpt3", "unknown preset 'gpt3'"),
        ("model=/etc/passwd", "unknown preset '/etc/passwd'"),
        ("model=gpt2&tied=perhaps", "tied is 'perhaps'; use true or false"),
        ("plan.gpu=h999", "h999"),
        ("plan.gpu=", "plan.gpu is empty in the address; name a GPU, such as h100-sxm"),
        (f"solve.target={'1' * 201}", "solve.target in the address has 201 characters; use at most 200"),
        (f"run={'a' * 201}", "run in the address has 201 characters"),
        (f"model=gpt2&name={'a' * 41}", "name in the address has 41 characters; use at most 40"),
        (f"with={'a' * 41}+dim=64", "a name after with= in the address has 41 characters"),
        ("solve.rank=best", "solve.rank=best in the address"),
        ("with=wide", "with=wide in the address; use a name and fields"),
        ("with=wide+colour=red", "'colour' is not a field of a model"),
        ("&".join(["with=a+dim=64"] * (MOST_COMPARED + 1)), "compares more than 4 models"),
        ("model=gpt2&n_heads=5&n_kv_heads=3&head_dim=8", "n_kv_heads=3 does not divide n_heads=5"),
    ],
)
def test_a_bad_link_gives_one_line_and_the_rest_of_the_page(query, problem):
    state, said = read(f"{query}&theme=dark")
    assert problem in said
    assert "\n" not in said
    assert state.theme == "dark"


def test_a_link_cannot_name_a_file(tmp_path, monkeypatch):
    pb.model(dim=64, n_layers=2).save(tmp_path / "own.json")
    monkeypatch.chdir(tmp_path)
    assert "unknown preset 'own.json'" in read("model=own.json")[1]
