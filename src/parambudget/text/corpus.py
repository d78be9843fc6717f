"""Text to train on: documents in files, identified by content, a few of them held out for validation.

Without data of your own there is the source of the running Python's standard library, which always exists.
"""

import codecs
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parambudget.errors import InputError

BUILT_IN: Final = Path("builtin")
"""Names that text where a path is expected; a file or folder of this name comes first."""
VALIDATION_SHARE: Final = 0.05
MOST_VALIDATION_BYTES: Final = 10_000_000
_CHUNK_BYTES: Final = 4_000_000
_EXCLUDED: Final = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
)


@dataclass(frozen=True)
class Document:
    """One text: a whole file, or the bytes [start, end) of one."""

    path: Path
    start: int
    end: int
    sha256: str
    """Of the whole file."""

    @property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return self.end - self.start

    def read_chunks(self, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[str]:
        """The text in chunks, so that no file has to fit in memory: cut after a line, or in a long one."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left, buffer = self.n_bytes, b""
            while left:
                block = file.read(min(left, chunk_bytes))
                if not block:
                    raise InputError(f"{self.path} became shorter while it was being read; start again")
                left -= len(block)
                buffer += block
                cut = len(buffer) if not left else _last_line_end(buffer)
                yield buffer[:cut].decode("utf-8")
                buffer = buffer[cut:]


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out: no text is in both."""

    name: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    skipped: int
    """Files left out because they are empty, not UTF-8 text, or the same as another one."""
    sha256: str
    """Of the documents' own hashes, in order: the same text gives the same value wherever it is stored."""

    @property
    def train_hashes(self) -> set[str]:
        """Hashes of the documents to train on; one may have its end held out."""
        return {document.sha256 for document in self.train}

    @property
    def validation_hashes(self) -> set[str]:
        """Hashes of the held-out documents, or of the one whose end is held out."""
        return {document.sha256 for document in self.validation}


def read_corpus(source: Path | None = None) -> Corpus:
    """The text of a file, or of every file below a folder; by default of Python's standard library."""
    if source is None:
        name, paths = (
            f"the source of Python {platform.python_version()}'s standard library",
            _standard_library(),
        )
    else:
        name, paths = str(source), visible_files(source)
    documents: dict[str, Document] = {}
    for path in paths:
        document = _document(path, required=path == source)
        if document is not None:
            documents.setdefault(document.sha256, document)
    if not documents:
        raise InputError(
            f"no text in {name}: {len(paths)} files, none with UTF-8 text in it; give a text file or a folder"
        )
    unique = tuple(documents.values())
    train, validation = _split(unique)
    digest = hashlib.sha256("\n".join(document.sha256 for document in unique).encode())
    return Corpus(name, train, validation, len(paths) - len(unique), digest.hexdigest())


def is_built_in(source: Path) -> bool:
    """Whether this names the source of Python's standard library."""
    return source == BUILT_IN and not source.exists()


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _EXCLUDED & set(path.relative_to(root).parts))


def visible_files(source: Path) -> list[Path]:
    """The file, or every file below the folder that is not hidden, in order."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"no data at {source}; give a text file or a folder of text files")
    visible = (
        path
        for path in source.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    return sorted(path for path in visible if path.is_file())


def _document(path: Path, *, required: bool) -> Document | None:
    """The file as a document; None if it is empty or not text."""
    digest, decoder, n_bytes = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK_BYTES):
                decoder.decode(block)
                digest.update(block)
                n_bytes += len(block)
        decoder.decode(b"", final=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give readable text files") from None
    except UnicodeDecodeError:
        if required:
            raise InputError(
                f"{path} is not UTF-8 text; give a text file or a folder of text files"
            ) from None
        return None
    return Document(path, 0, n_bytes, digest.hexdigest()) if n_bytes else None


def _split(documents: tuple[Document, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Documents to train on and to hold out: up to 5 % of the bytes, chosen by hash, else the end of the
    longest."""
    goal = min(MOST_VALIDATION_BYTES, VALIDATION_SHARE * sum(document.n_bytes for document in documents))
    held_out: dict[str, Document] = {}
    for document in sorted(documents, key=lambda document: document.sha256):
        if document.n_bytes <= goal:
            held_out[document.sha256] = document
            goal -= document.n_bytes
    if held_out:
        train = tuple(document for document in documents if document.sha256 not in held_out)
        return train, tuple(held_out.values())
    longest = max(documents, key=lambda document: document.n_bytes)
    cut = _line_before(longest, longest.n_bytes - int(goal))
    head = Document(longest.path, 0, cut, longest.sha256)
    tail = Document(longest.path, cut, longest.end, longest.sha256)
    return tuple(head if document is longest else document for document in documents), (tail,)


def _line_before(document: Document, position: int) -> int:
    """The start of the line that has byte `position`, or of the character if the line is very long."""
    start = max(0, position - _CHUNK_BYTES)
    with document.path.open("rb") as file:
        file.seek(start)
        before = file.read(position - start) + file.read(1)
    return start + _last_line_end(before)


def _last_line_end(text: bytes) -> int:
    """Where to cut UTF-8 bytes: after the last complete line, else before the last character."""
    after_line = text.rfind(b"\n") + 1
    if after_line:
        return after_line
    cut = len(text) - 1
    while cut > 0 and text[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut
