"""Runs that others are predicted from: a finished one in its folder, or one that a person describes."""

import os
from os import PathLike
from pathlib import Path
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.step import SETTINGS, StepConfig
from parambudget.errors import ConfigError, InputError, suggest
from parambudget.formats.source import as_model
from parambudget.planning.measured_run import MeasuredRun
from parambudget.training.metrics import (
    TrainResult,
    read_run_config,
    unique_tokens_read,
)
from parambudget.units import parse_count, short_repr, shorten

FORM: Final = "loss=3.21,tokens=400M,model=CONFIG_OR_PRESET and/or tokens-per-second=140000"
_KEYS: Final = ("loss", "tokens", "model", "unique-tokens", "tokens-per-second")


def measured_run(given: MeasuredRun | str | PathLike[str] | None) -> MeasuredRun | None:
    """The run that is given as an `anchor`, read if it is not read yet; None where there is none."""
    if given is None or isinstance(given, MeasuredRun):
        return given
    if not isinstance(given, str | PathLike):
        raise ConfigError(
            f"`anchor` is {short_repr(given)}; give the folder of a run, text such as "
            "'loss=3.21,tokens=400M,model=gpt2', or a MeasuredRun"
        )
    return read_measured_run(os.fspath(given))


def read_measured_run(source: str) -> MeasuredRun:
    """The run in a folder, or that of a text such as `loss=3.21,tokens=400M,model=gpt2`.

    Raises `InputError` where there is no such run, it has not finished, or it has no validation loss.
    """
    if not source.strip():
        raise InputError(f"`anchor` is empty; give the folder of a finished run, or {FORM}")
    if "=" in source and not os.path.exists(source):
        return _described_run(source)
    return _finished_run(Path(source))


def _finished_run(folder: Path) -> MeasuredRun:
    if not os.path.isdir(folder):  # Path.is_dir raises an error for a name that is too long
        raise InputError(
            f"`anchor={shorten(str(folder), 100)}` is no folder; give that of a finished run, or {FORM}"
        )
    document = read_run_config(folder)
    if document is None or not (folder / "summary.json").is_file():
        raise InputError(
            f"{folder} holds no run that has been saved; give the folder of a finished run as `anchor`, or "
            f"{FORM}"
        )
    result = TrainResult.read(folder)
    if not result.finished:
        raise InputError(
            f"the run in {folder} has not finished: it stands at {result.steps:,} updates, before its "
            "learning rate has come down, which tells too high a loss; finish it first, or use another "
            "`anchor`"
        )
    if result.val_loss is None:
        raise InputError(
            f"the run in {folder} has no finite validation loss; use another run as `anchor`, or {FORM}"
        )
    if document["provenance"].get("init") is not None:
        raise InputError(
            f"the run in {folder} has started from other weights, so its loss is not that of its tokens; use "
            "another run as `anchor`"
        )
    return MeasuredRun(
        loss=result.val_loss, tokens=result.tokens, model=ModelConfig.read(document["model"]),
        unique_tokens=unique_tokens_read(document, folder / "config.json", result.tokens),
        tokens_per_second=result.tokens_per_second, step=_step(document["train"], result),
        device=result.device, source=str(folder),
    )  # fmt: skip


def _step(train: dict[str, object], result: TrainResult) -> StepConfig:
    """How the updates of a run were executed, on as many devices as its peak is of."""
    accelerator = find_accelerator(result.device)
    n = 1
    if accelerator is not None and result.peak_flops is not None:
        n = max(1, round(result.peak_flops / accelerator.peak_flops))
    settings = {name: train[name] for name in SETTINGS if name in train}
    return StepConfig.read({**settings, "world_size": n})


def _described_run(text: str) -> MeasuredRun:
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        key = key.replace("_", "-")
        if not equals or not value:
            raise InputError(f"`anchor` has {short_repr(part)}, which is no key=value; write {FORM}")
        if key not in _KEYS:
            near = suggest(key, _KEYS, most=1) or _KEYS
            raise InputError(f"`anchor` has no {shorten(key)}; use {', '.join(near)}: {FORM}")
        if key in given:
            raise InputError(f"`anchor` has {key} twice; give it once")
        given[key] = value
    counts = {
        name: parse_count(given[name], f"{name} of the anchor") if name in given else None
        for name in ("tokens", "unique-tokens")
    }
    return MeasuredRun(
        loss=_number(given, "loss"), tokens=counts["tokens"],
        model=as_model(given["model"], {}) if "model" in given else None,
        unique_tokens=counts["unique-tokens"],
        tokens_per_second=_number(given, "tokens-per-second"), source="the given run",
    )  # fmt: skip


def _number(given: dict[str, str], key: str) -> float | None:
    if key not in given:
        return None
    try:
        return float(given[key].replace("_", ""))
    except ValueError:
        raise InputError(
            f"`anchor` has {key}={shorten(given[key])}, which is no number; write {FORM}"
        ) from None
