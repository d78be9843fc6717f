"""The encoding of part of a source into token files: the work of one process at a time."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Self, TypeVar

import numpy as np
from pydantic import Field
from tokenizers import Encoding, Tokenizer, decoders

from parambudget._documents import CLOSED, Count, Sha256, read_with_seal, write_with_seal
from parambudget._files import sha256_of_file, sync_to_disk
from parambudget.errors import InputError
from parambudget.text.records import Skipped, TextLayout
from parambudget.text.shards import TOKENIZER, WORK
from parambudget.text.sources import Chunk, SourceSlice, read_chunks
from parambudget.text.tokenizer import (
    AS_GIVEN,
    EndOfText,
    TextTokenizer,
    TokenBytes,
    TokenIds,
    as_text_tokenizer,
    batches,
    bytes_of_token,
    id_type,
)

SPLITS: Final = ("train", "validation")
_WORKER_BATCH_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class HoldOut:
    """Which documents are held out: a share of them by the hash of their beginning, and no very long one.

    Equal texts are always on the same side, wherever they stand.
    """

    share: float
    longest_bytes: int | None

    def includes(self, chunk: Chunk) -> bool:
        """Whether the document of this chunk is held out."""
        if self.longest_bytes is not None and chunk.document_bytes > self.longest_bytes:
            return False
        draw = int.from_bytes(hashlib.sha256(chunk.key).digest()[:8], "big")
        return draw < self.share * 2**64


@dataclass(frozen=True)
class ShardJob:
    """Slices of a source to encode into one shard: all that another process needs to know."""

    out: Path
    number: int
    slices: tuple[SourceSlice, ...]
    layout: TextLayout
    hold_out: HoldOut
    tokenizer_sha256: str
    end_of_text: str

    def file(self, split: str) -> Path:
        """Where the ids of one split go until everything is done."""
        return self.out / WORK / f"{split}-{self.number:05}.bin"

    @property
    def result_file(self) -> Path:
        """Written last: if it exists, the job is done."""
        return self.out / WORK / f"{self.number:05}.json"

    @property
    def n_bytes(self) -> int:
        """Approximate bytes of text; 0 if unknown."""
        return sum(part.n_bytes for part in self.slices)


@dataclass(frozen=True)
class SplitTotals:
    """What was written for one split."""

    __pydantic_config__ = CLOSED

    n_tokens: Count
    n_documents: Count
    n_bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class ShardResult:
    """What a job has written."""

    __pydantic_config__ = CLOSED

    number: Annotated[int, Field(ge=0)]
    tokenizer_sha256: Sha256
    """Of the tokenizer that it was written with."""
    train: SplitTotals
    validation: SplitTotals
    text_sha256: Sha256
    exact_bytes: bool
    """The bytes of the ids are the bytes of the text."""
    reversible: bool
    """Decoding the ids gives the text."""
    lost_bytes: int
    """Bytes of the text that its ids do not give back."""
    skipped: Skipped
    """What was read and has become no document."""

    @property
    def n_tokens(self) -> int:
        """Of both splits."""
        return self.train.n_tokens + self.validation.n_tokens

    @property
    def n_bytes(self) -> int:
        """Of both splits."""
        return self.train.n_bytes + self.validation.n_bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """The result in a file; the error is one line."""
        return read_with_seal(path, cls)

    def require_files(self, job: ShardJob, train: Path) -> None:
        """Refuse files of the job that are not what it wrote; `train` is where its ids to train on are."""
        if (self.number, self.tokenizer_sha256) != (job.number, job.tokenizer_sha256):
            raise InputError(f"{job.result_file} is of another part or tokenizer")
        for path, totals in ((train, self.train), (job.file("validation"), self.validation)):
            try:
                found = sha256_of_file(path)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror})") from None
            if found != totals.sha256:
                raise InputError(f"{path} is damaged: it does not match its hash")


def encode(job: ShardJob) -> ShardResult:
    """Write the ids of a job, then its result."""
    tokenizer = _load_tokenizer(
        _TokenizerFile(job.out / WORK / TOKENIZER, job.tokenizer_sha256, job.end_of_text)
    )
    text_digest, exact_bytes = hashlib.sha256(), True
    for split in SPLITS:
        job.file(split).unlink(missing_ok=True)
    reversible, lost_bytes, skipped = True, 0, Skipped()
    with job.file("train").open("wb") as train, job.file("validation").open("wb") as validation:
        writers = _Writer(train), _Writer(validation)
        chunks = (chunk for part in job.slices for chunk in read_chunks(part, job.layout, skipped))
        for chunk in tokenizer.encode_chunks(chunks):
            exact_bytes &= chunk.kept_bytes == chunk.n_bytes
            reversible &= chunk.reversible
            lost_bytes += chunk.lost_bytes
            held_out = job.hold_out.includes(chunk.chunk)
            writers[held_out].write(chunk.ids, chunk.n_bytes, ends=chunk.chunk.ends)
            text_digest.update(chunk.chunk.text.encode() + b"\0" * chunk.chunk.ends)
    for split in SPLITS:
        sync_to_disk(job.file(split))
    result = ShardResult(
        job.number, job.tokenizer_sha256, writers[0].totals(), writers[1].totals(),
        text_digest.hexdigest(), exact_bytes, reversible, lost_bytes, skipped,
    )  # fmt: skip
    write_with_seal(job.result_file, result)
    return result


def count_lost_bytes(text: bytes, decoded: bytes) -> int:
    """Bytes that occur more often in the text than in what its ids were decoded to."""
    before, after = (np.bincount(np.frombuffer(t, np.uint8), minlength=256) for t in (text, decoded))
    return int(np.maximum(before - after, 0).sum())


class _Writer:
    """Writes ids to a file, and counts and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._n_tokens = self._n_documents = self._n_bytes = 0

    def write(self, ids: TokenIds, n_bytes: int, *, ends: bool) -> None:
        content = ids.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._n_tokens += len(ids)
        self._n_documents += ends
        self._n_bytes += n_bytes

    def totals(self) -> SplitTotals:
        return SplitTotals(self._n_tokens, self._n_documents, self._n_bytes, self._digest.hexdigest())


