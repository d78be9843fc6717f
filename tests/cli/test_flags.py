"""Messages of the library name arguments; the command line prints flags instead."""

import ast
import re
from pathlib import Path

import pytest

import parambudget
from parambudget.cli._options import _ARGUMENTS, arguments_as_flags

SOURCE = Path(parambudget.__file__).parent
LIBRARY = sorted(
    path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("cli", "render")
)
"""What does not belong to the command line alone."""
COMMAND = re.compile(r"parambudget [^,;]*")
OUR_FLAG = re.compile(rf"--(?:no-)?(?:gpu|{'|'.join(_ARGUMENTS).replace('_', '-')})\b(?!-)")


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("name one with `machine`, such as h100", "name one with --gpu, such as h100"),
        ("`hours=0.5` is too short", "--hours 0.5 is too short"),
        ("`batch_size=4, loss_chunks=8`: 3 GiB", "--batch-size 4 --loss-chunks 8: 3 GiB"),
        ("continue with `resume=True`", "continue with --resume"),
        ("start with `shard=False`, then `init`", "start with --no-shard, then --init"),
        ("`end_of_text` with `tokenizer=bpe`", "--end-of-text with --tokenizer bpe"),
        ("run `data prepare` or `uv sync`; batch_size=4", "run `data prepare` or `uv sync`; batch_size=4"),
    ],
)  # fmt: skip
def test_arguments_become_flags_and_nothing_else_changes(message, printed):
    assert arguments_as_flags(message) == printed


def own_flags(source: str) -> list[str]:
    """The flags of this command line that the texts of a source name, docstrings and whole commands aside."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    formats = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formats for part in node.values}
    texts = [
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts
    ]  # fmt: skip
    for node in formats:
        texts.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
    shown = [COMMAND.sub("", text) for text in texts if " " in text]
    return [flag for text in shown for flag in OUR_FLAG.findall(text)]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_library_names_no_flag(path):
    assert own_flags(path.read_text(encoding="utf-8")) == []


def test_the_check_of_flags_can_fail():
    assert own_flags('error = "choose another --out"') == ["--out"]
    assert own_flags('error = f"run parambudget train --out {a}, then --{b} with --data {c}"') == ["--data"]
