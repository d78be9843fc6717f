"""A Hugging Face folder, config.json beside safetensors files, as our module: the same logits.

Tensors only: nothing that is read can run code. Weights go into place one tensor of the files at a time.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import complete
from parambudget.arch.hf.read import from_hf
from parambudget.build.module import Device, Transformer
from parambudget.build.names.entries import Entry, entries, with_second, without_second
from parambudget.errors import ConfigError, InputError
from parambudget.files import read_json

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_NOT_LEARNED: Final = ("inv_freq", "attn.bias", "masked_bias", "attention.bias")
"""Tables of angles and masks that old checkpoints hold."""


@dataclass(frozen=True)
class Pretrained:
    """What a folder says it holds."""

    folder: Path
    kind: str
    """Its `model_type`."""
    model: ModelConfig
    notes: tuple[str, ...]
    """What a person should know about how its config.json was read."""


def is_pretrained(folder: Path) -> bool:
    """Whether it is a folder of Hugging Face form, with its weights or without."""
    path = folder / "config.json"
    if not path.is_file() or (folder / "state.json").is_file():
        return False
    document = read_json(path)
    return isinstance(document, dict) and "model_type" in document


def described(folder: Path) -> Pretrained:
    """What the folder's config.json says; `ConfigError` if it is none that is read."""
    path = folder / "config.json"
    document = read_json(path)
    if not isinstance(document, dict) or "model_type" not in document:
        raise ConfigError(f"{path} has no model_type; give a folder of Hugging Face form")
    imported = from_hf(document, str(path))
    return Pretrained(folder, document["model_type"], complete(imported.fields).model, imported.notes)


def load_pretrained(folder: str | Path, *, device: Device = None) -> Transformer:
    """The model of a Hugging Face folder with its weights, in float32."""
    found = described(Path(folder))
    module = Transformer(found.model, device=device, dtype=torch.float32)
    fill(module, found)
    return module


@torch.no_grad()
def fill(module: Transformer, found: Pretrained) -> tuple[str, ...]:
    """Put the folder's weights in place; returns what it holds besides that the class does not read."""
    names = entries(found.kind, found.model)
    with opened(found.folder) as files:
        left = set(files.names)
        own = own_tensors(module)
        for entry in names:
            name = _name_in(files, entry.theirs)
            if name is None:
                raise InputError(
                    f"{found.folder} has no tensor {entry.theirs}, which its config.json asks for; "
                    "are all its files there?"
                )
            whole = files.get(name)
            _require_shape(found, entry, whole)
            for ours, part in entry.split(whole).items():
                put(own, ours, part)
            left.discard(name)
    return tuple(sorted(name for name in left if not _known(name, found.model)))


def own_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters, a shared one once, and the buffers that belong to the weights."""
    saved = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    return dict(module.named_parameters()) | buffers


def put(own: Mapping[str, Tensor], name: str, value: Tensor) -> None:
    """Copy a tensor to where its name says: into one of ours, a part of one, or several."""
    if name in own:
        own[name].copy_(value)
    elif (whole := without_second(name)) in own:
        own[whole][_second(name)].copy_(value)
    else:
        for i, part in enumerate(value):
            own[with_second(name, i)].copy_(part)


def got(own: Mapping[str, Any], get: Callable[[str], Tensor], name: str) -> Tensor:
    """The tensor that a name stands for: one of ours, a part of one, or several as one."""
    if name in own:
        return get(name)
    if (whole := without_second(name)) in own:
        return get(whole)[_second(name)]
    parts: list[Tensor] = []
    while (part := with_second(name, len(parts))) in own:
        parts.append(get(part))
    return torch.stack(parts)


def _second(name: str) -> int:
    return [int(part) for part in name.split(".") if part.isdecimal()][1]


@dataclass(frozen=True, eq=False)
class Files:
    """Safetensors files that are open, as one."""

    names: Mapping[str, Any]
    """Each tensor's file."""

    def get(self, name: str) -> Tensor:
        """A tensor from the disk."""
        tensor: Tensor = self.names[name].get_tensor(name)
        return tensor


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights: those that its index names, or the one there is."""
    if (folder / INDEX).is_file():
        return [folder / name for name in _index(folder / INDEX)]
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    raise InputError(
        f"{folder} has neither {WHOLE} nor {INDEX}; save the model with save_pretrained of transformers"
    )


@contextmanager
def opened(folder: Path) -> Iterator[Files]:
    """The weights of a folder: of one file, or of those that its index names."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, "pt")) for path in weight_files(folder)]
            names = {tensor: file for file in files for tensor in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"the weights in {folder} cannot be read ({error})") from None
        yield Files(names)


def _index(path: Path) -> list[str]:
    """The files that an index names, of its own folder and no other."""
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return sorted({Path(file).name for file in named.values()})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not an index of weights ({error})") from None


def _name_in(files: Files, name: str) -> str | None:
    """The tensor's name there; checkpoints of a model without its head leave out the first word."""
    return next((one for one in (name, name.partition(".")[2]) if one in files.names), None)


def _require_shape(found: Pretrained, entry: Entry, whole: Tensor) -> None:
    wanted = expected_shape(entry)
    if whole.shape != wanted:
        raise InputError(
            f"{entry.theirs} in {found.folder} is {tuple(whole.shape)}, and its config.json asks for "
            f"{tuple(wanted)}; do the files belong together?"
        )


def expected_shape(entry: Entry) -> torch.Size:
    """The shape of their tensor."""
    shapes = dict(zip(entry.ours, entry.shapes, strict=True))
    return entry.join(lambda name: torch.empty(tuple(shapes[name]), device="meta")).shape


def _known(name: str, model: ModelConfig) -> bool:
    """Whether it is no surprise: the head's own name for a tied embedding, tables that are not learned."""
    return name.endswith(_NOT_LEARNED) or (model.tied and name in ("lm_head.weight", "embed_out.weight"))
