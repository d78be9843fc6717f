"""Checkpoints: a folder that is there whole or not at all.

    step-N/model.safetensors        float32 weights under the names of the table; a tied head once
           optimizer.safetensors    the optimizer's state, `<state>/<tensor>`
           state.json               step, losses, random state, surroundings, SHA-256 of the other files
           config.json              model, training settings and corpus: accepted wherever a model is
           tokenizer.json           as Hugging Face `tokenizers` writes it

Tensors and JSON only: loading one can run no code. The same files whether one process writes them or several,
each with its rows (`pieces`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from parambudget.errors import InputError
from parambudget.training.distributed import is_piece
from parambudget.training.metrics import Step, saved_in

if TYPE_CHECKING:
    from parambudget.training.checkpoint.sharded import Pieces

_UNFINISHED: Final = ".unfinished-"
_PIECES: Final = "pieces"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a checkpoint holds, copied to the CPU: training may go on while it is written."""

    step: Step
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    torch_rng: str
    about: "About"


@dataclass(frozen=True)
class About:
    """What every checkpoint of a run repeats."""

    config: dict[str, Any]
    tokenizer_json: str
    surroundings: dict[str, Any]
    pieces: "Pieces | None" = None
    """Of a model that is shared out: tensors are this process's rows, and this is how all write them."""


