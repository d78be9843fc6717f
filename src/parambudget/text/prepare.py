"""A source of any size made into shards of tokens: streamed, by several processes, a part of it at a time.

Work that is done is kept until the whole is: the same request goes on where it was interrupted. What a
process was in the middle of is done again, and the manifest comes last: nothing half-written is taken for
whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from parambudget._files import read_json, write_json, write_whole
from parambudget.errors import InputError
from parambudget.text.corpus import MOST_VALIDATION_BYTES, VALIDATION_SHARE
from parambudget.text.encode import Facts, Job, Split, encode
from parambudget.text.finish import finish
from parambudget.text.shards import MANIFEST, TOKENIZER, WORK, Manifest, require_whole
from parambudget.text.sources import Reading, Stretch, pieces, step_bytes, stretches
from parambudget.text.tokenizer import (
    SAMPLE_BYTES,
    TextTokenizer,
    prepared,
    read_tokenizer,
    require_vocabulary,
    train_bpe,
)
from parambudget.text.workers import available_cpus, in_processes

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
    write_whole(path, tokenizer.json)
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
