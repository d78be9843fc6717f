"""Checkpoints: a folder that is there whole or not at all.

    step-N/model.safetensors        float32 weights under the names of the table; a tied head once
           optimizer.safetensors    the optimizer's state, `<state>/<tensor>`
           state.json               step, losses, random state, environment, SHA-256 of the other files
           config.json              model, training settings and corpus: accepted wherever a model is
           tokenizer.json           as Hugging Face `tokenizers` writes it

Tensors and JSON only: loading a checkpoint cannot run code. The files are the same whether one process writes
them or several, each its own rows (`sharded`).
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from parambudget._files import publish_folder, sha256_of_file
from parambudget.errors import InputError
from parambudget.training.device import Environment
from parambudget.training.distributed import is_sharded
from parambudget.training.metrics import RunConfigDocument, StepMetrics, list_checkpoints

if TYPE_CHECKING:
    from parambudget.training.checkpoint.sharded import ShardedCheckpointWriter

_UNFINISHED: Final = ".unfinished-"
_SHARDS: Final = "shards"


class CheckpointState(TypedDict):
    """state.json of a checkpoint."""

    step: int
    tokens: int
    loss: float | None
    val_loss: float | None
    torch_rng: str
    """The bytes of torch's random state, in hexadecimal."""
    surroundings: dict[str, str | int]
    """The environment that a bit-exact repetition depends on."""
    sha256: dict[str, str]
    """Of every other file."""


@dataclass(frozen=True)
class RunMetadata:
    """What every checkpoint of a run repeats."""

    config: RunConfigDocument
    tokenizer_json: str
    environment: Environment
    shard_writer: "ShardedCheckpointWriter | None" = None
    """For a sharded model, whose tensors are this process's rows: how all processes write them together."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The contents of a checkpoint, copied to the CPU so that training can continue while it is written."""

    step: StepMetrics
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    torch_rng: str
    metadata: RunMetadata


