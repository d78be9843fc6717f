"""The library as a person uses it: only `import parambudget as pb`."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import parambudget as pb
from parambudget.training.config import TRAIN_FIELDS

ROOT = Path(__file__).parent.parent
SIZES = {"dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 300, "context_length": 32}
SETTINGS = {"steps": 3, "batch_size": 2, "gradient_accumulation_steps": 1, "device": "cpu"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model searched, trained on a small text, and the callbacks' steps."""
    folder = tmp_path_factory.mktemp("face")
    (folder / "text.txt").write_text("a text that is long enough to be read more than once. " * 400)
    seen = []
    result = pb.train(
        pb.model(**SIZES), folder / "run", data=folder / "text.txt",
        events=pb.TrainEvents(on_step=seen.append), **SETTINGS,
    )  # fmt: skip
    return result, seen


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, parambudget; print({'pydantic', 'numpy', 'torch', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def deep_imports(text: str) -> list[str]:
    """What a text with Python in it imports from inside the package."""
    return re.findall(r"^[>.\s\"]*((?:from|import) parambudget\.[\w.]+)", text, re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").iterdir())],
    ids=lambda page: page.name,
)
def test_pages_and_examples_import_the_package_and_nothing_inside_it(page):
    assert deep_imports(page.read_text()) == []


def test_the_check_of_deep_imports_can_fail():
    docs, notebook = (
        ">>> from parambudget.arch.config import ModelConfig",
        '    "import parambudget.api as api",',
    )
    assert deep_imports(docs) == ["from parambudget.arch.config"]
    assert deep_imports(notebook) == ["import parambudget.api"]
    assert deep_imports("import parambudget as pb\nfrom parambudget import solve") == []


def test_a_path_of_any_kind_stands_for_a_file(tmp_path):
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "config.json")

    pb.model("gpt2").save(Place())
    assert pb.model(Place()) == pb.plan(Place(), "h100").model == pb.model("gpt2")


def test_a_model_is_saved_and_read(tmp_path):
    model = pb.model("gpt2", n_layers=3)
    model.save(tmp_path / "config.json")
    assert pb.model(tmp_path / "config.json") == model


def test_presets_and_accelerators_are_looked_up_by_name_and_cannot_be_changed():
    assert pb.PRESETS["gpt2"].model == pb.preset("gpt2")
    assert pb.PRESETS["gpt2"].published_count == pb.count("gpt2").total
    assert pb.ACCELERATORS["h100-sxm"].name == "h100-sxm"
    for table in (pb.PRESETS, pb.ACCELERATORS):
        with pytest.raises(TypeError):
            table["gpt2"] = None


def test_an_answer_stands_wherever_a_model_does(tmp_path):
    best = pb.solve("10M")[0]
    assert pb.count(best).total == best.total
    assert pb.count(best, n_layers=1).total < best.total
    assert pb.plan(best, "h100").model == best.model
    assert pb.export(best).document["hidden_size"] == best.model.dim
    best.save(tmp_path / "best.json")
    assert pb.model(tmp_path / "best.json") == best.model


def test_models_are_compared_in_the_same_micro_steps_and_context():
    plan = pb.plan("gpt2", "h100", compare=["qwen3-0.6b", pb.model("gpt2-medium")])
    assert [other.step for other in plan.compared] == [plan.step] * 2
    assert [other.model.context_length for other in plan.compared] == [1024, 1024]
    assert plan.rows()[0] == {
        "figure": "parameters", "expected": 124_439_808, "low": "", "high": "",
        "compared_1": pb.count("qwen3-0.6b").total, "compared_2": pb.count("gpt2-medium").total,
    }  # fmt: skip
    assert pb.plan("qwen3-0.6b", "h100", compare=["gpt2"]).compared[0].model == pb.model("gpt2")


def test_the_memory_of_training_is_that_of_the_plan():
    plan = pb.plan("gpt2", "h100", batch_size=4)
    assert pb.memory("gpt2", "h100", batch_size=4).peak_bytes == plan.memory.peak_bytes
    assert pb.memory("gpt2", "h100", batch_size=4, context=128).peak_bytes < plan.memory.peak_bytes


def test_the_memory_of_inference_is_weights_and_cache():
    one, four = (pb.memory("gpt2", mode="inference", batch_size=n) for n in (1, 4))
    assert one.weights_bytes == 2 * pb.count("gpt2").total
    assert one.cache_bytes == 1024 * 12 * 2 * 768 * 2
    assert four.cache_bytes == 4 * one.cache_bytes
    assert pb.memory("gpt2", mode="inference", context=512).cache_bytes == one.cache_bytes / 2
    assert [row["part"] for row in one.rows()] == ["weights", "cache", "total"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "inference", "context": 2000}, "`context` is 2000; use .* above 0, at most 1,024"),
        ({"mode": "inference", "shard": True}, "`shard` is a setting of training"),
        ({"mode": "both"}, "`mode` is 'both'; use 'training' or 'inference'"),
    ],
)  # fmt: skip
def test_memory_refuses_what_it_cannot_mean(arguments, message):
    with pytest.raises(pb.ConfigError, match=message):
        pb.memory("gpt2", **arguments)


