"""Data sets of the Hugging Face hub, streamed: nothing is downloaded but what is read."""

from collections.abc import Iterator
from functools import cache
from threading import RLock
from typing import Any

import datasets
from huggingface_hub.utils import logging
from tqdm import tqdm

from parambudget.errors import InputError

# A lock between processes would be left behind by a worker that is ended, and Python warns of that.
tqdm.set_lock(RLock())
datasets.disable_progress_bars()
logging.set_verbosity_error()  # each of its attempts to connect would be told


def n_parts(name: str, most: int) -> int:
    """In how many parts the training split can be read side by side."""
    return min(most, int(_opened(name).num_shards))


def texts(name: str, index: int, of: int, field: str) -> Iterator[str]:
    """The texts of part `index`."""
    try:
        for row in _opened(name).shard(num_shards=of, index=index, contiguous=True):
            if field not in row:
                raise InputError(
                    f"{name} has no column {field!r}, only {', '.join(row)}; name the text with --field"
                )
            if not isinstance(row[field], str | None):
                raise InputError(f"column {field!r} of {name} is not text; name the text with --field")
            yield row[field] or ""
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read on in {name}: {_reason(error)}; run the same again to go on") from None


@cache
def _opened(name: str) -> Any:
    """`hf:OWNER/NAME`, `hf:OWNER/NAME/SUBSET`, or `hf:./FOLDER` of files of a form that `datasets` reads."""
    where = name.removeprefix("hf:")
    subset = None
    if not where.startswith((".", "/")) and where.count("/") == 2:
        where, subset = where.rsplit("/", 1)
    try:
        return datasets.load_dataset(where, subset, split="train", streaming=True)
    except Exception as error:
        raise InputError(f"cannot read the data set {where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """One line of an error, which may be of `datasets`, of a file format or of an HTTP library."""
    return " ".join(str(error).split())[:300] or type(error).__name__
