"""Masked documents: no token sees another document, and windows begin at documents."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.tiny_model import built
from support.training_data import small_config, small_model
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention

from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.speed.profile import preset_profile
from parambudget.cost.speed.roofline import step_seconds
from parambudget.cost.step import StepConfig
from parambudget.errors import ConfigError, InputError
from parambudget.nn import document_mask as masks
from parambudget.nn.document_mask import documents_of
from parambudget.training import dataloader, loop
from parambudget.training.dataloader import DocumentWindows, document_windows
from parambudget.training.device import select_device
from parambudget.training.loss import build_loss
from parambudget.training.run.defaults import with_train_defaults

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = select_device("cpu")
END = 7
WINDOW = torch.tensor([[END, 20, 21, 22, 23, END, 30, 31, END, 40, 41, 42, 43, 44, 45, 46]])
MODELS = {
    "plain": {},
    "grouped": {"n_heads": 4, "n_kv_heads": 2},
    "window": {"window": 3, "window_pattern": ("local", "global")},
    "soft-cap": {"attention_softcap": 5.0},
    "latent": {
        "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    },
}  # fmt: skip


@pytest.fixture(params=["bias", "blocks"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU: there FlexAttention gets a list of blocks."""
    if request.param == "blocks":
        monkeypatch.setattr(
            masks, "takes_block_mask", lambda m, *_: m.attention_softcap is None and not m.attention_sinks
        )


