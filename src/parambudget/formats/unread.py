"""Files, folders and names that are recognised and not read: what each is, and what to give instead."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from parambudget._files import read_json
from parambudget.errors import InputError
from parambudget.formats.meta import FILES as PARAMS_FILES
from parambudget.formats.meta import is_params_json
from parambudget.units import shorten

_URL: Final = re.compile(r"[a-z]+://|(www\.)?(huggingface\.co|hf\.co)/|hf:")
_ONE_SLASH: Final = re.compile(r"([a-z]{2,}):/(?=[^/])")
"""Of a URL that was taken for a path, which has no empty parts."""
_HUB_ID: Final = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://|hf:)?"
    r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?:tree|blob|resolve|raw)/.*)?/?"
)
ADAPTER: Final = "adapter_config.json"
_FILES: Final = {
    "generation_config.json": "says how text is generated, not what the model is",
    "tokenizer.json": "is a tokenizer", "tokenizer_config.json": "is the config of a tokenizer",
    "special_tokens_map.json": "lists tokens", "vocab.json": "is the vocabulary of a tokenizer",
    "model.safetensors.index.json": "lists the files of the weights",
    "pytorch_model.bin.index.json": "lists the files of the weights",
    "trainer_state.json": "is the state of a trainer",
    "preprocessor_config.json": "says how images are prepared",
    "processor_config.json": "says how images are prepared",
    "model_index.json": "lists the parts of a diffusers pipeline",
    "modules.json": "lists the parts of a sentence-transformers model",
}  # fmt: skip
"""Files beside a config.json."""
_LITGPT: Final = ("model_config.yaml", "lit_config.json")
_SUFFIXES: Final = {
    ".safetensors": "holds weights", ".bin": "holds weights", ".pth": "holds weights", ".pt": "holds weights",
    ".ckpt": "holds weights", ".gguf": "is a GGUF file", ".yaml": "is a YAML file", ".yml": "is a YAML file",
}  # fmt: skip
_BEGINNINGS: Final = {
    b"\x89PNG": "is an image", b"\xff\xd8\xff": "is an image", b"GIF8": "is an image",
    b"RIFF": "is an image or a sound", b"%PDF": "is a PDF file", b"PK\x03\x04": "is a zip archive",
    b"\x1f\x8b": "is compressed", b"GGUF": "is a GGUF file", b"PAR1": "is a parquet file",
}  # fmt: skip
"""The first bytes of files that are named for them, whatever they are called."""
_HEAD_BYTES: Final = 4_096
_PICKLE: Final = "a pickle, which can run code when it is read"
_OTHER_WEIGHTS: Final = {
    ".bin": _PICKLE, ".pth": _PICKLE, ".pt": _PICKLE, ".ckpt": _PICKLE, ".gguf": "a file of llama.cpp",
    ".h5": "a file of TensorFlow", ".msgpack": "a file of Flax",
}  # fmt: skip
_HF_KEYS: Final = ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd")


def explain_path(source: str, wanted: str = "the config.json of the model") -> str | None:
    """What a path or name is that stands for no model here; None if it may stand for one.

    `wanted` is what to give instead of a file that lies beside it.
    """
    if os.path.isdir(source):
        return _explain_folder(Path(source))
    if os.path.exists(source):
        return _explain_file(Path(source), wanted)
    return _explain_hub(_ONE_SLASH.sub(r"\1://", source, count=1) if _ONE_SLASH.match(source) else source)


def explain_checkpoint(source: str) -> str | None:
    """What a path is that has no weights to load; None if it is not known."""
    path = Path(source)
    wanted = "the folder of a run or of a Hugging Face model"
    if reason := explain_path(source, wanted):
        return reason
    if os.path.isfile(path):
        document = read_json(path, finite=False)
        if not isinstance(document, dict):
            return f"{path} holds no model; give {wanted}"
        if reason := explain_document(document, source):
            return reason
        if is_params_json(document, path.name):
            return _params(source)
        return f"{path} holds no weights; give {wanted}, which has them beside its config.json"
    if any(os.path.isfile(path / name) for name in PARAMS_FILES):
        return _params(source)
    return None


def is_url(name: str) -> bool:
    """Whether a name is a URL, of the Hugging Face hub or another."""
    return _URL.match(_ONE_SLASH.sub(r"\1://", name, count=1)) is not None


def explain_document(document: Mapping[str, Any], name: str) -> str | None:
    """What a JSON object is that holds no model; None if it may hold one."""
    if "peft_type" in document or "base_model_name_or_path" in document:
        return _adapter(document, name)
    if "_from_model_config" in document:
        return f"{name} {_FILES['generation_config.json']}; give the config.json beside it"
    if "_class_name" in document or "_diffusers_version" in document:
        kind = document.get("_class_name")
        which = f" ({shorten(kind, 40)})" if isinstance(kind, str) else ""
        return (
            f"{name} is of the diffusers library{which}, not of a language model; give the config.json of a "
            "decoder-only language model"
        )
    found = [key for key in _HF_KEYS if key in document]
    if not found or "dim" in document or "model_type" in document:
        return None
    from parambudget.formats.hf.families.registry import FAMILIES  # only this message needs the families

    architectures = document.get("architectures")
    wanted = architectures[0] if isinstance(architectures, list) and architectures else None
    kinds = [kind for kind, one in FAMILIES.items() if wanted and one.model_class == wanted]
    # Several types may have a class; it is named after one of them.
    first = str(wanted).lower()
    own = (kind for kind in kinds if first.startswith(kind.replace("_", "").replace("-", "")))
    model_type = next(own, kinds[0] if kinds else None)
    example = f', it is "{model_type}" for {wanted}' if model_type else ""
    return (
        f"{name} is a Hugging Face config ({shorten(found[0], 40)}) without model_type, which says how it is "
        f"read; add it{example}"
    )


def _explain_folder(folder: Path) -> str | None:
    if (folder / "config.json").is_file():
        document = read_json(folder / "config.json", finite=False)
        return explain_document(document, str(folder)) if isinstance(document, dict) else None
    if (folder / ADAPTER).is_file():
        document = read_json(folder / ADAPTER)
        return _adapter(document if isinstance(document, dict) else {}, str(folder))
    names = [name for name in _names_in(folder) if (folder / name).is_file()]
    if any(name in _LITGPT for name in names):
        return _litgpt(str(folder))
    known = [name for name in names if name in _FILES or Path(name).suffix in _SUFFIXES]
    if not known:
        return None
    return f"{folder} has {shorten(known[0], 60)} and no config.json; put the model's config.json into it"


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None


def _explain_file(path: Path, wanted: str) -> str | None:
    if path.name in _LITGPT:
        return _litgpt(str(path))
    what = _FILES.get(path.name) or _SUFFIXES.get(path.suffix) or _other_content(path)
    return what and f"{path} {what}; give {wanted}"


def _other_content(path: Path) -> str | None:
    """What a file is that begins like no JSON. One called .json may be damaged, and is read to say where."""
    if not os.path.isfile(path):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None  # whoever reads it says why
    for beginning, what in _BEGINNINGS.items():
        if head.startswith(beginning):
            return what
    if path.suffix.lower() == ".json" or not head.strip():
        return None
    if b"\0" in head:
        return "is no text"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return None if start.startswith((b"{", b"[", b'"')) else "is text, not JSON"


def _params(name: str) -> str:
    return (
        f"{name} is of Meta's or Mistral's own format, of which the params.json is read and the weights are "
        "not; give a folder in Hugging Face's format, with config.json and safetensors"
    )


def _litgpt(name: str) -> str:
    return (
        f"{name} is of litgpt, whose model_config.yaml is written here and not read; give the config.json "
        "that litgpt downloads with the weights, or the config that was exported"
    )


def _adapter(document: Mapping[str, Any], name: str) -> str:
    base = document.get("base_model_name_or_path")
    which = f", {shorten(base, 80)}" if isinstance(base, str) and base else ""
    return (
        f"{name} is an adapter (LoRA or another kind of PEFT), a small addition to a model; give the folder "
        f"or config.json of its base model{which}, or merge the adapter into it first"
    )


def _explain_hub(name: str) -> str | None:
    """A model on the Hugging Face hub, or another URL."""
    match = _HUB_ID.fullmatch(name)
    if match is None and is_url(name):
        return f"{shorten(name, 100)} is a URL; download the file and give its path"
    if match is None or (not is_url(name) and os.path.isdir(name.partition("/")[0])):
        return None
    model = match["id"]
    folder = model.rpartition("/")[2]
    return (
        f"{shorten(name, 100)} is no file or folder here, and no model is downloaded from the Hugging Face "
        f"hub; if its model is meant: hf download {shorten(model, 100)} --local-dir {shorten(folder, 60)} "
        "(add config.json to get that alone), then give the folder"
    )


def explain_weights(folder: Path) -> str | None:
    """What the weights of a folder are where they are not safetensors; None if there are none."""
    names = _names_in(folder)
    if ADAPTER in names or "adapter_model.safetensors" in names:
        document = read_json(folder / ADAPTER) if ADAPTER in names else {}
        return _adapter(document if isinstance(document, dict) else {}, str(folder))
    for name in names:
        what = _OTHER_WEIGHTS.get(Path(name).suffix)
        if what is not None and name not in ("training_args.bin", "optimizer.pt", "scheduler.pt"):
            return (
                f"the weights of {folder} are {shorten(name, 60)}, {what}; only safetensors are read: "
                "load them with transformers and save them with save_pretrained"
            )
    return None


def require_readable(source: str) -> None:
    """Refuse a path or name that is known not to stand for a model."""
    if reason := explain_path(source):
        raise InputError(reason)
