"""Prepare a source of any size as shards of tokens: it is streamed, and several processes share the jobs.

Finished jobs are kept until all are done: the same request continues where it was interrupted. A job that was
interrupted is done again, and the manifest comes last, so that nothing half-written is taken for complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from parambudget._documents import CLOSED, Sha256, read_with_seal, write_with_seal
from parambudget._files import (
    atomic_file,
    atomic_write,
    only_writer,
    read_regular,
    remove_temporaries,
    require_place,
    sha256_of_file,
    sha256_of_text,
)
from parambudget._version import __version__
from parambudget.errors import InputError, without_advice
from parambudget.text.corpus import MOST_VALIDATION_BYTES, VALIDATION_SHARE
from parambudget.text.encode import HoldOut, ShardJob, ShardResult, available_cpus, encode, map_in_processes
from parambudget.text.records import TextLayout
from parambudget.text.shards import (
    MANIFEST,
    TOKENIZER,
    TRAINED,
    VALIDATION,
    WORK,
    Manifest,
    Shard,
    require_whole,
)
from parambudget.text.sources import (
    FoundSource,
    SourceSlice,
    find_source,
    read_chunks,
    slice_bytes,
)
from parambudget.text.token_cache import memory_map
from parambudget.text.tokenizer import (
    AS_GIVEN,
    SAMPLE_BYTES,
    EndOfText,
    TextTokenizer,
    TokenIds,
    as_text_tokenizer,
    bytes_of_token,
    id_type,
    read_tokenizer,
    require_vocabulary,
    train_bpe,
)

BPE: Final = "bpe"
"""The tokenizer that is trained on the source."""
UNKNOWN_SIZE_SHARE: Final = 0.0005
_PLAN: Final = "plan.json"
_LAYOUT: Final = "reading"
_SKIP: Final = "skip_bad_lines"
_STATE: Final = "state of the source"
_BLOCK_BYTES: Final = 4_000_000
_LOCK: Final = ".lock"
_SliceGroups = Sequence[tuple[SourceSlice, ...]]
"""What becomes one shard each."""


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare: everything but the text itself that decides the tokens."""

    source: str
    tokenizer: str
    vocab_size: int | None = None
    """Only for a tokenizer that is trained."""
    layout: TextLayout = field(default_factory=TextLayout)
    validation: float | None = None
    """Share of the documents to hold out; by default 5 %, or what gives 10 MB if that is less."""
    end_of_text: str | None = None


@dataclass(frozen=True)
class _Work:
    """plan.json: what the unfinished work in a folder is for."""

    __pydantic_config__ = CLOSED

    plan: dict[str, Any]
    trained_tokenizer: Sha256 | None = None
    """Of the tokenizer.json that was trained for it."""


@dataclass(frozen=True)
class PrepareProgress:
    """How far a preparation has come."""

    share: float
    n_bytes: int
    """Bytes of text that are tokens already."""
    n_tokens: int


