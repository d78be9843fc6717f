"""Every block of the README and the docs is run, and prints what it says it prints.

tests/support/docs_outputs.py says how blocks are compared, and writes today's outputs into the pages.
"""

import re
from pathlib import Path

import pytest
from support.docs_outputs import PAGES, agrees, differences, rewritten


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory):
    """Pages that train on the same text share its tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_print_what_they_say(page, tmp_path):
    for command, printed, _ in differences(page.read_text(encoding="utf-8"), tmp_path):
        raise AssertionError(f"$ {command}\n{printed}")


def lost_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead to no file, or to no heading of that file."""
    lost = []
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    return lost


def anchors(text: str) -> set[str]:
    """The headings of a page as the links to them are spelt."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert lost_links(page, page.read_text(encoding="utf-8")) == []


def test_the_check_of_links_can_fail():
    text = "[a](docs/search.md#the-shape-score) [b](docs/search.md#nothing) [c](nothing.md)"
    assert lost_links(PAGES[0], text) == ["docs/search.md#nothing", "nothing.md"]


def test_an_output_is_compared_exactly_and_whole():
    assert agrees("total  350,349,312\n", "total  350,349,312  \n")
    assert not agrees("total  350,349,312\n", "total  350,349,313\n")
    assert not agrees("total  350,349,312\n", "total   350,349,312\n")
    assert not agrees("...\n", "total  350,349,312\n")


PROMISED = "model  9 parameters in 3.5 s\nstep 1/4  loss 8.30  1,482 tok/s  peak 1.3 GiB  val 8.25\n"


@pytest.mark.parametrize(
    "printed",
    [
        pytest.param(PROMISED.replace("1,482", "98"), id="a speed"),
        pytest.param(PROMISED.replace("3.5 s", "700 ms").replace("1.3 GiB", "900 MiB"), id="a unit"),
        pytest.param(PROMISED.replace("  ", "     "), id="the width of columns"),
        pytest.param(PROMISED.replace("8.30", "8.91"), id="a loss by less than 10 %"),
        pytest.param(f"reading the text: 1.0 min so far\n{PROMISED}", id="how long it has taken so far"),
    ],
)
def test_in_a_measured_output_these_may_differ(printed):
    assert agrees(PROMISED, printed, "measured")


@pytest.mark.parametrize(
    "printed",
    [
        pytest.param(PROMISED.replace("peak", "most"), id="a word"),
        pytest.param(PROMISED.replace("9 par", "8 par"), id="a count of parameters"),
        pytest.param(PROMISED.replace("1/4", "2/4"), id="a step"),
        pytest.param(PROMISED.replace("8.30", "9.31"), id="a loss by more than 10 %"),
        pytest.param(PROMISED.replace("  val 8.25", ""), id="a number that is missing"),
        pytest.param(PROMISED + "done\n", id="a line more"),
    ],
)
def test_in_a_measured_output_these_may_not_differ(printed):
    assert not agrees(PROMISED, printed, "measured")


def test_a_sampled_text_continues_its_prompt():
    assert agrees("def f():\n", "def main\n", "sampled", "def ")
    assert not agrees("def f():\n", "class A\n", "sampled", "def ")
    assert not agrees("def f():\n", "def \n", "sampled", "def ")
    assert not agrees("def ...\n", "def f():\n", "sampled", "def ")


PAGE = """
```console
$ parambudget count gpt2 \\
    --expect 1
of before
$ parambudget --nonsense
of before
```
```python
>>> 6 * 7
41
>>> 2
2
```
"""


def test_the_outputs_of_today_are_written_into_a_page(tmp_path):
    found = [source for source, _, _ in differences(PAGE, tmp_path)]
    assert found == ["parambudget count gpt2 \\\n    --expect 1", "parambudget --nonsense", "6 * 7\n"]
    after = rewritten(PAGE, tmp_path)
    assert "    --expect 1\nparambudget: 124,439,808 parameters" in after
    assert ">>> 6 * 7\n42\n>>> 2\n2\n```" in after
    assert list(differences(after, tmp_path)) == []


def test_a_command_that_fails_fails_its_block(tmp_path):
    with pytest.raises(AssertionError, match="exits with 2"):
        list(differences("```bash\nparambudget count nonsense\n```\n", tmp_path))


def test_a_block_that_is_not_run_is_not_compared(tmp_path):
    page = "<!-- not run: takes a minute -->\n```console\n$ parambudget calibrate\nnothing\n```\n"
    assert list(differences(page, tmp_path)) == []
