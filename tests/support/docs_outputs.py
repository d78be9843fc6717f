"""The blocks of the README, docs and skill: run them, compare what they print, write it into the page.

A ```console block has commands after `$`, each with its whole output. A ```bash block has commands that
succeed. A ```python block runs, as a doctest if it has `>>>`. All blocks of a page run in order in one
folder. A comment on the line above a block says how its output is compared:

    (none)                               exactly
    <!-- measured: numbers vary -->      words exactly, numbers by `is_close`, any width of columns
    <!-- sampled: the text varies -->    only the prompt, with which the output begins
    <!-- not run: REASON -->             not at all

This writes what is printed today into the pages, where it differs by more than that:

    uv run --group dev python tests/support/docs_outputs.py [PAGE ...]
"""

import contextlib
import doctest
import io
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parambudget.errors import MissingExtra

ROOT = Path(__file__).parents[2]
SKILL = ROOT / "skills" / "parambudget" / "SKILL.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), SKILL]
BLOCK = re.compile(
    r"(?:^<!-- (?P<check>measured|sampled|not run): [^\n]+ -->\n)?"
    r"^```(?P<kind>console|bash|python)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", re.DOTALL)
# A hash, or digits with what may stand for the power of ten or the unit in which they are written.
NUMBER = re.compile(
    r"\b[0-9a-f]{16}\b|[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:[KMBT]\b| (?:[KMG]iB|ms|s|min|h)\b)?"
)
COUNTED = re.compile(r" (?:parameters|tensors|layers|updates|rows)\b")
EXACT_AFTER = re.compile(r"(?:parameters|step) +$")
LOSS_AFTER = re.compile(r"(?:loss|smoothed|val|validation|bits/byte) +$")
STILL_WAITING = re.compile(r"^.* so far\n", re.MULTILINE)  # printed once a minute, on a slow machine only
LOSS_TOLERANCE = 0.1  # other versions of Python have other sources, and the built-in text is those


class Difference(NamedTuple):
    """A command or example of a page that prints something else than the page says."""

    source: str
    printed: str
    span: tuple[int, int]
    """Where the text to be replaced by `printed` stands in the page."""


def differences(page: str, folder: Path) -> Iterator[Difference]:
    """Runs all blocks of a page in the folder."""
    for block in BLOCK.finditer(page):
        check = block["check"] or "exact"
        if check == "not run":
            continue
        run_block = {"console": run_console, "bash": run_bash, "python": run_python}[block["kind"]]
        for source, printed, (start, end) in run_block(block["body"], check, folder):
            offset = block.start("body")
            yield Difference(source, printed, (start + offset, end + offset))


def run_console(body: str, check: str, folder: Path) -> Iterator[Difference]:
    starts = [match.start() for match in re.finditer(r"^\$ ", body, re.MULTILINE)]
    for start, end in zip(starts, [*starts[1:], len(body)], strict=True):
        session = COMMAND.match(body[start:end])
        assert session is not None
        command, promised = session[1].removeprefix("$ "), session[2]
        printed, _ = run_command(command, folder)
        if not agrees(promised, printed, check, prompt_of(command)):
            yield Difference(command, plain(printed), (start + session.start(2), end))


def run_bash(body: str, _check: str, folder: Path) -> Iterator[Difference]:
    for command in body.replace("\\\n", "\\\0").splitlines():
        command = command.replace("\0", "\n")
        printed, exit_code = run_command(command, folder)
        if exit_code:
            raise AssertionError(f"$ {command}\nexits with {exit_code}:\n{printed}")
    yield from ()


