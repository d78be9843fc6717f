"""A source of text: how it is divided into slices that can be read independently, and its documents.

    text          a document per file, or several with a separator between them
    JSON lines    a document per line (.jsonl, .ndjson)
    parquet       a document per row (.parquet; needs pyarrow)
    hosted        a document per row of a Hugging Face data set (needs `datasets` and, except for a folder,
                  the network)

A slice begins and ends between documents, or between the lines of a text that is one document.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from parambudget._install import require_packages
from parambudget.errors import InputError
from parambudget.text.corpus import Document, visible_files

SourceFormat = Literal["text", "jsonl", "parquet", "hosted"]
SUFFIXES: Final[dict[str, SourceFormat]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
SHORT_NAMES: Final = {
    "openwebtext": "hf:Skylion007/openwebtext",
    "fineweb-edu": "hf:HuggingFaceFW/fineweb-edu/sample-10BT",
}
MOST_SLICES: Final = 256
"""Each becomes a memory-mapped file, and a process may have about a thousand open."""
LEAST_SLICE_BYTES: Final = 1_000_000
MOST_DOCUMENT_BYTES: Final = 2**30
_BLOCK_BYTES: Final = 1_000_000
_HEAD_BYTES: Final = 4_096


@dataclass(frozen=True)
class TextLayout:
    """Where the documents are in the files of a source."""

    field: str = "text"
    """The field or column that holds the text."""
    separator: str | None = None
    """What separates the documents of a text file."""


@dataclass(frozen=True)
class SourceSlice:
    """Bytes [start, end) of a file, row groups of a parquet file, or shard `start` of `end` of a data set."""

    kind: SourceFormat
    path: str
    start: int
    end: int
    n_bytes: int
    """Approximate bytes of text, as its share of the work; 0 if unknown."""


@dataclass(frozen=True)
class Chunk:
    """A document or, for a long one, a part of it."""

    text: str
    key: bytes
    """The beginning of the document: decides whether it is held out."""
    document_bytes: int
    """Length of the whole document in UTF-8."""
    ends: bool
    """The document ends here."""


def slice_source(source: str, layout: TextLayout) -> list[SourceSlice]:
    """The source in order, without files that are empty or not text."""
    path = Path(source)
    if not path.exists() and (name := SHORT_NAMES.get(source, source)).startswith("hf:"):
        require_package("datasets", f"reading {name}")
        from parambudget.text import hosted

        n_shards = hosted.n_shards(name, MOST_SLICES)
        return [SourceSlice("hosted", name, i, n_shards, 0) for i in range(n_shards)]
    if not path.exists():
        raise InputError(
            f"no data at {source}; give a file, a folder, hf:OWNER/NAME from the Hugging Face hub, "
            f"or one of {', '.join(SHORT_NAMES)} (the last two need the network)"
        )
    paths = visible_files(path)
    kinds = {file: kind for file in paths if (kind := _file_format(file, required=file == path))}
    if not kinds:
        raise InputError(
            f"no text in {source}: {len(paths)} files, none with text in it; give text, JSON lines or parquet"
        )
    step = slice_bytes(sum(file.stat().st_size for file in kinds))
    return [part for file, kind in kinds.items() for part in slice_file(file, kind, step, layout)]


def slice_bytes(total_bytes: int) -> int:
    """How much text one process takes at a time, so that slices are neither too many nor too small."""
    return max(LEAST_SLICE_BYTES, -(-total_bytes // MOST_SLICES))


def slice_file(path: Path, kind: SourceFormat, step: int, layout: TextLayout) -> Iterator[SourceSlice]:
    """A file in slices of about `step` bytes, none of which cuts a document or a line in two."""
    if kind == "parquet":
        require_package("pyarrow", f"reading {path}")
        from parambudget.text import parquet

        for start, end, n_bytes in parquet.row_groups(path, step, layout.field):
            yield SourceSlice(kind, str(path), start, end, n_bytes)
        return
    size, start = path.stat().st_size, 0
    mark = (layout.separator or "\n").encode() if kind == "text" else b"\n"
    while start < size:
        end = _end_of_next(path, min(start + step, size), mark)
        yield SourceSlice(kind, str(path), start, end, end - start)
        start = end


def read_chunks(part: SourceSlice, layout: TextLayout) -> Iterator[Chunk]:
    """The documents of a slice, without the empty ones; a long text in several chunks."""
    if part.kind == "text" and layout.separator is None:
        yield from _text_chunks(part)
        return
    if part.kind == "text":
        texts = _split_at_separator(part, str(layout.separator))
    elif part.kind == "jsonl":
        texts = _read_json_lines(part, layout.field)
    elif part.kind == "parquet":
        from parambudget.text import parquet

        texts = parquet.read_parquet_texts(part.path, part.start, part.end, layout.field)
    else:
        from parambudget.text import hosted

        texts = hosted.read_dataset_texts(part.path, part.start, part.end, layout.field)
    for text in texts:
        if text:
            yield Chunk(text, text[:_HEAD_BYTES].encode(), len(text.encode()), ends=True)


def require_package(package: str, what: str) -> None:
    """Raise `MissingExtra` with what to do unless the package is installed."""
    require_packages(what, [package], ["data", "train"], "parambudget data prepare ...")


def _file_format(path: Path, *, required: bool) -> SourceFormat | None:
    """What a file holds, by its name, else by its beginning; None if it is empty or not text."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give readable files") from None
    kind = SUFFIXES.get(path.suffix, "text")
    is_text = kind == "parquet" or (b"\0" not in head and _is_utf8(head))
    if required and not (head and is_text):
        raise InputError(
            f"{path} is {'not text' if head else 'empty'}; give UTF-8 text, JSON lines or parquet"
        )
    return kind if head and is_text else None


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _HEAD_BYTES  # a character cut in two
    return True


