"""What the forms ask of the library: every text is passed on or refused, none is dropped."""

import pytest

import parambudget as pb
from parambudget.web.address import NamedModel, PlanForm, SolveForm
from parambudget.web.calls import plans_of, search

MODEL = pb.model(dim=1024, n_layers=24)


def test_a_form_asks_what_a_call_asks():
    form = SolveForm(target="130M", vocab_size="32000", tied="false", top="3", style="modern", tolerance="1%")
    asked = pb.solve("130M", vocab_size=32000, tied=False, top=3, style="modern", tolerance="1%")
    assert search(form, MODEL) == asked


def test_the_choices_of_a_model_are_searched_like_it():
    model = pb.preset("gpt2")
    assert search(SolveForm(start="like", target="130M"), model) == pb.solve("130M", like=model)


def test_a_model_is_resized():
    assert search(SolveForm(start="resize", target="250M"), MODEL) == pb.resize(MODEL, "250M")


def test_a_budget_of_memory_is_passed_on():
    found = search(SolveForm(target="", memory="8GB", top="2"), MODEL)
    assert found == pb.solve(budget=pb.Budget(memory="8GB"), top=2, style="llama")


def test_no_field_of_a_form_is_dropped():
    form = SolveForm(target="130M", rank="closest", counted="body", top="2")
    assert search(form, MODEL) == pb.solve("130M", rank="closest", counted="body", top=2, style="llama")
    form = SolveForm(start="resize", target="250M", counted="body")
    assert search(form, MODEL) == pb.resize(MODEL, "250M", counted="body")
    form = PlanForm(hours="1", unique_tokens="10M", gradient_checkpointing="true")
    asked = pb.plan(MODEL, "h100-sxm", hours=1, unique_tokens="10M", gradient_checkpointing=True)
    assert plans_of(form, [MODEL]) == (asked,)


def test_a_plan_asks_what_a_call_asks():
    form = PlanForm(gpu="a100-80-sxm", gpus="2", tokens="1B", batch_size="4", price="1.5")
    machine = pb.machine("a100-80-sxm", gpus=2, dollars_per_hour=1.5)
    plan = pb.plan(MODEL, machine, tokens="1B", batch_size=4, compare=["gpt2"])
    assert plans_of(form, [MODEL, pb.preset("gpt2")]) == (plan, *plan.compared)


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (SolveForm(target=""), "there is nothing to solve for"),
        (SolveForm(start="resize", target=""), "give a target, such as 350M"),
        (SolveForm(hours="soon"), "hours is 'soon'; use a number such as 1.5"),
        (SolveForm(hours="1", dollars="2"), "each set the length of the run"),
        (SolveForm(gpus="8"), "no GPU is chosen"),
        (SolveForm(gpus="-1"), "gpus '-1' is out of range"),
        (SolveForm(top="0"), "top is 0"),
        (SolveForm(top="many"), "top 'many' is not a whole number"),
        (SolveForm(memory="24"), "memory '24' is not a size"),
        (SolveForm(tolerance="5"), "tolerance '5' is ambiguous"),
    ],
)
def test_what_cannot_be_searched_is_one_line(form, problem):
    with pytest.raises(pb.InputError) as error:
        search(form, MODEL)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (PlanForm(gpu=""), "no GPU is chosen"),
        (PlanForm(hours="1", tokens="1B"), "both set the length of the run"),
        (PlanForm(batch_size="0"), "batch_size"),
        (PlanForm(price="free"), "price is 'free'"),
        (PlanForm(gpu="h100-sxm", gpus="9"), "no whole number of nodes"),
    ],
)
def test_what_cannot_be_planned_is_one_line(form, problem):
    with pytest.raises(pb.InputError) as error:
        plans_of(form, [MODEL])
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("form", "flags"),
    [
        (SolveForm(target="", gpu="h100-sxm", hours="1"), "--gpu h100-sxm --hours 1 "),
        (SolveForm(target="", gpu="h100-sxm", gpus="8", hours="2"), "--gpu h100-sxm --gpus 8 --hours 2 "),
    ],
)
def test_the_command_of_a_search_has_its_budget(form, flags):
    solve_tab = pytest.importorskip("parambudget.web.solve_tab", reason="the extra `web` is not installed")
    command = solve_tab.command_of_search(search(form, MODEL), form, NamedModel(MODEL, "this model"))
    assert flags in command


@pytest.mark.parametrize(
    ("model", "preset", "source"),
    [
        (pb.preset("gpt2"), "gpt2", "gpt2"),
        (pb.model("gpt2", n_layers=10), "gpt2", "YOUR_MODEL.json"),
        (pb.model(dim=768, n_layers=12), None, "YOUR_MODEL.json"),
    ],
)
def test_the_command_of_a_resized_model_names_its_preset_or_a_file_to_save(model, preset, source):
    solve_tab = pytest.importorskip("parambudget.web.solve_tab", reason="the extra `web` is not installed")
    form = SolveForm(start="resize", target="90M", tolerance="10%")
    named = NamedModel(model, "any", preset)
    assert f"--from {source} " in solve_tab.command_of_search(search(form, model), form, named)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`rank=speed` needs `machine`", "“Order” speed needs “GPU”"),
        (
            "use 8 or 16, or other `gpus_per_node`",
            "use 8 or 16, or other `--gpus-per-node` on the command line",
        ),
        (
            "describe it with `gpu_memory=24GB, gpu_tflops=82`",
            "describe it with `--gpu-memory 24GB --gpu-tflops 82` on the command line",
        ),
        ("`train` predicts with `n_heads=3`", "`train` predicts with `n_heads=3`"),
    ],
)
def test_the_page_speaks_of_its_fields(message, shown):
    controls = pytest.importorskip("parambudget.web.controls", reason="the extra `web` is not installed")
    assert controls.arguments_on_page(message) == shown


def test_the_page_names_commands_and_no_functions():
    controls = pytest.importorskip("parambudget.web.controls", reason="the extra `web` is not installed")
    with pytest.raises(pb.InputError, match=r"pb\.calibrate") as error:
        plans_of(PlanForm(gpu="cpu", hours="1"), [MODEL])
    shown = controls.arguments_on_page(str(error.value))
    assert "pb." not in shown
    assert "parambudget calibrate" in shown