def run_python(body: str, check: str, folder: Path) -> Iterator[Difference]:
    with contextlib.chdir(folder):
        if ">>>" not in body:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(body, "page", "exec"), {"__name__": "__main__"})
            return
        runner = RecordingRunner(Checker(check), optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(doctest.DocTestParser().get_doctest(body, {}, "page", "page", 0), out=lambda _: None)
    lines = body.splitlines(keepends=True)
    for example, printed in runner.printed:
        first = example.lineno + example.source.count("\n")
        last = first + example.want.count("\n")
        span = len("".join(lines[:first])), len("".join(lines[:last]))
        yield Difference(example.source, printed, span)


class Checker(doctest.OutputChecker):
    def __init__(self, check: str) -> None:
        self.check = check

    def check_output(self, want: str, got: str, _flags: int) -> bool:
        return agrees(want, got, self.check)


class RecordingRunner(doctest.DocTestRunner):
    """Keeps what examples print that fail."""

    def __init__(self, checker: doctest.OutputChecker, optionflags: int) -> None:
        super().__init__(checker, verbose=False, optionflags=optionflags)
        self.printed: list[tuple[doctest.Example, str]] = []

    def report_failure(self, _out: object, _test: object, example: doctest.Example, got: str) -> None:
        self.printed.append((example, got))

    def report_unexpected_exception(
        self, _out: object, _test: object, example: doctest.Example, error: object
    ) -> None:
        raise AssertionError(f"{example.source}{error}")


def run_command(command: str, folder: Path) -> tuple[str, int]:
    """What a command prints, as a reader without a GPU would see it, and its exit code."""
    without_uv = re.sub(r"^uv run (?:--\S+ \S+ )*", "", command)
    program = shlex.split(without_uv)[0]
    assert program in ("parambudget", "torchrun"), f"not a command of this project: {command}"
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("UV_RUN_RECURSION_DEPTH", None)
    if without_uv != command:
        environment["UV_RUN_RECURSION_DEPTH"] = "1"
    done = subprocess.run(
        without_uv, shell=True, cwd=folder, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if "not installed here" in done.stdout:
        raise MissingExtra(done.stdout)
    return done.stdout, done.returncode


def prompt_of(command: str) -> str:
    """The text that a command is to continue."""
    words = shlex.split(command)
    return words[words.index("--prompt") + 1] if "--prompt" in words else ""


def plain(text: str) -> str:
    """Without what no page shows: blank lines around it, spaces at the ends of lines, and how long a slow
    machine has been waiting."""
    lines = [line.rstrip() for line in STILL_WAITING.sub("", text).splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def agrees(promised: str, printed: str, check: str = "exact", prompt: str = "") -> bool:
    """Whether a page may say that this is printed."""
    promised, printed = plain(promised), plain(printed)
    if check == "sampled":
        elided = promised.endswith("...\n")
        return not elided and all(t.startswith(prompt) and t.strip() != prompt for t in (promised, printed))
    return promised == printed or (check == "measured" and agrees_but_for_numbers(promised, printed))


def agrees_but_for_numbers(promised: str, printed: str) -> bool:
    def words(text: str) -> list[list[str]]:
        return [NUMBER.sub("#", line).split() for line in text.splitlines()]

    return words(promised) == words(printed) and all(
        is_close(promised, one, other)
        for one, other in zip(NUMBER.finditer(promised), NUMBER.finditer(printed), strict=True)
    )


def is_close(text: str, promised: re.Match[str], printed: re.Match[str]) -> bool:
    """Counts (parameters, tensors, updates) are equal, losses within 10 %; other numbers may differ."""
    before = text[: promised.start()]
    if COUNTED.match(text, promised.end()) or EXACT_AFTER.search(before):
        return promised[0] == printed[0]
    if LOSS_AFTER.search(before):
        return math.isclose(float(printed[0]), float(promised[0]), rel_tol=LOSS_TOLERANCE)
    return True


def rewritten(page: str, folder: Path) -> str:
    """The page with what its blocks print now."""
    for _, printed, (start, end) in reversed(list(differences(page, folder))):
        page = page[:start] + printed + page[end:]
    return page


def main(names: list[str]) -> None:
    for page in [Path(name) for name in names] or PAGES:
        before = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            # Neither what was measured on this machine nor its cache changes a page.
            os.environ |= {"XDG_DATA_HOME": f"{folder}/data", "XDG_CACHE_HOME": f"{folder}/cache"}
            work = Path(folder) / "work"
            work.mkdir()
            after = rewritten(before, work)
        page.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{page.name}: {'unchanged' if after == before else 'rewritten'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
