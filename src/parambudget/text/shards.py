"""A folder of prepared tokens: memory-mapped files of ids, and a manifest with the hash of each.

    DIR/manifest.json       written last: without it the folder is not complete
        tokenizer.json
        train-00000.bin     ids, uint16 or (with more than 65,536 entries) uint32; and so on
        validation.bin

A shard holds the ids of whole documents, each followed by the end-of-text id. Only a long text is cut.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer
from typing_extensions import TypedDict

from parambudget._documents import CLOSED, Count, Sha256, parse_document, sealed_fields, unsealed_fields
from parambudget._files import read_json, require_regular, sha256_of_file, write_json
from parambudget._json_types import SchemaOf
from parambudget.errors import InputError
from parambudget.text.forms import LeftOut
from parambudget.text.token_cache import TokenData, Tokens, memory_map
from parambudget.text.tokenizer import EndOfText, IdType, TokenBytes, TokenIds, bytes_of_token, id_type
from parambudget.units import count_phrase, shorten

MANIFEST: Final = "manifest.json"
TOKENIZER: Final = "tokenizer.json"
VALIDATION: Final = "validation.bin"
TRAINED: Final = "bpe of "
"""How the name of a tokenizer begins that was trained on the source."""
WORK: Final = ".unfinished"
"""Work in progress, in a folder that is being prepared."""
FORMAT: Final = 2
_BLOCK_BYTES: Final = 2**22
_CHANGED: Final = "{} is not what was written (another SHA-256)"


@dataclass(frozen=True)
class Shard:
    """One complete file of ids."""

    __pydantic_config__ = CLOSED

    file: Annotated[str, Field(pattern=r"^(train-[0-9]{5,9}|validation)\.bin$")]
    """Its name in the folder."""
    n_tokens: Count
    """Ids in it."""
    n_documents: Count
    """Documents that end in it."""
    n_bytes: Count
    """Of text, in UTF-8."""
    sha256: Sha256
    """Of the file."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder contains."""

    __pydantic_config__ = CLOSED

    source: str
    """What was prepared."""
    text_sha256: str
    """Of the text."""
    made_from: str
    """Hash of everything that decides the tokens: the same request gives the same value."""
    tokenizer: str
    """What has made the tokens."""
    tokenizer_sha256: Sha256
    """Of tokenizer.json."""
    entries: Annotated[int, Field(ge=1, le=2**31)]
    """Of the tokenizer."""
    end_of_text: str
    """The token that ends a document."""
    exact_bytes: bool
    """Every id has a known number of bytes; otherwise bits per byte use the mean."""
    end_of_text_reason: str
    """Why it is this token that ends documents."""
    reversible: bool
    """Decoding the ids gives the text; otherwise there are no bits per byte."""
    lost_bytes: Count
    """Bytes of text that the ids do not give back."""
    forms: dict[str, int]
    """Files by what they hold."""
    left_out: tuple[LeftOut, ...]
    """Files that were not read."""
    n_empty: Count
    """Documents that were skipped because their text is null or empty."""
    n_bad: Count
    """Records that were skipped, as was asked for, because they are damaged or have no text."""
    notes: tuple[str, ...]
    """What else the person who asked for this should know."""
    dtype: IdType
    """Of the ids."""
    train: tuple[Shard, ...]
    """Files of ids to train on."""
    validation: Shard
    version: str
    """Of parambudget."""

    @property
    def n_tokens(self) -> int:
        """Tokens to train on."""
        return sum(shard.n_tokens for shard in self.train)

    @property
    def train_bytes(self) -> int:
        """Bytes of text to train on."""
        return sum(shard.n_bytes for shard in self.train)

    @property
    def lost_share(self) -> float:
        """Share of the bytes of text that the ids do not give back."""
        return self.lost_bytes / max(1, self.train_bytes + self.validation.n_bytes)

    @property
    def n_documents(self) -> int:
        """Documents in both splits."""
        return self.validation.n_documents + sum(shard.n_documents for shard in self.train)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every file of ids."""
        return (*self.train, self.validation)

    def as_dict(self) -> "ManifestDocument":
        """Plain JSON values, as in manifest.json."""
        return sealed_fields({"format": FORMAT, "n_tokens": self.n_tokens, **asdict(self)})

    def write(self, folder: Path) -> None:
        """Write manifest.json, which declares the folder complete."""
        write_json(folder / MANIFEST, self.as_dict())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder; the error is one line."""
        path = folder / MANIFEST
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a manifest; prepare the data again")
        if content.get("format") != FORMAT:
            raise InputError(f"{path} has another format than this version reads; prepare the data again")
        try:
            fields = unsealed_fields(content, path)
            n_tokens = fields.pop("n_tokens", None)
            del fields["format"]
            manifest = parse_document(fields, cls, str(path))
        except InputError as error:
            raise InputError(f"{error}; prepare the data again") from None
        names = [shard.file for shard in manifest.shards]
        expected = [*(f"train-{n:05}.bin" for n in range(len(manifest.train))), VALIDATION]
        dtype = id_type(manifest.entries).name
        for name, found, right in (
            ("n_tokens", n_tokens, manifest.n_tokens), ("dtype", manifest.dtype, dtype),
            ("files", shorten(str(names), 100), shorten(str(expected), 100)),
        ):  # fmt: skip
            if found != right:
                raise InputError(
                    f"{path} is damaged: {name} is {found}, but {right} follows from the rest; prepare the "
                    "data again"
                )
        return manifest


