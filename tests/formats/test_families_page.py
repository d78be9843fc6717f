"""docs/families.md lists what is supported, and what was checked."""

import re
from pathlib import Path
from typing import get_args

import pytest
from support.benchmark_scripts import load_benchmark

from parambudget.arch.dims import MixerKind
from parambudget.formats.hf.families.registry import FAMILIES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "parambudget" / "formats" / "hf" / "families"
PAGE = (ROOT / "docs" / "families.md").read_text()
ROWS = {row[0]: row for row in re.findall(r"^\| (\S+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.M)}


def table_of_types(header: str) -> dict[str, tuple[str, str]]:
    """The rows of one of the two tables that say where types stand, by their first column."""
    (rows,) = re.findall(rf"^\| {header} \|[^\n]*\n\|-[^\n]*\n((?:\|[^\n]*\n)+)", PAGE, re.M)
    return {
        first: (second, stands) for first, second, stands in re.findall(r"\| (.*?) \| (.*?) \| (.*) \|", rows)
    }


@pytest.fixture(scope="module")
def benchmark():
    pytest.importorskip("transformers")
    return load_benchmark("families")


def test_the_page_has_a_row_for_every_supported_type():
    assert list(ROWS) == list(FAMILIES)


def test_all_pages_name_the_number_of_types_and_leave_the_list_to_this_one():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
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


def test_every_decoder_only_type_of_transformers_is_on_the_page(benchmark):
    types = {kind: row[0] for kind, row in table_of_types("`model_type` \\| class \\|").items()}
    assert types == benchmark.decoder_only_types()


def test_a_type_stands_where_the_registry_has_it(benchmark):
    """What is not read may be counted from its class, which takes too long to repeat here."""
    for kind, (_, stands) in table_of_types("`model_type` \\| class \\|").items():
        if kind in FAMILIES:
            assert stands == benchmark.where_it_stands(kind)
        else:
            assert stands.startswith(("`--class`", "refused: ")), kind


def test_no_type_is_left_out_without_a_reason(benchmark):
    known = {*benchmark.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    for reason, types in benchmark.LEFT_OUT.items():
        assert f"{reason}: {', '.join(sorted(types))}." in PAGE
        assert types <= known
    assert sum(map(len, benchmark.LEFT_OUT.values())) == len(known) - len(benchmark.decoder_only_types())


def test_the_page_has_every_multimodal_type_under_its_language_model(benchmark):
    rows = table_of_types("language model \\| in \\|")
    wholes = {kind: ", ".join(names) for kind, names in benchmark.wholes_by_text_type().items()}
    assert {kind: row[0] for kind, row in rows.items()} == wholes
    assert {kind for kind, row in rows.items() if "--class" not in row[1]} == wholes.keys() & FAMILIES.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_one_record_in_one_file(model_type):
    """Config, weights and class stand together; a type is named again in the order of exports only, and by
    multimodal types that it is part of. A type named after its mixer is a word of rules as well."""
    records = "".join(path.read_text() for path in SOURCE.glob("*.py"))
    assert len(re.findall(f'^    "{model_type}": ', records, re.M)) == 1
    others = [path for path in SOURCE.parent.rglob("*.py") if path.parent != SOURCE]
    naming = {path.name for path in others if f'"{model_type}"' in path.read_text()}
    names_a_mixer = model_type in get_args(MixerKind)
    mixer_rules = {"state_space_rules.py", "shared_block_rules.py"} if names_a_mixer else set()
    assert naming <= {"exporter.py", "multimodal.py"} | mixer_rules
