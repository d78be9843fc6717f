"""Weights from and to a folder as Hugging Face's `save_pretrained` writes it, with the same logits both ways.

config.json                     the class and its sizes
model.safetensors               the weights under the names of the class, in several files if they are large
model.safetensors.index.json    which tensor is in which of several files

The names are data, in `families/`; how a layout is computed stands at the end of this file. A part is the
smallest unit of our weights: experts count one by one, whether or not the module stacks them.

E experts
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from parambudget._files import atomic_folder, read_json, write_errors, write_json
from parambudget.arch.config import ModelConfig, require_module
from parambudget.arch.defaults import with_defaults
from parambudget.errors import ConfigError, InputError
from parambudget.formats.hf.families.registry import find_family
from parambudget.formats.hf.importer import from_hf
from parambudget.formats.hf.multimodal import language_model
from parambudget.formats.hf.schema import Either, Layout, TensorNames, WeightNames
from parambudget.formats.imported import Imported
from parambudget.formats.source import require_whole_function
from parambudget.formats.unread import explain_checkpoint, explain_weights
from parambudget.nn.transformer import Device, Transformer
from parambudget.units import count_phrase

SINGLE_FILE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
SHARD_BYTES: Final = 5_000_000_000
"""Most bytes of one file, unless a single tensor is larger."""
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_NOT_WEIGHTS: Final = re.compile(
    r"rotary_emb\.(inv_freq|(cos|sin)_cached)$|\b(attn|attention)\.(bias|masked_bias|causal_mask)$"
    r"|\.(slope_rate|(query|key|diagonal)_decay)$"
)
"""Tables and masks that older files have besides weights, and that follow from the config."""


def is_pretrained(path: Path) -> bool:
    """Whether the folder has a config.json with the `model_type` of a Hugging Face class."""
    if not os.path.isfile(path / "config.json"):  # Path.is_file raises an error for a name that is too long
        return False
    document = read_json(path / "config.json", finite=False)
    return isinstance(document, dict) and "model_type" in document


def require_pretrained(path: Path) -> Imported:
    """What the config.json of a folder says; refuses one whose weights would compute something else here."""
    if not is_pretrained(path):
        if reason := explain_checkpoint(str(path)):
            raise InputError(reason)
        raise InputError(f"{path} is not the folder of a Hugging Face model; give one with a config.json")
    document, name = read_json(path / "config.json", finite=False), str(path / "config.json")
    imported = from_hf(document, name)
    require_module(with_defaults(imported.fields).model)
    place = language_model(document).place
    if place is not None:
        raise InputError(
            f"{path} holds a multimodal model, whose weights are not read; its {place} can be counted, "
            "planned and trained from scratch"
        )
    require_whole_function(imported.unsupported, name)
    return imported


def load_pretrained(
    folder: str | PathLike[str], *, device: Device = None, on_notice: Callable[[str], None] = lambda _: None
) -> Transformer:
    """The model in a folder, its weights in float32; `on_notice` receives notes about how it was read."""
    path = Path(folder)
    imported = require_pretrained(path)
    for note in imported.notes:
        on_notice(f"{path}: {note}")
    module = Transformer(with_defaults(imported.fields).model, device=device, dtype=torch.float32)
    fill_from_pretrained(module, path)
    return module.eval()


@torch.no_grad()
def fill_from_pretrained(module: Transformer, path: Path) -> None:
    """Copy a folder's weights into the module. Missing, additional and mismatched tensors are refused before
    any is read, and so is one that is not finite, by its name, when it is read."""
    with _one_line_errors(path), ExitStack() as stack:
        folder = _open_folder(path)
        files = {
            file: stack.enter_context(safe_open(file, framework="pt"))
            for file in sorted(set(folder.files.values()))
        }
        rows, parts = _match_folder(folder, module)
        for row in rows:
            tensor = files[folder.files[row.name]].get_slice(row.name)
            _require_shape_and_dtype(folder, row, tensor, row.shape(parts, module.model))
        _require_tied_head(folder, module.model, rows, files)
        for row in rows:
            row.copy_to_parts(files[folder.files[row.name]].get_tensor(row.name), parts, module.model)
            _require_finite(row, parts, folder.files[row.name])


def weight_files(path: Path) -> list[Path]:
    """The files with a folder's weights."""
    return sorted(set(_open_folder(path).files.values()))


