"""Where a run's tokens come from: a folder that `data prepare` wrote, tokens of another tool, or text that is
tokenized and cached."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import platformdirs
import tokenizers

from parambudget._files import atomic_folder, write_errors
from parambudget.errors import InputError
from parambudget.text.corpus import is_built_in, read_corpus
from parambudget.text.forms import TOKEN_DTYPES, TokenDtype, find_files
from parambudget.text.mixture import mix, parse_mixture, read_shares, require_mixable
from parambudget.text.prepare import BPE, PrepareRequest, prepare, request_sha256
from parambudget.text.shards import is_prepared, read_prepared_folder
from parambudget.text.token_cache import TokenData, token_data
from parambudget.text.token_files import find_tokens, read_tokens
from parambudget.text.tokenizer import read_tokenizer, require_vocabulary


def data_for(
    source: Path | None, vocab_size: int, *, token_dtype: TokenDtype | None = None,
    tokenizer: str | None = None, end_of_text: str | None = None,
) -> TokenData:  # fmt: skip
    """The tokens of a source or of a mixture of several, `PATH=WEIGHT,PATH=WEIGHT`; the other arguments are
    those of `set_for`."""
    sources = None if source is None else parse_mixture(source)
    if sources is None:
        return set_for(
            source, vocab_size, token_dtype=token_dtype, tokenizer=tokenizer, end_of_text=end_of_text
        )
    read_shares(sources)
    for each in sources:
        require_mixable(each, tokenizer)
    sets = [
        set_for(
            each.path, vocab_size, token_dtype=token_dtype,
            tokenizer=None if is_prepared(each.path) else tokenizer, end_of_text=end_of_text,
        )
        for each in sources
    ]  # fmt: skip
    return mix(sources, sets)


def set_for(
    source: Path | None, vocab_size: int, *, token_dtype: TokenDtype | None = None,
    tokenizer: str | None = None, end_of_text: str | None = None,
) -> TokenData:  # fmt: skip
    """The tokens of a file or folder of tokens or text, or of Python's standard library: None and its name
    mean that.

    `token_dtype` is the type of ids in files that do not name it. `tokenizer` has made the tokens, or makes
    them of the text; without it, a BPE is trained on text. `end_of_text` is the token with which it ends
    documents; without it, the tokenizer's own files name one.
    """
    if token_dtype is not None and token_dtype not in TOKEN_DTYPES:
        raise InputError(f"`token_dtype` is {token_dtype!r}; use one of {', '.join(TOKEN_DTYPES)}")
    if source is None or is_built_in(source):
        if tokenizer is not None or token_dtype is not None:
            raise InputError("`tokenizer` and `token_dtype` say how to read `data`; give it as well")
        require_vocabulary(vocab_size)
        # Which of its files are left out is nobody's concern.
        return replace(token_data(read_corpus(), vocab_size), left_out=())
    unused: dict[str, str | None] = {"token_dtype": token_dtype}
    if is_prepared(source):
        data, form = read_prepared_folder(source, vocab_size), "was prepared, with a tokenizer of its own"
        unused["tokenizer"] = tokenizer
    elif (tokens := find_tokens(source, token_dtype)) is not None:
        made_by = None if tokenizer is None else read_tokenizer(tokenizer, end_of_text)
        data = read_tokens(tokens, vocab_size, made_by)
        form = "names the type of its tokens"
        if tokens.needs_dtype:
            del unused["token_dtype"]
    else:
        data, form = _text_data(source, vocab_size, tokenizer, end_of_text), "is text"
    notes = [
        f"`{name}` had no effect: {source} {form}" for name, given in unused.items() if given is not None
    ]
    return replace(data, notes=(*data.notes, *notes))


def _text_data(source: Path, vocab_size: int, tokenizer: str | None, end_of_text: str | None) -> TokenData:
    """Text as tokens. Plain files are documents by themselves; all else is prepared in the cache."""
    if tokenizer is None:
        require_vocabulary(vocab_size)
        found = find_files(source)
        if found.is_plain_text:
            return token_data(read_corpus(source, found), vocab_size)
    elif (entries := read_tokenizer(tokenizer, end_of_text).entries) > vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer} has {entries:,} entries, more than vocab_size={vocab_size:,}; use "
            f"`vocab_size={entries}`"
        )
    request = PrepareRequest(
        str(source.absolute()), tokenizer or BPE, None if tokenizer else vocab_size, end_of_text=end_of_text
    )
    key = hashlib.sha256(json.dumps([tokenizers.__version__, request_sha256(request)]).encode()).hexdigest()
    folder = platformdirs.user_cache_path("parambudget") / "tokens" / f"prepared-{key[:32]}"
    was_there = is_prepared(folder)
    if not was_there:
        _prepare_in_cache(request, folder)
    try:
        data = read_prepared_folder(folder, vocab_size)
    except InputError:
        if not was_there:
            raise
        _prepare_in_cache(request, folder)  # what was there is damaged
        data = read_prepared_folder(folder, vocab_size)
    return replace(data, name=str(source))


def _prepare_in_cache(request: PrepareRequest, folder: Path) -> None:
    hint = "free some space there, or set XDG_CACHE_HOME to a writable folder"
    with write_errors(folder, hint), atomic_folder(folder, overwrite=True) as unfinished:
        prepare(request, unfinished, n_workers=1)