def test_the_keywords_of_train_are_the_settings_of_a_run():
    keywords = set(pb.TrainFields.__annotations__)
    assert keywords == {*TRAIN_FIELDS, *pb.StepFields.__annotations__}
    assert not pb.TrainFields.__required_keys__
    assert not keywords & {*inspect.signature(pb.train).parameters}


def test_a_run_reads_back_as_what_train_returned(trained):
    result, seen = trained
    assert pb.run(result.folder) == result
    assert [step.step for step in seen] == [1, 2, 3]
    assert [row["loss"] for row in result.rows()] == [step.loss for step in seen]
    assert list(result.to_pandas()["step"]) == [1, 2, 3]


def test_a_run_of_the_trainer_is_an_anchor(trained):
    result, _ = trained
    plan = pb.plan(pb.model(**SIZES), "h100", tokens=result.tokens, anchor=result, batch_size=2,
                   gradient_accumulation_steps=1)  # fmt: skip
    assert plan.loss.loss == pytest.approx(result.val_loss)
    anchor = plan.loss.law.anchor
    assert (anchor.tokens, anchor.unique_tokens) == (192, 192)
    said = f"the speed of {result.folder} is not taken: it ran on CPU, and this is a plan for h100-sxm"
    assert said in plan.warnings


def test_a_run_that_goes_on_has_the_figures_of_its_newest_update(trained, tmp_path):
    result, seen = trained
    (tmp_path / "metrics.jsonl").write_bytes((result.folder / "metrics.jsonl").read_bytes())
    (tmp_path / "config.json").write_bytes((result.folder / "config.json").read_bytes())
    now = pb.run(tmp_path)
    assert (now.finished, now.steps, now.loss, now.checkpoint) == (False, 3, seen[-1].loss, None)
    assert now.parameters == pb.count(**SIZES).total


def test_a_result_stands_for_the_folder_of_its_run(trained, tmp_path):
    result, _ = trained
    assert Path(result) == result.folder
    assert pb.run(result) == result
    assert pb.count(result).total == result.parameters
    assert pb.export(out=tmp_path / "hf", weights=result).document["hidden_size"] == SIZES["dim"]


def test_a_result_shows_itself_in_two_lines(trained):
    result, _ = trained
    first, second = repr(result).splitlines()
    assert (
        first == f"run in {result.folder}, finished: 3 updates, 192 tokens, {result.parameters:,} parameters"
    )
    assert second.startswith(f"loss {result.loss:.4f}, validation loss {result.val_loss:.4f}, ")
    assert second.endswith(" tokens/s on CPU")


def test_text_is_generated_from_a_run(trained):
    result, _ = trained
    one, again = (pb.generate(run, "a text", max_tokens=5, device="cpu") for run in (result, result.folder))
    assert one.text == again.text
    assert one.n_tokens <= 5
    with pytest.raises(pb.InputError, match="`temperature` is -1; use 0 or a finite number above 0"):
        pb.generate(result.folder, "a text", temperature=-1)