def test_a_text_begins_with_the_token_that_ends_the_one_before():
    documents = documents_of(torch.tensor([[1, END, 2, 3, END, END, 4]]), END)
    assert documents.tolist() == [[0, 1, 1, 1, 2, 3, 3]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_a_document_are_those_of_it_alone(name):
    module = built(small_model(**MODELS[name])).requires_grad_(False)  # no FlexAttention with it on CPUs
    together = module.logits(module.hidden_states(WINDOW, documents_BT=documents_of(WINDOW, END)))
    for first, last in ((0, 5), (5, 8), (8, 16)):
        alone = module(WINDOW[:, first:last])  # rotary positions are relative
        torch.testing.assert_close(together[:, first:last], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("either_way")
def test_another_document_changes_nothing_and_does_so_without_the_mask():
    module, changed = built(small_model()).requires_grad_(False), WINDOW.clone()
    changed[0, 6] = 99
    for mask, same in ((True, True), (False, False)):
        before, after = (
            module.hidden_states(tokens, documents_BT=documents_of(tokens, END) if mask else None)
            for tokens in (WINDOW, changed)
        )
        assert torch.equal(before[:, 8:], after[:, 8:]) is same
        assert torch.equal(before[:, :6], after[:, :6])


def test_the_loss_is_that_of_the_documents_one_by_one():
    module = built(small_model())
    tokens = torch.cat((WINDOW, torch.tensor([[END]])), dim=1)
    loss = build_loss(module, small_config(mask_documents=True), CPU, end_of_text=END)(tokens)
    one_by_one = [
        F.cross_entropy(module(tokens[:, a:b])[0], tokens[0, a + 1 : b + 1], reduction="sum")
        for a, b in ((0, 5), (5, 8), (8, 16))
    ]
    torch.testing.assert_close(loss, sum(one_by_one) / 16)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_compiled_with_blocks_it_is_one_graph_for_all_batches(recompute, monkeypatch):
    torch.compiler.reset()
    # It refuses gradients on a CPU, where only its compiled kernels have none.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    model = small_model(**MODELS["window"])
    config = small_config(mask_documents=True, gradient_checkpointing=recompute)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        build_loss(built(model), config, CPU, end_of_text=END), backend=counter, fullgraph=True, dynamic=False
    )
    plain = build_loss(built(model), config, CPU, end_of_text=END)
    for shift in range(3):
        tokens = WINDOW.roll(shift, 1)[:, [*range(16), 0]].repeat(2, 1)
        with monkeypatch.context() as patch:
            patch.setattr(masks, "takes_block_mask", lambda *_: True)
            loss = compiled(tokens)
        loss.backward()
        torch.testing.assert_close(loss, plain(tokens))
    assert counter.frame_count == 1


# The windows


def test_windows_begin_at_the_next_document_and_long_ones_go_on():
    opened = np.array([6, 8, 17, 26, 60])
    windows = DocumentWindows.of(np.arange(70), 10, opened)
    # 0 to 9; 10 to 16 are left out; 17 to 26, and as nothing begins soon, on to 56. The last needs a target.
    assert windows.starts.tolist() == [0, 17, 27, 37, 47]
    assert windows.left_out_share == pytest.approx(1 - 50 / 69)
    assert "27.5% of the training tokens are left out" in windows.notice


def windows_one_by_one(n_tokens: int, length: int, opened: list[int]) -> list[int]:
    """The rule as it reads: after each window at the first document that begins soon, else at once."""
    starts, position = [], 0
    while position + length < n_tokens:
        starts.append(position)
        end = position + length
        position = min((each for each in opened if end <= each < end + length), default=end)
    return starts


@given(st.integers(1, 9), st.integers(1, 90), st.data())
def test_the_windows_are_those_of_the_rule_one_by_one(length, n_more, drawn):
    n_tokens = length + n_more
    opened = sorted(drawn.draw(st.sets(st.integers(0, n_tokens - 1))))
    with patch.object(dataloader, "_FOLLOWED_AT_ONCE", 4):  # parts are no different from a whole
        windows = DocumentWindows.of(np.arange(n_tokens), length, np.array(opened, dtype=np.int64))
    assert windows.starts.dtype == np.int64
    assert windows.starts.tolist() == windows_one_by_one(n_tokens, length, opened)


def test_an_epoch_visits_every_window_once_in_an_order_of_its_own():
    tokens = np.arange(500)
    windows = DocumentWindows.of(tokens, 8, np.arange(5, 500, 7))
    n, run = len(windows.starts), windows.with_order_of(3)
    epochs = [run.batch(i * n, n) for i in range(2)]
    for epoch in epochs:
        assert sorted(epoch[:, 0]) == windows.starts.tolist()
        inputs = epoch[:, :-1].ravel()
        assert len(set(inputs)) == len(inputs)
    assert not np.array_equal(*epochs)
    assert np.array_equal(run.batch(n - 2, 4), np.concatenate((epochs[0][-2:], epochs[1][:2])))


def test_a_resumed_run_is_the_same_bit_for_bit(data, tmp_path):
    model, config = small_model(), small_config(mask_documents=True)
    said: list[str] = []
    loop.train(loop.TrainJob(model, config, data, tmp_path / "whole"), device="cpu", on_notice=said.append)
    stop = iter([False] * 3 + [True]).__next__
    loop.train(loop.TrainJob(model, config, data, tmp_path / "parts"), device="cpu", stop_requested=stop)
    loop.train(loop.TrainJob(model, config, data, tmp_path / "parts", resume=True), device="cpu")
    whole, parts = (
        load_file(tmp_path / name / "checkpoints/step-6/model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert said == [document_windows(data, model.context_length).notice]


# What is refused, and what it costs


def test_documents_that_are_not_known_are_refused(data, tmp_path):
    config = small_config(mask_documents=True)
    for unknown, says in (
        (replace(data, end_of_text=None), "needs the token between documents"),
        (replace(data, train=np.full(100, 5)), "has nothing to mask"),
    ):
        with pytest.raises(InputError, match=says):
            loop.train(loop.TrainJob(small_model(), config, unknown, tmp_path / "run"), device="cpu")
    assert not (tmp_path / "run").exists()


def test_alibi_and_shards_are_refused():
    with pytest.raises(ConfigError, match="mask_documents=True is not supported with ALiBi"):
        with_train_defaults({"mask_documents": True}, small_model(position="alibi"), 10**6, on_cpu=True)
    with pytest.raises(ConfigError, match="cannot be used with shard=True"):
        StepConfig.read(
            {"batch_size": 1, "gradient_accumulation_steps": 2, "world_size": 2, "shard": True}
            | {"mask_documents": True}
        )


def test_by_bound_it_takes_at_most_a_tenth_more_time():
    model = small_model(
        dim=896, n_layers=24, n_heads=14, intermediate_size=3584, vocab_size=50257, context_length=1024
    )
    step = StepConfig(batch_size=16, gradient_accumulation_steps=8)
    h100 = preset_profile(ACCELERATORS["h100-sxm"])
    plain, masked = (
        sum(step_seconds(model, step.replace(mask_documents=mask), h100).values()) for mask in (False, True)
    )
    assert plain < masked <= 1.1 * plain
