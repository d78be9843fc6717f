"""What a slider changes, and what goes along with it."""

import time

import pytest

import parambudget as pb
from parambudget.arch.config import MIXERS, flat_fields
from parambudget.web.model_edit import apply_style, change_field

LLAMA = pb.preset("llama-3-8b")


def test_the_heads_fill_the_new_width():
    edit = change_field(LLAMA, "dim", 4224)
    assert (edit.model.n_heads, edit.model.n_kv_heads, edit.model.head_dim) == (33, 3, 128)
    assert edit.notes == (
        "n_heads is now 33: heads of 128 fill the width", "n_kv_heads is now 3: it must divide n_heads=33",
    )  # fmt: skip


def test_a_width_that_no_whole_number_of_heads_fills_keeps_them():
    edit = change_field(LLAMA, "dim", 4160)
    assert (edit.model.n_heads, edit.notes) == (32, ())


def test_a_conventional_width_of_the_ffn_follows_and_another_one_stays():
    assert change_field(pb.model(dim=768, n_layers=12), "dim", 1024).model.intermediate_size == 2816
    assert change_field(LLAMA, "dim", 2048).model.intermediate_size == 14336


def test_an_empty_box_is_the_conventional_value():
    assert change_field(LLAMA, "intermediate_size", None).model.intermediate_size == 11008
    assert change_field(LLAMA, "n_kv_heads", None).model.n_kv_heads == 32


@pytest.mark.parametrize("block", ["moe", "mla"])
@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b", "qwen3-0.6b", "deepseek-v3", "mixtral-8x7b-v0.1"])
def test_a_block_can_be_switched_on_and_off(name, block):
    on = change_field(pb.PRESETS[name].model, block, True).model
    assert getattr(on, block) is not None
    assert getattr(change_field(on, block, False).model, block) is None


@pytest.mark.parametrize(
    ("field", "value"), [("n_kv_heads", 5), ("n_heads", 10**18), ("dim", 0), ("dim", None)]
)
def test_what_cannot_be_is_refused_in_one_line(field, value):
    with pytest.raises(pb.ConfigError, match=field):
        change_field(LLAMA, field, value)


@pytest.mark.parametrize(
    ("preset", "field", "value"),
    [
        ("llama-3-8b", "vocab_size", 50257),
        ("llama-3-8b", "context_length", 1024),
        ("llama-3-8b", "n_heads", 32),
        ("llama-3-8b", "head_dim", 128),
        ("deepseek-v3", "n_shared_experts", 0),
        ("deepseek-v3", "q_lora_rank", None),
        ("deepseek-v3", "qk_rope_head_dim", 64),
    ],
)
def test_an_empty_box_is_the_default_where_there_is_no_convention(preset, field, value):
    assert flat_fields(change_field(pb.preset(preset), field, None).model)[field] == value


@pytest.mark.parametrize("field", ["dim", "n_layers", "n_experts", "kv_lora_rank"])
def test_an_empty_box_of_a_size_without_a_default_is_refused(field):
    with pytest.raises(pb.ConfigError) as error:
        change_field(pb.preset("deepseek-v3"), field, None)
    assert str(error.value) == f"{field} is empty; give a size"


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v3", "mixtral-8x7b-v0.1", "gpt2"])
def test_a_style_keeps_sizes_and_blocks_and_names_all_that_it_replaces(name):
    before = pb.PRESETS[name].model
    edit = apply_style(before, "modern")
    assert (edit.model.moe, edit.model.mla, edit.model.rope_scaling) == (
        before.moe, before.mla, before.rope_scaling,
    )  # fmt: skip
    assert (edit.model.n_kv_heads, edit.model.rope_theta) == (before.n_kv_heads, before.rope_theta)
    old, new = flat_fields(before), flat_fields(edit.model)
    for field in old.keys() & new.keys():
        assert (f"{field} is now {new[field]} (was {old[field]})" in edit.notes[0]) == (
            old[field] != new[field]
        )


def test_a_width_of_the_ffn_that_was_chosen_stays_with_a_style():
    assert apply_style(LLAMA, "modern").model.intermediate_size == LLAMA.intermediate_size
    assert apply_style(LLAMA, "llama").model == LLAMA


def test_a_step_of_a_slider_costs_the_library_little():
    shape_tab = pytest.importorskip("parambudget.web.shape_tab", reason="the extra `web` is not installed")
    model, seconds = pb.preset("deepseek-v3"), []
    for n_layers in range(50, 60):
        begun = time.process_time()  # of this process alone: the machine may be busy
        counted = pb.count(change_field(model, "n_layers", n_layers).model)
        shape_tab.count_figures(counted)
        shape_tab.count_breakdown(counted)
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 0.05  # 2 ms where this was written


@pytest.mark.parametrize(
    ("preset", "dim", "sizes", "count"),
    [
        ("mamba-370m", 2048, {"mamba_inner_size": 4096, "mamba_dt_rank": 128}, "1,372,178,432"),
        ("rwkv-4-430m", 768, {"rwkv_inner_size": 768}, None),
        (
            "qwen3-next-80b-a3b",
            1024,
            {"delta_n_key_heads": 8, "delta_n_value_heads": 16, "n_heads": 16},
            None,
        ),
    ],
)
def test_the_sizes_of_a_mixer_follow_the_width(preset, dim, sizes, count):
    edit = change_field(pb.preset(preset), "dim", dim)
    assert sizes.items() <= flat_fields(edit.model).items()
    mixer = [name for name in sizes if name != "n_heads"]
    assert [f"{name} is now {sizes[name]}, in proportion to the width" for name in mixer] == list(edit.notes)
    if count:  # mamba-1.4b is twice as wide
        assert f"{pb.count(edit.model).total:,}" == count
    if not edit.model.n_attention_layers:
        assert (edit.model.n_heads, edit.model.head_dim) == (1, dim)


def test_a_size_of_a_mixer_can_be_changed_alone():
    edit = change_field(pb.preset("mamba-130m"), "mamba_state_dim", 32)
    assert edit.model == pb.preset("mamba-130m").replace(mamba_state_dim=32)


def test_every_size_of_a_mixer_has_a_control():
    shape_tab = pytest.importorskip("parambudget.web.shape_tab", reason="the extra `web` is not installed")
    fields = [each for block in MIXERS.values() for each in block.model_fields.items()]
    sizes = {name for name, info in fields if "int" in str(info.annotation)}
    assert sizes
    assert sizes <= shape_tab._LABELS.keys()