class ManifestSealDocument(TypedDict):
    """What manifest.json has beside the fields of a `Manifest`."""

    format: int
    """Of the file; another one is not read."""
    n_tokens: int
    """Tokens to train on."""
    seal: str
    """SHA-256 of all other content."""


ManifestDocument = Annotated[dict[str, Any], SchemaOf(Manifest, ManifestSealDocument)]
"""What a prepared folder contains, as in manifest.json."""


class Shards:
    """Several arrays of ids that are sliced as one."""

    def __init__(self, arrays: Sequence[Tokens]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, wanted: slice) -> TokenIds:
        start, stop, _ = wanted.indices(len(self))
        i = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = [self._arrays[0][:0]]
        while start < stop:
            offset = start - int(self._starts[i])
            parts.append(self._arrays[i][offset : offset + stop - start])
            start += len(parts[-1])
            i += 1
        return np.concatenate(parts) if len(parts) > 2 else parts[-1]


def is_prepared(folder: Path) -> bool:
    """Whether this is a folder that `data prepare` wrote, finished or not."""
    return (folder / MANIFEST).is_file() or (folder / WORK).is_dir()


def read_prepared_folder(folder: Path, vocab_size: int) -> TokenData:
    """The tokens of a prepared folder, which must fit the vocabulary and be as they were written."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder} is only partly prepared; run the same `parambudget data prepare` again to continue"
        )
    manifest = Manifest.read(folder)
    if manifest.entries > vocab_size:
        raise InputError(
            f"the tokens in {folder} are from a tokenizer with {manifest.entries:,} entries, more than "
            f"vocab_size={vocab_size:,}; use `vocab_size={manifest.entries}` or prepare the data with fewer"
        )
    require_whole(folder, manifest)
    arrays = {shard.file: memory_map(folder / shard.file, manifest.dtype) for shard in manifest.shards}
    tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")
    hashes = "\n".join(shard.sha256 for shard in manifest.train)
    return TokenData(
        name=manifest.source, sha256=manifest.text_sha256,
        n_documents=manifest.n_documents, n_held_out=manifest.validation.n_documents,
        entries=manifest.entries,
        train=Shards([arrays[shard.file] for shard in manifest.train]),
        validation=arrays[manifest.validation.file],
        train_bytes=manifest.train_bytes, validation_bytes=manifest.validation.n_bytes,
        bytes_of_token=_token_bytes(tokenizer_json, manifest),
        tokenizer_json=tokenizer_json, tokens_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        end_of_text=EndOfText(manifest.end_of_text, manifest.end_of_text_reason), left_out=manifest.left_out,
        trained_here=manifest.tokenizer.startswith(TRAINED),
        lost_share=None if manifest.reversible else manifest.lost_share,
    )  # fmt: skip


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with a file that is not as it was written, and name that file."""
    dtype = np.dtype(manifest.dtype)

    def find_damage(file: str, sha256: str, n_ids: int | None) -> str | None:
        try:
            if n_ids is None:
                return None if sha256_of_file(folder / file) == sha256 else _CHANGED.format(file)
            require_regular(folder / file)
            actual, expected = (folder / file).stat().st_size, n_ids * dtype.itemsize
            if actual != expected:
                return f"{file} has {actual:,} bytes where {expected:,} were written"
            digest, largest = _hash_ids(folder / file, dtype)
            if digest != sha256:
                return _CHANGED.format(file)
            if largest >= manifest.entries:
                return f"{file} has an id of {largest:,}, but the tokenizer has {manifest.entries:,} entries"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        return None

    files = [(shard.file, shard.sha256, shard.n_tokens) for shard in manifest.shards]
    with ThreadPoolExecutor() as threads:
        found = threads.map(
            find_damage, *zip(*files, (TOKENIZER, manifest.tokenizer_sha256, None), strict=True)
        )
        damage = [line for line in found if line]
    if damage:
        more = f" and {count_phrase(len(damage) - 3, 'more file')}" if len(damage) > 3 else ""
        raise InputError(
            f"{folder} is damaged: {', '.join(damage[:3])}{more}; remove the folder and prepare it again"
        )


def _hash_ids(path: Path, dtype: np.dtype[np.unsignedinteger]) -> tuple[str, int]:
    """SHA-256 of a file of ids, and the largest id in it, -1 if it is empty."""
    digest, largest = hashlib.sha256(), -1
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, dtype).max()))
    return digest.hexdigest(), largest


def _token_bytes(tokenizer_json: str, manifest: Manifest) -> TokenBytes | None:
    if not manifest.reversible:
        return None
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if manifest.exact_bytes:
        return bytes_of_token(tokenizer)
    return np.full(manifest.entries, manifest.validation.n_bytes / max(1, manifest.validation.n_tokens))
