"""A source of any size made into shards of tokens: streamed, by several processes, a part of it at a time.

Work that is done is kept until the whole is: the same request goes on where it was interrupted. What a
process was in the middle of is done again, and the manifest comes last: nothing half-written is taken for
whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from parambudget._files import atomic_write, read_json, sha256_of_file, write_json
from parambudget._version import __version__
from parambudget.errors import InputError
from parambudget.text.corpus import MOST_VALIDATION_BYTES, VALIDATION_SHARE
from parambudget.text.encode import Facts, Job, Split, available_cpus, encode, in_processes
from parambudget.text.shards import (
    MANIFEST,
    TOKENIZER,
    VALIDATION,
    WORK,
    Manifest,
    Shard,
    id_type,
    require_whole,
)
from parambudget.text.sources import Reading, Stretch, pieces, step_bytes, stretches
from parambudget.text.token_cache import mapped
from parambudget.text.tokenizer import (
    SAMPLE_BYTES,
    TextTokenizer,
    bytes_of_token,
    prepared,
    read_tokenizer,
    require_vocabulary,
    train_bpe,
)

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
    atomic_write(out / TOKENIZER, tokenizer.json)
    texts = hashlib.sha256("\n".join(facts.text_sha256 for facts in found).encode())
    manifest = Manifest(
        source=source, text_sha256=texts.hexdigest(), made_from=made_from,
        tokenizer=tokenizer.name, tokenizer_sha256=sha256_of_file(out / TOKENIZER), entries=tokenizer.entries,
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


TRAINED: Final = "bpe"
"""The tokenizer that is trained on the source."""
UNKNOWN_SIZE_SHARE: Final = 0.0005
_PLAN: Final = "plan.json"
_STATE: Final = "state of the source"
Parts = Sequence[tuple[Stretch, ...]]


@dataclass(frozen=True)
class Request:
    """What to prepare: all that decides the tokens, beside the text."""

    source: str
    tokenizer: str
    vocab_size: int | None = None
    """Of a tokenizer that is trained, and of no other."""
    reading: Reading = field(default_factory=Reading)
    validation: float | None = None
    """Share of the documents to hold out; without it 5 %, or what gives 10 MB if that is less."""
    end_of_text: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a preparation has come."""

    share: float
    n_bytes: int
    """Of text, in tokens already."""
    n_tokens: int


def prepare(
    request: Request, out: Path, *, n_workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:  # fmt: skip
    """The source as shards in `out`; at once if they are there already."""
    source = Path(request.source)
    if source.is_dir() and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out} lies in the source {request.source}; choose a folder outside of it with -o")
    tokenizer = _given_tokenizer(request)
    parts = _parts(stretches(request.source, request.reading))
    split = _split(request, parts)
    plan = _plan(request, tokenizer, parts)
    made_from = _sha256(json.dumps(plan))
    if (out / MANIFEST).is_file():
        return _finished_before(out, made_from)
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        _claim(out, plan)
        tokenizer = _kept(out / WORK / TOKENIZER, tokenizer or _trained(request, parts, split, out))
        sha256 = _sha256(tokenizer.json)
        jobs = [
            Job(out, n, part, request.reading, split, sha256, tokenizer.end_text)
            for n, part in enumerate(parts)
        ]
        found = _encoded(jobs, n_workers, on_progress)
        manifest = finish(jobs, found, request.source, tokenizer, made_from)
    except OSError as error:
        raise _cannot_go_on(error, out) from None
    finally:
        if not (out / WORK / TOKENIZER).exists() and not (out / MANIFEST).exists():
            _unclaim(out, missing)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return manifest


def _unclaim(out: Path, missing: Sequence[Path]) -> None:
    """Leave nothing of a preparation that has no tokenizer yet: there is no work to keep."""
    if (out / WORK).is_dir() and {path.name for path in (out / WORK).iterdir()} <= {_PLAN}:
        shutil.rmtree(out / WORK, ignore_errors=True)
    for folder in missing:
        with suppress(OSError):
            folder.rmdir()


def _cannot_go_on(error: OSError, out: Path) -> InputError:
    if error.filename is not None and not Path(error.filename).is_relative_to(out):
        return InputError(f"cannot read {error.filename}: {error.strerror}; make it readable first")
    return InputError(
        f"cannot write {out}: {error.strerror or error}; what is done stays: put that right and run the same "
        "command again, or choose another folder with -o"
    )


def _given_tokenizer(request: Request) -> TextTokenizer | None:
    if request.tokenizer != TRAINED:
        if request.vocab_size is not None:
            raise InputError(
                f"--vocab-size is for --tokenizer {TRAINED}; leave it out: {request.tokenizer} has its own"
            )
        return read_tokenizer(request.tokenizer, request.end_of_text)
    if request.vocab_size is None:
        raise InputError(
            f"--tokenizer {TRAINED} needs --vocab-size, the most entries it may have, such as 32768"
        )
    require_vocabulary(request.vocab_size)
    return None


