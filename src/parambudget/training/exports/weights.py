"""Export a checkpoint for transformers or llama.cpp: with the same logits and the same tokens."""

from dataclasses import dataclass, replace
from pathlib import Path

from parambudget._files import atomic_folder, write_errors
from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError
from parambudget.formats.equivalence import Export
from parambudget.formats.gguf.exporter import to_gguf
from parambudget.formats.gguf.vocabulary import gguf_vocabulary
from parambudget.formats.hf.exporter import to_hf
from parambudget.formats.hf.weights import save_pretrained
from parambudget.formats.targets import ExportTarget, GGUFDtype
from parambudget.text.tokenizer import end_token_ids, tokenizer_files
from parambudget.training.exports.model_card import (
    CARD,
    TOKENIZER_OF_ITS_OWN,
    card_subject,
    model_card,
    read_training_record,
)
from parambudget.training.generate import LoadedModel


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


def export_weights(
    loaded: LoadedModel, out: Path, to: ExportTarget = "hf", model_type: str | None = None,
    dtype: GGUFDtype = "f32",
) -> ExportedWeights:  # fmt: skip
    """Write weights, config, tokenizer and model card into a new folder: all of it or nothing.

    Refuses a model that the tool would compute otherwise. `model_type` is for "hf", `dtype` for "gguf".
    """
    if to == "gguf":
        if model_type is not None:
            raise ConfigError(f"`model_type` is a class of transformers, and `to` is {to!r}; leave it out")
        return _export_gguf(loaded, out, dtype)
    return _export_pretrained(loaded, out, model_type)


def _export_pretrained(loaded: LoadedModel, out: Path, model_type: str | None) -> ExportedWeights:
    model, tokenizer = loaded.module.model, loaded.tokenizer
    made = to_hf(model, model_type)
    if made.unsupported:
        raise ConfigError(
            f"no class of transformers gives these weights the same logits: {made.name} computes "
            f"{', '.join(made.unsupported)}; export the config alone, without `weights`"
        )
    document = made.document | end_token_ids(tokenizer) | {"dtype": "float32"}
    others = tokenizer_files(tokenizer, model.context_length) | {CARD: _card(loaded, out, made, "hf")}
    files = save_pretrained(loaded.module, document, out, others)
    notes = made.notes
    if made.name in TOKENIZER_OF_ITS_OWN:
        notes += (
            f"AutoTokenizer of transformers 5 has its own tokenizer for {made.name}: load this one with "
            "PreTrainedTokenizerFast.from_pretrained",
        )
    return ExportedWeights(made, files, notes)


def _export_gguf(loaded: LoadedModel, out: Path, dtype: GGUFDtype) -> ExportedWeights:
    from parambudget.formats.gguf.weights import write_gguf  # needs the package gguf

    model = loaded.module.model
    made = replace(to_gguf(model), file=f"model-{dtype}.gguf")
    vocabulary = gguf_vocabulary(
        loaded.tokenizer, model.vocab_size, add_special_tokens=loaded.add_special_tokens
    )
    card = _card(loaded, out, made, "gguf")
    with write_errors(out), atomic_folder(out) as unfinished:
        notes = write_gguf(unfinished / made.file, loaded.module, made, vocabulary, dtype, out.resolve().name)
        (unfinished / CARD).write_text(card, encoding="utf-8")
    return ExportedWeights(made, [CARD, made.file], (*made.notes, *vocabulary.notes, *notes))


def _card(loaded: LoadedModel, out: Path, made: Export, to: ExportTarget) -> str:
    model = loaded.module.model
    record = read_training_record(loaded.folder, model)
    return model_card(out.resolve().name, card_subject(to, made, has_weights=True), model, record)
