"""The structure of the package: which floor may import which, where heavy packages stand, and how things are
named. Every check comes with a proof that it can fail."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import parambudget

SOURCE = Path(parambudget.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")

FLOORS = [
    {"errors", "_version"},
    {"units", "_documents", "_files", "_json_types", "_tabular", "_install", "_no_effect"},
    {"arch"},
    {"cost", "text"},
    {"scaling", "search", "nn"},
    {"planning", "formats"},
    {"training"},
    {"ladders"},
    {"api", "render"},
    {"mcp", "web"},
    {"cli"},
    {"__main__"},
]
"""From the ground up. A file imports only from floors below its own."""

HEAVY = {
    "torch": {
        "nn",
        "training",
        "formats/hf/from_class.py",
        "formats/hf/weights.py",
        "formats/gguf/weights.py",
    },
    "transformers": {"formats/hf/from_class.py"},
    "scipy": {"ladders/fit.py"},
    "safetensors": {"training", "formats/hf/weights.py"},
    "sympy": {"cost/formula.py"},
    "matplotlib": {"render/figures.py"},
    "pyarrow": {"text/parquet.py"},
    "datasets": {"text/hosted.py"},
    "zstandard": {"text/compression.py"},
    "gguf": {"formats/gguf/weights.py"},
    "huggingface_hub": {"training/exports/hub.py", "text"},
    "wandb": {"training/loggers/wandb_logger.py"},
    "tensorboardX": {"training/loggers/tensorboard_logger.py"},
    "trackio": {"training/loggers/trackio_logger.py"},
    "mcp": {"mcp.py"},
    "nicegui": {"web"},
    "latex2mathml": {"web"},
    "typer": {"cli"},
    "rich": {"render", "cli"},
    "numpy": {
        "arch",
        "cost",
        "scaling",
        "search",
        "planning",
        "text",
        "training",
        "ladders",
        "render/figures.py",
        "formats/gguf/weights.py",
    },
}
"""Where packages that are slow to import, or optional, may be imported."""


def imports_of(source: str) -> set[str]:
    """Every absolute module name that a source imports, also inside its functions."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    of_package = {
        f"parambudget.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "parambudget"
        for alias in node.names
    }
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return plain | of_package | modules - {"parambudget"}


def floor_of(part: str) -> int:
    return next(i for i, parts in enumerate(FLOORS) if part in parts)


def upward_imports(part: str, source: str) -> list[str]:
    """The parts of the package that a file of `part` must not import: on a higher floor, or another part of
    its own."""
    imported = {name.split(".")[1] for name in imports_of(source) if name.startswith("parambudget.")}
    above = {other for other in imported if floor_of(other) > floor_of(part)}
    beside = {other for other in imported - {part} if floor_of(other) == floor_of(part) > 1}
    return sorted(above | beside)


