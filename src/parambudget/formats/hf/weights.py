"""A model from a folder that Hugging Face's `save_pretrained` has written, with the logits it has there.

config.json                     the class and its sizes
model.safetensors               the weights under the names of the class; several files when large, and then
model.safetensors.index.json    which tensor stands in which of them
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parambudget._files import read_json
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.build.stored import Stored, placed, shape_of
from parambudget.errors import InputError
from parambudget.formats.hf.importer import from_hf
from parambudget.nn.transformer import Device, Transformer

ONE_FILE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_NO_WEIGHTS: Final = re.compile(
    r"rotary_emb\.(inv_freq|(cos|sin)_cached)$|\b(attn|attention)\.(bias|masked_bias|causal_mask)$"
)
"""Tables and masks that older files hold beside the weights, and that follow from the config."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of a Hugging Face model: its config, and where its tensors are."""

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, Path]
    """By the tensor's name."""

    @property
    def kind(self) -> str:
        """The `model_type`."""
        return str(self.config["model_type"])


def is_pretrained(path: Path) -> bool:
    """Whether the folder has a config.json that says which class of Hugging Face it is of."""
    if not (path / "config.json").is_file():
        return False
    document = read_json(path / "config.json")
    return isinstance(document, dict) and "model_type" in document


def load_pretrained(
    path: str | Path, *, device: Device = None, on_notice: Callable[[str], None] = lambda _: None
) -> Transformer:
    """The model in a folder, its weights in float32; `on_notice` hears what it computes otherwise."""
    path = Path(path)
    if not is_pretrained(path):
        raise InputError(f"{path} is no folder of a Hugging Face model; give one with a config.json")
    imported = from_hf(read_json(path / "config.json"), str(path / "config.json"))
    for note in imported.notes:
        on_notice(f"{path}: {note}")
    module = Transformer(with_defaults(imported.fields).model, device=device, dtype=torch.float32)
    fill_from_pretrained(module, path)
    return module.eval()


@torch.no_grad()
def fill_from_pretrained(module: Transformer, path: Path) -> None:
    """Put a folder's weights in place; refuses missing, superfluous and other tensors before it reads any."""
    with failures_told(path), ExitStack() as opened:
        folder = _folder(path)
        files = {
            file: opened.enter_context(safe_open(file, framework="pt"))
            for file in sorted(set(folder.files.values()))
        }
        rows, parts = _placed(folder, module)
        for row in rows:
            held = files[folder.files[row.name]].get_slice(row.name)
            _require_same(folder, row, held, shape_of(row, parts, module.model))
        _require_tied(folder, module.model, rows, files)
        for row in rows:
            row.put(files[folder.files[row.name]].get_tensor(row.name), parts, module.model)


def weight_files(path: Path) -> list[Path]:
    """The files with a folder's weights."""
    return sorted(set(_folder(path).files.values()))


@contextmanager
def failures_told(path: Path) -> Iterator[None]:
    """What safetensors or the disk refuses is one line."""
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path}: {error}; is every .safetensors file in it complete?") from None
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def _folder(path: Path) -> Folder:
    config = read_json(path / "config.json")
    if not (path / INDEX).is_file():
        if not (path / ONE_FILE).is_file():
            raise InputError(f"{path} has neither {ONE_FILE} nor {INDEX}; save its weights as safetensors")
        with safe_open(path / ONE_FILE, framework="pt") as file:
            return Folder(path, config, dict.fromkeys(file.keys(), path / ONE_FILE))
    index = read_json(path / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in places.values()
    ):
        raise InputError(f"{path / INDEX} has no weight_map of tensors to files beside it; is it complete?")
    return Folder(path, config, {name: path / file for name, file in places.items()})


def _placed(folder: Folder, module: Transformer) -> tuple[list[Stored], dict[str, Tensor]]:
    """The tensors that a file of the class has, and ours; all are there, and no others."""
    rows, parts, form = placed(folder.kind, module.state_dict(), module.model, folder.files)
    known = {row.name for row in rows}
    missing = [row.name for row in rows if row.name not in folder.files]
    further = _further_layers(folder, module.model, form.layers)
    other = [
        name
        for name in folder.files
        if name not in known and not _NO_WEIGHTS.search(name) and not name.startswith(further)
    ]
    heads = _heads(other) if module.model.tied else []
    superfluous = [name for name in other if name not in heads]
    for found, what in ((missing, "lack"), (superfluous, "also hold")):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise InputError(
                f"{folder.path} is not the {folder.kind} model of its config.json: its weights {what} "
                f"{found[0]}{more}; use the config.json and the weights of one model"
            )
    return rows, parts


def _heads(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in ("lm_head.weight", "embed_out.weight")]


def _further_layers(folder: Folder, m: ModelConfig, layers: str) -> tuple[str, ...]:
    """Where the layers for predicting further tokens are, which are no part of the class."""
    n_further = folder.config.get("num_nextn_predict_layers") or 0
    return tuple(f"{layers}.{m.n_layers + i}." for i in range(n_further))


def _require_same(folder: Folder, row: Stored, held: Any, shape: torch.Size) -> None:
    if list(held.get_shape()) != list(shape):
        raise InputError(
            f"{folder.path} is not the {folder.kind} model of its config.json: {row.name} is "
            f"{tuple(held.get_shape())} there and {tuple(shape)} here"
        )
    if held.get_dtype() not in _FLOATS:
        raise InputError(
            f"{folder.files[row.name]} holds {row.name} as {held.get_dtype()}; "
            f"give weights that are not quantized: {', '.join(_FLOATS)}"
        )


def _require_tied(folder: Folder, m: ModelConfig, rows: Iterable[Stored], files: Mapping[Path, Any]) -> None:
    """A head that is written beside the embedding it is tied to must be that embedding."""
    embed = next(row.name for row in rows if row.parts == ("embed.weight",))
    for head in _heads(folder.files) if m.tied else []:
        one, other = (files[folder.files[name]].get_tensor(name) for name in (embed, head))
        if not torch.equal(one, other):
            raise InputError(
                f"{folder.path} says tie_word_embeddings, but {head} is not {embed}; "
                "set it to false in config.json"
            )
