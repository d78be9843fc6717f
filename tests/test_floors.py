"""The house keeps its floors: files import only from floors below, heavy packages only in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parambudget

SOURCE = Path(parambudget.__file__).parent
FLOORS = [
    {"errors", "units", "files", "tabular"},
    {"arch"},
    {"cost"},
    {"plan", "build", "text"},
    {"train"},
    {"show"},
    {"api"},
    {"cli"},
]
HEAVY = {
    "torch": {"build", "train"},
    "sympy": {"show/formula.py"},
    "matplotlib": {"show/figures"},
    "pyarrow": {"text/parquet.py"},
    "datasets": {"text/hosted.py"},
    "wandb": {"train/tracking.py"},
    "typer": {"cli"},
    "rich": {"show", "cli"},
    "numpy": {"cost", "plan", "text", "train", "show/figures"},
}


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports_of(source: str, *, top_level_only: bool = False) -> set[str]:
    """Every absolute module name that a source imports."""
    tree = ast.parse(source)
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def broken_floors(room: str, source: str) -> list[str]:
    """Imports of `parambudget` that go up, or across to the other room of the same floor."""
    rooms = {name.split(".")[1] for name in imports_of(source) if name.startswith("parambudget.")}
    above = {other for other in rooms if floor_of(other) > floor_of(room)}
    across = {other for other in rooms - {room} if floor_of(other) == floor_of(room) and floor_of(room) > 0}
    return sorted(above | across)


def misplaced(place: str, source: str) -> list[str]:
    """Heavy packages imported outside their rooms."""
    heavy = {name.split(".")[0] for name in imports_of(source)} & HEAVY.keys()
    return sorted(name for name in heavy if not any(place.startswith(room) for room in HEAVY[name]))


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_floors_below(path):
    place = path.relative_to(SOURCE)
    assert broken_floors(place.parts[0].removesuffix(".py"), path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_packages_stay_in_their_rooms(path):
    assert misplaced(path.relative_to(SOURCE).as_posix(), path.read_text()) == []


def test_the_floors_check_can_fail():
    assert broken_floors("arch", "from parambudget.search.solve import solve") == ["plan"]
    assert broken_floors("build", "def f():\n    from parambudget.search.solve import solve") == ["plan"]


def test_the_rooms_check_can_fail():
    assert misplaced("arch/config.py", "import torch.nn as nn") == ["torch"]
    assert misplaced("show/tables.py", "def f():\n    import sympy") == ["sympy"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_has_one_idea_in_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


LIGHT = {
    "help": ["--help"],
    "count": ["count", "--dim", "896", "--n-layers", "24", "--n-heads", "14"],
    "solve": ["solve", "--target", "350M"],
}


def heavy_after(arguments: list[str], extra: str = "") -> set[str]:
    """Which of torch and sympy a process of the command line has imported when it ends."""
    code = (
        f"{extra}\nimport sys\nsys.argv = {['parambudget', *arguments]!r}\n"
        "from parambudget.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'torch', 'sympy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_help_count_and_solve_import_neither_torch_nor_sympy(arguments):
    assert heavy_after(arguments) == set()


def test_the_light_import_check_can_fail():
    assert heavy_after(["--help"], extra="import sympy") == {"sympy"}


def test_the_face_has_at_most_20_sorted_names_and_all_of_them_exist():
    names = parambudget.__all__
    assert len(names) <= 20
    assert names == sorted(names)
    assert all(hasattr(parambudget, name) for name in names)