def misplaced_packages(place: str, source: str) -> list[str]:
    """The heavy packages that the file at `place` must not import."""
    heavy = {name.split(".")[0] for name in imports_of(source)} & HEAVY.keys()
    return sorted(name for name in heavy if not any(place.startswith(part) for part in HEAVY[name]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_floors_below(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert upward_imports(part, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_packages_are_imported_only_where_they_belong(path):
    source = path.read_text(encoding="utf-8")
    assert misplaced_packages(path.relative_to(SOURCE).as_posix(), source) == []


def test_the_check_of_floors_can_fail():
    assert upward_imports("arch", "from parambudget.search.solve import solve") == ["search"]
    assert upward_imports("nn", "def f():\n    from parambudget.search.solve import solve") == ["search"]
    assert upward_imports("render", "from parambudget import api") == ["api"]


def test_the_check_of_heavy_packages_can_fail():
    assert misplaced_packages("arch/config.py", "import torch.nn as nn") == ["torch"]
    assert misplaced_packages("render/model.py", "def f():\n    import sympy") == ["sympy"]


def import_circles(imports: dict[str, set[str]]) -> list[str]:
    """The modules that import each other, directly or through others, when they are imported."""
    left = dict(imports)
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    return sorted(left)


def module_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports as soon as it is imported itself."""
    modules = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("parambudget"):
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_modules_import_each_other_in_a_circle():
    assert import_circles({module_name(path): module_imports(path) for path in FILES}) == []


def test_the_check_of_circles_can_fail():
    assert import_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]


# ---- names

IRREGULAR_PARTICIPLES = {
    "begun", "bent", "bound", "built", "chosen", "cut", "done", "drawn", "fed", "found", "given",
    "gone", "had", "held", "hidden", "kept", "known", "laid", "left", "lost", "made", "meant", "met",
    "put", "said", "seen", "sent", "shown", "spent", "stood", "strayed", "taken", "taught", "thought",
    "told", "understood", "won", "worn", "woven", "written",
}  # fmt: skip
NOT_PARTICIPLES = {
    "embed",
    "exceed",
    "feed",
    "need",
    "pretrained",
    "proceed",
    "seed",
    "speed",
    "succeed",
    "cut",
    "put",
    "left",
}
QUESTIONS = ("is_", "has_", "was_", "are_", "can_", "needs_", "uses_", "must_")


def is_participle(word: str) -> bool:
    return word not in NOT_PARTICIPLES and (word in IRREGULAR_PARTICIPLES or word.endswith("ed"))


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def participle_names(source: str) -> list[str]:
    """Functions whose name ends in a participle, such as `told` or `weights_loaded`: neither what they do nor
    what they return. Questions (`is_tied`) and properties that answer yes or no may."""
    names = []
    for function in functions_of(ast.parse(source)):
        name = function.name.strip("_")
        is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)
        yes_or_no = isinstance(function.returns, ast.Name) and function.returns.id == "bool"
        if (
            is_participle(name.split("_")[-1])
            and not name.startswith(QUESTIONS)
            and not (is_property and yes_or_no)
        ):
            names.append(function.name)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_function_is_named_by_a_bare_participle(path):
    assert participle_names(path.read_text(encoding="utf-8")) == []


def test_the_check_of_participles_can_fail():
    source = (
        "def _told(): ...\ndef failures_told(): ...\ndef seed(): ...\ndef is_tied(): ...\ndef load(): ..."
    )
    assert participle_names(source) == ["_told", "failures_told"]


def repeated_names(classes: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in classes.items() if len(places) > 1}


def public_classes(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def test_a_public_class_name_is_defined_once():
    places = defaultdict(list)
    for path in FILES:
        for name in public_classes(path):
            places[name].append(path.relative_to(SOURCE).as_posix())
    assert repeated_names(places) == {}


def test_the_check_of_class_names_can_fail():
    assert repeated_names({"Kind": ["arch/layers.py", "text/sources.py"], "Axis": ["search/axis.py"]}) == {
        "Kind": ["arch/layers.py", "text/sources.py"]
    }


def crowded_folders(paths: list[Path], most: int = 16) -> list[str]:
    counts = defaultdict(int)
    for path in paths:
        counts[path.parent] += path.name != "__init__.py"
    return sorted(folder.name for folder, count in counts.items() if count > most)


FORBIDDEN_FOLDERS = {"build", "dist", "data", "train", "plan", "export", "ladder"}
"""Names in many a .gitignore, and names of the library's verbs."""


def test_no_folder_is_crowded_or_has_a_name_that_is_taken():
    folders = {path.parent.name for path in FILES}
    by_command = SOURCE / "cli"  # has a file for every command
    assert crowded_folders([path for path in FILES if path.parent != by_command]) == []
    assert folders & FORBIDDEN_FOLDERS == set()


def test_the_check_of_folders_can_fail():
    assert crowded_folders([Path(f"plan/{i}.py") for i in range(17)]) == ["plan"]


# ---- what a process imports

LIGHT = {
    "help": ["--help"],
    "count": ["count", "--dim", "896", "--n-layers", "24", "--n-heads", "14"],
    "solve": ["solve", "--target", "350M"],
    "export": ["export", "gpt2"],
}
EXPENSIVE = {"torch", "sympy", "matplotlib", "nicegui", "scipy", "tokenizers"}


def heavy_after(arguments: list[str], extra: str = "") -> set[str]:
    """Which of the expensive packages a process of the command line has imported when it ends."""
    code = (
        f"{extra}\nimport sys\nsys.argv = {['parambudget', *arguments]!r}\n"
        "from parambudget.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(sorted({EXPENSIVE!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_help_count_and_solve_import_nothing_expensive(arguments):
    assert heavy_after(arguments) == set()


def test_the_check_of_light_imports_can_fail():
    assert heavy_after(["--help"], extra="import sympy") == {"sympy"}


def test_every_name_of_the_face_exists_once():
    names = parambudget.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(parambudget, name) for name in names)


def test_a_name_that_the_face_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'parambudget' has no attribute 'sovle'"):
        _ = parambudget.sovle


DESIGN = Path(__file__).parent.parent / "docs" / "design.md"


def missing_files(page: str) -> list[str]:
    """The paths under `src/parambudget` that a page names in backticks and that do not exist."""
    named = re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", page)
    return sorted(
        path for path in named if not (SOURCE / path).exists() and not (SOURCE.parents[1] / path).exists()
    )


def unlisted_files(page: str) -> list[str]:
    """The modules that the page's drawing of the package does not name."""
    drawing = page.split("    src/parambudget/\n", 1)[1].split("\n\n", 1)[0]
    words = set(re.findall(r"\w+", drawing))
    # One file per command, or per kind of model.
    by_subject = {SOURCE / "cli", SOURCE / "arch" / "presets", SOURCE / "formats" / "hf" / "families"}
    listed = {*words, "__init__"}
    return sorted(path.stem for path in FILES if path.stem not in listed and path.parent not in by_subject)


def test_the_design_page_draws_the_package_as_it_is():
    page = DESIGN.read_text(encoding="utf-8")
    assert missing_files(page) == []
    assert unlisted_files(page) == []


def test_the_check_of_the_design_page_can_fail():
    assert missing_files("`training/run.py` and `arch/config.py`") == ["training/run.py"]
    assert "tensors" in unlisted_files("    src/parambudget/\n      arch/  config\n\n")