def snapshot(step: Step, module: nn.Module, optimizer: torch.optim.Optimizer, about: About) -> Snapshot:
    """Copy what the next update would change. Waits for the device no longer than the copy takes."""

    def copied(value: Tensor) -> Tensor:
        own = value.detach()
        return _copied(own) if about.pieces is None else about.pieces.copied(own, _copied)

    weights = {name: copied(value) for name, value in _tensors(module).items()}
    state = {
        f"{key}/{name}": copied(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Snapshot(step, weights, state, bytes(torch.get_rng_state().tolist()).hex(), about)


def write(checkpoints: Path, held: Snapshot) -> Path:
    """Write `checkpoints/step-N` under a temporary name, flush it to the disk, then rename it."""
    final, unfinished = checkpoints / f"step-{held.step.step}", _unfinished(checkpoints, held)
    try:
        with _failures_told(final):
            _write_tensors(unfinished, held)
            (unfinished / "config.json").write_text(json.dumps(held.about.config, indent=2), encoding="utf-8")
            (unfinished / "tokenizer.json").write_text(held.about.tokenizer_json, encoding="utf-8")
            hashes = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
            state = json.dumps(_state(held) | {"sha256": hashes}, indent=2)
            (unfinished / "state.json").write_text(state, encoding="utf-8")
            for path in (*unfinished.iterdir(), unfinished):
                path.chmod(0o755 if path.is_dir() else 0o644)
                _flush(path)
            unfinished.rename(final)
            _flush(checkpoints)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


@contextmanager
def _failures_told(final: Path) -> Iterator[None]:
    """What the disk refuses is one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot save {final}: {reason}") from None


def write_pieces(checkpoints: Path, held: Snapshot) -> None:
    """Write this process's part of the checkpoint that the leading one is writing."""
    assert held.about.pieces is not None, "only a model that is shared out is written by several"
    with _failures_told(checkpoints / f"step-{held.step.step}"):
        held.about.pieces.write(_unfinished(checkpoints, held) / _PIECES, held.weights | held.optimizer)


def load_weights(folder: Path, module: nn.Module, *, check: bool = True) -> dict[str, Any]:
    """Put the weights in place, after every file was checked against its hash; returns state.json."""
    state = read_state(folder, check=check)
    _restore(module, folder)
    return state


def restore(folder: Path, state: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, optimizer and random state back as they were; `state` is what `read_state` gave."""
    _restore(module, folder)
    _restore_optimizer(module, optimizer, folder)
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch_rng"])), dtype=torch.uint8))


def all_in(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return saved_in(checkpoints)


def best_in(checkpoints: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, the newest of equals; None if none was evaluated."""
    evaluated = [(loss, path) for path in all_in(checkpoints) if (loss := _val_loss(path)) is not None]
    return min(evaluated, key=lambda pair: pair[0])[1] if evaluated else None


def remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` and the best."""
    best = best_in(checkpoints)
    for path in all_in(checkpoints)[keep:]:
        if path != best:
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint if it is there. It loses its name first, so that it is never seen in part."""
    if folder.exists():
        doomed = folder.rename(folder.with_name(f"{_UNFINISHED}{folder.name}"))
        shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(checkpoints: Path) -> None:
    """Remove what a save or a removal that was cut short has left."""
    for path in checkpoints.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def require_checkpoint(folder: Path) -> None:
    """Refuse what is not a checkpoint at all; whether it is whole is seen when it is read."""
    if not (folder / "state.json").is_file():
        raise InputError(
            f"{folder} is not a checkpoint; give a folder such as runs/NAME/checkpoints/step-100"
        )


def read_state(folder: Path, *, check: bool = True) -> dict[str, Any]:
    """state.json of a checkpoint whose files are all as they were written; names the file that is not.

    One of several processes needs to `check`.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        hashes = state["sha256"].items() if check else ()
        changed = [name for name, digest in hashes if _sha256(folder / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {folder} is not complete ({error}); use another one") from None
    if changed:
        raise InputError(
            f"checkpoint {folder} is damaged: {', '.join(changed)} is not what was written; use another one"
        )
    return state


def _state(held: Snapshot) -> dict[str, Any]:
    step = held.step
    return {
        "step": step.step, "tokens": step.tokens, "loss": step.loss, "val_loss": step.val_loss,
        "torch_rng": held.torch_rng, "surroundings": held.about.surroundings,
    }  # fmt: skip


def _unfinished(checkpoints: Path, held: Snapshot) -> Path:
    """What a checkpoint is called until it is whole; every process that writes it knows the name."""
    return checkpoints / f"{_UNFINISHED}{held.step.step}"


def _write_tensors(folder: Path, held: Snapshot) -> None:
    files = {"model.safetensors": held.weights, "optimizer.safetensors": held.optimizer}
    if held.about.pieces is None:
        folder.mkdir(exist_ok=True)
        for name, tensors in files.items():
            save_file(tensors, folder / name, {"format": "pt"})
        return
    from parambudget.training.checkpoint.sharded import join

    # First of all, and the folder is made by it: the others wait for this process, also if it cannot write.
    held.about.pieces.write(folder / _PIECES, held.weights | held.optimizer)
    for name, tensors in files.items():
        join(folder / _PIECES, tensors, folder / name)
    shutil.rmtree(folder / _PIECES)


def _copied(source: Tensor) -> Tensor:
    pinned = source.device.type == "cuda"
    copy = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(source, non_blocking=pinned)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters, a shared one once, and the buffers that belong to the weights."""
    saved = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    return dict(module.named_parameters()) | buffers


def _restore(module: nn.Module, folder: Path) -> None:
    parameters = _tensors(module)
    shapes = _shapes(folder / "model.safetensors")
    if parameters.keys() != shapes.keys():
        name = min(parameters.keys() ^ shapes.keys())
        raise InputError(f"checkpoint {folder} is of another model: {name!r} is in only one of the two")
    for name, parameter in parameters.items():
        if parameter.shape != shapes[name]:
            raise InputError(
                f"checkpoint {folder} is of another model: {name} is {tuple(shapes[name])} there "
                f"and {tuple(parameter.shape)} here"
            )
    _fill(parameters, folder / "model.safetensors")


def _restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    parameters, state = dict(module.named_parameters()), {}
    for key, shape in _shapes(folder / "optimizer.safetensors").items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Fused AdamW counts steps on the parameter's device.
        state[key] = torch.zeros_like(parameter) if shape else torch.zeros((), device=parameter.device)
        optimizer.state[parameter][kind] = state[key]
    _fill(state, folder / "optimizer.safetensors")


def _shapes(path: Path) -> dict[str, torch.Size]:
    with safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def _fill(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put in place what a file holds under these names; of what is shared out, this process's rows."""
    if any(map(is_piece, tensors.values())):
        from parambudget.training.checkpoint.sharded import read

        read(path.parent, tensors)
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
