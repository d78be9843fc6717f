"""The folder of a run: locked by one process, with one line of metrics per update and a complete summary."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from parambudget._files import (
    atomic_write,
    only_writer,
    remove_temporaries,
    require_place,
    sync_to_disk,
)
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError, without_advice
from parambudget.formats.source import config_document
from parambudget.text.corpus import is_built_in
from parambudget.text.dataset import data_for
from parambudget.text.forms import HUB_PREFIX, TokenDtype
from parambudget.text.mixture import absolute_source, format_mixture, parse_mixture
from parambudget.text.token_cache import TokenData
from parambudget.training.checkpoint import files
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import (
    METRICS,
    RunConfigDocument,
    StepMetrics,
    TrainResult,
    format_rows,
    parse_rows,
    read_metrics,
    require_same_metrics,
)
from parambudget.training.run.request import RunOptions

END_OF_TEXT: Final = "end_of_text"
"""The key of the provenance for the token that ends documents; null if it is not known."""
_LOCK: Final = ".lock"
_RUN_FILES: Final = ("config.json", METRICS, "summary.json", "checkpoints")


def read_result(out: Path) -> TrainResult | None:
    """The result in summary.json of `out`; None if it is missing or cannot be read."""
    try:
        return TrainResult.read(out)
    except InputError:
        return None


def run_config_document(
    model: ModelConfig, config: TrainConfig, data: TokenData, provenance: Mapping[str, object]
) -> RunConfigDocument:
    """The config file of a run: what it computes, and on which text."""
    origin: dict[str, object] = {
        "version": __version__,
        "corpus": data.name,
        "corpus_sha256": data.sha256,
        "tokens_sha256": data.tokens_sha256,
        "tokenizer_entries": data.entries,
        END_OF_TEXT: None if data.end_of_text is None else data.end_of_text.token,
    }
    if not data.parts:
        origin["train_tokens"] = len(data.train)
    else:
        origin["mixture"] = [
            {"name": part.name, "share": str(part.share), "train_tokens": len(part.data.train)}
            for part in data.parts
        ]
    document = config_document(model, origin | dict(provenance), config.model_dump())
    return cast(RunConfigDocument, document)


@contextmanager
def lock_run_folder(out: Path, *, resume: bool = False) -> Iterator[Path]:
    """Make `out` the folder of a run, keep other processes out of it, and yield its folder of checkpoints.

    With `resume` the folder may hold a run already: what was cut short in it is removed.
    """
    require_free_run_folder(out, resume=resume)
    checkpoints = out / "checkpoints"
    missing = [folder for folder in (checkpoints, out, *out.parents) if not folder.exists()]
    try:
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot create {out}: {error.strerror}; choose a folder that is writable"
            ) from None
        busy = f"another process is training in {out}; wait for it, or stop it first"
        with only_writer(checkpoints / _LOCK, busy):
            remove_temporaries(out)
            files.remove_partial_saves(checkpoints)
            yield checkpoints
    finally:
        if not (out / "config.json").exists():
            for folder in missing:  # a run that did not start leaves no folder; one that is not empty stays
                with suppress(OSError):
                    folder.rmdir()


def require_free_run_folder(out: Path, *, resume: bool = False) -> None:
    """Refuse a folder that is not writable, or that holds a run that is not to be resumed."""
    require_place(out, "`out`")
    checkpoints = out / "checkpoints"
    require_place(checkpoints, "`out`")
    if checkpoints.exists() and not checkpoints.is_dir():
        raise InputError(f"{checkpoints} is not a folder; remove it, or choose another folder with `out`")
    present = [name for name in _RUN_FILES if _is_occupied(out / name)]
    if present and not (resume and "config.json" in present):
        hint = "; continue it with `resume=True`, or" if "config.json" in present else ";"
        raise InputError(
            f"{out} contains another run ({', '.join(present)}){hint} choose another folder with `out`"
        )
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not _is_writable(existing):
        raise InputError(
            f"cannot create {out}: {existing} is not a writable folder; choose another one with `out`"
        )


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be created in it: tried, because permissions do not tell everywhere (/proc)."""
    try:
        with TemporaryDirectory(prefix=".parambudget-", dir=folder):
            return os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _is_occupied(path: Path) -> bool:
    """Whether the path exists; a folder counts if it holds more than the lock, which a process leaves there
    that is killed before it writes anything."""
    return any(each.name != _LOCK for each in path.iterdir()) if path.is_dir() else path.exists()


