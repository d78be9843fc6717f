"""A text to measure a model on, as the ids of the model's own tokenizer: every form that training reads.

Text is encoded here, document by document, as training does. A folder that was prepared, or tokens of another
tool, are read where they lie: their validation part if they have one, else all of them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parambudget.errors import InputError
from parambudget.text.encode import DocumentEncoder
from parambudget.text.forms import LeftOut, TokenDtype
from parambudget.text.records import Skipped, TextLayout
from parambudget.text.shards import is_prepared, read_prepared_folder
from parambudget.text.sources import find_source, read_chunks
from parambudget.text.token_cache import TokenData, Tokens
from parambudget.text.token_files import find_tokens, read_all_tokens
from parambudget.text.tokenizer import TextTokenizer, TokenBytes, same_vocabulary


@dataclass(frozen=True, eq=False)
class HeldOutText:
    """Ids in the order of the text, and how many bytes of it they stand for."""

    name: str
    tokens: Tokens
    """Each document ends with the end-of-text id."""
    n_documents: int | None
    """None for tokens whose documents are not known."""
    n_bytes: int | None
    """Of the text, in UTF-8; None where bits per byte have no meaning."""
    lost_share: float | None = None
    """Share of the text's bytes that the ids do not give back; None if they give back the text."""
    left_out: tuple[LeftOut, ...] = ()
    """Files of the source that are not read."""
    notes: tuple[str, ...] = ()
    """What else the person who asked should know."""


def read_held_out(
    source: Path, tokenizer: TextTokenizer, vocab_size: int, token_dtype: TokenDtype | None = None
) -> HeldOutText:
    """The text of a file or folder in ids of this tokenizer; `token_dtype` as for training.

    Raises `InputError` for tokens of another tokenizer, as far as that can be seen, and for an empty text.
    """
    if is_prepared(source):
        text = _prepared_text(source, tokenizer, vocab_size)
        unused = token_dtype is not None
    elif (tokens := find_tokens(source, token_dtype)) is not None:
        ids, n_bytes = read_all_tokens(tokens, vocab_size, tokenizer)
        note = f"the tokens in {source} are read as those of the model's own tokenizer"
        text = HeldOutText(str(source), ids, None, _count_bytes(ids, n_bytes), None, tokens.left_out, (note,))
        unused = token_dtype is not None and not tokens.needs_dtype
    else:
        text, unused = _encode_text(source, tokenizer), token_dtype is not None
    if not len(text.tokens):
        raise InputError(f"there is no held-out text in {source}; give a file with text in it")
    if unused:
        note = f"`token_dtype` had no effect: {source} says itself what it holds"
        return replace(text, notes=(*text.notes, note))
    return text


def require_held_out(source: Path) -> None:
    """Refuse what `read_held_out` could not read, as far as that is known without its tokenizer."""
    if not is_prepared(source) and find_tokens(source) is None:
        find_source(str(source), TextLayout())


def _prepared_text(folder: Path, tokenizer: TextTokenizer, vocab_size: int) -> HeldOutText:
    data = read_prepared_folder(folder, vocab_size)
    if not same_vocabulary(data.tokenizer_json, tokenizer.json):
        raise InputError(
            f"the tokens in {folder} are of another tokenizer than the model's; give the text itself, or "
            "prepare it with the model's tokenizer.json"
        )
    return validation_part(data, str(folder))


def validation_part(data: TokenData, name: str) -> HeldOutText:
    """What is held out of the data that a run trains on. Of a mixture it is that of all sets, one after
    another: in the run's own validation loss each set has its share."""
    n_bytes = _count_bytes(data.validation, data.bytes_of_token)
    # Where the end of a document is held out, it is no document by itself.
    n_documents = data.n_held_out or None
    if data.parts:
        name = f"{' + '.join(part.name for part in data.parts)} (whole, not in their shares)"
    return HeldOutText(f"{name}, held out", data.validation, n_documents, n_bytes, data.lost_share)


def _count_bytes(tokens: Tokens, bytes_of_token: TokenBytes | None) -> int | None:
    """Bytes that ids stand for, a block at a time."""
    if bytes_of_token is None:
        return None
    starts = range(0, len(tokens), 2**20)
    return round(sum(float(bytes_of_token[tokens[start : start + 2**20]].sum()) for start in starts))


def _encode_text(source: Path, tokenizer: TextTokenizer) -> HeldOutText:
    layout, skipped = TextLayout(), Skipped()
    found = find_source(str(source), layout)
    chunks = (chunk for part in found.slices for chunk in read_chunks(part, layout, skipped))
    parts, n_bytes, n_documents, lost_bytes, reversible = [], 0, 0, 0, True
    for encoded in DocumentEncoder.of(tokenizer).encode_chunks(chunks):
        parts.append(encoded.ids)
        n_bytes += encoded.n_bytes
        n_documents += encoded.chunk.ends
        lost_bytes += encoded.lost_bytes
        reversible &= encoded.reversible
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
    return HeldOutText(
        str(source), tokens, n_documents, n_bytes if reversible else None,
        None if reversible else lost_bytes / max(1, n_bytes), found.files.left_out,
    )  # fmt: skip
