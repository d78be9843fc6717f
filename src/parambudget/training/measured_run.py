"""Runs that others are predicted from: a finished one in its folder, or one that a person describes."""

from pathlib import Path
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.step import SETTINGS, StepConfig
from parambudget.errors import InputError, suggest
from parambudget.formats.source import as_model
from parambudget.planning.measured_run import MeasuredRun
from parambudget.training.metrics import (
    TrainResult,
    read_document,
    read_run_config,
    unique_tokens_read,
)
from parambudget.units import parse_count, short_repr, shorten

FORM: Final = "loss=3.21,tokens=400M,model=CONFIG_OR_PRESET, tokens-per-second=140000, or both"
_KEYS: Final = ("loss", "tokens", "model", "unique-tokens", "tokens-per-second")


def read_measured_run(source: str) -> MeasuredRun:
    """The run in a folder, or that of a text such as `loss=3.21,tokens=400M,model=gpt2`.

    Raises `InputError` where there is no such run, it has not finished, or it has no validation loss.
    """
    if "=" in source and not Path(source).exists():
        return _described_run(source)
    return _finished_run(Path(source))


def newest_finished_run(runs: Path, vocab_size: int) -> Path | None:
    """The folder in `runs` of the run that finished last and can be an anchor for models of that vocabulary;
    None where there is none."""
    summaries = sorted(runs.glob("*/summary.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in summaries[:_MOST_LOOKED_AT]:
        try:
            run = _finished_run(path.parent)
        except InputError:
            continue
        if run.model is not None and run.model.vocab_size == vocab_size:
            return path.parent
    return None


_MOST_LOOKED_AT: Final = 8
"""Of the newest runs: each takes about a millisecond, and nobody asked for it."""


def _finished_run(folder: Path) -> MeasuredRun:
    if not folder.is_dir():
        raise InputError(
            f"`anchor={shorten(str(folder), 100)}` is no folder; give that of a finished run, or {FORM}"
        )
    if read_run_config(folder) is None or not (folder / "summary.json").is_file():
        raise InputError(
            f"{folder} holds no run that has been saved; give the folder of a finished run as `anchor`, or "
            f"{FORM}"
        )
    document, result = read_document(folder / "config.json"), TrainResult.read(folder)
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
            f"the run in {folder} has started from other weights, so its tokens do not tell how its loss came "
            "about; use another run as `anchor`"
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
        n = max(1, round(result.peak_flops / accelerator.bf16_flops))
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
    described = f"the run with {shorten(text, 120)}"
    counts = {
        name: parse_count(given[name], f"{name} of the anchor") if name in given else None
        for name in ("tokens", "unique-tokens")
    }
    return MeasuredRun(
        loss=_number(given, "loss"), tokens=counts["tokens"],
        model=as_model(given["model"], {}) if "model" in given else None,
        unique_tokens=counts["unique-tokens"],
        tokens_per_second=_number(given, "tokens-per-second"), source=described,
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