def prepare(
    request: PrepareRequest, out: Path, *, n_workers: int | None = None,
    on_progress: Callable[[PrepareProgress], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Manifest:  # fmt: skip
    """The source as shards in `out`; returns at once if they exist already.

    One process at a time works in `out`. `on_notice` is told of damaged parts of an interrupted preparation,
    which are made again.
    """
    require_place(out, "`out`")
    source = Path(request.source)
    if os.path.isdir(source) and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(
            f"{out} is inside the source {request.source}; choose a folder outside it with `out`"
        )
    tokenizer = _read_given_tokenizer(request)
    found = find_source(request.source, request.layout)
    groups = _group_slices(found.slices)
    hold_out = _choose_hold_out(request, groups)
    plan = _plan(request, tokenizer, groups)
    made_from = sha256_of_text(json.dumps(plan))
    if (out / MANIFEST).is_file():
        return _existing_manifest(out, made_from)
    new_folders = [folder for folder in (out, *out.parents) if not folder.exists()]
    busy = f"another process is preparing data in {out}; wait for it, or choose another folder with `out`"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} exists and is not empty; choose a new folder with `out`")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with only_writer(out / _LOCK, busy):
            if (out / MANIFEST).is_file():  # the other process has just finished
                return _existing_manifest(out, made_from)
            work = _open_work_folder(out, plan)
            if tokenizer is None:
                tokenizer = _train_tokenizer(request, groups, hold_out, out, work, on_notice)
            atomic_write(out / WORK / TOKENIZER, tokenizer.json)
            jobs = _shard_jobs(request, groups, hold_out, tokenizer, out)
            results = _encode_all(jobs, n_workers, on_progress, on_notice)
            manifest = _finish(jobs, results, request, found, tokenizer, made_from)
            shutil.rmtree(out / WORK, ignore_errors=True)
            return manifest
    except OSError as error:
        raise _disk_error(error, out) from None
    finally:
        if not (out / WORK / TOKENIZER).exists() and not (out / MANIFEST).exists():
            _remove_empty_work(out, new_folders)


def request_sha256(request: PrepareRequest) -> str:
    """The hash of everything that decides the tokens of a request, the state of its files included."""
    groups = _group_slices(find_source(request.source, request.layout).slices)
    return sha256_of_text(json.dumps(_plan(request, _read_given_tokenizer(request), groups)))


def _read_given_tokenizer(request: PrepareRequest) -> TextTokenizer | None:
    """The tokenizer that the request names; None if one is to be trained."""
    if request.tokenizer != BPE:
        if request.vocab_size is not None:
            raise InputError(
                f"`vocab_size` is for `tokenizer={BPE}`; leave it out: {request.tokenizer} has its own"
            )
        return read_tokenizer(request.tokenizer, request.end_of_text)
    if request.vocab_size is None:
        raise InputError(
            f"`tokenizer={BPE}` needs `vocab_size`, its largest number of entries, such as 32768"
        )
    require_vocabulary(request.vocab_size)
    return None


def _group_slices(slices: Sequence[SourceSlice]) -> _SliceGroups:
    """Small slices that follow each other together, so that there are few shards."""
    step = slice_bytes(sum(part.n_bytes for part in slices))
    groups: list[tuple[SourceSlice, ...]] = []
    size = step
    for part in slices:
        if part.kind == "hosted" or size + part.n_bytes > step:
            groups.append(())
            size = 0
        groups[-1] = (*groups[-1], part)
        size += part.n_bytes
    return groups


def _choose_hold_out(request: PrepareRequest, groups: _SliceGroups) -> HoldOut:
    total = sum(part.n_bytes for group in groups for part in group)
    usual = min(VALIDATION_SHARE, MOST_VALIDATION_BYTES / total) if total else UNKNOWN_SIZE_SHARE
    share = usual if request.validation is None else request.validation
    return HoldOut(share, round(share * total) if total else None)


def _plan(
    request: PrepareRequest, tokenizer: TextTokenizer | None, groups: _SliceGroups
) -> dict[str, object]:
    """Everything that decides the tokens, as plain JSON: equal plans give equal shards."""
    files = sorted({part.path for group in groups for part in group if part.kind != "hosted"})
    modified = {path: os.stat(path).st_mtime_ns for path in files}
    state = [[[asdict(part) for part in group] for group in groups], modified]
    return {
        "source": request.source,
        "tokenizer": sha256_of_text(tokenizer.json) if tokenizer else request.tokenizer,
        "vocab_size": request.vocab_size,
        _LAYOUT: [request.layout.field, request.layout.separator],
        _SKIP: request.layout.skip_bad_lines,
        "validation": request.validation,
        "end_of_text": tokenizer.end_text if tokenizer else request.end_of_text,
        _STATE: sha256_of_text(json.dumps(state)),
    }


def _existing_manifest(out: Path, made_from: str) -> Manifest:
    """The manifest of a folder that is complete already, if it was made by the same request."""
    manifest = Manifest.read(out)
    if manifest.made_from != made_from:
        raise InputError(
            f"{out} contains data that was prepared from another source, tokenizer or setting "
            f"({manifest.source}, {manifest.tokenizer}); choose another folder with `out`"
        )
    require_whole(out, manifest)
    return manifest


def _open_work_folder(out: Path, plan: dict[str, object]) -> _Work:
    """Make `out` the folder of this plan, or see that it is so already."""
    for folder in (out, out / WORK):
        remove_temporaries(folder)
    if (out / WORK / _PLAN).exists():
        try:
            work = read_with_seal(out / WORK / _PLAN, _Work)
        except InputError as error:
            raise InputError(f"{error}; remove {out / WORK} and run the same command again") from None
        differ = [name for name in plan if work.plan.get(name) != plan[name]]
        if not differ:
            return work
        if differ == [_SKIP] and plan[_SKIP]:  # what is finished has met no bad line
            work = replace(work, plan=plan)
            write_with_seal(out / WORK / _PLAN, work)
            return work
        if differ != [_STATE]:
            names = ", ".join("field or separator" if name == _LAYOUT else name for name in differ)
            raise InputError(
                f"{out} contains an unfinished preparation that differs in {names}; remove it, or choose "
                "another folder with `out`"
            )
        shutil.rmtree(out / WORK)  # the text was changed, perhaps repaired: finished jobs are of the old one
    if out.exists() and (not out.is_dir() or any(path.name not in (WORK, _LOCK) for path in out.iterdir())):
        raise InputError(f"{out} exists and is not empty; choose a new folder with `out`")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    work = _Work(plan)
    write_with_seal(out / WORK / _PLAN, work)
    return work


def _remove_empty_work(out: Path, new_folders: Sequence[Path]) -> None:
    """Leave nothing of a preparation that has no tokenizer yet: there is no work to keep."""
    if (out / WORK).is_dir() and {path.name for path in (out / WORK).iterdir()} <= {_PLAN}:
        shutil.rmtree(out / WORK, ignore_errors=True)
    for folder in new_folders:
        with suppress(OSError):
            folder.rmdir()


def _disk_error(error: OSError, out: Path) -> InputError:
    if error.filename is not None and not Path(error.filename).is_relative_to(out):
        return InputError(f"cannot read {error.filename}: {error.strerror}; make it readable first")
    return InputError(
        f"cannot write {out}: {error.strerror or error}; finished work is kept: solve this and run the same "
        "command again, or choose another folder with `out`"
    )


def _train_tokenizer(
    request: PrepareRequest, groups: _SliceGroups, hold_out: HoldOut, out: Path, work: _Work,
    on_notice: Callable[[str], None],
) -> TextTokenizer:  # fmt: skip
    """A BPE trained on 64 MB of what is not held out, evenly from all slices; an interrupted preparation has
    kept it."""
    saved = _trained_earlier(out / WORK / TOKENIZER, work, on_notice)
    if saved is not None:
        tokenizer = Tokenizer.from_str(saved)
    else:
        texts = _sample_texts(request.layout, groups, hold_out)
        tokenizer = train_bpe(texts, int(request.vocab_size or 0))
    end = EndOfText(request.end_of_text, AS_GIVEN) if request.end_of_text is not None else None
    trained = as_text_tokenizer(tokenizer, f"{TRAINED}{request.vocab_size:,}", end)
    if saved is None:
        atomic_write(out / WORK / TOKENIZER, trained.json)
        write_with_seal(out / WORK / _PLAN, replace(work, trained_tokenizer=sha256_of_text(trained.json)))
    return trained


def _trained_earlier(path: Path, work: _Work, on_notice: Callable[[str], None]) -> str | None:
    """The tokenizer that an interrupted preparation has trained, if it is undamaged."""
    if work.trained_tokenizer is None:
        return None
    try:
        content = read_regular(path).decode()
        if sha256_of_text(content) == work.trained_tokenizer:
            return content
        problem = "does not match its hash"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    on_notice(f"{path} {problem}; it is trained again")
    return None


def _sample_texts(layout: TextLayout, groups: _SliceGroups, hold_out: HoldOut) -> Iterator[str]:
    for group in groups:
        left = SAMPLE_BYTES // len(groups)
        for chunk in (chunk for part in group for chunk in read_chunks(part, layout)):
            if left <= 0:
                break
            if not hold_out.includes(chunk):
                yield chunk.text
                left -= len(chunk.text.encode())


def _shard_jobs(
    request: PrepareRequest, groups: _SliceGroups, hold_out: HoldOut, tokenizer: TextTokenizer, out: Path
) -> list[ShardJob]:
    sha256 = sha256_of_text(tokenizer.json)
    return [
        ShardJob(out, n, group, request.layout, hold_out, sha256, tokenizer.end_text)
        for n, group in enumerate(groups)
    ]


def _encode_all(
    jobs: Sequence[ShardJob], n_workers: int | None, on_progress: Callable[[PrepareProgress], None],
    on_notice: Callable[[str], None],
) -> list[ShardResult]:  # fmt: skip
    """The result of every job: read if it is done and undamaged, else made now."""
    results = _earlier_results(jobs, on_notice)
    sizes = [max(1, job.n_bytes) for job in jobs]

    def report() -> None:
        share = sum(sizes[number] for number in results) / sum(sizes)
        n_bytes = sum(result.n_bytes for result in results.values())
        on_progress(PrepareProgress(share, n_bytes, sum(result.n_tokens for result in results.values())))

    report()
    missing = [job for job in jobs if job.number not in results]
    for result in map_in_processes(encode, missing, n_workers or available_cpus()):
        results[result.number] = result
        report()
    return [results[job.number] for job in jobs]


def _earlier_results(jobs: Sequence[ShardJob], on_notice: Callable[[str], None]) -> dict[int, ShardResult]:
    """The results of an interrupted preparation, without those whose files are damaged."""
    results: dict[int, ShardResult] = {}
    n_filled = 0
    for job in jobs:
        if not os.path.lexists(job.result_file):
            continue
        try:
            result = ShardResult.read(job.result_file)
            train, is_filled = job.file("train"), result.train.n_tokens > 0
            if is_filled and not train.exists():
                # The interruption came after it was given its final name.
                train = job.out / f"train-{n_filled:05}.bin"
            n_filled += is_filled
            result.require_files(job, train)
        except InputError as error:
            on_notice(f"{without_advice(error)}; this part is made again")
            continue
        results[job.number] = result
    return results


def _finish(
    jobs: Sequence[ShardJob], results: Sequence[ShardResult], request: PrepareRequest, found: FoundSource,
    tokenizer: TextTokenizer, made_from: str,
) -> Manifest:  # fmt: skip
    """Give the shards their names, put the held-out documents into one file, write the manifest."""
    out, exact_bytes = jobs[0].out, all(result.exact_bytes for result in results)
    filled = [(job, result) for job, result in zip(jobs, results, strict=True) if result.train.n_tokens]
    if not filled:
        raise InputError(
            f"no text in {request.source} to train on: every document is empty, skipped or held out"
        )
    shards = [_train_shard(n, result) for n, (_, result) in enumerate(filled)]
    validation = _join_validation(jobs, results)
    if not validation.n_tokens:
        last = filled.pop()[0].file("train")
        shards[-1], validation = _hold_out_end(last, shards, tokenizer, exact_bytes=exact_bytes)
    for (job, _), shard in zip(filled, shards, strict=False):
        if job.file("train").exists():
            job.file("train").rename(out / shard.file)
    atomic_write(out / TOKENIZER, tokenizer.json)
    manifest = Manifest(
        source=request.source,
        text_sha256=sha256_of_text("\n".join(result.text_sha256 for result in results)),
        made_from=made_from, tokenizer=tokenizer.name, tokenizer_sha256=sha256_of_file(out / TOKENIZER),
        entries=tokenizer.entries, end_of_text=tokenizer.end_text, exact_bytes=exact_bytes,
        end_of_text_reason=tokenizer.end_reason, reversible=all(result.reversible for result in results),
        lost_bytes=sum(result.lost_bytes for result in results), forms=found.files.forms,
        left_out=found.files.left_out, n_empty=sum(result.skipped.n_empty for result in results),
        n_bad=sum(result.skipped.n_bad for result in results),
        notes=_notes(request, found, tokenizer, results),
        dtype=id_type(tokenizer.entries).name, train=tuple(shards), validation=validation,
        version=__version__,
    )  # fmt: skip
    manifest.write(out)
    return manifest


def _notes(
    request: PrepareRequest, found: FoundSource, tokenizer: TextTokenizer, results: Sequence[ShardResult]
) -> tuple[str, ...]:
    """Options that had no effect, and a vocabulary that the text does not fill."""
    notes = found.notes(request.layout)
    separator = request.layout.separator
    has_text = any(part.kind == "text" for part in found.slices)
    if separator is not None and has_text and not any(result.skipped.n_separators for result in results):
        notes.append(f"`separator` {separator!r} is nowhere in the text: every file is one document")
    if request.vocab_size is not None and tokenizer.entries < request.vocab_size:
        notes.append(
            f"The text supports only {tokenizer.entries:,} tokens, fewer than "
            f"`vocab_size={request.vocab_size}`. Train with `vocab_size={tokenizer.entries}`."
        )
    return tuple(notes)


def _train_shard(n: int, result: ShardResult) -> Shard:
    totals = result.train
    return Shard(f"train-{n:05}.bin", totals.n_tokens, totals.n_documents, totals.n_bytes, totals.sha256)


def _join_validation(jobs: Sequence[ShardJob], results: Sequence[ShardResult]) -> Shard:
    """The held-out documents of all jobs, in order, in one file."""

    def blocks() -> Iterable[bytes]:
        for job in jobs:
            with job.file("validation").open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block

    totals = [result.validation for result in results]
    return Shard(
        VALIDATION, sum(split.n_tokens for split in totals), sum(split.n_documents for split in totals),
        sum(split.n_bytes for split in totals), _write_ids(jobs[0].out, VALIDATION, blocks()),
    )  # fmt: skip


def _hold_out_end(
    path: Path, shards: Sequence[Shard], tokenizer: TextTokenizer, *, exact_bytes: bool
) -> tuple[Shard, Shard]:
    """The last shard split in two, where no document was held out: its end is whole documents of its second
    half, if any begins there, else the end of the last one."""
    last = shards[-1]
    ids = memory_map(path, id_type(tokenizer.entries).name)
    goal = min(VALIDATION_SHARE * sum(shard.n_tokens for shard in shards), last.n_tokens / 2)
    starts = np.flatnonzero(ids == tokenizer.end)[:-1] + 1
    target = last.n_tokens - max(1, round(goal))
    late_starts = starts[starts >= last.n_tokens / 2]
    cut = int(late_starts[np.abs(late_starts - target).argmin()]) if len(late_starts) else target
    head, tail = ids[:cut], ids[cut:]
    n_bytes = round(last.n_bytes * len(tail) / len(ids))
    if exact_bytes:
        n_bytes = int(bytes_of_token(tokenizer.tokenizer)[tail].sum())
    n_documents = int((tail == tokenizer.end).sum())
    out = path.parent.parent
    remaining = Shard(
        last.file, len(head), last.n_documents - n_documents + (not len(late_starts)),
        last.n_bytes - n_bytes, _write_ids(out, last.file, [head]),
    )  # fmt: skip
    return remaining, Shard(VALIDATION, len(tail), n_documents, n_bytes, _write_ids(out, VALIDATION, [tail]))


def _write_ids(out: Path, name: str, blocks: Iterable[bytes | TokenIds]) -> str:
    """Write a file of ids atomically, and return its hash."""
    digest = hashlib.sha256()
    with atomic_file(out / name, temporary=out / WORK / f"{name}.tmp") as file:
        for block in blocks:
            content = (block.data if isinstance(block, np.ndarray) else memoryview(block)).cast("B")
            file.write(content)
            digest.update(content)
    return digest.hexdigest()
