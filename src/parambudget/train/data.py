"""Where a run's tokens come from: a folder that `data prepare` wrote, or plain text, tokenized and kept."""

from pathlib import Path

from parambudget.train.corpus import corpus
from parambudget.train.tokens import TokenData, require_vocabulary, token_data


def data_for(source: Path | None, vocab_size: int) -> TokenData:
    """The tokens of a text file or a folder of text; without a source, of Python's standard library."""
    require_vocabulary(vocab_size)
    return token_data(corpus(source), vocab_size)
