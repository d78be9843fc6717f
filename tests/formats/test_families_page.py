"""docs/families.md says what is read, and what was checked."""

import importlib.util
import re
from pathlib import Path

import pytest

from parambudget.formats.hf.importer import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "families.md").read_text()
ROWS = {row[0]: row for row in re.findall(r"^\| (\S+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.M)}


@pytest.fixture(scope="module")
def benchmark():
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("families_of_the_page", ROOT / "benchmarks" / "families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_a_row_for_every_type_that_is_read():
    assert list(ROWS) == list(FAMILIES)


def test_no_row_has_an_error():
    assert {error for *_, error in ROWS.values()} == {"0"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_has_the_class_and_the_number_of_its_presets(benchmark, kind):
    _, class_name, presets, *_ = ROWS[kind]
    assert (class_name, int(presets)) == (benchmark.class_of(kind), len(benchmark.presets_of(kind)))


def test_every_preset_is_in_one_row(benchmark):
    from parambudget.arch.presets.registry import PRESETS

    assert sorted(name for kind in FAMILIES for name in benchmark.presets_of(kind)) == sorted(PRESETS)


def test_the_example_of_a_row_is_the_row():
    rows = (ROOT / "src" / "parambudget" / "arch" / "hf" / "llama_like.py").read_text()
    (example,) = re.findall(r'^    "arcee": .*?^    \),\n', PAGE, re.M | re.S)
    assert example in rows
