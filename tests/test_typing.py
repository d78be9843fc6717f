"""The wheel is typed: a user's file is checked against it with mypy --strict, as after an installation."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
USER_FILE = """
from pathlib import Path

import parambudget as pb

reveal_type(pb.model("gpt2"))
reveal_type(pb.count("gpt2").total)
reveal_type(pb.count("gpt2").by_component["ffn"])
solutions = pb.solve("350M", n_layers=24, dim="256:4096:64")
reveal_type(solutions[0])
reveal_type(solutions[:2])
reveal_type(solutions[0].model)
reveal_type(pb.count(solutions[0]).active)
plan = pb.plan(solutions[0], "h100", hours=1.5, batch_size=16)
reveal_type(plan.loss.loss)
reveal_type(pb.memory(plan, "h100").peak_bytes)
reveal_type(pb.memory(plan, mode="inference"))
result = pb.train(plan, "runs/mine", hours=plan.hours.expected, learning_rate=0.01, optimizer="adamw")
reveal_type(result.checkpoint)
reveal_type(pb.run("runs/mine"))
reveal_type(pb.generate("runs/mine", "def").text)
reveal_type(pb.export(plan, "hf"))
reveal_type(pb.evaluate("runs/mine", text="held_out.txt").text)
reveal_type(pb.PRESETS["gpt2"].published_count)
reveal_type(pb.ACCELERATORS["h100-sxm"].memory_bytes)
reveal_type(pb.verify(plan).differences)
pb.plot(solutions), pb.plot(plan), pb.plot(result), pb.plot([result])
machine = pb.machine("h100", gpus=16, gpus_per_node=8)
reveal_type(pb.plan(plan, machine, compare=["gpt2", plan.model]).compared[0])
step = pb.StepConfig(batch_size=8, gradient_accumulation_steps=4)
reveal_type(pb.solve("350M", machine="h100", step=step, rank="size")[0].forecast)
pb.solve("350M", machine="h100", step={"batch_size": 8}), pb.model(Path("a")).replace(n_layers=3)
config = pb.ModelConfig(
    dim=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, intermediate_size=128, context_length=64
)
pb.TrainConfig(
    steps=9, step=step, learning_rate=0.01, final_learning_rate=0.0, warmup_steps=1, eval_every=9,
    eval_tokens=64, save_every=9,
)
pb.plan(config, machine="h100"), pb.plot("runs/mine"), pb.plot(["runs/mine", result])
reveal_type(pb.generate(result, "def"))
keywords: pb.TrainFields = {"warmup_steps": 10}

pb.count(n_layer=3)  # wrong
pb.count(n_layers="3")  # wrong
pb.model("gpt2", n_kv_head=3)  # wrong
pb.solve("350M", n_layer=24)  # wrong
pb.plan("gpt2", "h100", batchsize=16)  # wrong
pb.solve("350M", machine="h100", step={"batchsize": 16})  # wrong
pb.model("gpt2").replace(n_layer=3)  # wrong
pb.train("gpt2", "out", lr=1e-3)  # wrong
pb.sovle("350M")  # wrong
"""
REVEALED = [
    "ModelConfig", "int", "int", "Solution", "Solutions", "ModelConfig", "int", "float", "int",
    "InferenceMemory", "Path | None", "TrainResult", "str", "Export", "TextScore | None", "int", "int",
    "tuple[Difference, ...]",
    "RunPlan", "Forecast | None", "Generation",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as it is published, built without the network."""
    uv, out = shutil.which("uv"), tmp_path_factory.mktemp("wheel")
    if uv is None:
        pytest.skip("building the wheel needs uv")
    command = [uv, "build", "--wheel", "--offline", "--out-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "hatchling" in done.stderr and done.returncode:
        pytest.skip("building the wheel needs hatchling in uv's cache: run `uv build` once")
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_says_that_it_is_typed_and_has_all_of_the_package(wheel):
    names = set(ZipFile(wheel).namelist())
    source = ROOT / "src"
    assert "parambudget/py.typed" in names
    assert {str(path.relative_to(source)) for path in source.rglob("*.py")} <= names


@pytest.fixture(scope="module")
def checked(wheel, tmp_path_factory):
    """What mypy --strict says of the user's file, line by line, with the wheel installed."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    ZipFile(wheel).extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "user.py").write_text(USER_FILE)
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--python-executable={python}",
        f"--cache-dir={folder / 'mypy'}", "user.py",
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_results_have_their_types(checked):
    types = re.findall(r'Revealed type is "([^"]+)"', checked)
    assert [re.sub(r"[a-z_.]+\.(?=[A-Z])|builtins\.", "", one) for one in types] == REVEALED, checked


def test_misspelt_keywords_and_names_are_errors_and_nothing_else_is(checked):
    wrong = [n for n, line in enumerate(USER_FILE.splitlines(), 1) if line.endswith("# wrong")]
    assert [int(n) for n in re.findall(r"user\.py:(\d+): error", checked)] == wrong, checked
