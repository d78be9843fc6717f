"""Every console and Python block of the README and the docs is run, and prints what it says it prints."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+-->\n)?```(console|python)\n(.*?)```", re.DOTALL)
RUN = f"{sys.executable} -c 'from parambudget.cli.main import main; main()' "


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory):
    """Pages that train on the same text share its tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def blocks_of(page: Path, kind: str) -> list[str]:
    """The blocks of a kind that are to be run."""
    return [body for skipped, found, body in BLOCK.findall(page.read_text()) if found == kind and not skipped]


def sessions(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that stands below it."""
    return [tuple(part.split("\n", 1)) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def run(command: str, folder: Path) -> str:
    """What a command prints, standard error included, run as a reader would but in this environment."""
    line = re.sub(r"^(uv run (--extra train )?)?parambudget ", lambda _: RUN, command)
    assert line.startswith(RUN), f"not a command of this project: {command}"
    surroundings = os.environ | ({"UV_RUN_RECURSION_DEPTH": "1"} if command.startswith("uv run ") else {})
    done = subprocess.run(
        line, shell=True, cwd=folder, capture_output=True, text=True, check=False, env=surroundings
    )
    return done.stdout + done.stderr


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def agrees(promised: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(plain(promised), plain(printed), doctest.ELLIPSIS)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p, "console")], ids=lambda p: p.name)
def test_the_console_blocks_print_what_they_say(page, tmp_path):
    for block in blocks_of(page, "console"):
        for command, promised in sessions(block):
            printed = run(command, tmp_path)
            assert agrees(promised, printed), f"$ {command}\n{printed}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p, "python")], ids=lambda p: p.name)
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page, "python"):
        if ">>>" not in block:
            exec(compile(block, page.name, "exec"), {"__name__": "__main__"})
            continue
        example = doctest.DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert outcome.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_check_of_blocks_can_fail():
    assert agrees("350,349,312 ...\n", "350,349,312 +0.100 %\n")
    assert not agrees("350,349,312\n", "350,349,313\n")
