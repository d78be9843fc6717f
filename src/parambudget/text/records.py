"""Records of JSON, from a stream: one on each line, in an array, or one after another over several lines.

However long the file is, only one record is in memory, and that has a longest length.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from parambudget.errors import InputError

MOST_DOCUMENT_BYTES: Final = 2**27
"""Of one record or, between separators, of one text."""
_BLOCK_BYTES: Final = 1_000_000
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_ENDS: Final = tuple(" \t\r\n,]}")
_LONGEST_TOKEN: Final = 12
"""Characters of a JSON token that may be cut in two, such as a surrogate pair: an error so near to the end of
what was read may be that of a text that goes on."""


class NoField(InputError):
    """A record has no field of the name that was asked for."""


@dataclass(frozen=True)
class TextLayout:
    """Where the documents are in the files of a source."""

    field: str = "text"
    """The field or column that holds the text."""
    separator: str | None = None
    """What separates the documents of a text file."""
    skip_bad_lines: bool = False
    """Skip records that are damaged or have no text, instead of refusing the source."""


@dataclass
class Skipped:
    """What a reader passes over, as it counts it."""

    n_empty: int = 0
    """Documents whose text is null or empty."""
    n_bad: int = 0
    """Records that are damaged, or whose text is no text: skipped only if that was asked for."""
    n_separators: int = 0
    """Separators that were found between documents."""


def text_of(record: Any, field: str) -> str | None:
    """The text of a record: the record itself, or its field; None for null. Raises `InputError`."""
    if isinstance(record, str):
        text = record
    elif not isinstance(record, dict):
        raise InputError("not a JSON object")
    elif field not in record:
        names = ", ".join(map(repr, list(record)[:10]))
        raise NoField(f"no field {field!r}, only {names[:200] or 'none'}; name it with `field`")
    elif record[field] is None:
        return None
    elif not isinstance(record[field], str):
        raise InputError(f"field {field!r} is not a string")
    else:
        text = record[field]
    # JSON can write half a surrogate pair, which UTF-8 cannot: it becomes a question mark.
    return text.encode("utf-8", "replace").decode()


def read_line(file: BinaryIO, where: str) -> bytes:
    """The next line, without which the file is not at its end; raises `InputError` for one without end."""
    line = file.readline(MOST_DOCUMENT_BYTES + 1)
    if len(line) > MOST_DOCUMENT_BYTES:
        raise InputError(f"{where} is longer than {MOST_DOCUMENT_BYTES:,} bytes; are these JSON lines?")
    return line


def parse_line(line: bytes) -> Any:
    """The record on a line; raises `InputError` with the reason."""
    try:
        return json.loads(line.rstrip(b"\r\n"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({_reason(error)})") from None


def json_records(file: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    """The records of a JSON array, or of objects one after another, numbered from 1."""
    text = _Text(file, name)
    in_array = text.skip("[")
    n = 0
    while True:
        if text.at_end():
            if in_array:
                raise InputError(f"{name} is cut short after record {n:,}: its array has no end")
            return
        if in_array and (n or text.peek() == "]"):
            if text.skip("]"):
                if not text.at_end():
                    raise InputError(f"{name} goes on after the end of its array; are these JSON lines?")
                return
            if not text.skip(","):
                raise InputError(f"{name}, record {n:,}: no comma after it; repair the file")
        n += 1
        yield n, text.value(f"{name}, record {n:,}")


class _Text:
    """JSON text of which only what is not yet parsed is kept."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._position, self._whole = "", 0, False

    def at_end(self) -> bool:
        """Whether nothing but white space is left, which is skipped."""
        while True:
            space = _SPACE.match(self._text, self._position)
            assert space is not None
            self._position = space.end()
            if self._position < len(self._text):
                return False
            if self._whole:
                return True
            self._read()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        return "" if self.at_end() else self._text[self._position]

    def skip(self, character: str) -> bool:
        """Whether this character comes next; it is passed then."""
        found = self.peek() == character
        self._position += found
        return found

    def value(self, where: str) -> Any:
        """The next value. More is read as long as what there is may be its beginning."""
        self.at_end()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                if self._whole or not self._may_go_on(error):
                    raise InputError(f"{where}: not valid JSON ({_reason(error)}); repair the file") from None
            else:
                # A number is whole only if it has an end: 0 may be the beginning of 0.5.
                if self._whole or isinstance(value, dict | list | str) or self._text[end : end + 1] in _ENDS:
                    self._position = end
                    return value
            if len(self._text) - self._position > MOST_DOCUMENT_BYTES:
                raise InputError(f"{where} is longer than {MOST_DOCUMENT_BYTES:,} bytes; is this JSON?")
            self._read()

    def _may_go_on(self, error: Exception) -> bool:
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_TOKEN

    def _read(self) -> None:
        """Read as much again as is kept, so that a long value is not parsed too often."""
        self._text, self._position = self._text[self._position :], 0
        block = self._file.read(max(_BLOCK_BYTES, len(self._text)))
        self._whole = not block
        try:
            self._text += self._decoder.decode(block, final=self._whole)
        except UnicodeDecodeError:
            raise InputError(f"{self._name} is not UTF-8 text; convert it to UTF-8 first") from None


_DECODER: Final = json.JSONDecoder()


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
