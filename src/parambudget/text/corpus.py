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
from typing import BinaryIO, Final

from parambudget.errors import InputError
from parambudget.text.forms import LeftOut, SourceFile, SourceFiles, describe_left_out, find_files

BUILT_IN: Final = Path("builtin")
"""Names that text where a path is expected; a file or folder of this name comes first."""
VALIDATION_SHARE: Final = 0.05
MOST_VALIDATION_BYTES: Final = 10_000_000
CHUNK_BYTES: Final = 4_000_000
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

    def read_chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[str]:
        """The text in chunks, so that no file has to fit in memory: cut after a line, or in a long one."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            for chunk in read_line_chunks(file, self.n_bytes, self.path, chunk_bytes):
                yield chunk.decode("utf-8")


def read_line_chunks(file: BinaryIO, n_bytes: int, path: Path, chunk_bytes: int) -> Iterator[bytes]:
    """The next `n_bytes` in chunks that end after a line or, in a long one, after a character."""
    left, buffer = n_bytes, b""
    while left:
        block = file.read(min(left, chunk_bytes))
        if not block:
            raise InputError(f"{path} became shorter while it was being read; start again")
        left -= len(block)
        buffer += block
        cut = len(buffer) if not left else _last_line_end(buffer)
        yield buffer[:cut]
        buffer = buffer[cut:]


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out: no text is in both."""

    name: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    left_out: tuple[LeftOut, ...]
    """Files that are empty, not UTF-8 text, or the same as another one."""
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


def read_corpus(source: Path | None = None, found: SourceFiles | None = None) -> Corpus:
    """The plain text of a file, or of every file below a folder; by default of Python's standard library.

    `found` is what `find_files` has found in the source.
    """
    if source is None:
        name = f"the source of Python {platform.python_version()}'s standard library"
        found = SourceFiles(tuple(SourceFile(path, "text") for path in _standard_library()))
    else:
        name, found = str(source), found or find_files(source)
    documents: dict[str, Document] = {}
    reasons: list[tuple[str, str]] = []
    for path in (file.path for file in found.files if file.is_plain_text):
        document = _document(path, required=path == source)
        if isinstance(document, str):
            reasons.append((_name_in(path, source), document))
        elif documents.setdefault(document.sha256, document) is not document:
            reasons.append((_name_in(path, source), "the same as another"))
    left_out = found.left_out + LeftOut.group(reasons)
    if not documents:
        raise InputError(
            f"no text in {name}: {describe_left_out(left_out) or '0 files'}; give a text file or a folder "
            "with text in it"
        )
    unique = tuple(documents.values())
    train, validation = _split(unique)
    digest = hashlib.sha256("\n".join(document.sha256 for document in unique).encode())
    return Corpus(name, train, validation, left_out, digest.hexdigest())


def _name_in(path: Path, source: Path | None) -> str:
    return str(path) if source in (None, path) else str(path.relative_to(source))


def is_built_in(source: Path) -> bool:
    """Whether this names the source of Python's standard library."""
    return source == BUILT_IN and not source.exists()


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _EXCLUDED & set(path.relative_to(root).parts))


def _document(path: Path, *, required: bool) -> Document | str:
    """The file as a document, or why it is none."""
    digest, decoder, n_bytes = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(CHUNK_BYTES):
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
        return "not UTF-8 text"
    return Document(path, 0, n_bytes, digest.hexdigest()) if n_bytes else "empty"


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
    start = max(0, position - CHUNK_BYTES)
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
