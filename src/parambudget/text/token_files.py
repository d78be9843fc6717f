"""Tokens that other tools have made, read where they lie, by memory map.

    llm.c       a header of 256 int32 (magic, version, number of ids), then ids of uint16 or uint32
    Megatron    NAME.bin with the ids, and NAME.idx with their type and the lengths of the sequences
    nanoGPT     NAME.bin with ids and nothing else: their type has to be given

In a folder, files with `val` as a word of their name are held out, those with `test` are left out. Where
none is held out, the end of the last one is.

Sources: github.com/karpathy/llm.c, dev/data/data_common.py; github.com/NVIDIA/Megatron-LM,
megatron/core/datasets/indexed_dataset.py; github.com/karpathy/nanoGPT, data/openwebtext/prepare.py.
"""

import hashlib
import os
import re
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import decoders

from parambudget.errors import InputError
from parambudget.text.corpus import MOST_VALIDATION_BYTES, VALIDATION_SHARE
from parambudget.text.forms import (
    LLM_C_MAGIC,
    TOKEN_FORMS,
    LeftOut,
    SourceFile,
    TokenDtype,
    detect_form,
    files_below,
    form_name,
)
from parambudget.text.shards import Shards
from parambudget.text.token_cache import TokenData
from parambudget.text.tokenizer import EndOfText, TextTokenizer, TokenBytes, TokenIds, bytes_of_token
from parambudget.units import count_phrase

_LLM_C_HEADER: Final = struct.Struct("<3i")
_LLM_C_HEADER_BYTES: Final = 1_024
_LLM_C_VERSIONS: Final = {20240520: 1, 20240801: 7}
_MEGATRON_HEADER: Final = struct.Struct("<9sQBQQ")
_MEGATRON_TYPES: Final = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""By the code in the index. It also has codes of floats, which are no ids."""
_BLOCK_BYTES: Final = 2**24
_BLOCK_SEQUENCES: Final = 2**20
_BYTES_PER_TOKEN: Final = 4
"""About the text that a token stands for, where the tokenizer is not known."""
_MOST_DECODED: Final = 2**20
_HELD_OUT: Final = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)
_TEST: Final = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class TokenFile:
    """Where the ids of a file are, and of which type."""

    path: Path
    dtype: str
    """Of NumPy."""
    start: int
    """Bytes before the first id."""
    n_tokens: int
    has_header: bool
    """The file, or the index beside it, says of which type the ids are."""
    n_documents: int | None = None

    @property
    def numpy_dtype(self) -> np.dtype[np.integer]:
        """The type of the ids: little-endian on every machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    def map(self) -> TokenIds:
        """The ids, read from the disk as they are used."""
        return np.memmap(self.path, self.numpy_dtype, mode="r", offset=self.start, shape=(self.n_tokens,))

    def cut_end(self, n_tokens: int) -> tuple["TokenFile", "TokenFile"]:
        """The file without its last ids, and those."""
        n_left = self.n_tokens - n_tokens
        start = self.start + n_left * self.numpy_dtype.itemsize
        return replace(self, n_tokens=n_left), replace(self, start=start, n_tokens=n_tokens)


@dataclass(frozen=True)
class TokenSource:
    """The ids in a file or a folder."""

    name: str
    train: tuple[TokenFile, ...]
    validation: tuple[TokenFile, ...]
    """Empty where no file is meant for it."""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def needs_dtype(self) -> bool:
        """Some file does not say itself of which type its ids are."""
        return not all(file.has_header for file in (*self.train, *self.validation))


def find_tokens(source: Path, dtype: TokenDtype | None = None) -> TokenSource | None:
    """The ids in a file or a folder; None if there are none.

    Files that do not say themselves what they hold are read as `dtype`; without it they hold no ids.
    """
    if not os.path.lexists(source) and os.path.isfile(_with_ending(source, ".idx")):
        source = _with_ending(source, ".idx")  # Megatron's own arguments name both files without their ending
    if os.path.isfile(source):
        file = _read_header(source, dtype)
        return TokenSource(str(source), (file,), ()) if isinstance(file, TokenFile) else None
    if not os.path.isdir(source):
        return None
    files: dict[Path, TokenFile] = {}  # both files of Megatron's give one
    reasons: list[tuple[str, str]] = []
    for path, hidden in files_below(source):
        is_candidate = dtype is None or path.suffix.lower() in (".bin", ".idx")
        file = "hidden" if hidden else _read_header(path, dtype if is_candidate else None)
        if isinstance(file, TokenFile):
            files[file.path] = file
        else:
            reasons.append((str(path.relative_to(source)), file))
    by_use: dict[str, list[TokenFile]] = {"train": [], "validation": [], "test": []}
    for path, token_file in files.items():
        by_use[_use_of(path)].append(token_file)
    train, validation = tuple(by_use["train"]), tuple(by_use["validation"])
    reasons += [(str(each.path.relative_to(source)), "for testing") for each in by_use["test"]]
    if not files:
        return None
    if not train:
        names = ", ".join(path.name for path in list(files)[:3])
        raise InputError(
            f"no file of tokens in {source} is for training: by their names all are for validation or tests "
            f"({names}); give the file itself, or rename it"
        )
    return TokenSource(str(source), train, validation, LeftOut.group(reasons))