class MetricsFile:
    """metrics.jsonl, one line per update. Rows that could not be written are written with a later one.

    All rows stay in memory, about 200 bytes each: every checkpoint gets a copy of them, which is right
    whatever happens to the file.
    """

    def __init__(self, out: Path, on_notice: Callable[[str], None]) -> None:
        self.path, self.on_notice = out / METRICS, on_notice
        self._rows = bytearray()
        self._n_written = 0

    def restore(self, saved: bytes) -> list[StepMetrics]:
        """Go back to the rows that a checkpoint has a copy of; returns them.

        If the file does not begin with them, it is set aside and restored from the copy, with a notice.
        """
        steps = parse_rows(saved, self.path)
        try:
            require_same_metrics(read_metrics(self.path.parent), saved, self.path)
        except InputError as error:
            problem = without_advice(error)
            if os.path.lexists(self.path):
                aside = self.path.with_name(f"damaged-{METRICS}")
                self.path.replace(aside)
                problem += f"; it is kept as {aside.name}"
            self.on_notice(f"{problem}; restored from the checkpoint of step {len(steps)}")
        atomic_write(self.path, saved)
        self._rows, self._n_written = bytearray(saved), len(saved)
        return steps

    def clear(self) -> None:
        """Drop all rows: no checkpoint stands for any of them."""
        if self.path.exists():
            atomic_write(self.path, b"")

    def add(self, step: StepMetrics) -> None:
        """Append the line of a step."""
        is_first = self._n_written == len(self._rows)
        self._rows += format_rows([step])
        if (error := self._write()) is not None and is_first:
            self.on_notice(
                f"cannot write {self.path}: {error.strerror}; its rows are kept in memory and written later"
            )

    def copy(self) -> Callable[[], bytes]:
        """What a checkpoint of now keeps of the rows: a function for its thread, which returns once they are
        on the disk. It raises `OSError` if they could not be written."""
        error, rows = self._write(), bytes(self._rows)

        def flush() -> bytes:
            if error is not None:
                raise error
            sync_to_disk(self.path)
            return rows

        return flush

    def finish(self) -> None:
        """Write the pending rows, or raise."""
        if (error := self._write()) is not None:
            n_pending = self._rows.count(b"\n", self._n_written)
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; the last {n_pending} of its rows "
                "could not be saved"
            )

    def _write(self) -> OSError | None:
        """Append the pending rows, all of them or none."""
        pending, size_bytes = self._rows[self._n_written :], None
        if not pending:
            return None
        try:
            with self.path.open("ab") as file:
                size_bytes = file.tell()
                file.write(pending)
        except OSError as error:
            if size_bytes is not None:
                with suppress(OSError):
                    os.truncate(self.path, size_bytes)
            return error
        self._n_written += len(pending)
        return None


_DATA: Final = "data"
_TEXT: Final = "corpus_sha256"
_TOKEN_DTYPE: Final = "token_dtype"
_TOKENIZER: Final = "tokenizer"


@dataclass(frozen=True)
class DataChoice:
    """What a run reads, and how."""

    path: Path | None
    """`builtin` for Python's standard library; None if nobody named it."""
    token_dtype: TokenDtype | None = None
    tokenizer: str | None = None
    tokenizer_copy: Path | None = None
    """Where the tokenizer is read from instead: the copy in a checkpoint of the run."""
    end_of_text: str | None = None
    """The token that ends documents with that copy, which does not name it."""

    def read(self, vocab_size: int) -> TokenData:
        """The tokens."""
        tokenizer = self.tokenizer if self.tokenizer_copy is None else str(self.tokenizer_copy)
        return data_for(
            self.path, vocab_size, token_dtype=self.token_dtype, tokenizer=tokenizer,
            end_of_text=self.end_of_text,
        )  # fmt: skip


