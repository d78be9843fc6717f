"""A tokenizer as the files that transformers' `AutoTokenizer` reads, and from them."""

import json
from pathlib import Path
from typing import Any

from parambudget._files import read_json
from parambudget.errors import InputError
from parambudget.text.tokenizer import TextTokenizer, read_tokenizer


def tokenizer_files(tokenizer: TextTokenizer, context_length: int) -> dict[str, str]:
    """Names and texts of the files, which give the same ids. A document begins behind the end of another: the
    end is the start too.

    Unlike here, a text that quotes the end is cut there, as everywhere in transformers.
    """
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_text,
        "eos_token": tokenizer.end_text,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.json,
        "tokenizer_config.json": json.dumps(told, indent=2) + "\n",
        "generation_config.json": json.dumps(ends(tokenizer), indent=2) + "\n",
    }


def ends(tokenizer: TextTokenizer) -> dict[str, int]:
    """What a config.json says of the tokens that begin and end a document."""
    return {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}


def read_pretrained_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer in a folder of a Hugging Face model, which says itself how its documents end."""
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder} has no tokenizer.json; put the model's tokenizer.json into it")
    told: Any = {}
    if (folder / "tokenizer_config.json").is_file():
        told = read_json(folder / "tokenizer_config.json")
    end = told.get("eos_token") if isinstance(told, dict) else None
    if isinstance(end, dict):
        end = end.get("content")
    return read_tokenizer(str(folder), end if isinstance(end, str) else None)
