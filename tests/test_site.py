"""The documentation site builds without a warning, and its generated pages say what the code says."""

import ast
import html
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.website import WEBSITE, load_website

from parambudget.arch.config import ModelConfig
from parambudget.cli._options import arguments_as_flags
from parambudget.cli.main import COMMANDS
from parambudget.cost.hardware import ACCELERATORS
from parambudget.training.config import TRAIN_FIELDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference():
    return load_website("reference")


@pytest.fixture(scope="module")
def command_pages(reference):
    return reference.command_pages()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    if find_spec("zensical") is None:
        pytest.skip("needs zensical, which is not installed")
    folder = tmp_path_factory.mktemp("site")  # there and empty
    command = [sys.executable, str(WEBSITE / "build_site.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class TestSite:
    """One build: the builder itself fails at a link or an anchor that leads nowhere."""

    def test_it_has_every_page(self, site):
        pages = [path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")]
        assert [page for page in pages if not (site / page).is_file()] == []

    def test_no_page_loads_anything_from_elsewhere(self, site):
        loaded = [
            (path.name, tag)
            for path in site.rglob("*.html")
            for tag in remote_resources(path.read_text(encoding="utf-8"))
        ]
        assert loaded == []
        styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
        assert re.findall(r"url\(.?https?:[^)]*\)|@import[^;]*", styles) == []

    def test_a_public_function_is_documented_with_its_signature(self, site):
        page = (site / "python" / "functions.html").read_text(encoding="utf-8")
        assert 'id="parambudget.solve"' in page
        assert "tolerance" in page

    def test_a_bar_in_the_code_of_a_table_is_a_bar(self, site):
        page = html.unescape((site / "weights.html").read_text(encoding="utf-8"))
        assert "<code><|endoftext|></code>" in page


def remote_resources(page: str) -> list[str]:
    """The tags of a page that load something from another server."""
    return re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]*>", page)


def test_the_check_of_resources_can_fail():
    assert len(remote_resources('<script src="https://a.b/c.js"></script><a href="https://a.b">')) == 1


def test_a_page_that_leads_nowhere_ends_the_build(tmp_path):
    pytest.importorskip("zensical")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](#nothing)\n")
    (tmp_path / "mkdocs.yml").write_text('{"site_name": "a"}')
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_only_an_earlier_site_is_replaced(tmp_path, capsys):
    build = load_website("build_site")
    built, site, other = tmp_path / "built", tmp_path / "deep" / "site", tmp_path / "other"
    built.mkdir()
    for text in ("first", "second"):
        (built / "index.html").write_text(text)
        assert build.may_replace(site)
        build.replace(site, built)
        assert (site / "index.html").read_text() == text
    assert [path.name for path in site.parent.iterdir()] == ["site"]
    other.mkdir()
    (other / "sitemap.xml").write_text("of another site")
    for kept in (other, other / "sitemap.xml"):
        assert build.build(kept) == 2
        assert "choose another folder" in capsys.readouterr().err
    assert (other / "sitemap.xml").read_text() == "of another site"


def test_an_empty_folder_has_no_entry_in_the_navigation(tmp_path):
    build = load_website("build_site")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.md").touch()
    entries = [{"All": [{"A": "a/"}, {"B": "b/"}, "c.md"]}]
    assert build.navigation(entries, tmp_path) == [{"All": [{"A": ["a/one.md"]}, "c.md"]}]


# ---- what is generated


def words_of_page(page: str) -> set[str]:
    """The words of a generated page without its markup."""
    text = re.sub(r"^```.*|^#+ |^\| (?:---|flag|argument) .*$", "", page, flags=re.MULTILINE)
    parts = re.split(r"`([^`]+)`", text)
    parts[::2] = [re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)\|", " ", part)) for part in parts[::2]]
    return words_of(html.unescape("".join(parts)))


def words_of(text: str) -> set[str]:
    return {word.replace("`", "").strip(":,.") for word in text.split()} - {"", "\\"}


class TestCommands:
    @pytest.mark.parametrize("command", ["solve", "train", "count", "data prepare", "gpus", "runs show"])
    def test_a_page_says_what_the_help_says(self, command_pages, run, command):
        page = command_pages[f"commands/{command.replace(' ', '-')}.md"]
        code, printed, _ = run(*command.split(), "--help-all")
        assert code == 0
        assert words_of_page(page) == words_of(printed) - {"Usage"}

    def test_every_command_has_a_page(self, command_pages):
        names = {Path(page).stem.partition("-")[0] for page in command_pages}
        assert names == {"index", *COMMANDS}


class TestFields:
    def test_every_field_and_setting_has_a_row(self, reference):
        tables = reference.field_tables()
        for marker, names in {"ModelConfig": ModelConfig.model_fields, "TrainConfig": TRAIN_FIELDS}.items():
            rows = re.findall(r"^\| `(\w+)` \|", tables[f"<!-- fields of {marker} -->"], re.MULTILINE)
            assert sorted(rows) == sorted(names)

    def test_the_page_has_a_place_for_every_table(self, reference):
        page = (DOCS / "config.md").read_text(encoding="utf-8")
        assert re.findall(r"<!-- fields of \w+ -->", page) == list(reference.field_tables())

    def test_values_and_defaults_are_those_of_the_field(self, reference):
        table = reference.field_tables()["<!-- fields of ModelConfig -->"]
        assert "| `dim` | integer at least 1 | required |" in table
        assert "| `n_heads` | integer at least 1 | derived |" in table
        assert '| `norm` | `"rmsnorm"`, `"layernorm"` | `"rmsnorm"` |' in table
        assert "| `rotary_fraction` | number above 0 and at most 1 | `1.0` |" in table

    @pytest.mark.parametrize(
        "example", re.findall(r"^```json\n(.*?)^```", (DOCS / "config.md").read_text("utf-8"), re.M | re.S)
    )
    def test_an_example_is_a_config_file(self, run, tmp_path, example):
        (tmp_path / "config.json").write_text(example)
        flags = ["--gpu", "h100", "--tokens", "1B"]
        code, out, err = run("plan", tmp_path / "config.json", *flags)
        assert (code, err) == (0, "")
        assert str(json.loads(example)["model"]["dim"]) in out


def test_every_gpu_has_a_row(reference):
    page = reference.gpus_page()["gpus.md"]
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == list(ACCELERATORS)


def test_every_public_name_is_on_one_page(reference):
    pytest.importorskip("griffe")
    import parambudget as pb

    named = re.findall(
        r"^::: parambudget\.(\w+)$", "\n".join(reference.python_pages().values()), re.MULTILINE
    )
    assert sorted(named) == sorted(pb.__all__)


def pages_in(entries: list) -> Iterator[str]:
    """The pages and folders that the entries of a navigation name."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            yield from pages_in([*entry.values()] if isinstance(entry, dict) else entry)


def test_every_page_is_once_in_the_navigation():
    project = tomllib.loads((WEBSITE / "zensical.toml").read_text(encoding="utf-8"))["project"]
    named = [page for page in pages_in(project["nav"]) if not page.endswith("/")]
    generated = {"gpus.md", *load_website("build_site").COPIED.values()}
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(written | generated)


# ---- troubleshooting


def message_patterns() -> Iterator[re.Pattern[str]]:
    """Every text of the package that is long enough to be a message, with anything where it has values."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            constants = [part.value for part in parts if isinstance(part, ast.Constant)]
            if sum(len(text) for text in constants if isinstance(text, str)) > 12:
                text = "".join(part.value if isinstance(part, ast.Constant) else "VALUE" for part in parts)
                yield re.compile(re.escape(arguments_as_flags(text)).replace("VALUE", ".*?"))


def unknown_messages(lines: list[str]) -> list[str]:
    """The lines that no message of the package begins like."""
    patterns = list(message_patterns())
    return [line for line in lines if not any(pattern.match(line) for pattern in patterns)]


def test_the_symptoms_are_messages_of_the_package():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    symptoms = [line for block in blocks for line in block.splitlines()]
    assert len(symptoms) > 10
    assert unknown_messages([*symptoms, "the GPU has gone on holiday, and nobody knows why"]) == [
        "the GPU has gone on holiday, and nobody knows why"
    ]
