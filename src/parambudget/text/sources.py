"""What a source holds, in stretches that can each be read alone, and the documents of a stretch.

    text          a file is a document; with a separator, what stands between two of them
    JSON lines    a line is (.jsonl, .ndjson)
    parquet       a row is (.parquet; needs pyarrow)
    hosted        a row of a Hugging Face data set is (needs `datasets` and, but for a folder, the network)

Stretches begin and end between documents, or between the lines of a text that is one document.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from parambudget.errors import InputError, MissingExtra
from parambudget.text.corpus import Document, visible_files

Kind = Literal["text", "jsonl", "parquet", "hosted"]
SUFFIXES: Final[dict[str, Kind]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
SHORT_NAMES: Final = {
    "openwebtext": "hf:Skylion007/openwebtext",
    "fineweb-edu": "hf:HuggingFaceFW/fineweb-edu/sample-10BT",
}
MOST_STRETCHES: Final = 256
"""Each becomes a memory-mapped file, and a process may have about a thousand open."""
LEAST_STRETCH_BYTES: Final = 1_000_000
MOST_DOCUMENT_BYTES: Final = 2**30
_BLOCK_BYTES: Final = 1_000_000
_HEAD_BYTES: Final = 4_096


@dataclass(frozen=True)
class Reading:
    """How documents are found in what is read."""

    field: str = "text"
    """The field or column that holds the text."""
    separator: str | None = None
    """What separates the documents of a text file."""


@dataclass(frozen=True)
class Stretch:
    """Bytes [start, end) of a file, row groups of a parquet file, or part `start` of `end` of a data set."""

    kind: Kind
    path: str
    start: int
    end: int
    n_bytes: int
    """Of text, nearly: its share of the work. 0 where it is not known."""


@dataclass(frozen=True)
class Piece:
    """A document or, of a long one, a part."""

    text: str
    key: bytes
    """The beginning of the document: decides on which side of the split it falls."""
    document_bytes: int
    """Length of the whole document in UTF-8."""
    ends: bool
    """The document ends here."""


def stretches(source: str, reading: Reading) -> list[Stretch]:
    """The source in order, without files that are empty or not text."""
    path = Path(source)
    if not path.exists() and (name := SHORT_NAMES.get(source, source)).startswith("hf:"):
        require_package("datasets", f"reading {name}")
        from parambudget.text import hosted

        n_parts = hosted.n_parts(name, MOST_STRETCHES)
        return [Stretch("hosted", name, i, n_parts, 0) for i in range(n_parts)]
    if not path.exists():
        raise InputError(
            f"no data at {source}; give a file, a folder, hf:OWNER/NAME from the Hugging Face hub, "
            f"or one of {', '.join(SHORT_NAMES)} (the last two need the network)"
        )
    paths = visible_files(path)
    kinds = {file: kind for file in paths if (kind := _kind(file, required=file == path))}
    if not kinds:
        raise InputError(
            f"no text in {source}: {len(paths)} files, none with text in it; give text, JSON lines or parquet"
        )
    step = step_bytes(sum(file.stat().st_size for file in kinds))
    return [stretch for file, kind in kinds.items() for stretch in cut(file, kind, step, reading)]


def step_bytes(total_bytes: int) -> int:
    """How much text one process takes at a time, so that there are not too many parts nor too small ones."""
    return max(LEAST_STRETCH_BYTES, -(-total_bytes // MOST_STRETCHES))


def pieces(stretch: Stretch, reading: Reading) -> Iterator[Piece]:
    """The documents of a stretch, without the empty ones; a long text in several pieces."""
    if stretch.kind == "text" and reading.separator is None:
        yield from _text_pieces(stretch)
        return
    if stretch.kind == "text":
        texts = _separated(stretch, str(reading.separator))
    elif stretch.kind == "jsonl":
        texts = _json_lines(stretch, reading.field)
    elif stretch.kind == "parquet":
        from parambudget.text import parquet

        texts = parquet.texts(stretch.path, stretch.start, stretch.end, reading.field)
    else:
        from parambudget.text import hosted

        texts = hosted.texts(stretch.path, stretch.start, stretch.end, reading.field)
    for text in texts:
        if text:
            yield Piece(text, text[:_HEAD_BYTES].encode(), len(text.encode()), ends=True)


def require_package(package: str, what: str) -> None:
    """Raise `MissingExtra` with the install command unless the package can be imported."""
    if find_spec(package) is None:
        raise MissingExtra(
            f"{what} needs {package}, which is not installed; run it as: uv run --extra data --extra train "
            "parambudget data prepare ... (or: pip install 'parambudget[data,train]')"
        )


def _kind(path: Path, *, required: bool) -> Kind | None:
    """What a file holds, by its name, else by its beginning; None if it is empty or no text."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give readable files") from None
    kind = SUFFIXES.get(path.suffix, "text")
    is_text = kind == "parquet" or (b"\0" not in head and _decodes(head))
    if required and not (head and is_text):
        raise InputError(
            f"{path} is {'not text' if head else 'empty'}; give UTF-8 text, JSON lines or parquet"
        )
    return kind if head and is_text else None


