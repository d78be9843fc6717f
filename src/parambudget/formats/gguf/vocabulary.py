"""A tokenizer as the keys of a GGUF file: only a byte-level BPE whose splitting llama.cpp has by a name.

Source: llama.cpp, src/llama-vocab.cpp in llama-cpp-python 0.3.36: names of pre-tokenizers and their regular
expressions; gguf 0.19, constants.py: keys and types of tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parambudget.errors import ConfigError
from parambudget.text.tokenizer import TextTokenizer
from parambudget.units import shorten

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Types of tokens: text; special ones, which are no text; added ones that are text; rows without a token."""

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MIXED: Final = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_CAPITALS: Final = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN_2: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_GPT_4O: Final = rf"{_MIXED}{_CONTRACTIONS}?|{_CAPITALS}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"
_TEKKEN: Final = rf"{_MIXED}|{_CAPITALS}|\p{{N}}|{_REST_WITH_SLASH}"

_PRE_TOKENIZERS: Final[Mapping[tuple[tuple[str, ...], bool], str]] = {
    (("gpt-2",), False): "gpt-2",
    (("digits", "gpt-2"), False): "starcoder",
    ((_LLAMA_3, "bytes"), True): "llama-bpe",
    ((_LLAMA_3, "bytes"), False): "dbrx",
    ((_QWEN_2, "bytes"), False): "qwen2",
    ((_GPT_4O, "bytes"), False): "gpt-4o",
    ((_TEKKEN, "bytes"), True): "tekken",
}
"""What is split off, step by step, and whether a word that is a token is never merged: llama.cpp's name."""
_ELSEWHERE: Final = "export to hf, and convert the folder with llama.cpp's own script"


@dataclass(frozen=True)
class GGUFVocabulary:
    """The tokenizer's part of a GGUF file."""

    tokens: list[str]
    """One per row of the embedding; rows without a token have a name of their own."""
    token_types: list[int]
    merges: list[str]
    pre: str
    """llama.cpp's name for the way in which text is split before merging."""
    end_id: int
    begin_id: int
    adds_begin: bool
    """Whether a text begins with `begin_id`."""
    notes: tuple[str, ...] = ()


def gguf_vocabulary(
    tokenizer: TextTokenizer, vocab_size: int, *, add_special_tokens: bool = False
) -> GGUFVocabulary:
    """The tokenizer for a model with so many rows; raises `ConfigError` where llama.cpp would split or merge
    text in another way. `add_special_tokens`: whether the tokenizer adds its own to a prompt."""
    document = json.loads(tokenizer.json)
    model = document["model"]
    _require_byte_level_bpe(document, tokenizer.name)
    ids = model["vocab"] | {added["content"]: added["id"] for added in document["added_tokens"]}
    outside = next((token for token, i in ids.items() if i >= vocab_size), None)
    if outside is not None:
        raise ConfigError(
            f"tokenizer {tokenizer.name} gives {shorten(outside)!r} the id {ids[outside]:,}, and the model "
            f"has {vocab_size:,} rows; use the tokenizer that it was trained with"
        )
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [_UNUSED] * vocab_size
    for token, i in ids.items():
        tokens[i], types[i] = token, _NORMAL
    for added in document["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not merges:
        raise ConfigError(
            f"tokenizer {tokenizer.name} has no merges, without which llama.cpp reads no file; train one "
            "with more entries"
        )
    begin = _begin_id(tokenizer) if add_special_tokens else None
    return GGUFVocabulary(
        tokens, types, merges, _pre_tokenizer(document, tokenizer.name), tokenizer.end,
        tokenizer.end if begin is None else begin, begin is not None, _notes(document),
    )  # fmt: skip


def _begin_id(tokenizer: TextTokenizer) -> int | None:
    """The token that begins every prompt, if the tokenizer has one; refuses any other addition."""
    probe = "word"
    plain = tokenizer.tokenizer.encode(probe, add_special_tokens=False).ids
    whole = tokenizer.tokenizer.encode(probe, add_special_tokens=True).ids
    if whole == plain:
        return None
    if whole[1:] == plain:
        return int(whole[0])
    raise ConfigError(
        f"tokenizer {tokenizer.name} turns {plain} into {whole} with its special tokens, and a GGUF file is "
        f"written with one token in front at most; {_ELSEWHERE}"
    )


def _require_byte_level_bpe(document: Mapping[str, Any], name: str) -> None:
    model = document["model"]
    plain = not any(
        model.get(option)
        for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    decoder = (document["decoder"] or {}).get("type")
    if model.get("type") != "BPE" or decoder != "ByteLevel" or not plain:
        raise ConfigError(
            f"tokenizer {name} is not a byte-level BPE ({model.get('type')}, decoder {decoder}); {_ELSEWHERE}"
        )


def _pre_tokenizer(document: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name of the way in which this tokenizer splits text."""
    whole = document["pre_tokenizer"] or {}
    steps = tuple(_step(one) for one in whole.get("pretokenizers", [whole]))
    found = _PRE_TOKENIZERS.get((steps, bool(document["model"].get("ignore_merges"))))
    if found is None:
        known = ", ".join(_PRE_TOKENIZERS.values())
        raise ConfigError(
            f"tokenizer {name} splits text in none of the ways that have a name in llama.cpp and are known "
            f"here ({known}); {_ELSEWHERE}"
        )
    return found


def _step(step: Mapping[str, Any]) -> str:
    """A step of a pre-tokenizer in the words of `_PRE_TOKENIZERS`; for an unknown one, a word that is not."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(split)}:
            return "gpt-2" if split else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return regex
    return json.dumps(step)


def _notes(document: Mapping[str, Any]) -> tuple[str, ...]:
    normalizer = document["normalizer"]
    if normalizer is None:
        return ()
    if normalizer == {"type": "NFC"}:
        return (
            "the tokenizer brings text into Unicode's composed form (NFC) first, and llama.cpp does not: "
            "text in another form gets other tokens there",
        )
    raise ConfigError(
        f"the tokenizer changes text before it is split ({normalizer.get('type')}), and llama.cpp does not; "
        f"{_ELSEWHERE}"
    )
