"""Tokenizers: read from Hugging Face's or GPT-2's files, or trained here; and the bytes of each id."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from parambudget._files import read_json
from parambudget.errors import ConfigError, InputError
from parambudget.text.forms import HUB_PREFIX
from parambudget.units import shorten

TokenIds = npt.NDArray[np.integer]
TokenBytes = npt.NDArray[np.number]
"""By id, the bytes of UTF-8 that it stands for."""
IdType = Annotated[str, Field(pattern=r"^uint(16|32)$")]
"""The name of the type of ids in a file; numpy's object type would make addresses of a file's bytes."""
END_OF_TEXT: Final = "<|endoftext|>"
FEWEST_ENTRIES: Final = 257
"""One per byte, and one for the end of a document."""
LARGEST_ID: Final = 10_000_000
"""Far above that of any vocabulary: tables have a row for every id."""
MIN_FREQUENCY: Final = 16
"""Entries seen fewer times than this in the text could hardly be learned."""
SAMPLE_BYTES: Final = 64_000_000
"""Bytes of text that a tokenizer is trained on."""
LONGEST_WORD: Final = 500
"""Characters of a word that a tokenizer is trained on: the work grows with the square of it."""
AS_GIVEN: Final = "as given"
_CONFIG: Final = "tokenizer_config.json"
_LONG_WORD: Final = re.compile(rf"\S{{{LONGEST_WORD}}}|\s{{{LONGEST_WORD}}}")
_KNOWN_ENDS: Final = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True, eq=False)
class TextTokenizer:
    """A tokenizer, and the id that ends a document in a stream of them."""

    name: str
    tokenizer: Tokenizer
    end: int
    """The id after every document."""
    end_reason: str
    """Why it is this one."""

    @property
    def entries(self) -> int:
        """All ids are below this."""
        return 1 + max(self.tokenizer.get_vocab().values())

    @property
    def end_text(self) -> str:
        """The end of a document as the tokenizer writes it."""
        return str(self.tokenizer.id_to_token(self.end))

    @property
    def json(self) -> str:
        """The tokenizer as a tokenizer.json file."""
        return str(self.tokenizer.to_str())


@dataclass(frozen=True)
class EndOfText:
    """The token that is to end documents, and who says so."""

    token: str
    reason: str


OWN_END: Final = EndOfText(END_OF_TEXT, "marked special in the tokenizer")
"""Of a BPE that is trained here."""


def read_tokenizer(source: str, end_of_text: str | None = None) -> TextTokenizer:
    """A tokenizer.json, a folder with it or with vocab.json and merges.txt, or `hf:NAME` (needs the network).

    `end_of_text` names the token that ends documents; without it, the tokenizer_config.json beside the
    tokenizer does, or it is one that is marked special.
    """
    from_hub = source.startswith(HUB_PREFIX)
    try:
        if from_hub:
            tokenizer = _from_hub(source)
        else:
            with _silent_panics():
                tokenizer = _from_files(Path(source))
    except InputError:
        raise
    except BaseException as error:  # tokenizers raises no narrower class; its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{source} is not a tokenizer that can be read ({reason})") from None
    if end_of_text is not None:
        return as_text_tokenizer(tokenizer, source, EndOfText(end_of_text, AS_GIVEN))
    config = _config_on_hub(source) if from_hub else _config_beside(Path(source))
    return as_text_tokenizer(tokenizer, source, None if config is None else _end_in_config(config))


def as_text_tokenizer(tokenizer: Tokenizer, name: str, end: EndOfText | None = None) -> TextTokenizer:
    """A tokenizer set up to encode documents: the whole text and nothing else."""
    _require_ids(tokenizer, name)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that quotes the marker must not end there.
    tokenizer.encode_special_tokens = True
    end = end or _special_end(tokenizer, name)
    found = tokenizer.token_to_id(end.token)
    if found is None:
        reason = "" if end.reason == AS_GIVEN else f" ({end.reason})"
        raise InputError(
            f"tokenizer {name} has no {end.token!r} to end documents with{reason}; name another one with "
            f"`end_of_text`{_such_as(_special_tokens(tokenizer))}"
        )
    return TextTokenizer(name, tokenizer, found, end.reason)


def _require_ids(tokenizer: Tokenizer, name: str) -> None:
    """Refuse ids that no table could be made for: the library itself aborts the process then."""
    vocab = tokenizer.get_vocab()
    largest = max(vocab.values(), default=0)
    if largest > LARGEST_ID:
        token = next(token for token, i in vocab.items() if i == largest)
        raise InputError(
            f"tokenizer {name} gives {shorten(token)!r} the id {largest:,}; ids go up to {LARGEST_ID:,}, is "
            "the file damaged?"
        )
    if len(set(vocab.values())) < len(vocab):
        raise InputError(f"tokenizer {name} gives one id to several tokens; is the file damaged?")


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Keep the library from printing its own lines about a panic, which it also raises, on standard error."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: then nothing is printed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    added = tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if token.special]


def _special_end(tokenizer: Tokenizer, name: str) -> EndOfText:
    """The special token with a usual name, or the only special one; where none is marked, a usual name."""
    special = _special_tokens(tokenizer)
    for token in _KNOWN_ENDS:
        if token in special:
            return EndOfText(token, "marked special in the tokenizer")
    if len(special) == 1:
        return EndOfText(special[0], "the only token marked special in the tokenizer")
    for token in _KNOWN_ENDS if not special else ():
        if tokenizer.token_to_id(token) is not None:
            return EndOfText(token, "by its name: no token is marked special in the tokenizer")
    raise InputError(
        f"tokenizer {name} has none of {', '.join(_KNOWN_ENDS)} to end documents with; name one with "
        f"`end_of_text`{_such_as(special)}"
    )


def _such_as(tokens: list[str]) -> str:
    return f", such as one of {', '.join(tokens[:10])}"[:200] if tokens else ""


def _config_beside(path: Path) -> Path | None:
    """The tokenizer_config.json of a folder, or of the folder in which the tokenizer stands."""
    config = (path if path.is_dir() else path.parent) / _CONFIG
    return config if config.is_file() else None


def _end_in_config(path: Path) -> EndOfText | None:
    """The `eos_token` of a tokenizer_config.json: a text, or an object that has one."""
    document = read_json(path)
    named = document.get("eos_token") if isinstance(document, dict) else None
    token = named.get("content") if isinstance(named, dict) else named
    if token is None:
        return None
    if not isinstance(token, str):
        raise InputError(
            f"{path} has an eos_token that is no text ({str(token)[:50]}); name one with `end_of_text`"
        )
    return EndOfText(token, f"eos_token of {_CONFIG}")


Chunk = TypeVar("Chunk")


def batches(chunks: Iterable[Chunk], size_of: Callable[[Chunk], int], size: int) -> Iterator[list[Chunk]]:
    """Chunks to encode together: lists of at least that size, except for the last one."""
    batch: list[Chunk] = []
    batch_size = 0
    for chunk in chunks:
        batch.append(chunk)
        batch_size += size_of(chunk)
        if batch_size >= size:
            yield batch
            batch, batch_size = [], 0
    if batch:
        yield batch


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE like GPT-2's, of at most `vocab_size` entries."""
    require_vocabulary(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=MIN_FREQUENCY, show_progress=False,
        special_tokens=[END_OF_TEXT], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    pieces = (piece for text in texts for piece in _with_shorter_words(text))
    _byte_level(tokenizer).train_from_iterator(pieces, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _with_shorter_words(text: str) -> Iterator[str]:
    """The text, cut inside of words that are longer than any that could become an entry."""
    start = 0
    for word in _LONG_WORD.finditer(text):
        yield text[start : word.end()]
        start = word.end()
    if start < len(text):
        yield text[start:]


def require_vocabulary(vocab_size: int) -> None:
    """Refuse a vocabulary that has no room for the bytes."""
    if vocab_size < FEWEST_ENTRIES:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small for a byte-level tokenizer; use at least {FEWEST_ENTRIES}"
        )


def id_type(entries: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds every id below `entries`."""
    return np.dtype(np.uint16 if entries <= 2**16 else np.uint32)


def bytes_of_token(tokenizer: Tokenizer) -> TokenBytes:
    """UTF-8 bytes of each id of a byte-level tokenizer; 0 for special tokens, which are not text.

    Byte-level BPE writes each byte as one character: a token has as many characters as bytes.
    """
    lengths = np.zeros(1 + max(tokenizer.get_vocab().values()), np.int64)
    for token, i in tokenizer.get_vocab().items():
        lengths[i] = len(token)
    for i, added in tokenizer.get_added_tokens_decoder().items():
        lengths[i] = 0 if added.special else len(added.content.encode())
    return lengths


def _from_files(path: Path) -> Tokenizer:
    is_folder = os.path.isdir(path)  # Path.is_dir raises an error for a name that is too long
    folder = path if is_folder else path.parent
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if is_folder and (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    if is_folder or path.name == vocab.name:
        if not (vocab.is_file() and merges.is_file()):
            raise InputError(f"{folder} has no tokenizer.json and not both of vocab.json and merges.txt")
        tokenizer = _byte_level(Tokenizer(models.BPE.from_file(str(vocab), str(merges))))
        if tokenizer.token_to_id(END_OF_TEXT) is not None:
            tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
        return tokenizer
    if not os.path.isfile(path):
        raise InputError(
            f"no tokenizer at {path}; give bpe (trained on the source), a tokenizer.json, a folder with "
            f"vocab.json and merges.txt, or {HUB_PREFIX}NAME from the Hugging Face hub, such as "
            f"{HUB_PREFIX}gpt2"
        )
    # Its error says where a file is broken; that of tokenizers does not.
    json.loads(path.read_text(encoding="utf-8"))
    return Tokenizer.from_file(str(path))


def _from_hub(source: str) -> Tokenizer:
    from huggingface_hub.utils import logging  # takes half a second that local files need not pay for

    logging.set_verbosity_error()  # it would report every attempt to connect
    return Tokenizer.from_pretrained(source.removeprefix(HUB_PREFIX))


def _config_on_hub(source: str) -> Path | None:
    """The tokenizer_config.json of a tokenizer on the hub; None if it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source.removeprefix(HUB_PREFIX), _CONFIG))
    except LocalEntryNotFoundError:
        raise InputError(
            f"{source} was downloaded without its {_CONFIG}, which names the end-of-text token; connect to "
            "the network, or name the token with `end_of_text`"
        ) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # of huggingface_hub, an HTTP library or the disk
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"cannot read {_CONFIG} of {source} ({reason}); try again") from None