@dataclass(frozen=True)
class _TokenizerFile:
    """A tokenizer.json by path and content: a later preparation may have another one at the same path."""

    path: Path
    sha256: str
    end_of_text: str


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """A chunk of text as ids, and what of it they give back."""

    chunk: Chunk
    ids: TokenIds
    """With the end-of-text id where the document ends."""
    n_bytes: int
    """Of the text, in UTF-8."""
    kept_bytes: int
    """Bytes that the ids stand for."""
    reversible: bool
    """Decoding the ids gives the text."""
    lost_bytes: int
    """Bytes of the text that the ids do not give back."""


@dataclass(frozen=True, eq=False)
class DocumentEncoder:
    """Turns documents into ids: the whole text and nothing else, and the end-of-text id after each."""

    tokenizer: Tokenizer
    end: int
    entries: int
    n_bytes: TokenBytes
    unknown: int | None
    """The id for text that the tokenizer has no entry for."""

    @classmethod
    def of(cls, text_tokenizer: TextTokenizer) -> Self:
        """The encoder of a tokenizer."""
        tokenizer = text_tokenizer.tokenizer
        unknown, n_bytes = getattr(tokenizer.model, "unk_token", None), bytes_of_token(tokenizer)
        unknown = None if unknown is None else tokenizer.token_to_id(unknown)
        if unknown is not None:
            n_bytes[unknown] = 0
        return cls(tokenizer, text_tokenizer.end, text_tokenizer.entries, n_bytes, unknown)

    @property
    def is_byte_level(self) -> bool:
        """Whether every id stands for bytes, as many as its entry has characters."""
        return isinstance(self.tokenizer.decoder, decoders.ByteLevel)

    def encode_chunks(self, chunks: Iterable[Chunk]) -> Iterator[EncodedChunk]:
        """The chunks as ids, each decoded again; many are encoded together."""
        ids_type = id_type(self.entries)
        for batch in batches(chunks, lambda chunk: len(chunk.text), _WORKER_BATCH_BYTES):
            encodings = self._encode_batch([chunk.text for chunk in batch])
            decoded = self._decode_batch(encodings)
            for chunk, encoding, back in zip(batch, encodings, decoded, strict=True):
                ids, text = np.array(encoding.ids, ids_type), chunk.text.encode()
                kept, lost = int(self.n_bytes[ids].sum()), 0
                if back != chunk.text:
                    # Where a byte is an entry, a character may be lost in part.
                    lost = max(len(text) - kept, 0) if self.is_byte_level else 0
                    lost = lost or count_lost_bytes(text, back.encode())
                if chunk.ends:
                    ids = np.append(ids, ids_type.type(self.end))
                yield EncodedChunk(chunk, ids, len(text), kept, back == chunk.text, lost)

    def _encode_batch(self, texts: list[str]) -> list[Encoding]:
        try:
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # tokenizers raises no narrower class
            raise InputError(f"the tokenizer cannot encode the text ({error}); use another one") from None

    def _decode_batch(self, encodings: list[Encoding]) -> list[str]:
        """Without what stands for unknown text: it is no part of it."""
        ids = [encoding.ids for encoding in encodings]
        if self.unknown is not None:
            ids = [[i for i in each if i != self.unknown] for each in ids]
        return self.tokenizer.decode_batch(ids, skip_special_tokens=True)


@cache
def _load_tokenizer(file: _TokenizerFile) -> DocumentEncoder:
    """The tokenizer, read once by each process."""
    path = str(file.path)
    end = EndOfText(file.end_of_text, AS_GIVEN)
    return DocumentEncoder.of(as_text_tokenizer(Tokenizer.from_file(path), path, end))


JobType = TypeVar("JobType")
ResultType = TypeVar("ResultType")


def map_in_processes(
    work: Callable[[JobType], ResultType], jobs: Sequence[JobType], n_workers: int
) -> Iterator[ResultType]:
    """The results as they come; a single job or worker needs no other process."""
    if min(n_workers, len(jobs)) <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(n_workers, len(jobs)), context, initializer=_start_worker)
    try:
        for done in as_completed([pool.submit(work, job) for job in jobs]):
            yield done.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps because memory ran out; run the same command again to "
            "continue where it stopped, with fewer `workers`"
        ) from None
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker has one processor
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