def choose_data(
    options: RunOptions, provenance: Mapping[str, object], resumed: Path | None = None
) -> DataChoice:
    """The data that is asked for, else that of the run that a config file belongs to.

    Of that run comes also how the same data is read, as far as nothing else is asked for. The run in
    `resumed` has the same text, wherever that is now, and a copy of its tokenizer.
    """
    stored = _stored_data(provenance)
    if options.data is None:
        path = stored.path
        if path is not None and not is_built_in(path):
            if not _exists(path):
                raise InputError(f"the text of the run is no longer at {path}; say where it is with `data`")
            path = _shown_path(path)
    elif absolute_source(options.data) == stored.path or resumed is not None:
        path = options.data
    else:
        return DataChoice(options.data, options.token_dtype, options.tokenizer)
    token_dtype = options.token_dtype or stored.token_dtype
    asked = options.tokenizer
    if asked is not None and _provenance_of_tokenizer(asked) != stored.tokenizer:
        return DataChoice(path, token_dtype, asked)
    choice = DataChoice(path, token_dtype, stored.tokenizer)
    if resumed is None or stored.tokenizer is None or Path(stored.tokenizer).exists():
        return choice
    copy = files.saved_tokenizer(resumed / "checkpoints")
    if copy is not None:
        end = provenance.get(END_OF_TEXT)
        return replace(choice, tokenizer_copy=copy, end_of_text=None if end is None else str(end))
    if not stored.tokenizer.startswith(HUB_PREFIX):
        raise InputError(
            f"the tokenizer of the run is no longer at {stored.tokenizer}, and no checkpoint has a copy "
            "of it yet; say where it is with `tokenizer`"
        )
    return choice


def _shown_path(path: Path) -> Path:
    """The path from the current folder if it lies in there: that is how a person gives it."""
    if (sources := parse_mixture(path)) is not None:
        return format_mixture([replace(each, path=_shown_path(each.path)) for each in sources])
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _exists(path: Path) -> bool:
    """Whether there is data at the path, which may be the common beginning of Megatron's two files, or the
    paths of a mixture."""
    if (sources := parse_mixture(path)) is not None:
        return all(_exists(each.path) for each in sources)
    return path.exists() or path.with_name(f"{path.name}.idx").exists()


def _stored_data(provenance: Mapping[str, object]) -> DataChoice:
    """What a config file's run has read; the built-in text if the file does not belong to a run."""
    if _TEXT not in provenance:
        return DataChoice(None)
    # A run that was trained from Python has no path beside the name of its text.
    named = provenance.get(_DATA, provenance.get("corpus"))
    if named is None:
        return DataChoice(None)
    token_dtype, tokenizer = provenance.get(_TOKEN_DTYPE), provenance.get(_TOKENIZER)
    return DataChoice(
        Path(str(named)),
        cast("TokenDtype | None", token_dtype),
        None if tokenizer is None else str(tokenizer),
    )


def data_provenance(data: DataChoice) -> dict[str, str | None]:
    """The provenance of a run's text: its absolute path or the name of the built-in one, null by default, and
    how it is read."""
    tokenizer = None if data.tokenizer is None else _provenance_of_tokenizer(data.tokenizer)
    path = None
    if data.path is not None:
        path = str(data.path if is_built_in(data.path) else absolute_source(data.path))
    how = {_TOKEN_DTYPE: data.token_dtype, _TOKENIZER: tokenizer}
    return {_DATA: path} | {name: given for name, given in how.items() if given is not None}


def _provenance_of_tokenizer(tokenizer: str) -> str:
    return tokenizer if tokenizer.startswith(HUB_PREFIX) else str(Path(tokenizer).absolute())


def warn_about_changed_text(
    provenance: Mapping[str, object], data: TokenData, on_notice: Callable[[str], None]
) -> None:
    """Give notice if a new run has another text than the run whose config file it starts from."""
    expected = provenance.get(_TEXT, data.sha256)
    if expected != data.sha256:
        on_notice(
            f"the text differs from that of the config file: sha256 {str(expected)[:16]} there, "
            f"{data.sha256[:16]} here"
        )
