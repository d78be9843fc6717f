"""Where a run's tokens come from: a folder that `data prepare` wrote, or plain text, tokenized and cached."""

from pathlib import Path

from parambudget.errors import InputError
from parambudget.text.corpus import is_built_in, read_corpus
from parambudget.text.shards import is_prepared, read_prepared_folder
from parambudget.text.sources import SUFFIXES
from parambudget.text.token_cache import TokenData, token_data
from parambudget.text.tokenizer import require_vocabulary


def data_for(source: Path | None, vocab_size: int) -> TokenData:
    """The tokens of a prepared folder, of a text file or folder, or of Python's standard library.

    The last is meant by None and by its name.
    """
    if source is not None and is_built_in(source):
        source = None
    if source is not None and is_prepared(source):
        return read_prepared_folder(source, vocab_size)
    if source is not None and source.suffix in SUFFIXES:
        raise InputError(
            f"{source} is {SUFFIXES[source.suffix]}, not plain text; prepare it first: parambudget data "
            f"prepare {source} --tokenizer bpe --vocab-size {vocab_size} -o DIR, then train with --data DIR"
        )
    require_vocabulary(vocab_size)
    return token_data(read_corpus(source), vocab_size)