def _use_of(path: Path) -> str:
    """What a file of tokens is for, by its name."""
    if _HELD_OUT.search(path.stem):
        return "validation"
    return "test" if _TEST.search(path.stem) else "train"


def read_tokens(source: TokenSource, vocab_size: int, tokenizer: TextTokenizer | None = None) -> TokenData:
    """The ids of a source, after all of them were read once: each must have a row in the vocabulary.

    Without the tokenizer that has made them there are no bits per byte.
    """
    train, validation, notes = source.train, source.validation, []
    if not validation:
        most = MOST_VALIDATION_BYTES // _BYTES_PER_TOKEN
        goal = min(most, round(VALIDATION_SHARE * sum(file.n_tokens for file in train)))
        head, tail = train[-1].cut_end(min(max(1, goal), train[-1].n_tokens // 2))
        train, validation = (*train[:-1], head), (tail,)
        notes.append(f"no file of {source.name} is for validation: the end of {tail.path.name} is held out")
    scans = _scan((*train, *validation))
    entries = 1 + max(scan.largest for scan in scans)
    _require_ids(scans, vocab_size, tokenizer)
    hashes = [scan.sha256 for scan in scans]
    arrays = Shards([file.map() for file in train]), Shards([file.map() for file in validation])
    n_bytes = None if tokenizer is None else _bytes_of_ids(tokenizer, arrays[1][:_MOST_DECODED])
    counts = [file.n_documents for file in (*source.train, *source.validation)]
    mean = None if n_bytes is None else float(n_bytes[arrays[1][:_MOST_DECODED]].mean())
    return TokenData(
        name=source.name, sha256=_join_hashes(hashes),
        n_documents=None if None in counts else sum(n or 0 for n in counts),
        n_held_out=sum(file.n_documents or 0 for file in source.validation),
        entries=entries if tokenizer is None else tokenizer.entries, train=arrays[0], validation=arrays[1],
        train_bytes=None if mean is None else round(mean * len(arrays[0])),
        validation_bytes=None if mean is None else round(mean * len(arrays[1])), bytes_of_token=n_bytes,
        tokenizer_json="" if tokenizer is None else tokenizer.json,
        tokens_sha256=_join_hashes(hashes[: len(train)]),
        end_of_text=None if tokenizer is None else EndOfText(tokenizer.end_text, tokenizer.end_reason),
        left_out=source.left_out, notes=tuple(notes),
    )  # fmt: skip


def read_all_tokens(
    source: TokenSource, vocab_size: int, tokenizer: TextTokenizer
) -> tuple[Shards, TokenBytes]:
    """The ids of the files that are for validation, else of all, and the bytes of each id: of this tokenizer,
    which has made them."""
    files = source.validation or source.train
    _require_ids(_scan(files), vocab_size, tokenizer)
    ids = Shards([file.map() for file in files])
    return ids, _bytes_of_ids(tokenizer, ids[:_MOST_DECODED])


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _read_header(path: Path, dtype: TokenDtype | None) -> TokenFile | str:
    """The ids of a file, or what it is instead."""
    index = path.with_suffix(".idx")
    if path.suffix.lower() == ".bin" and index.is_file() and _is_form(detect_form(index), "megatron"):
        return _read_megatron(index, path)
    form = detect_form(path)
    if _is_form(form, "llm.c"):
        return _read_llm_c(path)
    if _is_form(form, "megatron"):
        ids = path.with_suffix(".bin")
        if not ids.is_file():
            raise InputError(
                f"{path} is an index of Megatron, but its {ids.name} is missing; put it beside it"
            )
        return _read_megatron(path, ids)
    is_text = isinstance(form, SourceFile) and path.suffix.lower() != ".bin"
    if dtype is None or is_text or form == "empty":
        return form_name(form) if isinstance(form, SourceFile) else form
    itemsize, size = np.dtype(dtype).itemsize, path.stat().st_size
    if size % itemsize:
        raise InputError(
            f"{path} has {size:,} bytes, which are no whole number of {dtype}; use another `token_dtype`"
        )
    return TokenFile(path, dtype, 0, size // itemsize, has_header=False)


def _is_form(form: SourceFile | str, name: str) -> bool:
    assert name in TOKEN_FORMS
    return isinstance(form, SourceFile) and form.form == name


def _read_llm_c(path: Path) -> TokenFile:
    with path.open("rb") as file:
        magic, version, n_tokens = _LLM_C_HEADER.unpack(file.read(_LLM_C_HEADER.size))
    if version != _LLM_C_VERSIONS[magic]:
        raise InputError(
            f"{path} is of version {version} of llm.c's tokens, and only {_LLM_C_VERSIONS[magic]} is known"
        )
    found = TokenFile(path, LLM_C_MAGIC[magic], _LLM_C_HEADER_BYTES, n_tokens, has_header=True)
    _require_size(path, _LLM_C_HEADER_BYTES, found)
    return found


def _read_megatron(index: Path, path: Path) -> TokenFile:
    """The ids of a pair; the lengths in the index must add up to them."""
    size = index.stat().st_size
    with index.open("rb") as file:
        header = file.read(_MEGATRON_HEADER.size)
        if len(header) < _MEGATRON_HEADER.size:
            raise InputError(f"{index} is cut short; make it again")
        _, version, code, n_sequences, n_bounds = _MEGATRON_HEADER.unpack(header)
        if version != 1 or code not in _MEGATRON_TYPES:
            what = f"version {version}" if version != 1 else f"ids of type {code}"
            raise InputError(f"{index} has {what}, which is not known; make it again with Megatron-LM")
        # Of each sequence an int32 length, an int64 position and perhaps an int8 mode; int64 per document.
        expected = _MEGATRON_HEADER.size + 12 * n_sequences + 8 * n_bounds
        if size not in (expected, expected + n_sequences):
            raise InputError(f"{index} has {size:,} bytes where its header gives {expected:,}; make it again")
        n_tokens, left = 0, n_sequences
        while left:
            lengths = np.frombuffer(file.read(4 * min(left, _BLOCK_SEQUENCES)), "<i4")
            n_tokens += int(lengths.sum(dtype=np.int64))
            left -= len(lengths)
    found = TokenFile(path, _MEGATRON_TYPES[code], 0, n_tokens, True, max(0, n_bounds - 1))
    _require_size(path, 0, found)
    return found


def _require_size(path: Path, start: int, file: TokenFile) -> None:
    actual, expected = path.stat().st_size, start + file.n_tokens * file.numpy_dtype.itemsize
    if file.n_tokens < 1 or actual != expected:
        raise InputError(
            f"{path} has {actual:,} bytes where {count_phrase(file.n_tokens, 'token')} of {file.dtype} take "
            f"{expected:,}; is it complete?"
        )


@dataclass(frozen=True)
class _Scan:
    """What reading all ids of a file has shown."""

    file: TokenFile
    sha256: str
    smallest: int
    largest: int
    odd_are_zero: bool
    """Every second id of the beginning is 0."""


def _scan(files: Sequence[TokenFile]) -> list[_Scan]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_scan_file, files))


def _scan_file(file: TokenFile) -> _Scan:
    digest, smallest, largest, odd_are_zero = hashlib.sha256(), 0, 0, None
    left = file.n_tokens * file.numpy_dtype.itemsize
    with file.path.open("rb") as stream:
        stream.seek(file.start)
        while block := stream.read(min(left, _BLOCK_BYTES)):
            left -= len(block)
            ids = np.frombuffer(block, file.numpy_dtype)
            if odd_are_zero is None:
                odd_are_zero = len(ids) > 64 and not ids[1::2].any() and bool(ids.any())
            digest.update(block)
            smallest, largest = min(smallest, int(ids.min())), max(largest, int(ids.max()))
    return _Scan(file, digest.hexdigest(), smallest, largest, bool(odd_are_zero))


def _require_ids(scans: Sequence[_Scan], vocab_size: int, tokenizer: TextTokenizer | None) -> None:
    """Refuse ids without a row in the vocabulary, and those of which the type was mistaken."""
    for scan in scans:
        file = scan.file
        hint = "" if file.has_header else f"; is `token_dtype={file.dtype}` right?"
        if scan.smallest < 0:
            raise InputError(f"{file.path} has negative ids, which are no tokens{hint}")
        if not file.has_header and file.dtype == "uint16" and scan.odd_are_zero:
            raise InputError(f"every second id in {file.path} is 0, as in uint32; use `token_dtype=uint32`")
        if tokenizer is not None and scan.largest >= tokenizer.entries:
            raise InputError(
                f"{file.path} has ids up to {scan.largest:,}, but the tokenizer {tokenizer.name} has only "
                f"{tokenizer.entries:,} entries: another one has made them{hint}"
            )
    needed = 1 + max(scan.largest for scan in scans)
    if tokenizer is not None:
        needed = max(needed, tokenizer.entries)
    if needed > vocab_size:
        largest = max(scans, key=lambda scan: scan.largest).file
        doubt = "" if largest.has_header else f"is `token_dtype={largest.dtype}` right? If so, "
        raise InputError(
            f"the tokens in {largest.path} need a vocabulary of {needed:,}, more than "
            f"vocab_size={vocab_size:,}; {doubt}use `vocab_size={needed}`"
        )


def _bytes_of_ids(tokenizer: TextTokenizer, sample: TokenIds) -> TokenBytes:
    """Bytes of each id: known where a byte is an entry, else the mean over the sample."""
    if isinstance(tokenizer.tokenizer.decoder, decoders.ByteLevel):
        return bytes_of_token(tokenizer.tokenizer)
    text = tokenizer.tokenizer.decode(sample.tolist(), skip_special_tokens=True)
    return np.full(tokenizer.entries, len(text.encode()) / max(1, len(sample)))


def _join_hashes(hashes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
