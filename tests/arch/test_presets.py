"""The table of published models: its counts, against the publications and against the published classes."""

import pytest

from parambudget.arch.presets.registry import PRESETS, TABLE, Preset, preset, preset_row
from parambudget.cost.params import count
from parambudget.errors import ConfigError, UnsupportedWarning


@pytest.mark.parametrize("row", PRESETS.values(), ids=lambda row: row.name)
def test_the_count_equals_the_published_count(row: Preset):
    """tests/formats/hf/test_classes.py builds the classes that were counted."""
    counted = count(row.model)
    assert counted.total == row.published_count, row.source
    assert counted.active == (row.published_active or row.published_count), row.source


def test_a_model_states_what_a_token_meets_if_and_only_if_it_has_experts():
    assert {row.name for row in TABLE if row.published_active} == {row.name for row in TABLE if row.model.moe}


@pytest.mark.parametrize("row", PRESETS.values(), ids=lambda row: row.name)
def test_every_preset_names_where_it_was_published(row: Preset):
    assert row.source.startswith("huggingface.co/")
    assert "counted: " in row.source


def test_names_are_unique_sorted_and_lower_case():
    assert list(PRESETS) == sorted({row.name for row in PRESETS.values()})
    assert all(name == row.name == name.lower() for name, row in PRESETS.items())


def test_no_row_was_lost_to_another_of_the_same_name():
    assert len(PRESETS) == len(TABLE)


def test_a_preset_is_its_model():
    assert preset("gpt2").dim == 768
    assert preset("llama-3-8b") == preset_row("llama-3-8b").model


def test_a_preset_whose_publication_computes_more_says_so():
    assert PRESETS["gpt2"].notes == ()
    with pytest.warns(UnsupportedWarning, match="phi-3.5-moe: counted exactly, but built without rescal"):
        assert preset("phi-3.5-moe") == PRESETS["phi-3.5-moe"].model
    with pytest.warns(UnsupportedWarning, match="gemma-3n-e2b: counted exactly, and not built, because of"):
        preset("gemma-3n-e2b")


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "qwen3_0.6b", "QWEN3-0.6B"])
def test_case_underscores_and_the_owner_do_not_matter(name: str):
    assert preset_row(name) is PRESETS["qwen3-0.6b"]


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(
        ConfigError, match="unknown preset 'lama-3-8b'; the nearest are llama-3-8b, "
    ) as caught:
        preset("lama-3-8b")
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_still_lists_some():
    with pytest.raises(ConfigError, match=r"the nearest are \S+, \S+, \S+, \S+, \S+$"):
        preset("???")