def save_pretrained(
    module: Transformer, config: Mapping[str, Any], path: Path, others: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:  # fmt: skip
    """Write the module as a folder of the class that `config` names; returns the names of its files.

    `others` are further files of the folder, such as a tokenizer's. Either everything is written or nothing.
    """
    names = _weight_names(config["model_type"])
    with torch.no_grad():
        parts = split_into_parts(module.state_dict(), module.model, names)
        try:
            rows = stored_tensors(names, parts, module.model)
        except ConfigError as error:
            raise ConfigError(f"model_type {config['model_type']!r} cannot hold the model: {error}") from None
        with _one_line_errors(path), write_errors(path), atomic_folder(path) as unfinished:
            _write_shards(unfinished, _shards(rows, parts, shard_bytes), parts, module.model)
            write_json(unfinished / "config.json", config)
            for name, text in (others or {}).items():
                (unfinished / name).write_text(text, encoding="utf-8")
    return sorted(file.name for file in path.iterdir())


def _write_shards(
    folder: Path, shards: list[list["StoredTensor"]], parts: Mapping[str, Tensor], m: ModelConfig
) -> None:
    weight_map: dict[str, str] = {}
    size_bytes = 0
    for i, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        # Copies, because safetensors refuses tensors that share memory.
        tensors = {
            row.name: row.from_parts(parts, m).clone(memory_format=torch.contiguous_format) for row in shard
        }
        save_file(tensors, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": size_bytes}, "weight_map": weight_map})


def _shards(
    rows: Iterable["StoredTensor"], parts: Mapping[str, Tensor], most_bytes: int
) -> list[list["StoredTensor"]]:
    """The rows in files of at most so many bytes, in their order."""
    shards: list[list[StoredTensor]] = [[]]
    shard_bytes = 0
    for row in rows:
        size_bytes = sum(parts[part].nbytes for part in row.parts)
        if shards[-1] and shard_bytes + size_bytes > most_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(row)
        shard_bytes += size_bytes
    return shards


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Errors of safetensors or the disk as an `InputError` of one line."""
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path}: {error}; is every .safetensors file in it complete?") from None
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from None


@dataclass(frozen=True, eq=False)
class _Folder:
    """The folder of a Hugging Face model: its config, and where its tensors are."""

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, Path]
    """By the tensor's name."""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    def mismatch(self, reason: str) -> InputError:
        """The error of weights that do not belong to the config."""
        return InputError(f"{self.path} is not the {self.model_type} model of its config.json: {reason}")


def _open_folder(path: Path) -> _Folder:
    config = read_json(path / "config.json", finite=False)
    # As in transformers, the single file comes first: an index beside it is from an earlier save.
    if (path / SINGLE_FILE).is_file():
        with safe_open(path / SINGLE_FILE, framework="pt") as file:
            return _Folder(path, config, dict.fromkeys(file.keys(), path / SINGLE_FILE))
    if not (path / INDEX).is_file():
        raise InputError(
            explain_weights(path)
            or f"{path} has neither {SINGLE_FILE} nor {INDEX}; save its weights as safetensors"
        )
    index = read_json(path / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in weight_map.values()
    ):
        raise InputError(
            f"{path / INDEX} has no weight_map from tensors to files in its folder; is it complete?"
        )
    return _Folder(path, config, {name: path / file for name, file in weight_map.items()})


def _match_folder(folder: _Folder, module: Transformer) -> tuple[list["StoredTensor"], dict[str, Tensor]]:
    """The tensors that the files must have, and our parts; refuses missing and additional tensors."""
    rows, parts, names = match_tensors(folder.model_type, module.state_dict(), module.model, folder.files)
    known = {row.name for row in rows}
    missing = [row.name for row in rows if row.name not in folder.files]
    prediction_layers = _prediction_layers(folder, module.model, names.layers)
    unknown = [
        name
        for name in folder.files
        if name not in known and not _NOT_WEIGHTS.search(name) and not name.startswith(prediction_layers)
    ]
    heads = _output_heads(unknown) if module.model.tied else []
    additional = [name for name in unknown if name not in heads]
    for tensors, what in ((missing, "lack"), (additional, "also have")):
        if tensors:
            more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            raise folder.mismatch(
                f"its weights {what} {tensors[0]}{more}; use the config.json and the weights of one model"
            )
    return rows, parts


def _output_heads(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in ("lm_head.weight", "embed_out.weight", "head.weight")]


def _prediction_layers(folder: _Folder, m: ModelConfig, layers: str) -> tuple[str, ...]:
    """The prefixes of layers for multi-token prediction, which are not part of the class."""
    n_prediction_layers = folder.config.get("num_nextn_predict_layers") or 0
    return tuple(f"{layers}.{m.n_layers + i}." for i in range(n_prediction_layers))


def _require_shape_and_dtype(folder: _Folder, row: "StoredTensor", tensor: Any, shape: torch.Size) -> None:
    if list(tensor.get_shape()) != list(shape):
        raise folder.mismatch(
            f"{row.name} has shape {tuple(tensor.get_shape())} in the file and {tuple(shape)} in the model"
        )
    if tensor.get_dtype() not in _FLOATS:
        raise InputError(
            f"{folder.files[row.name]} stores {row.name} as {tensor.get_dtype()}; "
            f"give weights that are not quantized: {', '.join(_FLOATS)}"
        )


def _require_finite(row: "StoredTensor", parts: Mapping[str, Tensor], file: Path) -> None:
    """Refuse a tensor that has been read if it has NaN or infinity in the precision of the module."""
    if not all(bool(parts[part].isfinite().all()) for part in row.parts):
        raise InputError(
            f"{row.name} in {file} has values that are not finite; its training diverged or the file is "
            "damaged: use other weights"
        )


def _require_tied_head(
    folder: _Folder, m: ModelConfig, rows: Iterable["StoredTensor"], files: Mapping[Path, Any]
) -> None:
    """Refuse an output head that is stored in spite of being tied, and differs from the embedding."""
    embedding = next(row.name for row in rows if row.parts == ("embed.weight",))
    for head in _output_heads(folder.files) if m.tied else []:
        one, other = (files[folder.files[name]].get_tensor(name) for name in (embedding, head))
        if not torch.equal(one, other):
            raise InputError(
                f"{folder.path} has tie_word_embeddings, but {head} differs from {embedding}; "
                "set it to false in config.json"
            )


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    name: str
    parts: tuple[str, ...]
    """The names of our parts that it is made of."""
    layout: Layout
    norm_offset: int = 0

    def from_parts(self, parts: Mapping[str, Tensor], m: ModelConfig) -> Tensor:
        """The tensor, made of our parts."""
        whole = _LAYOUTS[self.layout].join([parts[part] for part in self.parts], m)
        return whole - self.norm_offset if self.norm_offset else whole

    def copy_to_parts(self, tensor: Tensor, parts: Mapping[str, Tensor], m: ModelConfig) -> None:
        """Copy its numbers to our parts, in the precision that those have."""
        targets = [parts[part] for part in self.parts]
        values = _LAYOUTS[self.layout].split(tensor, [target.shape for target in targets], m)
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
            if self.norm_offset:
                target.add_(self.norm_offset)

    def shape(self, parts: Mapping[str, Tensor], m: ModelConfig) -> torch.Size:
        """The shape that the class gives the tensor."""
        return self.from_parts({part: parts[part].to("meta") for part in self.parts}, m).shape


def match_tensors(
    model_type: str, tensors: Mapping[str, Tensor], m: ModelConfig, available: Collection[str]
) -> tuple[list[StoredTensor], dict[str, Tensor], WeightNames]:
    """How a module's tensors are stored, under those names of the class of which the fewest are missing from
    the `available` ones; with the module's parts, and the names."""
    matches = []
    for names in _weight_names(model_type).variants():
        parts = split_into_parts(tensors, m, names)
        rows = stored_tensors(names, parts, m)
        matches.append((sum(row.name not in available for row in rows), rows, parts, names))
    _, rows, parts, names = min(matches, key=lambda match: match[0])
    return rows, parts, names


def _weight_names(model_type: str) -> WeightNames:
    names = find_family(model_type).weights
    if names is None:
        raise ConfigError(
            f"{model_type} is counted and not built, so its weights are neither read nor written"
        )
    return names


def split_into_parts(tensors: Mapping[str, Tensor], m: ModelConfig, names: WeightNames) -> dict[str, Tensor]:
    """The tensors of a module without a tied head, stacked experts one by one; views, not copies."""
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if m.tied and name == "lm_head.weight":
            continue
        stem, experts, rest = name.partition(".experts.")
        if experts and m.moe is not None and m.moe.fused_experts:
            parts |= {f"{stem}.experts.{i}.{rest}": tensor[i] for i in range(m.moe.n_experts)}
        elif names.separate_head_norms and name.endswith(("q_norm.weight", "k_norm.weight")):
            stem, _, suffix = name.rpartition(".")
            parts |= {f"{stem}.{i}.{suffix}": tensor[i] for i in range(len(tensor))}
        elif names.separate_convolutions and name.endswith(".mixer.conv.weight"):
            stem, _, suffix = name.rpartition(".")
            kernels = zip("qkv", tensor.split(_convolution_widths(m)), strict=True)
            parts |= {f"{stem}.{part}.{suffix}": kernel for part, kernel in kernels}
        else:
            parts[name] = tensor
    return parts


def _convolution_widths(m: ModelConfig) -> tuple[int, int, int]:
    """Channels of queries, keys and values."""
    net = m.gated_delta_net
    assert net is not None, "only gated delta nets have the three"
    keys = net.delta_n_key_heads * net.delta_key_dim
    return keys, keys, net.delta_n_value_heads * net.delta_value_dim


def stored_tensors(names: WeightNames, parts: Collection[str], m: ModelConfig) -> list[StoredTensor]:
    """The tensors of a file, in the order of the layers; refuses a part that the class has no name for."""
    rows = [row for theirs, ours in names.top.items() for row in _rows("", theirs, "", ours, names, parts)]
    block = names.block if names.parallel_block is None or m.block != "parallel" else names.parallel_block
    mixer_block = block if names.mixer_block is None else names.mixer_block
    for layer in range(m.n_layers):
        for theirs, ours in (block if m.mixer_kind(layer) is None else mixer_block).items():
            rows += _rows(f"{names.layers}.{layer}.", theirs, f"layers.{layer}.", ours, names, parts)
    stored = {part for row in rows for part in row.parts}
    if left := [part for part in parts if part not in stored]:
        more = f" (and {count_phrase(len(left) - 1, 'more tensor')})" if len(left) > 1 else ""
        raise ConfigError(f"the class has no place for {left[0]}{more}")
    return rows


def _rows(
    their_prefix: str, theirs: str, our_prefix: str, ours: TensorNames, names: WeightNames,
    parts: Collection[str],
) -> Iterator[StoredTensor]:  # fmt: skip
    """The tensors under one name of the class, as far as the model has them: weight, bias, one per expert."""
    if isinstance(ours, Either):
        for one in (ours.first, ours.second):
            yield from _rows(their_prefix, theirs, our_prefix, one, names, parts)
        return
    layout = names.layout(theirs)
    for suffix in (".weight", ".bias", ""):
        own = [f"{our_prefix}{part}{suffix}" for part in ((ours,) if isinstance(ours, str) else ours)]
        name = f"{their_prefix}{theirs}{suffix}"
        # The norms of mixers' outputs are plain in all classes.
        is_offset = own[0].endswith("norm.weight") and ".mixer." not in own[0]
        norm_offset = names.norm_offset if is_offset else 0
        if "*" not in own[0]:
            if own[0] in parts:
                yield StoredTensor(name, tuple(own), layout, norm_offset)
            continue
        n = 0
        while own[0].replace("*", str(n)) in parts:
            n += 1
        if "*" in theirs:
            for i in range(n):
                numbered = tuple(part.replace("*", str(i)) for part in own)
                yield StoredTensor(name.replace("*", str(i)), numbered, layout, norm_offset)
        elif n:
            numbered = tuple(part.replace("*", str(i)) for part in own for i in range(n))
            yield StoredTensor(name, numbered, layout, norm_offset)


class WeightLayout(NamedTuple):
    """How a layout is computed: from our parts to the one tensor of the class, and back."""

    join: Callable[[Sequence[Tensor], ModelConfig], Tensor]
    split: Callable[[Tensor, Sequence[torch.Size], ModelConfig], Sequence[Tensor]]
    """Takes the shapes of our parts."""


def _join_rows(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    return torch.cat(tuple(parts)) if len(parts) > 1 else parts[0]


def _split_rows(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    return whole.split([shape[0] for shape in shapes]) if len(shapes) > 1 else [whole]


def _join_transposed_rows(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _join_rows(parts, m).mT if parts[0].dim() > 1 else _join_rows(parts, m)


def _split_transposed_rows(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return _split_rows(whole.mT if whole.dim() > 1 else whole, shapes, m)


def _join_as_row(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _join_rows(parts, m).unsqueeze(0)


def _split_row(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return _split_rows(whole.squeeze(0), shapes, m)


def _join_transposes(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _join_rows([part.T for part in parts], m)


def _split_transposes(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    return [part.T for part in whole.split([shape[1] for shape in shapes])]


def _by_groups(n_groups: Callable[[ModelConfig], int]) -> WeightLayout:
    """Rows group by group, each with a share of every part."""

    def join(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
        by_group = [part.unflatten(0, (n_groups(m), -1)) for part in parts]
        return torch.cat(by_group, dim=1).flatten(0, 1)

    def split(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
        n = n_groups(m)
        parts = whole.unflatten(0, (n, -1)).split([shape[0] // n for shape in shapes], dim=1)
        return [part.flatten(0, 1) for part in parts]

    return WeightLayout(join, split)


def _n_delta_key_heads(m: ModelConfig) -> int:
    assert m.gated_delta_net is not None, "only gated delta nets have the layout"
    return m.gated_delta_net.delta_n_key_heads


def _join_convolution(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return parts[0].unsqueeze(1) if parts[0].dim() == 2 else _join_rows(parts, m)


def _split_convolution(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return [whole.squeeze(1)] if whole.dim() == 3 else _split_rows(whole, shapes, m)


def _join_one_per_head(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    return parts[0].reshape(1, 1, -1, 1)


def _flatten_whole(whole: Tensor, _shapes: Sequence[torch.Size], _m: ModelConfig) -> Sequence[Tensor]:
    return [whole.flatten()]


def _join_one_per_channel(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    return parts[0].reshape(1, 1, -1)


def _join_swapped_halves(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _swap_halves(parts[0], m)


def _split_swapped_halves(whole: Tensor, _: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return [_swap_halves(whole, m)]


def _swap_halves(heads: Tensor, m: ModelConfig) -> Tensor:
    return heads.unflatten(0, (-1, 2, m.head_dim // 2)).flip(1).flatten(0, 2)


_CODEGEN_BLOCKS: Final = 4


def _join_codegen(parts: Sequence[Tensor], _: ModelConfig) -> Tensor:
    q, k, v = (part.unflatten(0, (_CODEGEN_BLOCKS, -1)) for part in parts)
    return torch.stack((q, v, k), dim=1).flatten(0, 2)


def _split_codegen(whole: Tensor, _shapes: Sequence[torch.Size], _m: ModelConfig) -> Sequence[Tensor]:
    q, v, k = whole.unflatten(0, (_CODEGEN_BLOCKS, 3, -1)).unbind(1)
    return [part.flatten(0, 1) for part in (q, k, v)]


def _expert_stacks(parts: Sequence[Tensor], m: ModelConfig) -> list[Tensor]:
    """One tensor (E, ...) for each projection: all gates, all ups."""
    assert m.moe is not None, "only experts are stacked"
    n_experts = m.moe.n_experts
    return [torch.stack(tuple(parts[i : i + n_experts])) for i in range(0, len(parts), n_experts)]


def _join_expert_stacks(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return torch.cat(_expert_stacks(parts, m), dim=1)


def _split_expert_stacks(whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig) -> Sequence[Tensor]:
    n_experts = whole.shape[0]
    projections = whole.split([shape[0] for shape in shapes[::n_experts]], dim=1)
    return [expert for projection in projections for expert in projection]


def _join_transposed_stacks(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    return _join_expert_stacks(parts, m).transpose(1, 2)


def _split_transposed_stacks(whole: Tensor, shapes: Sequence[torch.Size], m: ModelConfig) -> Sequence[Tensor]:
    return _split_expert_stacks(whole.transpose(1, 2), shapes, m)


def _join_interleaved_experts(parts: Sequence[Tensor], m: ModelConfig) -> Tensor:
    rows = torch.stack(_expert_stacks(parts, m), dim=2).flatten(1, 2)
    return rows.transpose(1, 2) if rows.dim() == 3 else rows


def _split_interleaved_experts(
    whole: Tensor, shapes: Sequence[torch.Size], _: ModelConfig
) -> Sequence[Tensor]:
    n_projections = len(shapes) // whole.shape[0]
    rows = whole.transpose(1, 2) if whole.dim() == 3 else whole
    return [
        expert for projection in rows.unflatten(1, (-1, n_projections)).unbind(2) for expert in projection
    ]


_LAYOUTS: Final[Mapping[Layout, WeightLayout]] = {
    "concat": WeightLayout(_join_rows, _split_rows),
    "single_row": WeightLayout(_join_as_row, _split_row),
    "concat_transposed": WeightLayout(_join_transposes, _split_transposes),
    "transposed": WeightLayout(_join_transposed_rows, _split_transposed_rows),
    "per_group_qkv": _by_groups(lambda m: m.n_kv_heads),
    "per_head": _by_groups(lambda m: m.n_heads),
    "per_key_head": _by_groups(_n_delta_key_heads),
    "convolution": WeightLayout(_join_convolution, _split_convolution),
    "one_per_head": WeightLayout(_join_one_per_head, _flatten_whole),
    "one_per_channel": WeightLayout(_join_one_per_channel, _flatten_whole),
    "codegen_qkv": WeightLayout(_join_codegen, _split_codegen),
    "stacked_experts": WeightLayout(_join_expert_stacks, _split_expert_stacks),
    "stacked_experts_transposed": WeightLayout(_join_transposed_stacks, _split_transposed_stacks),
    "interleaved_experts": WeightLayout(_join_interleaved_experts, _split_interleaved_experts),
    "swapped_halves": WeightLayout(_join_swapped_halves, _split_swapped_halves),
}
