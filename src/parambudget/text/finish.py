"""The last stage of a preparation: the parts' files become the shards, and the manifest declares them.

It may be interrupted and repeated: a file that is read here keeps its name until the manifest is there.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parambudget import __version__
from parambudget._files import write_whole
from parambudget.errors import InputError
from parambudget.text.corpus import VALIDATION_SHARE
from parambudget.text.encode import Facts, Job
from parambudget.text.shards import TOKENIZER, VALIDATION, Manifest, Shard, id_type
from parambudget.text.token_cache import file_sha256, mapped
from parambudget.text.tokenizer import TextTokenizer, bytes_of_token

_BLOCK_BYTES = 4_000_000
_Ids = np.ndarray[Any, Any]


def finish(
    jobs: Sequence[Job], found: Sequence[Facts], source: str, tokenizer: TextTokenizer, made_from: str
) -> Manifest:
    """Give the shards their names, put the held-out documents into one file, write the manifest."""
    out, exact_bytes = jobs[0].out, all(facts.exact_bytes for facts in found)
    filled = [(job, facts) for job, facts in zip(jobs, found, strict=True) if facts.train.n_tokens]
    if not filled:
        raise InputError(f"no text in {source} to train on: every document is empty or held out")
    shards = [_named(n, facts) for n, (_, facts) in enumerate(filled)]
    validation = _joined(jobs, found)
    if not validation.n_tokens:
        last = filled.pop()[0].file("train")
        shards[-1], validation = _end_held_out(last, shards, tokenizer, exact_bytes=exact_bytes)
    for (job, _), shard in zip(filled, shards, strict=False):
        if job.file("train").exists():
            job.file("train").rename(out / shard.file)
    write_whole(out / TOKENIZER, tokenizer.json)
    texts = hashlib.sha256("\n".join(facts.text_sha256 for facts in found).encode())
    manifest = Manifest(
        source=source, text_sha256=texts.hexdigest(), made_from=made_from,
        tokenizer=tokenizer.name, tokenizer_sha256=file_sha256(out / TOKENIZER), entries=tokenizer.entries,
        end_of_text=tokenizer.end_text, exact_bytes=exact_bytes, dtype=id_type(tokenizer.entries).name,
        train=tuple(shards), validation=validation, version=__version__,
    )  # fmt: skip
    manifest.write(out)
    return manifest


def _named(n: int, facts: Facts) -> Shard:
    counted = facts.train
    return Shard(f"train-{n:05}.bin", counted.n_tokens, counted.n_documents, counted.n_bytes, counted.sha256)


def _joined(jobs: Sequence[Job], found: Sequence[Facts]) -> Shard:
    """The held-out documents of all parts, in order, in one file."""

    def blocks() -> Iterable[bytes]:
        for job in jobs:
            with job.file("validation").open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block

    sides = [facts.validation for facts in found]
    return Shard(
        VALIDATION, sum(side.n_tokens for side in sides), sum(side.n_documents for side in sides),
        sum(side.n_bytes for side in sides), _write(jobs[0].out / VALIDATION, blocks()),
    )  # fmt: skip


def _end_held_out(
    path: Path, shards: Sequence[Shard], tokenizer: TextTokenizer, *, exact_bytes: bool
) -> tuple[Shard, Shard]:
    """Where no document was held out, the end of the last shard is: whole documents of its second half, if
    any begins there, else the end of the last one."""
    last = shards[-1]
    ids = mapped(path, id_type(tokenizer.entries).name)
    goal = min(VALIDATION_SHARE * sum(shard.n_tokens for shard in shards), last.n_tokens / 2)
    starts = np.flatnonzero(ids == tokenizer.end)[:-1] + 1
    wished = last.n_tokens - max(1, round(goal))
    near = starts[starts >= last.n_tokens / 2]
    cut = int(near[np.abs(near - wished).argmin()]) if len(near) else wished
    head, tail = ids[:cut], ids[cut:]
    n_bytes = round(last.n_bytes * len(tail) / len(ids))
    if exact_bytes:
        n_bytes = int(bytes_of_token(tokenizer.tokenizer)[tail].sum())
    ended = int((tail == tokenizer.end).sum())
    out = path.parent.parent
    shortened = Shard(
        last.file, len(head), last.n_documents - ended + (not len(near)), last.n_bytes - n_bytes,
        _write(out / last.file, [head]),
    )  # fmt: skip
    return shortened, Shard(VALIDATION, len(tail), ended, n_bytes, _write(out / VALIDATION, [tail]))


def _write(path: Path, blocks: Iterable[bytes | _Ids]) -> str:
    """Write a file whole, and return its hash."""
    temporary, digest = path.with_suffix(".tmp"), hashlib.sha256()
    with temporary.open("wb") as file:
        for block in blocks:
            written = (block.data if isinstance(block, np.ndarray) else memoryview(block)).cast("B")
            file.write(written)
            digest.update(written)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return digest.hexdigest()