def _byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def tokenizer_files(tokenizer: TextTokenizer, context_length: int) -> dict[str, str]:
    """Names and contents of the files that give transformers the same ids. A document begins after the end of
    another one, so the end token is also the beginning.

    Unlike here, transformers cuts a text that quotes the end token at that point.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_text,
        "eos_token": tokenizer.end_text,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.json,
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "generation_config.json": json.dumps(end_token_ids(tokenizer), indent=2) + "\n",
    }


def end_token_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """The keys of a config.json for the tokens that begin and end a document."""
    return {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}


def same_vocabulary(one: str, other: str) -> bool:
    """Whether two tokenizer.json give the same ids to the same text: all in them that decides it is equal."""

    def deciding(text: str) -> object:
        parts = json.loads(Tokenizer.from_str(text).to_str()) if text else None
        return parts and {
            name: parts[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")
        }

    return one == other or deciding(one) == deciding(other)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer that `read_tokenizer` takes."""
    pair = (folder / "vocab.json", folder / "merges.txt")
    return (folder / "tokenizer.json").is_file() or all(path.is_file() for path in pair)


def read_pretrained_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer in the folder of a Hugging Face model, with the end token that its config names."""
    if not has_tokenizer(folder):
        other = "; its tokenizer.model is SentencePiece's" if (folder / "tokenizer.model").is_file() else ""
        raise InputError(
            f"{folder} has neither tokenizer.json nor vocab.json with merges.txt{other}; put the model's "
            "tokenizer.json into it"
        )
    return read_tokenizer(str(folder))
