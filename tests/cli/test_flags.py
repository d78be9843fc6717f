"""Messages of the library name arguments; the command line prints flags instead."""

import ast
import re
from pathlib import Path

import pytest

import parambudget
from parambudget.cli._flags import _ARGUMENTS, arguments_as_flags

SOURCE = Path(parambudget.__file__).parent
LIBRARY = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path.relative_to(SOURCE).parts[0] not in ("cli", "render", "text")
)
"""What the verbs call. `text` is left out: most of it serves `data prepare`, which is a command alone."""
OUR_FLAG = re.compile(rf"--(?:no-)?(?:gpu|{'|'.join(_ARGUMENTS).replace('_', '-')})\b(?!-)")


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("name one with `machine`, such as h100", "name one with --gpu, such as h100"),
        ("`hours=0.5` is too short", "--hours 0.5 is too short"),
        ("`batch_size=4, loss_chunks=8`: 3 GiB", "--batch-size 4 --loss-chunks 8: 3 GiB"),
        ("continue with `resume=True`", "continue with --resume"),
        ("start with `shard=False`, then `init`", "start with --no-shard, then --init"),
        ("run `data prepare` or `uv sync`; batch_size=4", "run `data prepare` or `uv sync`; batch_size=4"),
    ],
)  # fmt: skip
def test_arguments_become_flags_and_nothing_else_changes(message, printed):
    assert arguments_as_flags(message) == printed


def own_flags(source: str) -> list[str]:
    """The flags of this command line that the texts of a source name, docstrings aside."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]  # fmt: skip
    return [flag for text in texts if " " in text for flag in OUR_FLAG.findall(text)]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_library_names_no_flag(path):
    assert own_flags(path.read_text(encoding="utf-8")) == []


def test_the_check_of_flags_can_fail():
    assert own_flags('error = "choose another --out"') == ["--out"]
