"""A source of text: how it is divided into slices that can be read independently, and its documents.

    text          a document per file, or several with a separator between them
    JSON lines    a document per line
    JSON          a document per record
    parquet       a document per row (needs pyarrow)
    hosted        a document per row of a Hugging Face data set (needs `datasets` and, except for a folder,
                  the network)

A slice begins and ends between documents, or between the lines of a text that is one document. A compressed
file is one slice, and so is one with a JSON array: where their documents begin is not known before they are
read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast, get_args

from parambudget.errors import InputError
from parambudget.text.compression import Compression, count_bytes, open_bytes, unpacked_bytes
from parambudget.text.corpus import read_line_chunks
from parambudget.text.forms import (
    RECORD_FORMS,
    SourceFile,
    SourceFiles,
    describe_left_out,
    find_files,
    require_package,
)
from parambudget.text.records import (
    MOST_DOCUMENT_BYTES,
    Skipped,
    TextLayout,
    json_records,
    parse_line,
    read_line,
    text_of,
)

SliceKind = Literal["text", "jsonl", "json", "parquet", "hosted"]
SHORT_NAMES: Final = {
    "openwebtext": "hf:Skylion007/openwebtext",
    "fineweb-edu": "hf:HuggingFaceFW/fineweb-edu/sample-10BT",
}
MOST_SLICES: Final = 256
"""Each becomes a memory-mapped file, and a process may have about a thousand open."""
LEAST_SLICE_BYTES: Final = 1_000_000
_BLOCK_BYTES: Final = 1_000_000
_HEAD_BYTES: Final = 4_096


@dataclass(frozen=True)
class SourceSlice:
    """Bytes [start, end) of a file, row groups of a parquet file, or shard `start` of `end` of a data set."""

    kind: SliceKind
    path: str
    start: int
    end: int
    n_bytes: int
    """Approximate bytes of text, as its share of the work; 0 if unknown."""
    compression: Compression | None = None
    """A compressed file is a slice as a whole."""


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


@dataclass(frozen=True)
class FoundSource:
    """A source in slices, in order."""

    slices: tuple[SourceSlice, ...]
    files: SourceFiles
    """What it consists of; nothing for a hosted data set."""

    def notes(self, layout: TextLayout) -> list[str]:
        """The options of the layout that have no effect on this source."""
        forms = {part.kind for part in self.slices}
        no_effect = []
        if layout.field != "text" and not forms & {*RECORD_FORMS, "hosted"}:
            no_effect.append(f"`field` {layout.field} had no effect: the source is plain text")
        if layout.separator is not None and "text" not in forms:
            no_effect.append("`separator` had no effect: the source has no plain text")
        if layout.skip_bad_lines and not forms & {"jsonl", "json", "hosted"}:
            no_effect.append("`skip_bad_lines` had no effect: the source has no JSON lines")
        return no_effect


def find_source(source: str, layout: TextLayout) -> FoundSource:
    """The source in slices, and which of its files are read and which are not."""
    path = Path(source)
    is_there = os.path.lexists(path)  # Path.exists raises an error for a name that is too long
    if not is_there and (name := SHORT_NAMES.get(source, source)).startswith("hf:"):
        require_package("datasets", f"reading {name}")
        from parambudget.text import hosted

        n_shards = hosted.n_shards(name, MOST_SLICES)
        slices = tuple(SourceSlice("hosted", name, i, n_shards, 0) for i in range(n_shards))
        return FoundSource(slices, SourceFiles(()))
    if not is_there:
        raise InputError(
            f"no data at {source}; give a file, a folder, hf:OWNER/NAME from the Hugging Face hub, "
            f"or one of {', '.join(SHORT_NAMES)} (the last two need the network)"
        )
    found = find_files(path, layout.field, skip_bad_lines=layout.skip_bad_lines).without_tokens(path)
    if not found.files:
        raise InputError(
            f"no text in {source}: {describe_left_out(found.left_out) or '0 files'}; give text, JSON lines, "
            "a JSON array or parquet"
        )
    sizes = [unpacked_bytes(file.path, file.compression) for file in found.files]
    step = slice_bytes(sum(sizes))
    slices = tuple(part for file in found.files for part in slice_file(file, step, layout))
    return FoundSource(slices, found)


def slice_bytes(total_bytes: int) -> int:
    """How much text one process takes at a time, so that slices are neither too many nor too small."""
    return max(LEAST_SLICE_BYTES, -(-total_bytes // MOST_SLICES))


def slice_file(file: SourceFile, step: int, layout: TextLayout) -> Iterator[SourceSlice]:
    """A file in slices of about `step` bytes, none of which cuts a document or a line in two."""
    path, kind = file.path, cast(SliceKind, file.form)
    assert kind in get_args(SliceKind), "tokens are no source of text"
    if kind == "parquet":
        require_package("pyarrow", f"reading {path}")
        from parambudget.text import parquet

        for start, end, n_bytes in parquet.row_groups(path, step, layout.field):
            yield SourceSlice(kind, str(path), start, end, n_bytes)
        return
    size, start = path.stat().st_size, 0
    if file.compression or kind == "json":
        yield SourceSlice(
            kind, str(path), 0, size, unpacked_bytes(path, file.compression), file.compression
        )  # fmt: skip
        return
    mark = (layout.separator or "\n").encode() if kind == "text" else b"\n"
    while start < size:
        end = _end_of_next(path, min(start + step, size), mark)
        yield SourceSlice(kind, str(path), start, end, end - start)
        start = end


def read_chunks(part: SourceSlice, layout: TextLayout, skipped: Skipped | None = None) -> Iterator[Chunk]:
    """The documents of a slice, without the empty ones; a long text in several chunks.

    What is passed over is counted in `skipped`.
    """
    skipped = skipped or Skipped()
    if part.kind == "text" and layout.separator is None:
        yield from _text_chunks(part)
        return
    if part.kind == "text":
        texts: Iterator[str | None] = _split_at_separator(part, str(layout.separator), skipped)
    elif part.kind == "jsonl":
        texts = _read_json_lines(part, layout, skipped)
    elif part.kind == "json":
        texts = _read_json_records(part, layout, skipped)
    elif part.kind == "parquet":
        from parambudget.text import parquet

        texts = parquet.read_parquet_texts(part.path, part.start, part.end, layout.field)
    else:
        from parambudget.text import hosted

        texts = hosted.read_dataset_texts(part.path, part.start, part.end, layout, skipped)
    for text in texts:
        if text:
            yield Chunk(text, text[:_HEAD_BYTES].encode(), len(text.encode()), ends=True)
        else:
            skipped.n_empty += 1


@contextmanager
def _open_slice(part: SourceSlice) -> Iterator[BinaryIO]:
    """The file of a slice, at its start."""
    with open_bytes(Path(part.path), part.compression) as file:
        if part.compression is None:
            file.seek(part.start)
        yield file


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
    size = count_bytes(path, part.compression)
    with open_bytes(path, part.compression) as file:
        key = file.read(_HEAD_BYTES)
    left = size if part.compression else part.end - part.start
    end = part.start + left
    with _open_slice(part) as file:
        for chunk in read_line_chunks(file, left, path, _BLOCK_BYTES):
            text = _decode(chunk, part.path, end - left)
            left -= len(chunk)
            yield Chunk(text, key, size, ends=not left and end == size)


def _split_at_separator(part: SourceSlice, separator: str, skipped: Skipped) -> Iterator[str]:
    """The documents between separators, without the white space around them."""
    mark, buffer, searched, start = separator.encode(), bytearray(), 0, part.start
    left = part.end - part.start
    with _open_slice(part) as file:
        while block := file.read(_BLOCK_BYTES if part.compression else min(_BLOCK_BYTES, left)):
            left -= len(block)
            buffer += block
            while (found := buffer.find(mark, searched)) >= 0:
                skipped.n_separators += 1
                if text := _decode(buffer[:found], part.path, start).strip():
                    yield text
                del buffer[: found + len(mark)]
                start, searched = start + found + len(mark), 0
            searched = max(0, len(buffer) - len(mark) + 1)
            if len(buffer) > MOST_DOCUMENT_BYTES:
                raise InputError(
                    f"{part.path} has no {separator!r} for {len(buffer):,} bytes after byte {start:,}; "
                    "is it the right `separator`?"
                )
        if text := _decode(buffer, part.path, start).strip():
            yield text


def _decode(text: bytes | bytearray, path: str, start: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text after byte {start + error.start:,}; convert it to UTF-8 or leave it "
            "out"
        ) from None


def _read_json_lines(part: SourceSlice, layout: TextLayout, skipped: Skipped) -> Iterator[str | None]:
    position = nth = 0
    with _open_slice(part) as file:
        while part.compression or part.start + position < part.end:
            nth += 1
            line = read_line(file, f"a line of {part.path}")
            if not line:
                return
            position += len(line)
            if not line.strip():
                continue
            try:
                text = text_of(parse_line(line), layout.field)
            except InputError as error:
                if layout.skip_bad_lines:
                    skipped.n_bad += 1
                    continue
                raise InputError(
                    f"{part.path}, line {_count_lines_before(part) + nth}: {error}; repair the line, or skip "
                    "such lines with `skip_bad_lines`"
                ) from None
            yield text


def _read_json_records(part: SourceSlice, layout: TextLayout, skipped: Skipped) -> Iterator[str | None]:
    with _open_slice(part) as file:
        for nth, record in json_records(file, part.path):
            try:
                text = text_of(record, layout.field)
            except InputError as error:
                if layout.skip_bad_lines:
                    skipped.n_bad += 1
                    continue
                raise InputError(
                    f"{part.path}, record {nth:,}: {error}; repair it, or skip such records with "
                    "`skip_bad_lines`"
                ) from None
            yield text


def _count_lines_before(part: SourceSlice) -> int:
    with Path(part.path).open("rb") as file:
        left, count = part.start, 0
        while left:
            block = file.read(min(_BLOCK_BYTES, left))
            left -= len(block)
            count += block.count(b"\n")
    return count
