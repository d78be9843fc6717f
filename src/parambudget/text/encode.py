"""One stretch of a source made into token files: what one process does at a time."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from parambudget._files import read_json, write_json
from parambudget.errors import InputError
from parambudget.text.shards import TOKENIZER, WORK, id_type
from parambudget.text.sources import Piece, Reading, Stretch, pieces
from parambudget.text.tokenizer import bytes_of_token, prepared

SIDES: Final = ("train", "validation")
_BATCH_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class Split:
    """Which documents are held out: a share of them by the hash of their beginning, and no very long one.

    The same text falls on the same side wherever it stands.
    """

    share: float
    longest_bytes: int | None

    def holds_out(self, piece: Piece) -> bool:
        """Whether the document of this piece is for validation."""
        if self.longest_bytes is not None and piece.document_bytes > self.longest_bytes:
            return False
        drawn = int.from_bytes(hashlib.sha256(piece.key).digest()[:8], "big")
        return drawn < self.share * 2**64


@dataclass(frozen=True)
class Job:
    """A part of a source to encode into a folder: all that another process needs to know."""

    out: Path
    number: int
    part: tuple[Stretch, ...]
    reading: Reading
    split: Split
    tokenizer_sha256: str
    end_of_text: str

    def file(self, side: str) -> Path:
        """Where the ids of one side go until everything is done."""
        return self.out / WORK / f"{side}-{self.number:05}.bin"

    @property
    def facts_file(self) -> Path:
        """Written last: with it the part is done."""
        return self.out / WORK / f"{self.number:05}.json"


@dataclass(frozen=True)
class Counted:
    """What was written for one side."""

    n_tokens: int
    n_documents: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """What became of a part."""

    number: int
    train: Counted
    validation: Counted
    text_sha256: str
    exact_bytes: bool
    """The bytes behind the ids are the bytes of the text."""

    @property
    def n_tokens(self) -> int:
        """Of both sides."""
        return self.train.n_tokens + self.validation.n_tokens

    @property
    def n_bytes(self) -> int:
        """Of both sides."""
        return self.train.n_bytes + self.validation.n_bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """The facts in a file."""
        document = read_json(path)
        document |= {side: Counted(**document[side]) for side in SIDES}
        return cls(**document)


def encode(job: Job) -> Facts:
    """Write the ids of a part, then its facts."""
    tokenizer = _loaded(str(job.out / WORK / TOKENIZER), job.tokenizer_sha256, job.end_of_text)
    ids_type, text_digest, exact_bytes = id_type(tokenizer.entries), hashlib.sha256(), True
    with job.file("train").open("wb") as train, job.file("validation").open("wb") as validation:
        writers = _Writer(train), _Writer(validation)
        for batch in _batched(piece for stretch in job.part for piece in pieces(stretch, job.reading)):
            encoded = tokenizer.encoded([piece.text for piece in batch])
            for piece, encoding in zip(batch, encoded, strict=True):
                ids, text = np.array(encoding.ids, ids_type), piece.text.encode()
                exact_bytes &= int(tokenizer.n_bytes[ids].sum()) == len(text)
                if piece.ends:
                    ids = np.append(ids, ids_type.type(tokenizer.end))
                writers[job.split.holds_out(piece)].write(ids, len(text), ends=piece.ends)
                text_digest.update(text + b"\0" * piece.ends)
        of_train, of_validation = (writer.finished() for writer in writers)
    facts = Facts(job.number, of_train, of_validation, text_digest.hexdigest(), exact_bytes)
    write_json(job.facts_file, asdict(facts))
    return facts


class _Writer:
    """Ids into a file, counted and hashed on their way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._n_tokens = self._n_documents = self._n_bytes = 0

    def write(self, ids: np.ndarray[Any, Any], n_bytes: int, *, ends: bool) -> None:
        written = ids.tobytes()
        self._file.write(written)
        self._digest.update(written)
        self._n_tokens += len(ids)
        self._n_documents += ends
        self._n_bytes += n_bytes

    def finished(self) -> Counted:
        self._file.flush()
        os.fsync(self._file.fileno())
        return Counted(self._n_tokens, self._n_documents, self._n_bytes, self._digest.hexdigest())


@dataclass(frozen=True, eq=False)
class _Loaded:
    tokenizer: Tokenizer
    end: int
    entries: int
    n_bytes: np.ndarray[Any, Any]

    def encoded(self, texts: list[str]) -> list[Encoding]:
        try:
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # tokenizers raises no narrower class
            raise InputError(f"the tokenizer cannot encode the text ({error}); use another one") from None


@cache
def _loaded(path: str, sha256: str, end_of_text: str) -> _Loaded:  # noqa: ARG001 - tells files of one name apart
    """The tokenizer, read once by each process."""
    text_tokenizer = prepared(Tokenizer.from_file(path), path, end_of_text)
    tokenizer = text_tokenizer.tokenizer
    return _Loaded(tokenizer, text_tokenizer.end, text_tokenizer.entries, bytes_of_token(tokenizer))


def _batched(found: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    held = 0
    for piece in found:
        batch.append(piece)
        held += len(piece.text)
        if held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


JobType = TypeVar("JobType")
ResultType = TypeVar("ResultType")


def in_processes(
    work: Callable[[JobType], ResultType], jobs: Sequence[JobType], n_workers: int
) -> Iterator[ResultType]:
    """The results as they come; a single job or worker needs no other process."""
    if min(n_workers, len(jobs)) <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(n_workers, len(jobs)), context, initializer=_start)
    try:
        for done in as_completed([pool.submit(work, job) for job in jobs]):
            yield done.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps for want of memory; run the same command again to go on "
            "where it stopped, with fewer --workers"
        ) from None
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker has one processor
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
