"""What is said about a missing package is a command that works where it is said."""

import subprocess
import sys
from pathlib import Path

import pytest

import parambudget as pb
from parambudget import _install
from parambudget._install import install_advice

ROOT = Path(__file__).parent.parent


@pytest.fixture
def in_uv(monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")


@pytest.fixture
def outside_of_a_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(_install, "_CLONE", tmp_path)


def installer(monkeypatch, *, has_pip: bool) -> None:
    monkeypatch.setattr(_install, "find_spec", lambda name: object() if name == "pip" and has_pip else None)


def started_as(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", list(map(str, words)))


@pytest.mark.usefixtures("in_uv")
def test_in_uv_the_command_that_was_typed_is_started_with_the_extra(monkeypatch):
    started_as(monkeypatch, "parambudget", "data", "prepare", "my text.parquet")
    advice = install_advice(["pyarrow"], ["data", "train"])
    assert advice == "run it as: uv run --extra data --extra train parambudget data prepare 'my text.parquet'"


@pytest.mark.usefixtures("in_uv")
def test_in_uv_a_script_is_started_with_the_extra_and_a_prompt_as_python(monkeypatch, tmp_path):
    script = tmp_path / "mine.py"
    script.touch()
    started_as(monkeypatch, script, "--fast")
    assert install_advice(["torch"], ["train"]) == f"run it as: uv run --extra train python {script} --fast"
    started_as(monkeypatch, "")
    assert install_advice(["torch"], ["train"]) == "run it as: uv run --extra train python"


@pytest.mark.usefixtures("in_uv")
def test_a_command_too_long_for_a_message_is_not_repeated(monkeypatch):
    started_as(monkeypatch, "parambudget", "train", "--dim" * 100)
    assert install_advice(["torch"], ["train"]) == "start the same command with: uv run --extra train"


@pytest.mark.usefixtures("in_uv", "outside_of_a_clone")
def test_in_uv_outside_of_a_clone_the_package_itself_is_named(monkeypatch):
    started_as(monkeypatch, "parambudget", "verify", "gpt2")
    assert install_advice(["torch"], ["train"]) == "run it as: uv run --with torch parambudget verify gpt2"


def test_in_a_clone_the_extra_is_that_of_the_clone(monkeypatch):
    for has_pip, start in ((True, "pip install"), (False, "uv pip install")):
        installer(monkeypatch, has_pip=has_pip)
        assert install_advice(["torch"], ["train"]) == f"install with: {start} -e '{ROOT}[train]'"


@pytest.mark.usefixtures("outside_of_a_clone")
def test_elsewhere_the_packages_are_named(monkeypatch):
    installer(monkeypatch, has_pip=True)
    assert install_advice(["torch", "tokenizers"], ["train"]) == "install with: pip install torch tokenizers"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: pb.verify("gpt2"), "verify needs torch, not installed here; install with: "),
        (lambda: pb.train("gpt2", "out"), "train needs torch, safetensors, tokenizers, not installed here"),
        (lambda: pb.generate("out", "a"), "generate needs torch"),
        (lambda: pb.calibrate(), "calibrate needs torch"),
        (lambda: pb.count_class("gpt2"), "count_class needs torch, transformers"),
        (lambda: pb.export(weights="run", out="hf"), "`weights` needs torch"),
        (lambda: pb.plan_ladder(out="ladder"), "plan_ladder needs tokenizers"),
        (lambda: pb.Ladder(Path("ladder")).fit(), "ladder fit needs scipy"),
    ],
)  # fmt: skip
def test_a_verb_without_torch_says_what_to_install(monkeypatch, call, what):
    installer(monkeypatch, has_pip=False)
    with pytest.raises(pb.MissingExtra, match=what):
        call()


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import parambudget as pb; pb.Ladder", {"torch", "tokenizers", "scipy"}),
        ("import parambudget.render.ladder", {"torch", "scipy"}),  # what `ladder plan` prints with
    ],
)
def test_a_ladder_is_opened_and_planned_without_the_packages_that_run_it(code, heavy):
    code = f"import sys; {code}; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("name", "package"), [("load_pretrained", "torch"), ("plot", "matplotlib")])
def test_a_name_that_needs_a_missing_package_says_so_when_it_is_used(name, package):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {package!r}: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import parambudget._install as install\n"
        f"install.find_spec = lambda name: None\n"
        "import parambudget as pb\n"
        "try:\n"
        f"    pb.{name}\n"
        "except pb.MissingExtra as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"pb.{name} needs {package}, not installed here; install with: ")


def test_no_message_or_page_advises_to_install_what_is_not_published():
    texts = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    assert [str(path) for path in texts if "pip install 'parambudget" in path.read_text()] == []
