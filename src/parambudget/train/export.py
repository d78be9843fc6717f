"""A trained model as a folder of Hugging Face form: weights, config, tokenizer; all of it or nothing."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from parambudget.arch.config import ModelConfig
from parambudget.arch.export.target import Export
from parambudget.build.export import SHARD_BYTES, write_weights
from parambudget.build.module import Transformer
from parambudget.build.pretrained import own_tensors
from parambudget.errors import InputError
from parambudget.files import write_json, written_together
from parambudget.text.tokenizer import TextTokenizer, prepared
from parambudget.train.saved import Saved


def write_pretrained(
    saved: Saved, made: Export, out: Path, *, force: bool = False, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write what transformers loads by `AutoModelForCausalLM.from_pretrained`, with the same logits.

    `made` is the model's config.json; a class that computes something else is refused.
    """
    if made.unsaid:
        raise InputError(f"{made.notes[0]}; its weights are not written, as they would mean something else")
    with written_together(out, force=force) as folder:
        try:
            with safe_open(saved.weights, "pt") as file:
                _require_tensors(saved, file)
                write_weights(
                    folder, made.name, saved.model, dict.fromkeys(file.keys()), file.get_tensor, shard_bytes
                )
        except SafetensorError as error:
            raise InputError(f"{saved.weights} cannot be read ({error}); use another checkpoint") from None
        special = _write_tokenizer(folder, saved) if saved.tokenizer else {}
        write_json(folder / "config.json", made.document | special | {"torch_dtype": "float32"})
        if special:
            write_json(folder / "generation_config.json", special)


def _require_tensors(saved: Saved, file: Any) -> None:
    wanted = {name: tuple(own.shape) for name, own in own_tensors(_on_meta(saved.model)).items()}
    held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise InputError(
                f"{saved.weights} is of another model: {name} is {held.get(name, 'missing')} there and "
                f"{wanted.get(name, 'no tensor')} in its config.json"
            )


def _on_meta(model: ModelConfig) -> Transformer:
    return Transformer(model, device="meta", dtype=torch.float32)


def _write_tokenizer(folder: Path, saved: Saved) -> dict[str, int | None]:
    """tokenizer.json and its settings; returns the ids that configs name."""
    tokenizer = read_saved_tokenizer(saved)
    document = json.loads(tokenizer.json)
    # Training saw no token put around a text, so none is put there now.
    document["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_text,
        "eos_token": tokenizer.end_text,
        "model_max_length": saved.model.context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)
    # A text begins where another has ended.
    return {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}


def read_saved_tokenizer(saved: Saved) -> TextTokenizer:
    """The tokenizer that the weights were trained with."""
    try:
        return prepared(Tokenizer.from_file(str(saved.tokenizer)), str(saved.tokenizer))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises no narrower class
        raise InputError(f"{saved.tokenizer} cannot be read ({error})") from None