def take_snapshot(
    step: StepMetrics, module: nn.Module, optimizer: torch.optim.Optimizer, metadata: RunMetadata
) -> Snapshot:
    """Copy what the next update will change. Keeps the device waiting only for the copy."""
    writer = metadata.shard_writer

    def copy(value: Tensor) -> Tensor:
        value = value.detach()
        return _copy_to_cpu(value) if writer is None else writer.copy_shard(value, _copy_to_cpu)

    weights = {name: copy(value) for name, value in _saved_tensors(module).items()}
    state = {
        f"{key}/{name}": copy(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Snapshot(step, weights, state, bytes(torch.get_rng_state().tolist()).hex(), metadata)


def write_checkpoint(checkpoints: Path, snapshot: Snapshot) -> Path:
    """Write `checkpoints/step-N` under a temporary name, sync it to the disk, then rename it."""
    final, unfinished = checkpoints / f"step-{snapshot.step.step}", _unfinished_path(checkpoints, snapshot)
    metadata = snapshot.metadata
    try:
        with _explain_write_errors(final):
            if metadata.shard_writer is not None:
                # Before anything that can fail: the other processes wait here. It creates the folder.
                metadata.shard_writer.write(unfinished / _SHARDS, snapshot.weights | snapshot.optimizer)
            unfinished.mkdir(parents=True, exist_ok=True)
            _write_tensors(unfinished, snapshot)
            (unfinished / "config.json").write_text(json.dumps(metadata.config, indent=2), encoding="utf-8")
            (unfinished / "tokenizer.json").write_text(metadata.tokenizer_json, encoding="utf-8")
            hashes = {path.name: sha256_of_file(path) for path in sorted(unfinished.iterdir())}
            state = json.dumps(_state_document(snapshot, hashes), indent=2)
            (unfinished / "state.json").write_text(state, encoding="utf-8")
            publish_folder(unfinished, final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


@contextmanager
def _explain_write_errors(final: Path) -> Iterator[None]:
    """Turn errors of the disk into one line that names the checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot save {final}: {reason}") from None


def write_shards(checkpoints: Path, snapshot: Snapshot) -> None:
    """Write this process's shards of the checkpoint that the main process is writing."""
    writer = snapshot.metadata.shard_writer
    assert writer is not None, "only a sharded model is written by several processes"
    with _explain_write_errors(checkpoints / f"step-{snapshot.step.step}"):
        folder = _unfinished_path(checkpoints, snapshot) / _SHARDS
        writer.write(folder, snapshot.weights | snapshot.optimizer)


def load_weights(folder: Path, module: nn.Module, *, check: bool = True) -> CheckpointState:
    """Load the weights, after every file was checked against its hash; returns state.json."""
    state = read_state(folder, check=check)
    _restore_weights(module, folder)
    return state


def restore(
    folder: Path, state: CheckpointState, module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Restore weights, optimizer and random state; `state` is what `read_state` returned."""
    _restore_weights(module, folder)
    _restore_optimizer(module, optimizer, folder)
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch_rng"])), dtype=torch.uint8))


def best_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, the newest of equals; None if none was evaluated."""
    evaluated = [
        (loss, path) for path in list_checkpoints(checkpoints) if (loss := _val_loss(path)) is not None
    ]
    return min(evaluated, key=lambda pair: pair[0])[1] if evaluated else None


def remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` and the best."""
    best = best_checkpoint(checkpoints)
    for path in list_checkpoints(checkpoints)[keep:]:
        if path != best:
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint if it exists. It is renamed first, so that no reader sees a part of it."""
    if folder.exists():
        renamed = folder.rename(folder.with_name(f"{_UNFINISHED}{folder.name}"))
        shutil.rmtree(renamed, ignore_errors=True)


def remove_partial_saves(checkpoints: Path) -> None:
    """Remove what an interrupted save or removal has left."""
    for path in checkpoints.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def require_checkpoint(folder: Path) -> None:
    """Refuse what is not a checkpoint at all; whether it is complete is checked when it is read."""
    if not (folder / "state.json").is_file():
        raise InputError(
            f"{folder} is not a checkpoint; give a folder such as runs/NAME/checkpoints/step-100"
        )


def read_state(folder: Path, *, check: bool = True) -> CheckpointState:
    """state.json of a checkpoint whose files match their hashes; the error names the file that does not.

    Of several processes one needs to `check`.
    """
    try:
        state: CheckpointState = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        hashes = state["sha256"].items() if check else ()
        changed = [name for name, digest in hashes if sha256_of_file(folder / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {folder} is not complete ({error}); use another one") from None
    if changed:
        raise InputError(
            f"checkpoint {folder} is damaged: {', '.join(changed)} does not match its hash; use another one"
        )
    return state


def _state_document(snapshot: Snapshot, hashes: dict[str, str]) -> CheckpointState:
    step = snapshot.step
    return {
        "step": step.step, "tokens": step.tokens, "loss": step.loss, "val_loss": step.val_loss,
        "torch_rng": snapshot.torch_rng, "surroundings": snapshot.metadata.environment.as_dict(),
        "sha256": hashes,
    }  # fmt: skip


def _unfinished_path(checkpoints: Path, snapshot: Snapshot) -> Path:
    """The name of a checkpoint until it is complete; every process that writes to it derives the same one."""
    return checkpoints / f"{_UNFINISHED}{snapshot.step.step}"


def _write_tensors(folder: Path, snapshot: Snapshot) -> None:
    files = {"model.safetensors": snapshot.weights, "optimizer.safetensors": snapshot.optimizer}
    if snapshot.metadata.shard_writer is None:
        for name, tensors in files.items():
            save_file(tensors, folder / name, {"format": "pt"})
        return
    from parambudget.training.checkpoint.sharded import consolidate

    for name, tensors in files.items():
        consolidate(folder / _SHARDS, tensors, folder / name)
    shutil.rmtree(folder / _SHARDS)


def _copy_to_cpu(source: Tensor) -> Tensor:
    pinned = source.device.type == "cuda"
    copy = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(source, non_blocking=pinned)


def _saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters, a shared one once, and the persistent buffers."""
    persistent = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return dict(module.named_parameters()) | buffers


def _restore_weights(module: nn.Module, folder: Path) -> None:
    parameters = _saved_tensors(module)
    shapes = _read_shapes(folder / "model.safetensors")
    if parameters.keys() != shapes.keys():
        name = min(parameters.keys() ^ shapes.keys())
        raise InputError(f"checkpoint {folder} is of another model: only one of the two has {name!r}")
    for name, parameter in parameters.items():
        if parameter.shape != shapes[name]:
            raise InputError(
                f"checkpoint {folder} is of another model: {name} is {tuple(shapes[name])} there "
                f"and {tuple(parameter.shape)} here"
            )
    _fill(parameters, folder / "model.safetensors")


def _restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    parameters, state = dict(module.named_parameters()), {}
    for key, shape in _read_shapes(folder / "optimizer.safetensors").items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Fused AdamW counts its steps on the parameter's device.
        state[key] = torch.zeros_like(parameter) if shape else torch.zeros((), device=parameter.device)
        optimizer.state[parameter][kind] = state[key]
    _fill(state, folder / "optimizer.safetensors")


def _read_shapes(path: Path) -> dict[str, torch.Size]:
    with safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def _fill(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of these names from a file; of sharded ones, this process's rows."""
    if any(map(is_sharded, tensors.values())):
        from parambudget.training.checkpoint.sharded import read_shards

        read_shards(path.parent, tensors)
        return
    with safe_open(path, framework="pt") as file:
        for name, tensor in tensors.items():
            tensor.copy_(file.get_tensor(name))


def _val_loss(folder: Path) -> float | None:
    try:
        loss = json.loads((folder / "state.json").read_text(encoding="utf-8"))["val_loss"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return loss if isinstance(loss, float) else None