def test_several_texts_come_from_one_call(trained):
    result, _ = trained
    some = {"max_tokens": 5, "device": "cpu", "temperature": 1.0, "top_p": 0.9}
    two = pb.generate(result, "a text", num_samples=2, seed=3, **some)
    each = tuple(pb.generate(result, "a text", seed=seed, **some) for seed in (3, 4))
    assert two == each == pb.generate(result, ["a text", "a text"], seed=3, **some)
    assert pb.generate(result, [], **some) == ()


def test_a_text_is_longer_than_the_context(trained):
    result, _ = trained
    made = pb.generate(result, "a text", max_tokens=80, temperature=0, device="cpu")
    assert made.n_tokens == 80
    assert made.n_prompt_tokens + made.n_tokens - 1 - made.n_dropped <= SIZES["context_length"]


def test_a_run_is_exported_with_its_weights(trained, tmp_path):
    result, _ = trained
    made = pb.export(out=tmp_path / "hf", weights=result.folder)
    loaded = pb.load_pretrained(tmp_path / "hf")
    assert made.document["hidden_size"] == SIZES["dim"]
    assert pb.count(loaded.model).total == result.parameters
    with pytest.raises(pb.ConfigError, match="into a new folder; use to='hf' or 'gguf', and `out`"):
        pb.export(weights=result.folder)


def test_configs_are_exported_for_other_tools(tmp_path):
    assert pb.export("gpt2", "megatron").document["--num-layers"] == 12
    pb.export("pythia-160m", "litgpt", out=tmp_path)
    assert (tmp_path / "model_config.yaml").exists()
    with pytest.raises(
        pb.ConfigError, match="`to` is 'jax'; use 'hf', 'gguf', 'litgpt', 'megatron' or 'torchtitan'"
    ):
        pb.export("gpt2", "jax")


def test_solutions_plans_and_runs_are_drawn(trained, tmp_path):
    result, _ = trained
    found, plan = pb.solve("10M"), pb.plan("gpt2", "h100")
    runs = (result, [result, result], result.folder, str(result.folder), [result, str(result.folder)])
    for n, what in enumerate((found, pb.resize("gpt2", "100M"), plan, *runs)):
        figure = pb.plot(what)
        figure.savefig(tmp_path / f"{n}.png")
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(pb.plot(plan).axes) == 2
    with pytest.raises(pb.InputError, match="no run has started in nowhere"):
        pb.plot("nowhere")
    for wrong in ([], 3, [plan], [result, 3], replace(found, solutions=())):
        with pytest.raises(pb.InputError, match="cannot be drawn"):
            pb.plot(wrong)


