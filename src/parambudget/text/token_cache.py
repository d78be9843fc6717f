"""Text as token ids: a byte-level BPE trained on the corpus, and the ids in memory-mapped files, made once.

The cache is keyed by all that decides the ids. A folder in it is written under a temporary name and renamed:
it is there whole or not at all, and what is read from it is checked against the hashes it was written with.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import platformdirs
import tokenizers
from tokenizers import Tokenizer

from parambudget.errors import InputError
from parambudget.text.corpus import Corpus, Document
from parambudget.text.tokenizer import (
    END_OF_TEXT,
    MIN_FREQUENCY,
    SAMPLE_BYTES,
    bytes_of_token,
    require_vocabulary,
    train_bpe,
)

_BATCH_BYTES: Final = 8_000_000
_LAYOUT: Final = 1


class Tokens(Protocol):
    """Ids in one array or several: what has a length and gives slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> np.ndarray[Any, Any]: ...


@dataclass(frozen=True, eq=False)
class TokenData:
    """A corpus as token ids, ready to train on."""

    name: str
    sha256: str
    """Of the corpus: the text, not the tokens."""
    n_documents: int
    n_held_out: int
    """Whole documents in the validation part; 0 where it is the end of one."""
    entries: int
    """Tokenizer entries; ids are below it, and it is at most the vocab_size asked for."""
    train: Tokens
    validation: np.ndarray[Any, Any]
    train_bytes: int
    validation_bytes: int
    bytes_of_token: np.ndarray[Any, Any]
    """UTF-8 bytes that each id stands for; 0 for the end of a document."""
    tokenizer_json: str
    tokens_sha256: str
    """Of the training ids: a run resumes only on the same ones."""


def token_data(corpus: Corpus, vocab_size: int, *, cache: Path | None = None) -> TokenData:
    """The corpus in tokens, from the cache or made now: the tokenizer is trained first. Seconds per 10 MB."""
    require_vocabulary(vocab_size)
    folder = (cache or platformdirs.user_cache_path("parambudget")) / "tokens" / _key(corpus, vocab_size)
    found = _read(folder, corpus)
    if found is None:
        try:
            _write(folder, corpus, vocab_size)
        except OSError as error:
            raise InputError(
                f"cannot keep tokens in {folder.parent}: {error.strerror}; free some space there, "
                "or set XDG_CACHE_HOME to a writable folder"
            ) from None
        found = _read(folder, corpus)
    if found is None:
        raise InputError(f"{folder} changed while it was read; remove it and start again")
    return found


def _key(corpus: Corpus, vocab_size: int) -> str:
    decides = [_LAYOUT, corpus.sha256, vocab_size, MIN_FREQUENCY, SAMPLE_BYTES, tokenizers.__version__]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]


def _read(folder: Path, corpus: Corpus) -> TokenData | None:
    """What the folder holds, or None if it is not there or is not what was written."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if any(file_sha256(folder / name) != digest for name, digest in facts["sha256"].items()):
            return None
        tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError):
        return None
    return TokenData(
        name=corpus.name, sha256=corpus.sha256, n_documents=len(corpus.learned | corpus.held_out),
        n_held_out=len(corpus.held_out - corpus.learned), entries=facts["entries"],
        train=mapped(folder / "train.bin", facts["dtype"]),
        validation=mapped(folder / "validation.bin", facts["dtype"]),
        train_bytes=facts["train_bytes"], validation_bytes=facts["validation_bytes"],
        bytes_of_token=bytes_of_token(Tokenizer.from_str(tokenizer_json)),
        tokenizer_json=tokenizer_json, tokens_sha256=facts["sha256"]["train.bin"],
    )  # fmt: skip


def mapped(path: Path, dtype: str) -> np.ndarray[Any, Any]:
    """The ids in a file, read when they are used."""
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _write(folder: Path, corpus: Corpus, vocab_size: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    try:
        tokenizer = _trained(corpus, vocab_size)
        (unfinished / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)
        for part, documents in (("train", corpus.train), ("validation", corpus.validation)):
            _encode(tokenizer, documents, unfinished / f"{part}.bin", dtype)
        facts = {
            "entries": tokenizer.get_vocab_size(),
            "dtype": dtype.name,
            "train_bytes": sum(document.n_bytes for document in corpus.train),
            "validation_bytes": sum(document.n_bytes for document in corpus.validation),
            "sha256": {
                name: file_sha256(unfinished / name)
                for name in ("train.bin", "validation.bin", "tokenizer.json")
            },
        }
        (unfinished / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _trained(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A BPE trained on at most 64 MB of the training documents, evenly taken."""
    total = sum(document.n_bytes for document in corpus.train)
    stride = -(-total // SAMPLE_BYTES) or 1
    pieces = (piece for document in corpus.train for piece in document.pieces())
    return train_bpe((piece for i, piece in enumerate(pieces) if i % stride == 0), vocab_size)


def _encode(tokenizer: Tokenizer, documents: Iterable[Document], path: Path, dtype: np.dtype[Any]) -> None:
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)], dtype)
    with path.open("wb") as file:
        for batch in _batched(documents):
            encoded = tokenizer.encode_batch_fast([piece for piece, _ in batch])
            for ids, (_, last) in zip(encoded, batch, strict=True):
                file.write(np.array(ids.ids, dtype).tobytes())
                if last:
                    file.write(end.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _batched(documents: Iterable[Document]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of text, each with whether its document ends there, in lists of about 8 MB."""
    batch: list[tuple[str, bool]] = []
    held = 0
    for document in documents:
        pieces = list(document.pieces())
        for i, piece in enumerate(pieces):
            batch.append((piece, i == len(pieces) - 1))
            held += len(piece)
            if held >= _BATCH_BYTES:
                yield batch
                batch, held = [], 0
    yield batch


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
