"""The folder of a run: claimed by one run only, its metrics a line per update, its summary always whole."""

import json
import os
from pathlib import Path
from typing import Any, Final

from parambudget.errors import InputError
from parambudget.files import write_json
from parambudget.train.results import Step

_OURS: Final = ("config.json", "metrics.jsonl", "summary.json", "checkpoints")


def claim(out: Path, config: dict[str, Any]) -> Path:
    """Make `out` the folder of a new run and return its folder of checkpoints."""
    require_free(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}; choose a folder that is writable") from None
    write_json(out / "config.json", config)
    (out / "checkpoints").mkdir()
    return out / "checkpoints"


def require_free(out: Path) -> None:
    """Refuse a folder that holds a run already, or that cannot be written."""
    found = [name for name in _OURS if (out / name).exists()]
    if found:
        raise InputError(f"{out} holds another run ({', '.join(found)}); choose another folder with --out")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot make {out}: {there} is not a writable folder; choose another one with --out"
        )


def record(out: Path, step: Step) -> None:
    """Add one line to metrics.jsonl."""
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(step.as_row()) + "\n")


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Replace summary.json."""
    write_json(out / "summary.json", summary)