def _decodes(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _HEAD_BYTES  # a character cut in two
    return True


def cut(path: Path, kind: Kind, step: int, reading: Reading) -> Iterator[Stretch]:
    """A file in stretches of about `step` bytes, none of which cuts a document or a line in two."""
    if kind == "parquet":
        require_package("pyarrow", f"reading {path}")
        from parambudget.text import parquet

        for start, end, n_bytes in parquet.row_groups(path, step, reading.field):
            yield Stretch(kind, str(path), start, end, n_bytes)
        return
    size, start = path.stat().st_size, 0
    breaks = (reading.separator or "\n").encode() if kind == "text" else b"\n"
    while start < size:
        end = _after_next(path, min(start + step, size), breaks)
        yield Stretch(kind, str(path), start, end, end - start)
        start = end


def _after_next(path: Path, position: int, mark: bytes) -> int:
    """The place behind the first `mark` that ends at `position` or later, or the end of the file."""
    with path.open("rb") as file:
        at = max(0, position - len(mark))
        file.seek(at)
        held = b""
        while block := file.read(_BLOCK_BYTES):
            held += block
            found = held.find(mark)
            if found >= 0:
                return at + found + len(mark)
            kept = len(mark) - 1
            at, held = at + max(0, len(held) - kept), held[len(held) - kept :] if kept else b""
        return file.tell()


def _text_pieces(stretch: Stretch) -> Iterator[Piece]:
    path = Path(stretch.path)
    size = path.stat().st_size
    with path.open("rb") as file:
        key = file.read(_HEAD_BYTES)
    left = stretch.end - stretch.start
    try:
        for text in Document(path, stretch.start, stretch.end, "").pieces(_BLOCK_BYTES):
            left -= len(text.encode())
            yield Piece(text, key, size, ends=not left and stretch.end == size)
    except UnicodeDecodeError as error:
        where = _after_byte(stretch.end - left + error.start)
        raise InputError(f"{path} is not UTF-8 text {where}") from None


def _separated(stretch: Stretch, separator: str) -> Iterator[str]:
    """The documents between separators, without the white space around them."""
    mark, held, searched, at = separator.encode(), bytearray(), 0, stretch.start
    with Path(stretch.path).open("rb") as file:
        file.seek(at)
        while block := file.read(min(_BLOCK_BYTES, stretch.end - file.tell())):
            held += block
            while (found := held.find(mark, searched)) >= 0:
                yield _decoded(held[:found], stretch.path, at).strip()
                del held[: found + len(mark)]
                at, searched = at + found + len(mark), 0
            searched = max(0, len(held) - len(mark) + 1)
            if len(held) > MOST_DOCUMENT_BYTES:
                raise InputError(
                    f"{stretch.path} has no {separator!r} for {len(held):,} bytes after byte {at:,}; "
                    "is it the right --separator?"
                )
        yield _decoded(held, stretch.path, at).strip()


def _decoded(text: bytearray, path: str, start: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text {_after_byte(start + error.start)}") from None


def _after_byte(position: int) -> str:
    return f"after byte {position:,}; convert it to UTF-8 or leave it out"


def _json_lines(stretch: Stretch, field: str) -> Iterator[str]:
    with Path(stretch.path).open("rb") as file:
        file.seek(stretch.start)
        nth = 0
        while file.tell() < stretch.end:
            line = file.readline()
            nth += 1
            if line.strip():
                try:
                    yield _text_of(json.loads(line), field)
                except (ValueError, KeyError, RecursionError) as error:
                    reason = error.args[0] if isinstance(error, KeyError) else f"not valid JSON ({error})"
                    where = f"{stretch.path}, line {_lines_before(stretch) + nth}"
                    raise InputError(f"{where}: {reason}; repair the line or leave it out") from None


def _text_of(row: Any, field: str) -> str:
    if not isinstance(row, dict):
        raise KeyError("not a JSON object")
    if field not in row:
        raise KeyError(
            f"no field {field!r}, only {', '.join(map(repr, row)) or 'none'}; name it with --field"
        )
    if not isinstance(row[field], str):
        raise KeyError(f"field {field!r} is not a string")
    # JSON can write half a character, which no text can hold: it becomes a question mark.
    return str(row[field]).encode("utf-8", "replace").decode()


def _lines_before(stretch: Stretch) -> int:
    with Path(stretch.path).open("rb") as file:
        left, count = stretch.start, 0
        while left:
            block = file.read(min(_BLOCK_BYTES, left))
            left -= len(block)
            count += block.count(b"\n")
    return count
