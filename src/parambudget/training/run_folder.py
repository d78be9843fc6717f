"""The folder of a run: claimed by one run only, its metrics a line per update, its summary always whole."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from parambudget._files import atomic_write, read_json
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.formats.source import config_document
from parambudget.text.token_cache import TokenData
from parambudget.training.checkpoint import files
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import Step, TrainResult

_OURS: Final = ("config.json", "metrics.jsonl", "summary.json", "checkpoints")


def stored_result(out: Path) -> TrainResult | None:
    """What summary.json in `out` says, or None if it is not there or cannot be read."""
    try:
        return TrainResult.of_dict(read_json(out / "summary.json"))
    except (InputError, TypeError):
        return None


def description(
    model: ModelConfig, config: TrainConfig, data: TokenData, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The config file of the run: what it computes, and on which text."""
    facts = {
        "version": __version__,
        "corpus": data.name,
        "corpus_sha256": data.sha256,
        "tokens_sha256": data.tokens_sha256,
        "tokenizer_entries": data.entries,
    }
    return config_document(model, facts | dict(provenance), config.model_dump())


@contextmanager
def claimed(out: Path, *, resume: bool = False) -> Iterator[Path]:
    """Make `out` the folder of a run, keep other processes out of it, and give its folder of checkpoints.

    With `resume` the folder may hold a run already: what was cut short in it is cleared away.
    """
    require_free(out, resume=resume)
    checkpoints = out / "checkpoints"
    missing = [folder for folder in (checkpoints, out, *out.parents) if not folder.exists()]
    try:
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make {out}: {error.strerror}; choose a folder that is writable"
            ) from None
        with _locked(checkpoints):
            for path in out.glob(".*.tmp"):
                path.unlink(missing_ok=True)
            files.remove_unfinished(checkpoints)
            yield checkpoints
    finally:
        if not (out / "config.json").exists():
            for folder in missing:  # a run that did not begin leaves no folder; a full one stays
                with suppress(OSError):
                    folder.rmdir()


def require_free(out: Path, *, resume: bool = False) -> None:
    """Refuse a folder that cannot be written, or that holds a run that is not to be gone on with."""
    found = [name for name in _OURS if _holds(out / name)]
    if found and not (resume and "config.json" in found):
        go_on = "; go on with it by --resume, or" if "config.json" in found else ";"
        raise InputError(
            f"{out} holds another run ({', '.join(found)}){go_on} choose another folder with --out"
        )
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not _may_hold(there):
        raise InputError(
            f"cannot make {out}: {there} is not a writable folder; choose another one with --out"
        )


def _may_hold(folder: Path) -> bool:
    """Whether a folder can be made in it: tried, for not every place that grants it does it (/proc)."""
    try:
        with TemporaryDirectory(prefix=".parambudget-", dir=folder):
            return os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _holds(path: Path) -> bool:
    """Whether the path is there; a folder counts if something is in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process out; the lock goes with the process, however that ends."""
    if os.name != "posix":
        yield
        return
    import fcntl  # not there on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks; there, nobody is kept out.
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is training in {folder.parent}; wait for it, or stop it first"
                ) from None
        yield
    finally:
        os.close(descriptor)


class Metrics:
    """metrics.jsonl, one line per update. Rows that the disk refuses are written with a later one."""

    def __init__(self, out: Path, on_notice: Callable[[str], None]) -> None:
        self.path, self.on_notice = out / "metrics.jsonl", on_notice
        self._waiting: list[str] = []

    def cut(self, last_step: int) -> list[Step]:
        """The steps up to `last_step`; the file keeps only these."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        steps = [step for line in lines if (step := _step(line)) and step.step <= last_step]
        atomic_write(self.path, "".join(json.dumps(step.as_row()) + "\n" for step in steps))
        return steps

    def add(self, step: Step) -> None:
        """Add one line."""
        self._waiting.append(json.dumps(step.as_row()) + "\n")
        if (error := self._write()) is not None and len(self._waiting) == 1:
            self.on_notice(f"cannot write {self.path}: {error.strerror}; its rows are kept for later")

    def finish(self) -> None:
        """Write what waits, or raise."""
        if self._waiting and (error := self._write()) is not None:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; its last {len(self._waiting)} rows are lost"
            )

    def _write(self) -> OSError | None:
        size_bytes = None
        try:
            with self.path.open("ab") as file:
                size_bytes = file.tell()
                file.write("".join(self._waiting).encode())
        except OSError as error:
            if size_bytes is not None:
                os.truncate(self.path, size_bytes)
            return error
        self._waiting.clear()
        return None


def _step(line: str) -> Step | None:
    """The step that a line tells of, or None if the line was cut short."""
    try:
        return Step.of_row(json.loads(line))
    except (ValueError, TypeError):
        return None


_DATA: Final = "data"
_TEXT: Final = "corpus_sha256"


def where(text: Path | None) -> dict[str, str | None]:
    """What a run's provenance says of it: an absolute path; null for Python's standard library."""
    return {_DATA: None if text is None else str(text.absolute())}


def text_of_run(provenance: Mapping[str, Any]) -> Path | None:
    """The text of the run that a config file is of; None where it was Python's standard library, or where the
    file is of no run."""
    if _TEXT not in provenance:
        return None
    # What was trained from Python has no path of its own beside the name of the text.
    named = provenance.get(_DATA, provenance.get("corpus"))
    if named is None:
        return None
    text = Path(str(named))
    if not text.exists():
        raise InputError(f"the text of the run is not at {text} any more; say where it is with --data")
    return text


def text_told(provenance: Mapping[str, Any], data: TokenData, on_notice: Callable[[str], None]) -> None:
    """Say where the text of a new run is not that of the run whose config file it starts from."""
    there = provenance.get(_TEXT, data.sha256)
    if there != data.sha256:
        on_notice(
            f"the text is not that of the config file: {str(there)[:16]} there, {data.sha256[:16]} here"
        )