def test_a_report_is_written(tmp_path):
    report = pb.report("gpt2", "100M", tmp_path / "plan.md", machine="h100", hours=1)
    assert report.target == 100_000_000
    assert report.verified.startswith("verified: ")
    assert "# From 124.4M to 100M parameters" in (tmp_path / "plan.md").read_text()
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pb.solve(hours=1.5, machine="h100"), r"no 'hours'; give `budget=pb.Budget\(hours=1.5\)`"),
        (lambda: pb.solve(dollars=20, machine="h100"), r"give `budget=pb.Budget\(dollars=20\)`"),
        (lambda: pb.solve(flops="1e19"), r"give `budget=pb.Budget\(flops='1e19'\)`"),
        (lambda: pb.solve("9M", memory="24GB"), r"give `budget=pb.Budget\(memory='24GB'\)`"),
        (lambda: pb.plan("gpt2", gpu="4090"), "no 'gpu'; give `machine=\"rtx-4090\"`"),
        (lambda: pb.solve("9M", gpu="4090", gpus=2), r'give `machine=pb.machine\("rtx-4090", gpus=2\)`'),
        (lambda: pb.plan("gpt2", price=2), r'`machine=pb.machine\("h100", dollars_per_hour=2\)`'),
        (lambda: pb.plan("gpt2", "h100", ranks=4), r'.ranks.; give `machine=pb.machine\("h100", gpus=4\)`'),
        (lambda: pb.memory("gpt2", "h100", gpus=2), r'give `machine=pb.machine\("h100", gpus=2\)`'),
        (lambda: pb.plan("gpt2", dollars=20), "length of the run is given by `hours` or `tokens`"),
        (lambda: pb.plan("gpt2", "h100", memory="24"), "memory '24' is not a size; use such as 24GB"),
        (lambda: pb.plan("gpt2", "h100", warmup_steps=9), "'warmup_steps'; it is a keyword of pb.train"),
        (lambda: pb.solve("9M", lr=0.1), "no 'lr'; learning_rate is a keyword of pb.train"),
        (lambda: pb.plan("gpt2", "h100", batchsize=4), "batchsize is not .*; did you mean 'batch_size'?"),
        (lambda: pb.plan("gpt2", "h100", zzz=4), "zzz is not .*; use batch_size, gradient"),
        (lambda: pb.solve("350M", step={"batch_size": 8}), "give `machine` or `memory` too"),
        (lambda: pb.solve("350M", batch_size=8), "which `step` fixes: give step={'batch_size'"),
        (lambda: pb.solve("350M", machine="h100", step={"zzz": 8}), "zzz is not a setting of an update; use"),
        (lambda: pb.solve("350M", machine="h100", step=8), "step is 8; give a StepConfig or a dict"),
        (lambda: pb.solve("350M", tolerence=0.1), "did you mean 'tolerance'?"),
        (lambda: pb.plan("gpt2", "h100", hour=1), "did you mean 'hours'?"),
        (lambda: pb.memory("gpt2", "h100", contxt=8), "did you mean 'context'?"),
        (lambda: pb.memory("gpt2", mode="inference", zzz=8), "zzz is not a setting of an update; use"),
        (lambda: pb.train("gpt2", "out", token=8), "did you mean 'tokens'?"),
        (lambda: pb.train("gpt2", "out", zzz=8), r"see `help\(pb.TrainConfig\)`"),
        (lambda: pb.model("gpt2", zzz=8), r"see `help\(pb.ModelConfig\)`"),
        (lambda: pb.model("gpt2").replace(zzz=8), r"see `help\(pb.ModelConfig\)`"),
        (lambda: pb.count(**{"z" * 1000: 8}), r"see `help\(pb.ModelConfig\)`"),
        (lambda: pb.plan("gpt2", "h100", compare="gpt2"), "`compare` is one model; give a list"),
        (lambda: pb.solve("350M", current="gpt2", rank="loss"), r"use resize\(current, target\)"),
        (lambda: pb.resize("gpt2", "100M", top=2), "resize takes no top"),
        (lambda: pb.model(hidden_size=768, dim=768, n_layers=2), "hidden_size and dim are the same"),
        (lambda: pb.train("gpt2", "out", learningrate=1e-3), "did you mean 'learning_rate'?"),
        (lambda: pb.count("gpt2", n_layrs=3), "did you mean 'n_layers'?"),
        (lambda: pb.run("nowhere"), "no run has started in nowhere"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line_that_helps(call, message):
    with pytest.raises(pb.InputError, match=message) as error:
        call()
    assert len(str(error.value)) < 200


def test_names_of_other_tools_are_taken_with_a_line_that_says_so():
    with pytest.warns(UserWarning, match="hidden_size is dim here"):
        assert pb.count(hidden_size=64, n_layers=2).model.dim == 64
    with pytest.warns(UserWarning, match="num_hidden_layers is n_layers here"):
        assert pb.solve("10M", num_hidden_layers=6)[0].model.n_layers == 6
    with pytest.warns(UserWarning, match="grad_accum is gradient_accumulation_steps here"):
        assert pb.plan("gpt2", "h100", grad_accum=8).step.gradient_accumulation_steps == 8
    with pytest.warns(UserWarning, match="num_hidden_layers is n_layers here") as warned:
        assert pb.model("gpt2").replace(num_hidden_layers=3) == pb.model("gpt2", n_layers=3)
    assert warned[0].filename == __file__
