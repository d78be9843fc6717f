"""Export a checkpoint as a folder that transformers loads, with the same logits and the same tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import save_pretrained
from parambudget.text.tokenizer import end_token_ids, tokenizer_files
from parambudget.training.generate import LoadedModel

TOKENIZER_OF_ITS_OWN: Final = ("qwen2",)
"""Classes for which `AutoTokenizer` of transformers 5 splits text by rules of its own, whatever the files
say.

Source: transformers 5.24, models/auto/tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.
"""


@dataclass(frozen=True)
class ExportedWeights:
    """The exported folder: its config, its files, and notes about them."""

    made: Export
    files: list[str]
    notes: tuple[str, ...]


def require_same_model(requested: ModelConfig, loaded: LoadedModel) -> None:
    """Refuse weights of another model than the requested one."""
    there, here = loaded.module.model.model_dump(), requested.model_dump()
    for name, value in here.items():
        if there[name] != value:
            raise ConfigError(
                f"{loaded.folder} is of another model: {name} is {there[name]!r} there and {value!r} here; "
                "leave the model out: it is read from the checkpoint"
            )


def export_weights(loaded: LoadedModel, out: Path, model_type: str | None = None) -> ExportedWeights:
    """Write config, weights and tokenizer into a new folder: all of it or nothing.

    Refuses a model for which every class would compute other logits.
    """
    model, tokenizer = loaded.module.model, loaded.tokenizer
    made = to_hf(model, model_type)
    if made.unsupported:
        raise ConfigError(
            f"no class of transformers gives these weights the same logits: {made.name} computes "
            f"{', '.join(made.unsupported)}; export the config alone, without `weights`"
        )
    document = made.document | end_token_ids(tokenizer) | {"dtype": "float32"}
    files = save_pretrained(loaded.module, document, out, tokenizer_files(tokenizer, model.context_length))
    notes = made.notes
    if made.name in TOKENIZER_OF_ITS_OWN:
        notes += (
            f"AutoTokenizer of transformers 5 has its own tokenizer for {made.name}: load this one with "
            "PreTrainedTokenizerFast.from_pretrained",
        )
    return ExportedWeights(made, files, notes)
