"""Which finished runs lie where `train` keeps them: to be offered, so it costs a plan no more than a look."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from parambudget._files import read_json
from parambudget.errors import InputError

_MOST_READ: Final = 8
"""Of the newest runs."""


def newest_finished_run(runs: Path, vocab_size: int) -> Path | None:
    """The folder in `runs` of the run that was saved last among those that have finished, with a validation
    loss and that vocabulary; None where there is none.

    It is read no further: what else may be wrong with it is said when it is used.
    """
    saved: list[tuple[float, Path]] = []
    for path in runs.glob("*/summary.json"):
        with suppress(OSError):  # a run that was just removed
            saved.append((path.stat().st_mtime, path.parent))
    for _, folder in sorted(saved, reverse=True)[:_MOST_READ]:
        if _vocabulary_of_finished_run(folder) == vocab_size:
            return folder
    return None


def _vocabulary_of_finished_run(folder: Path) -> object:
    """Of the model of a finished run with a validation loss, as it stands in the file; None for others."""
    try:
        summary, config = (read_json(folder / name) for name in ("summary.json", "config.json"))
    except InputError:
        return None
    if not isinstance(summary, dict) or not isinstance(config, dict):
        return None
    model, provenance = config.get("model"), config.get("provenance")
    if not isinstance(model, dict) or not isinstance(provenance, dict):
        return None
    is_anchor = summary.get("finished") is True and summary.get("val_loss") and not provenance.get("init")
    return model.get("vocab_size") if is_anchor else None
