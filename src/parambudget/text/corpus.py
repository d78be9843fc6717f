"""The text to train on: documents in files, told apart by content, a few of them held out for validation.

Without data of one's own there is the source of the running Python's standard library: always there.
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

VALIDATION_SHARE: Final = 0.05
MOST_VALIDATION_BYTES: Final = 10_000_000
_PIECE_BYTES: Final = 4_000_000
_NOT_ITS_OWN: Final = frozenset(
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

    def pieces(self, piece_bytes: int = _PIECE_BYTES) -> Iterator[str]:
        """The text in pieces, so that no file must fit in memory: cut after a line, or in a very long one."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left, held = self.n_bytes, b""
            while left:
                block = file.read(min(left, piece_bytes))
                if not block:
                    raise InputError(f"{self.path} became shorter while it was read; start again")
                left -= len(block)
                held += block
                cut = len(held) if not left else _end_of_line(held)
                yield held[:cut].decode("utf-8")
                held = held[cut:]


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and documents held out: no text stands in both."""

    name: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    skipped: int
    """Files left out because they are empty, not UTF-8 text, or the same as another one."""
    sha256: str
    """Of the documents' own hashes, in order: the same text gives the same value wherever it lies."""

    @property
    def learned(self) -> set[str]:
        """Hashes of the documents to learn from; one may have its end held out."""
        return {document.sha256 for document in self.train}

    @property
    def held_out(self) -> set[str]:
        """Hashes of the documents that are held out, or of the one whose end is."""
        return {document.sha256 for document in self.validation}


def corpus(source: Path | None = None) -> Corpus:
    """The text of a file or of every file below a folder; without a source, of Python's standard library."""
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
    kept = tuple(documents.values())
    train, validation = _split(kept)
    digest = hashlib.sha256("\n".join(document.sha256 for document in kept).encode())
    return Corpus(name, train, validation, len(paths) - len(kept), digest.hexdigest())


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _NOT_ITS_OWN & set(path.relative_to(root).parts))


def visible_files(source: Path) -> list[Path]:
    """The file, or every file below the folder that is not hidden, in order."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"no data at {source}; give a text file or a folder of text files")
    found = source.rglob("*")
    visible = (
        path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    return sorted(path for path in visible if path.is_file())


def _document(path: Path, *, required: bool) -> Document | None:
    """The file as a document, or None if it is empty or not text."""
    digest, decoder, n_bytes = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_PIECE_BYTES):
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
    """Hold out documents, chosen by their hash, up to 5 % of the bytes; else the end of the longest."""
    goal = min(MOST_VALIDATION_BYTES, VALIDATION_SHARE * sum(document.n_bytes for document in documents))
    held: dict[str, Document] = {}
    for document in sorted(documents, key=lambda document: document.sha256):
        if document.n_bytes <= goal:
            held[document.sha256] = document
            goal -= document.n_bytes
    if held:
        return tuple(document for document in documents if document.sha256 not in held), tuple(held.values())
    longest = max(documents, key=lambda document: document.n_bytes)
    cut = _line_before(longest, longest.n_bytes - int(goal))
    head = Document(longest.path, 0, cut, longest.sha256)
    tail = Document(longest.path, cut, longest.end, longest.sha256)
    return tuple(head if document is longest else document for document in documents), (tail,)


def _line_before(document: Document, position: int) -> int:
    """The start of the line that byte `position` lies in, or of the character if the line is very long."""
    start = max(0, position - _PIECE_BYTES)
    with document.path.open("rb") as file:
        file.seek(start)
        before = file.read(position - start) + file.read(1)
    return start + _end_of_line(before)


def _end_of_line(text: bytes) -> int:
    """Where to cut UTF-8 bytes: after the last line that is complete, else before the last character."""
    after_line = text.rfind(b"\n") + 1
    if after_line:
        return after_line
    cut = len(text) - 1
    while cut > 0 and text[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut
