"""Text as token ids: a byte-level BPE trained on the corpus, and the ids in memory-mapped files, made once.

The cache key covers everything that decides the ids. A folder of the cache is written atomically, and what is
read from it is checked against the hashes it was written with.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

import numpy as np
import platformdirs
import tokenizers
from pydantic import Field
from tokenizers import Tokenizer

from parambudget._documents import CLOSED, Count, Sha256, read_with_seal, write_with_seal
from parambudget._files import atomic_folder, only_writer, remove_temporaries, sha256_of_file
from parambudget.errors import InputError
from parambudget.text.corpus import Corpus, Document
from parambudget.text.forms import LeftOut
from parambudget.text.tokenizer import (
    END_OF_TEXT,
    MIN_FREQUENCY,
    OWN_END,
    SAMPLE_BYTES,
    EndOfText,
    IdType,
    TokenBytes,
    TokenIds,
    batches,
    bytes_of_token,
    id_type,
    require_vocabulary,
    train_bpe,
)

_BATCH_BYTES: Final = 8_000_000
_LAYOUT: Final = 2
_FACTS: Final = "facts.json"
_Hashed = Literal["train.bin", "validation.bin", "tokenizer.json"]
_HASHED: Final[tuple[_Hashed, ...]] = ("train.bin", "validation.bin", "tokenizer.json")
WAIT_SECONDS: Final = 5.0
"""For another process that writes the same tokens: those of a small text are soon there."""


@dataclass(frozen=True)
class _Facts:
    """facts.json of a folder in the cache."""

    __pydantic_config__ = CLOSED

    entries: Annotated[int, Field(ge=1, le=2**31)]
    dtype: IdType
    train_bytes: Count
    validation_bytes: Count
    sha256: dict[_Hashed, Sha256]


class Tokens(Protocol):
    """Ids in one array or several: they have a length and give slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> TokenIds: ...


@dataclass(frozen=True, eq=False)
class TokenData:
    """A corpus as token ids, ready to train on."""

    name: str
    sha256: str
    """Of the text, not the tokens."""
    n_documents: int | None
    """None for tokens whose documents are not known."""
    n_held_out: int
    """Whole documents in the validation split; 0 if it is the end of one."""
    entries: int
    """Tokenizer entries: ids are below this, and it is at most the model's vocab_size."""
    train: Tokens
    validation: Tokens
    train_bytes: int | None
    """None where there is no text."""
    validation_bytes: int | None
    bytes_of_token: TokenBytes | None
    """UTF-8 bytes of each id; 0 for the end of a document. None if bits per byte have no meaning: the ids do
    not give back the text, or no tokenizer is known."""
    tokenizer_json: str
    """Empty if no tokenizer is known."""
    tokens_sha256: str
    """Of the training ids: a run resumes only with the same ones."""
    trained_here: bool = False
    """The tokenizer was trained on this text: it has as many entries as the text supports."""
    end_of_text: EndOfText | None = OWN_END
    """What ends documents, as far as it is known."""
    left_out: tuple[LeftOut, ...] = ()
    """Files of the source that are not read."""
    lost_share: float | None = None
    """Share of the text's bytes that the ids do not give back; None if they give back the text."""
    notes: tuple[str, ...] = ()
    """What else the person who trains on this should know."""
    parts: "tuple[MixturePart, ...]" = ()
    """The sets that this is a mixture of; none for a single one."""

    @property
    def n_unique_tokens(self) -> int:
        """Tokens that a run reads until some of them come again: of a mixture, those of the set that is used
        up first."""
        return int(min((len(part.data.train) / part.share for part in self.parts), default=len(self.train)))

    @cached_property
    def end_of_text_id(self) -> int | None:
        """The token that ends documents; None if it is not known."""
        if self.end_of_text is None or not self.tokenizer_json:
            return None
        return Tokenizer.from_str(self.tokenizer_json).token_to_id(self.end_of_text.token)


@dataclass(frozen=True, eq=False)
class MixturePart:
    """A set of tokens in a mixture."""

    name: str
    """Its path, as it was given."""
    share: Fraction
    """Of the tokens that a run reads: all shares of a mixture add up to 1."""
    data: TokenData


