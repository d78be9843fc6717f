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
from typing import Any, Final

import numpy as np
import platformdirs
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from parambudget.errors import ConfigError, InputError
from parambudget.train.corpus import Corpus, Document

END_OF_TEXT: Final = "<|endoftext|>"
FEWEST_ENTRIES: Final = 257
"""One for each byte and one for the end of a document."""
_MIN_FREQUENCY: Final = 16
"""An entry seen fewer times than this in the text could hardly be learned."""
_SAMPLE_BYTES: Final = 64_000_000
_BATCH_BYTES: Final = 8_000_000
_LAYOUT: Final = 1


@dataclass(frozen=True, eq=False)
class TokenData:
    """A corpus as token ids, ready to train on."""

    name: str
    sha256: str
    """Of the corpus: the text, not the tokens."""
    n_documents: int
    n_held_out: int
    """Documents in the validation part."""
    entries: int
    """Tokenizer entries; ids are below it, and it is at most the vocab_size asked for."""
    train: np.ndarray[Any, Any]
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


def require_vocabulary(vocab_size: int) -> None:
    """Refuse a vocabulary that has no room for the bytes."""
    if vocab_size < FEWEST_ENTRIES:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small for a byte-level tokenizer; use at least {FEWEST_ENTRIES}"
        )


def _key(corpus: Corpus, vocab_size: int) -> str:
    decides = [_LAYOUT, corpus.sha256, vocab_size, _MIN_FREQUENCY, _SAMPLE_BYTES, tokenizers.__version__]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]


def _read(folder: Path, corpus: Corpus) -> TokenData | None:
    """What the folder holds, or None if it is not there or is not what was written."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if any(_sha256(folder / name) != digest for name, digest in facts["sha256"].items()):
            return None
        tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError):
        return None
    return TokenData(
        name=corpus.name, sha256=corpus.sha256, n_documents=len(corpus.train) + len(corpus.validation),
        n_held_out=len(corpus.validation), entries=facts["entries"],
        train=_mapped(folder / "train.bin", facts["dtype"]),
        validation=_mapped(folder / "validation.bin", facts["dtype"]),
        train_bytes=facts["train_bytes"], validation_bytes=facts["validation_bytes"],
        bytes_of_token=_bytes_of_token(Tokenizer.from_str(tokenizer_json)),
        tokenizer_json=tokenizer_json, tokens_sha256=facts["sha256"]["train.bin"],
    )  # fmt: skip


def _mapped(path: Path, dtype: str) -> np.ndarray[Any, Any]:
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
                name: _sha256(unfinished / name) for name in ("train.bin", "validation.bin", "tokenizer.json")
            },
        }
        (unfinished / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _trained(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A byte-level BPE as GPT-2's, trained on at most 64 MB of the training documents, evenly taken."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=_MIN_FREQUENCY, show_progress=False,
        special_tokens=[END_OF_TEXT], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    total = sum(document.n_bytes for document in corpus.train)
    stride = -(-total // _SAMPLE_BYTES) or 1
    pieces = (piece for document in corpus.train for piece in document.pieces())
    tokenizer.train_from_iterator((piece for i, piece in enumerate(pieces) if i % stride == 0), trainer)
    # A document that quotes the marker must not end there.
    tokenizer.encode_special_tokens = True
    return tokenizer


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


def _bytes_of_token(tokenizer: Tokenizer) -> np.ndarray[Any, Any]:
    # Byte-level BPE writes each byte as one character: a token has as many characters as bytes.
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for token, i in tokenizer.get_vocab().items():
        lengths[i] = 0 if token == END_OF_TEXT else len(token)
    return lengths


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
