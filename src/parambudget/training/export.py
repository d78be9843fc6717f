"""A checkpoint as a folder that transformers loads, with the same logits and the same tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import save_pretrained
from parambudget.text.tokenizer import ends, tokenizer_files
from parambudget.training.generate import Loaded

TOKENIZER_OF_ITS_OWN: Final = ("qwen2",)
"""Classes for which transformers 5 has `AutoTokenizer` cut texts by rules of its own, whatever the files say.

Source: transformers 5.24, models/auto/tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.
"""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    made: Export
    files: list[str]
    notes: tuple[str, ...]


def require_same_model(asked: ModelConfig, loaded: Loaded) -> None:
    """Refuse weights of another model than the one that was asked for."""
    there, here = loaded.module.model.model_dump(), asked.model_dump()
    for name, value in here.items():
        if there[name] != value:
            raise ConfigError(
                f"{loaded.folder} is of another model: {name} is {there[name]!r} there and {value!r} here; "
                "leave the model out, it comes from the checkpoint"
            )


def export_weights(loaded: Loaded, out: Path, kind: str | None = None) -> Exported:
    """Write config, weights and tokenizer into a new folder: all of it or nothing.

    Refuses a model that every class would compute with other logits.
    """
    model, tokenizer = loaded.module.model, loaded.tokenizer
    made = to_hf(model, kind)
    if made.unsupported:
        raise ConfigError(
            f"no class of transformers gives these weights the same logits: {made.name} computes "
            f"{', '.join(made.unsupported)}; export the config alone, without --weights"
        )
    document = made.document | ends(tokenizer) | {"dtype": "float32"}
    files = save_pretrained(loaded.module, document, out, tokenizer_files(tokenizer, model.context_length))
    notes = made.notes
    if made.name in TOKENIZER_OF_ITS_OWN:
        notes += (
            f"AutoTokenizer of transformers 5 has its own tokenizer for {made.name}: load this one with "
            "PreTrainedTokenizerFast.from_pretrained",
        )
    return Exported(made, files, notes)
