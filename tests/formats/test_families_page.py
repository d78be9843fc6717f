"""docs/families.md lists what is supported, and what was checked."""

import re
from pathlib import Path

import pytest
from support.benchmark_scripts import load_benchmark

from parambudget.formats.hf.families.registry import FAMILIES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "parambudget" / "formats" / "hf" / "families"
PAGE = (ROOT / "docs" / "families.md").read_text()
ROWS = {row[0]: row for row in re.findall(r"^\| (\S+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.M)}


@pytest.fixture(scope="module")
def benchmark():
    pytest.importorskip("transformers")
    return load_benchmark("families")


def test_the_page_has_a_row_for_every_supported_type():
    assert list(ROWS) == list(FAMILIES)


def test_all_pages_name_the_number_of_types_and_leave_the_list_to_this_one():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    named = [number for text in texts.values() for number in re.findall(r"(\d+)\s+(?:model\s+)?types", text)]
    assert {*map(int, named)} == {len(FAMILIES)}
    assert [name for name, text in texts.items() if "gpt_bigcode" in text] == ["families.md"]


def test_no_row_has_an_error():
    assert {error for *_, error in ROWS.values()} == {"0"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_has_the_class_and_the_number_of_its_presets(benchmark, kind):
    _, class_name, presets, *_ = ROWS[kind]
    assert (class_name, int(presets)) == (benchmark.class_of(kind), len(benchmark.presets_of(kind)))


def test_every_preset_is_in_one_row(benchmark):
    from parambudget.arch.presets.registry import PRESETS

    assert sorted(name for kind in FAMILIES for name in benchmark.presets_of(kind)) == sorted(PRESETS)


def test_the_example_of_a_record_is_the_record():
    records = (SOURCE / "llama.py").read_text()
    (example,) = re.findall(r'^    "arcee": .*?^    \),\n', PAGE, re.M | re.S)
    assert example in records


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_one_record_in_one_file(model_type):
    """Config, weights and class stand together; only the order of exports names a type once more."""
    records = "".join(path.read_text() for path in SOURCE.glob("*.py"))
    assert len(re.findall(f'^    "{model_type}": ', records, re.M)) == 1
    others = [path for path in SOURCE.parent.rglob("*.py") if path.parent != SOURCE]
    naming = {path.name for path in others if f'"{model_type}"' in path.read_text()}
    assert naming <= {"exporter.py"}
