"""Runs of models with mixers: what computes them is said, and kept with the checkpoints."""

import json

import pytest
import torch
from support import fused_kernels
from support.training_data import small_config, small_model

from parambudget.training import loop
from parambudget.training.generate import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _fresh_choices():
    yield
    fused_kernels.forget_choices()


def trained(data, out, *, resume=False, stop_after=None):
    model = small_model(
        mixer_pattern=["gated_delta_net", "attention"], delta_n_key_heads=1, delta_n_value_heads=2,
        delta_key_dim=16, delta_value_dim=16,
    )  # fmt: skip
    notices, steps = [], []
    result = loop.train(
        loop.TrainJob(model, small_config(steps=6), data, out, resume=resume), device="cpu",
        on_step=steps.append, on_notice=notices.append,
        stop_requested=lambda: stop_after is not None and len(steps) >= stop_after,
    )  # fmt: skip
    return result, notices


def test_a_run_in_plain_torch_says_so(data, tmp_path):
    _, notices = trained(data, tmp_path / "run")
    assert notices == ["mixers: scan: plain torch, convolution: plain torch"]


def test_a_run_with_kernels_names_them_and_has_the_same_losses(data, tmp_path, monkeypatch):
    plain, _ = trained(data, tmp_path / "plain")
    fused_kernels.install(monkeypatch)
    fused, notices = trained(data, tmp_path / "fused")
    assert len(notices) == 1
    assert notices[0].startswith(
        "mixers: scan: flash-linear-attention 0.6.0, convolution: causal-conv1d 1.7.0. "
    )
    assert "have run on no GPU yet" in notices[0]
    assert "PARAMBUDGET_PLAIN_MIXERS=1" in notices[0]
    assert {"gated_delta_rule", "causal_conv1d"} == set(fused_kernels.CALLS)
    assert fused.loss == pytest.approx(plain.loss, abs=1e-3)


def test_a_run_resumed_with_other_kernels_says_that_it_is_not_the_same(data, tmp_path, monkeypatch):
    trained(data, tmp_path / "run", stop_after=3)
    fused_kernels.install(monkeypatch)
    _, notices = trained(data, tmp_path / "run", resume=True)
    assert notices[-1] == (
        "the run continues, but not bit for bit: mixers scan: plain torch, convolution: plain torch there "
        "and scan: flash-linear-attention 0.6.0, convolution: causal-conv1d 1.7.0 here"
    )


def test_a_model_without_mixers_keeps_nothing_of_them(data, tmp_path):
    notices = []
    job = loop.TrainJob(small_model(), small_config(steps=3), data, tmp_path / "run")
    loop.train(job, device="cpu", on_notice=notices.append)
    state = json.loads((tmp_path / "run/checkpoints/step-3/state.json").read_text())
    assert not notices
    assert "mixers" not in json.dumps(state)


def test_a_checkpoint_that_kernels_compute_says_so(data, tmp_path, monkeypatch):
    trained(data, tmp_path / "run")
    notices = []
    load_checkpoint(tmp_path / "run", loop.select_device("cpu"), notices.append)
    assert not notices
    fused_kernels.install(monkeypatch)
    loaded = load_checkpoint(tmp_path / "run", loop.select_device("cpu"), notices.append)
    assert "flash-linear-attention 0.6.0" in notices[0]
    with torch.no_grad():
        loaded.module(torch.randint(300, (1, 9)))
    assert fused_kernels.CALLS
