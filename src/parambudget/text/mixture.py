"""Several sets of tokens as one, each with its share of what a run reads: `web=0.7,books=0.3`.

The shares are exact, and the sets have one tokenizer. What a part is, is decided as for a set alone: a folder
that `data prepare` wrote or, with the tokenizer named, tokens of other tools and text.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Final

from parambudget.errors import InputError
from parambudget.text.shards import Shards, is_prepared
from parambudget.text.token_cache import MixturePart, TokenData
from parambudget.text.tokenizer import same_vocabulary
from parambudget.units import format_share, short_repr

LONGEST_BLOCK: Final = 100_000
"""Windows in which every set has exactly its share: enough for weights of four digits."""


@dataclass(frozen=True)
class MixtureSource:
    """A set by its path, and its weight as it was written."""

    path: Path
    weight: str


def parse_mixture(source: Path) -> tuple[MixtureSource, ...] | None:
    """The sets that `PATH=WEIGHT,PATH=WEIGHT` names; None for anything else, and for a path that exists."""
    words = [word.rpartition("=") for word in str(source).split(",")]
    if len(words) < 2 or not all(path and _weight(weight) is not None for path, _, weight in words):
        return None
    if source.exists():
        return None
    return tuple(MixtureSource(Path(path), weight) for path, _, weight in words)


def format_mixture(sources: Sequence[MixtureSource]) -> Path:
    """The sets as `parse_mixture` reads them."""
    for each in sources:
        if "," in str(each.path):
            raise InputError(
                f"{each.path} has a comma in its name, which separates the sets of a mixture; rename it"
            )
    return Path(",".join(f"{each.path}={each.weight}" for each in sources))


def absolute_source(source: Path) -> Path:
    """The source wherever it is read from: a path, or those of a mixture."""
    sources = parse_mixture(source)
    if sources is None:
        return source.absolute()
    return format_mixture([MixtureSource(each.path.absolute(), each.weight) for each in sources])


def read_shares(sources: Sequence[MixtureSource]) -> tuple[Fraction, ...]:
    """The weights relative to their sum."""
    weights: list[Fraction] = []
    for number, each in enumerate(sources):
        if each.path in [other.path for other in sources[:number]]:
            raise InputError(f"{each.path} is named twice in the mixture; give it one weight")
        weight = _weight(each.weight)
        if weight is None or weight <= 0:
            raise InputError(
                f"the weight of {each.path} is {short_repr(each.weight)}; use a number above 0, such as 0.7"
            )
        weights.append(weight)
    shares = tuple(weight / sum(weights) for weight in weights)
    if lcm(*(share.denominator for share in shares)) > LONGEST_BLOCK:
        raise InputError(
            f"the weights {', '.join(each.weight for each in sources)} have too many digits to be kept "
            "exactly; use at most four"
        )
    return shares


def _weight(text: str) -> Fraction | None:
    exponent = text.lower().partition("e")[2].lstrip("+-0")
    if len(text) > 40 or "/" in text or len(exponent) > 2:  # of 1e99999999, a Fraction has all digits
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def mix(sources: Sequence[MixtureSource], sets: Sequence[TokenData]) -> TokenData:
    """The sets as one: everything of it is that of all of them, in the order in which they are named."""
    first, shares = sets[0], read_shares(sources)
    for source, data in zip(sources[1:], sets[1:], strict=True):
        if not _same_tokenizer(first, data):
            raise InputError(
                f"{source.path} has another tokenizer than {sources[0].path}, and a mixture has one; prepare "
                "both with the same `tokenizer`"
            )
    parts = tuple(
        MixturePart(str(source.path), share, data)
        for source, share, data in zip(sources, shares, sets, strict=True)
    )
    known = all(data.bytes_of_token is not None for data in sets)
    return TokenData(
        name=", ".join(f"{part.name} ({format_weight(part.share)})" for part in parts),
        sha256=_hash([(str(part.share), part.data.sha256) for part in parts]),
        n_documents=_sum([data.n_documents for data in sets]),
        n_held_out=sum(data.n_held_out for data in sets), entries=max(data.entries for data in sets),
        train=Shards([data.train for data in sets]),
        validation=Shards([data.validation for data in sets]),
        train_bytes=_sum([data.train_bytes for data in sets]),
        validation_bytes=_sum([data.validation_bytes for data in sets]),
        bytes_of_token=first.bytes_of_token if known else None, tokenizer_json=first.tokenizer_json,
        tokens_sha256=_hash([(str(part.share), part.data.tokens_sha256) for part in parts]),
        end_of_text=first.end_of_text, left_out=tuple(each for data in sets for each in data.left_out),
        lost_share=max((data.lost_share for data in sets if data.lost_share is not None), default=None),
        notes=tuple(note for data in sets for note in data.notes), parts=parts,
    )  # fmt: skip


def _same_tokenizer(one: TokenData, other: TokenData) -> bool:
    """Whether both sets have the same ids, for words and for the end of a document."""
    ends = [None if data.end_of_text is None else data.end_of_text.token for data in (one, other)]
    known = bool(one.tokenizer_json and other.tokenizer_json)
    return known and ends[0] == ends[1] and same_vocabulary(one.tokenizer_json, other.tokenizer_json)


def format_weight(share: Fraction) -> str:
    """A share in per cent."""
    return format_share(float(share), 1).removeprefix("+")


def require_mixable(source: MixtureSource, tokenizer: str | None) -> None:
    """Refuse a part of which the tokenizer is not known, or would be made for it alone."""
    if tokenizer is None and not is_prepared(source.path) and source.path.exists():
        raise InputError(
            f"{source.path} is no prepared folder, so its tokenizer is not known; prepare it with the "
            "tokenizer of the others, or name theirs with `tokenizer`"
        )


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _hash(values: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