def _end_of_next(path: Path, position: int, mark: bytes) -> int:
    """The end of the first `mark` that ends at `position` or later, or the end of the file."""
    with path.open("rb") as file:
        start = max(0, position - len(mark))
        file.seek(start)
        buffer = b""
        while block := file.read(_BLOCK_BYTES):
            buffer += block
            found = buffer.find(mark)
            if found >= 0:
                return start + found + len(mark)
            overlap = len(mark) - 1
            start, buffer = (
                start + max(0, len(buffer) - overlap),
                buffer[len(buffer) - overlap :] if overlap else b"",
            )
        return file.tell()


def _text_chunks(part: SourceSlice) -> Iterator[Chunk]:
    path = Path(part.path)
    size = path.stat().st_size
    with path.open("rb") as file:
        key = file.read(_HEAD_BYTES)
    left = part.end - part.start
    try:
        for text in Document(path, part.start, part.end, "").read_chunks(_BLOCK_BYTES):
            left -= len(text.encode())
            yield Chunk(text, key, size, ends=not left and part.end == size)
    except UnicodeDecodeError as error:
        raise _not_utf8(part.path, part.end - left + error.start) from None


def _split_at_separator(part: SourceSlice, separator: str) -> Iterator[str]:
    """The documents between separators, without the white space around them."""
    mark, buffer, searched, start = separator.encode(), bytearray(), 0, part.start
    with Path(part.path).open("rb") as file:
        file.seek(start)
        while block := file.read(min(_BLOCK_BYTES, part.end - file.tell())):
            buffer += block
            while (found := buffer.find(mark, searched)) >= 0:
                yield _decode(buffer[:found], part.path, start).strip()
                del buffer[: found + len(mark)]
                start, searched = start + found + len(mark), 0
            searched = max(0, len(buffer) - len(mark) + 1)
            if len(buffer) > MOST_DOCUMENT_BYTES:
                raise InputError(
                    f"{part.path} has no {separator!r} for {len(buffer):,} bytes after byte {start:,}; "
                    "is it the right `separator`?"
                )
        yield _decode(buffer, part.path, start).strip()


def _decode(text: bytearray, path: str, start: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, start + error.start) from None


def _not_utf8(path: str, position: int) -> InputError:
    return InputError(
        f"{path} is not UTF-8 text after byte {position:,}; convert it to UTF-8 or leave it out"
    )


def _read_json_lines(part: SourceSlice, field: str) -> Iterator[str]:
    with Path(part.path).open("rb") as file:
        file.seek(part.start)
        nth = 0
        while file.tell() < part.end:
            line = file.readline()
            nth += 1
            if line.strip():
                try:
                    yield _text_field(json.loads(line), field)
                except (ValueError, KeyError, RecursionError) as error:
                    reason = error.args[0] if isinstance(error, KeyError) else f"not valid JSON ({error})"
                    where = f"{part.path}, line {_count_lines_before(part) + nth}"
                    raise InputError(f"{where}: {reason}; repair the line or leave it out") from None


def _text_field(row: Any, field: str) -> str:
    if not isinstance(row, dict):
        raise KeyError("not a JSON object")
    if field not in row:
        raise KeyError(
            f"no field {field!r}, only {', '.join(map(repr, row)) or 'none'}; name it with `field`"
        )
    if not isinstance(row[field], str):
        raise KeyError(f"field {field!r} is not a string")
    # JSON can write half a surrogate pair, which UTF-8 cannot: it becomes a question mark.
    return str(row[field]).encode("utf-8", "replace").decode()


def _count_lines_before(part: SourceSlice) -> int:
    with Path(part.path).open("rb") as file:
        left, count = part.start, 0
        while left:
            block = file.read(min(_BLOCK_BYTES, left))
            left -= len(block)
            count += block.count(b"\n")
    return count
