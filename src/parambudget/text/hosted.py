"""Data sets of the Hugging Face hub, streamed: only what is read is downloaded.

A file of its own because `datasets` is optional and takes seconds to import; `sources` opens it on demand.
"""

from collections.abc import Iterator
from functools import cache
from threading import RLock
from typing import Any

import datasets
from huggingface_hub.utils import logging
from tqdm import tqdm

from parambudget.errors import InputError
from parambudget.text.records import NoField, Skipped, TextLayout, text_of

# A worker that is terminated would leave a lock between processes behind, and Python warns about that.
tqdm.set_lock(RLock())
datasets.disable_progress_bars()
logging.set_verbosity_error()  # it would report every attempt to connect


def n_shards(name: str, most: int) -> int:
    """How many shards of the training split can be read independently."""
    return min(most, int(_open_dataset(name).num_shards))


def read_dataset_texts(
    name: str, index: int, n_shards: int, layout: TextLayout, skipped: Skipped
) -> Iterator[str | None]:
    """The texts of shard `index`; None for null."""
    try:
        for row in _open_dataset(name).shard(num_shards=n_shards, index=index, contiguous=True):
            try:
                text = text_of(row, layout.field)
            except NoField:
                raise InputError(
                    f"{name} has no column {layout.field!r}, only {', '.join(row)}; name the text with "
                    "`field`"
                ) from None
            except InputError:
                if layout.skip_bad_lines:
                    skipped.n_bad += 1
                    continue
                raise InputError(
                    f"column {layout.field!r} of {name} is not text; name the text with `field`"
                ) from None
            yield text
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"cannot read more of {name}: {_reason(error)}; run the same command again to continue"
        ) from None


@cache
def _open_dataset(name: str) -> Any:
    """`hf:OWNER/NAME`, `hf:OWNER/NAME/SUBSET`, or `hf:./FOLDER` with files that `datasets` reads."""
    where = name.removeprefix("hf:")
    subset = None
    if not where.startswith((".", "/")) and where.count("/") == 2:
        where, subset = where.rsplit("/", 1)
    try:
        return datasets.load_dataset(where, subset, split="train", streaming=True)
    except Exception as error:
        raise InputError(f"cannot read the data set {where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """One line of an error, which may come from `datasets`, a file format or an HTTP library."""
    return " ".join(str(error).split())[:300] or type(error).__name__