def _parts(found: Sequence[Stretch]) -> Parts:
    """Small stretches that follow each other together, so that there are few files."""
    step = step_bytes(sum(stretch.n_bytes for stretch in found))
    parts: list[tuple[Stretch, ...]] = []
    held = step
    for stretch in found:
        if stretch.kind == "hosted" or held + stretch.n_bytes > step:
            parts.append(())
            held = 0
        parts[-1] = (*parts[-1], stretch)
        held += stretch.n_bytes
    return parts


def _split(request: Request, parts: Parts) -> Split:
    total = sum(stretch.n_bytes for part in parts for stretch in part)
    usual = min(VALIDATION_SHARE, MOST_VALIDATION_BYTES / total) if total else UNKNOWN_SIZE_SHARE
    share = usual if request.validation is None else request.validation
    return Split(share, round(share * total) if total else None)


def _plan(request: Request, tokenizer: TextTokenizer | None, parts: Parts) -> dict[str, Any]:
    """All that decides the tokens, as plain JSON: equal plans give equal shards."""
    files = sorted({stretch.path for part in parts for stretch in part if stretch.kind != "hosted"})
    changed = {path: os.stat(path).st_mtime_ns for path in files}
    state = [[[asdict(stretch) for stretch in part] for part in parts], changed]
    return asdict(request) | {
        "tokenizer": _sha256(tokenizer.json) if tokenizer else request.tokenizer,
        _STATE: _sha256(json.dumps(state)),
    }


def _finished_before(out: Path, made_from: str) -> Manifest:
    manifest = Manifest.read(out)
    if manifest.made_from != made_from:
        raise InputError(
            f"{out} holds data that was prepared from another source, tokenizer or setting "
            f"({manifest.source}, {manifest.tokenizer}); choose another folder with -o"
        )
    require_whole(out, manifest)
    return manifest


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Make `out` the folder of this preparation, or find that it is already."""
    if (out / WORK / _PLAN).is_file():
        before = read_json(out / WORK / _PLAN)
        differ = [name for name in plan if before.get(name) != plan[name]]
        if not differ:
            return
        if differ != [_STATE]:
            raise InputError(
                f"{out} holds an unfinished preparation that differs in {', '.join(differ)}; remove it, or "
                "choose another folder with -o"
            )
        shutil.rmtree(out / WORK)  # its text was changed, perhaps repaired: what is done is of the old one
    if out.exists() and (not out.is_dir() or any(path.name != WORK for path in out.iterdir())):
        raise InputError(f"{out} is there and is not empty; choose a new folder with -o")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    write_json(out / WORK / _PLAN, plan)


def _trained(request: Request, parts: Parts, split: Split, out: Path) -> TextTokenizer:
    """A BPE trained on 64 MB of what is not held out, evenly from all parts; kept when it was interrupted."""
    path = out / WORK / TOKENIZER
    if path.is_file():
        tokenizer = Tokenizer.from_file(str(path))
    else:
        tokenizer = train_bpe(_sample(request.reading, parts, split), int(request.vocab_size or 0))
    return prepared(tokenizer, f"{TRAINED} of {request.vocab_size:,}", request.end_of_text)


def _sample(reading: Reading, parts: Parts, split: Split) -> Iterator[str]:
    for part in parts:
        left = SAMPLE_BYTES // len(parts)
        for piece in (piece for stretch in part for piece in pieces(stretch, reading)):
            if left <= 0:
                break
            if not split.holds_out(piece):
                yield piece.text
                left -= len(piece.text.encode())


def _kept(path: Path, tokenizer: TextTokenizer) -> TextTokenizer:
    atomic_write(path, tokenizer.json)
    return tokenizer


def _encoded(
    jobs: Sequence[Job], n_workers: int | None, on_progress: Callable[[Progress], None]
) -> list[Facts]:
    """The facts of every part: read where it is done, else made."""
    found = {job.number: Facts.read(job.facts_file) for job in jobs if job.facts_file.is_file()}
    sizes = [max(1, sum(stretch.n_bytes for stretch in job.part)) for job in jobs]

    def tell() -> None:
        share = sum(sizes[number] for number in found) / sum(sizes)
        texts = found.values()
        on_progress(
            Progress(share, sum(facts.n_bytes for facts in texts), sum(facts.n_tokens for facts in texts))
        )

    tell()
    todo = [job for job in jobs if job.number not in found]
    for facts in in_processes(encode, todo, n_workers or available_cpus()):
        found[facts.number] = facts
        tell()
    return [found[job.number] for job in jobs]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
