"""Parquet files: the text column, a bounded number of rows at a time.

A file of its own because `pyarrow` is optional and large; `sources` opens it on demand.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow
import pyarrow.parquet

from parambudget.errors import InputError
from parambudget.text.records import NoField

_ROWS_AT_ONCE: Final = 1_000


def row_groups(path: Path, step: int, field: str) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups with at least `step` bytes of text: first, one after the last, bytes."""
    metadata = _open_file(str(path), field).metadata
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    column = names.index(field)
    start = n_bytes = 0
    for i in range(metadata.num_row_groups):
        n_bytes += metadata.row_group(i).column(column).total_uncompressed_size
        if n_bytes >= step or i == metadata.num_row_groups - 1:
            yield start, i + 1, n_bytes
            start, n_bytes = i + 1, 0


def require_column(path: Path, field: str) -> None:
    """Raise `NoField` if there is no such column, and `InputError` if it is not text."""
    _open_file(str(path), field)


def read_parquet_texts(path: str, start: int, end: int, field: str) -> Iterator[str | None]:
    """The texts of row groups start to end - 1; None for null."""
    try:
        rows = _open_file(path, field).iter_batches(
            _ROWS_AT_ONCE, row_groups=range(start, end), columns=[field]
        )
        for batch in rows:
            for text in batch.column(0):
                yield text.as_py()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}; get it again") from None


def _open_file(path: str, field: str) -> pyarrow.parquet.ParquetFile:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a parquet file ({str(error).splitlines()[0]})") from None
    schema = file.schema_arrow
    if field not in schema.names:
        raise NoField(
            f"{path} has no column {field!r}, only {', '.join(schema.names)}; name the text with `field`"
        )
    kind = schema.field(field).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise InputError(f"column {field!r} of {path} is {kind}, not a string; name the text with `field`")
    return file
