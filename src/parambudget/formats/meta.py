"""Meta's params.json, and Mistral's, as a model: the files beside weights that were never converted.

The FFN width follows from `multiple_of` and `ffn_dim_multiplier`, or is `hidden_dim`.

Source: meta-llama/llama-models, models/llama3/model.py (ModelArgs, FeedForward); mistralai/mistral-inference,
args.py (TransformerArgs).
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

from parambudget.arch.defaults import unsupported_note
from parambudget.arch.validation import LARGEST_SIZE, MOST_LAYERS
from parambudget.errors import ConfigError
from parambudget.formats.imported import Imported
from parambudget.units import short_repr

FILES: Final = ("params.json", "orig_params.json")
_OWN_KEYS: Final = ("multiple_of", "ffn_dim_multiplier", "hidden_dim", "use_scaled_rope")
"""Keys that only such files have; the others are called as our fields are."""
_SIZES: Final = {
    "dim": "dim", "n_layers": "n_layers", "n_heads": "n_heads", "n_kv_heads": "n_kv_heads",
    "head_dim": "head_dim", "vocab_size": "vocab_size", "hidden_dim": "intermediate_size",
    "sliding_window": "window", "max_seq_len": "context_length", "multiple_of": "",
}  # fmt: skip
"""Whole numbers, and our fields for them."""
_NUMBERS: Final = {"norm_eps": "norm_eps", "rope_theta": "rope_theta", "ffn_dim_multiplier": ""}
_LARGEST: Final = {"ffn_dim_multiplier": 1000.0}
_SWITCHES: Final = {"tied_embeddings": "tied", "use_scaled_rope": ""}
_SCALED_ROPE: Final = (
    "rescaled rotary frequencies of a factor that the file does not say (use_scaled_rope: 8 in Llama 3.1, 32 "
    "in 3.2)"
)
_WITHOUT_EFFECT: Final = ("max_batch_size",)
_REQUIRED: Final = ("dim", "n_layers", "n_heads")
_ASK_FOR_VOCABULARY: Final = (
    "vocab_size is {}, which stands for that of the tokenizer; give `vocab_size` (32,000 for Llama 1 and 2)"
)


def is_params_json(document: Mapping[str, Any], file_name: str) -> bool:
    """Whether an object is the content of a params.json: by its keys, or by the name of its file."""
    if "dim" not in document or "model" in document:
        return False
    return file_name in FILES or any(key in document for key in _OWN_KEYS)


def from_params_json(document: Mapping[str, Any], name: str) -> Imported:
    """The model of a params.json; `name` stands for the file in messages.

    A key that is not read is refused, because it may change the count.
    """
    given = {key: value for key, value in document.items() if value is not None}
    for key, value in given.items():
        _check(key, value, name)
    if absent := [key for key in _REQUIRED if key not in given]:
        raise ConfigError(f"{name}: {absent[0]} is missing; is the file complete?")
    values = {**_SIZES, **_NUMBERS, **_SWITCHES}
    fields = {field: given[key] for key, field in values.items() if field and key in given}
    fields["norm_eps"] = float(given.get("norm_eps", 1e-5))
    fields["rope_theta"] = float(given.get("rope_theta", 10_000.0))
    fields.setdefault("tied", False)
    if "hidden_dim" not in given:
        fields["intermediate_size"] = ffn_width(
            given["dim"], given.get("multiple_of", 256), given.get("ffn_dim_multiplier", 1.0)
        )
    missing = {}
    if fields.get("vocab_size", -1) == -1:
        fields.pop("vocab_size", None)
        missing["vocab_size"] = _ASK_FOR_VOCABULARY.format(given.get("vocab_size", "missing"))
    unsupported = (_SCALED_ROPE,) if given.get("use_scaled_rope") else ()
    notes = []
    if unsupported:
        notes.append(unsupported_note(unsupported, is_built=True))
    if "tied_embeddings" not in given:
        notes.append(
            "the head counts apart from the embedding, as in Meta's files; Llama 3.2 1B and 3B are tied"
        )
    return Imported(fields, tuple(notes), unsupported, missing)


def ffn_width(dim: int, multiple_of: int, multiplier: float) -> int:
    """Two thirds of 4 * dim, times the multiplier, rounded down each time; then up to a multiple."""
    return -(-int(multiplier * (8 * dim // 3)) // multiple_of) * multiple_of


def _check(key: str, value: Any, name: str) -> None:
    """Refuse an unknown key, and a value of another type or size."""
    if key in _SIZES:
        most = MOST_LAYERS if key == "n_layers" else LARGEST_SIZE
        is_open = key == "vocab_size" and value == -1
        wanted = f"a whole number from 1 to {most:,}"
        fits = is_open or (_is_whole(value) and 1 <= value <= most)
    elif key in _NUMBERS:
        largest = _LARGEST.get(key, sys.float_info.max)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted, fits = f"a number above 0, at most {largest:g}", is_number and 0 < value <= largest
    elif key in _SWITCHES:
        wanted, fits = "true or false", isinstance(value, bool)
    elif key in _WITHOUT_EFFECT:
        return
    else:
        known = ", ".join((*_SIZES, *_NUMBERS, *_SWITCHES))
        raise ConfigError(
            f"{name} is a params.json with {short_repr(key)}, which may change the model and is not read; "
            f"read are {known}; give the config.json of its Hugging Face conversion"
        )
    if not fits:
        raise ConfigError(f"{name}: {key} is {short_repr(value)}; it must be {wanted}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
