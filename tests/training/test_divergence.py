"""A run whose numbers run away: what it writes stays JSON, and what it calls good is good."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_data import small_config, small_model

from parambudget._documents import read_with_seal, write_with_seal
from parambudget._files import sha256_of_file
from parambudget.errors import CheckFailed, ConfigError, InputError
from parambudget.nn.transformer import Transformer
from parambudget.training import loop
from parambudget.training.checkpoint import files
from parambudget.training.checkpoint.files import CheckpointState
from parambudget.training.device import select_device
from parambudget.training.generate import SamplingParams, generate_text, load_checkpoint
from parambudget.training.metrics import list_checkpoints, read_run

pytestmark = pytest.mark.usefixtures("one_thread")

RUNAWAY = {"steps": 30, "warmup_steps": 0, "weight_decay": 1e5, "save_every": 1, "eval_every": 3, "keep": 1}
"""Weights grow 300 times with every update: for some updates the norms still hide that."""


def diverge(data, out: Path, **changes) -> str:
    job = loop.TrainJob(small_model(), small_config(**RUNAWAY | changes), data, out)
    with pytest.raises(CheckFailed) as caught:
        loop.train(job, device="cpu")
    return str(caught.value)


@pytest.fixture(scope="module")
def diverged(data, tmp_path_factory) -> tuple[Path, str]:
    """A run that has diverged, and its error."""
    out = tmp_path_factory.mktemp("diverged") / "run"
    return out, diverge(data, out)


def strict_json(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_a_diverged_run_leaves_is_json_and_is_read_back(diverged):
    out, _ = diverged
    rows = [strict_json(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows[-5:]] == [True] * 5
    evaluations = [row["val_loss"] for row in rows if "val_loss" in row]
    assert evaluations[0] > 0
    assert evaluations[-1] is None
    assert strict_json((out / "summary.json").read_text())["finished"] is False
    shown = read_run(out).as_dict()
    assert (shown["val_loss"], shown["best_val_loss"]) == (None, min(filter(None, evaluations)))


def test_the_last_good_checkpoint_can_be_trained_on_and_sampled(diverged, data, tmp_path):
    out, error = diverged
    assert error.startswith("loss or gradient was not finite for 5 updates in a row, up to step ")
    named = Path(error.split("`init=")[1].split("`")[0])
    step = files.read_state(named).step
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[step - 1]["loss"] is not None
    assert named != list_checkpoints(out / "checkpoints")[0]
    still = small_config(steps=1, warmup_steps=0, learning_rate=1e-9, final_learning_rate=0.0)
    result = loop.train(loop.TrainJob(small_model(), still, data, tmp_path / "on", init=named), device="cpu")
    assert result.loss is not None
    loaded = load_checkpoint(named, select_device("cpu"))
    assert generate_text(loaded, "the", SamplingParams(3, 1.0, None, 0)).n_tokens > 0


def test_without_a_good_checkpoint_none_is_named(data, tmp_path):
    error = diverge(data, tmp_path / "run", save_every=30)
    assert re.search(
        "no checkpoint is good to start from: lower learning_rate=.* and start again, in another", error
    )


def test_weights_that_are_not_finite_are_not_saved(diverged, data, tmp_path):
    """The loss before the update is finite; the update itself is too much for float32."""
    init = Path(diverged[1].split("`init=")[1].split("`")[0])
    config = small_config(**RUNAWAY | {"learning_rate": 1e18, "weight_decay": 1e18})
    with pytest.raises(CheckFailed, match=r"^weights are not finite, up to step 1; no checkpoint is good"):
        loop.train(loop.TrainJob(small_model(), config, data, tmp_path / "run", init=init), device="cpu")
    assert not list((tmp_path / "run/checkpoints").iterdir())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_largest_settings_end_in_one_line(data, tmp_path, optimizer):
    diverge(data, tmp_path / "run", optimizer=optimizer, learning_rate=1e18, weight_decay=1e18)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "grad_clip", "balance_loss", "z_loss"])
def test_a_setting_beyond_float32_is_refused(name):
    with pytest.raises(
        ConfigError, match=f"{name} is 1e\\+39; it must be less than or equal to 1{'0' * 18}$"
    ):
        small_config(**{name: 1e39})


def test_weights_that_are_not_finite_are_named_when_they_are_read(diverged, tmp_path):
    """Whoever wrote them: the hashes of this checkpoint match."""
    newest = list_checkpoints(diverged[0] / "checkpoints")[0]
    folder = shutil.copytree(newest, tmp_path / newest.name)
    weights = load_file(folder / "model.safetensors")
    weights["embed.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    state = read_with_seal(folder / "state.json", CheckpointState)
    state.sha256["model.safetensors"] = sha256_of_file(folder / "model.safetensors")
    write_with_seal(folder / "state.json", state)
    with pytest.raises(InputError, match=r"embed\.weight in .* has values that are not finite"):
        load_checkpoint(folder, select_device("cpu"))
    with pytest.raises(InputError, match=r"embed\.weight in .* has values that are not finite"):
        files.load_weights(folder, Transformer(small_model(), device="cpu"))


def test_logits_that_are_not_finite_are_one_line(diverged):
    """Finite weights, but so large that their products are not."""
    newest = list_checkpoints(diverged[0] / "checkpoints")[0]
    loaded = load_checkpoint(newest, select_device("cpu"))
    with pytest.raises(InputError, match="logits that are not finite"):
        generate_text(loaded, "the", SamplingParams(3, 1.0, None, 0))


def test_a_finite_validation_loss_does_not_make_a_checkpoint_good(data, tmp_path):
    """The first update blows the weights up: their loss is finite, their gradients are not."""
    error = diverge(
        data, tmp_path / "run", steps=8, save_every=2, eval_every=2, learning_rate=1e8, weight_decay=0.1,
        optimizer="adamw", grad_clip=None, keep=3,
    )  # fmt: skip
    rows = read_run(tmp_path / "run").steps
    assert [step.skipped for step in rows] == [False] + [True] * 5
    assert rows[3].val_loss is not None
    assert "up to step 6; no checkpoint is good to start from: lower learning_rate=" in error
    assert json.loads((tmp_path / "run/summary.json").read_text())["checkpoint"] is None