def token_data(corpus: Corpus, vocab_size: int, *, cache: Path | None = None) -> TokenData:
    """The corpus as tokens, from the cache or made now: a tokenizer is trained first. Seconds per 10 MB."""
    require_vocabulary(vocab_size)
    folder = (cache or platformdirs.user_cache_path("parambudget")) / "tokens" / _key(corpus, vocab_size)
    data = _read(folder, corpus)
    if data is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            busy = (
                f"another process is writing the tokens of {corpus.name} to {folder}; start again when it "
                "is done"
            )
            with only_writer(folder.with_name(f".{folder.name}.lock"), busy, wait_seconds=WAIT_SECONDS):
                remove_temporaries(folder.parent, folder.name)
                if _read(folder, corpus) is None:
                    _write(folder, corpus, vocab_size)
        except OSError as error:
            raise InputError(
                f"cannot write tokens to {folder.parent}: {error.strerror}; free some space there, "
                "or set XDG_CACHE_HOME to a writable folder"
            ) from None
        data = _read(folder, corpus)
    if data is None:
        raise InputError(f"{folder} changed while it was being read; remove it and start again")
    return data


def _key(corpus: Corpus, vocab_size: int) -> str:
    ingredients = [_LAYOUT, corpus.sha256, vocab_size, MIN_FREQUENCY, SAMPLE_BYTES, tokenizers.__version__]
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:32]


def _read(folder: Path, corpus: Corpus) -> TokenData | None:
    """The tokens in the folder; None if it does not exist or is not what was written."""
    try:
        facts = read_with_seal(folder / _FACTS, _Facts)
        if any(sha256_of_file(folder / name) != facts.sha256.get(name) for name in _HASHED):
            return None
        tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return TokenData(
        name=corpus.name, sha256=corpus.sha256,
        n_documents=len(corpus.train_hashes | corpus.validation_hashes),
        n_held_out=len(corpus.validation_hashes - corpus.train_hashes), entries=facts.entries,
        train=memory_map(folder / "train.bin", facts.dtype),
        validation=memory_map(folder / "validation.bin", facts.dtype),
        train_bytes=facts.train_bytes, validation_bytes=facts.validation_bytes,
        bytes_of_token=bytes_of_token(Tokenizer.from_str(tokenizer_json)),
        tokenizer_json=tokenizer_json, tokens_sha256=facts.sha256["train.bin"],
        left_out=corpus.left_out, trained_here=True,
    )  # fmt: skip


def memory_map(path: Path, dtype: str) -> TokenIds:
    """The ids in a file, read from disk as they are used."""
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _write(folder: Path, corpus: Corpus, vocab_size: int) -> None:
    with atomic_folder(folder, overwrite=True) as unfinished:
        tokenizer = _train_tokenizer(corpus, vocab_size)
        (unfinished / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        dtype = id_type(tokenizer.get_vocab_size())
        for split, documents in (("train", corpus.train), ("validation", corpus.validation)):
            _encode(tokenizer, documents, unfinished / f"{split}.bin", dtype)
        facts = _Facts(
            entries=tokenizer.get_vocab_size(),
            dtype=dtype.name,
            train_bytes=sum(document.n_bytes for document in corpus.train),
            validation_bytes=sum(document.n_bytes for document in corpus.validation),
            sha256={name: sha256_of_file(unfinished / name) for name in _HASHED},
        )
        write_with_seal(unfinished / _FACTS, facts)


def _train_tokenizer(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A BPE trained on at most 64 MB of the training documents, taken evenly."""
    total = sum(document.n_bytes for document in corpus.train)
    stride = -(-total // SAMPLE_BYTES) or 1
    chunks = (chunk for document in corpus.train for chunk in document.read_chunks())
    return train_bpe((chunk for i, chunk in enumerate(chunks) if i % stride == 0), vocab_size)


def _encode(
    tokenizer: Tokenizer, documents: Iterable[Document], path: Path, dtype: np.dtype[np.unsignedinteger]
) -> None:
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)], dtype)
    with path.open("wb") as file:
        for batch in batches(_chunks(documents), lambda chunk: len(chunk[0]), _BATCH_BYTES):
            encodings = tokenizer.encode_batch_fast([chunk for chunk, _ in batch])
            for encoding, (_, ends) in zip(encodings, batch, strict=True):
                file.write(np.array(encoding.ids, dtype).tobytes())
                if ends:
                    file.write(end.tobytes())


def _chunks(documents: Iterable[Document]) -> Iterator[tuple[str, bool]]:
    """Chunks of text, each with whether its document ends there."""
    for document in documents:
        chunks = list(document.read_chunks())
        for i, chunk in enumerate(chunks):
            yield chunk, i == len(chunks) - 1
