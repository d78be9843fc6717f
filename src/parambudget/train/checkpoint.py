"""Checkpoints: a folder that is there whole or not at all.

    step-N/model.safetensors        float32 weights under the names of the table; a tied head once
           optimizer.safetensors    the optimizer's state, `<state>/<tensor>`
           state.json               step, losses, random state, surroundings, SHA-256 of the other files
           config.json              model, training settings and corpus: accepted wherever a model is
           tokenizer.json           as Hugging Face `tokenizers` writes it

Tensors and JSON only: loading one can run no code.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parambudget import __version__
from parambudget.errors import InputError
from parambudget.train.results import Step

_UNFINISHED: Final = ".unfinished-"


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


def snapshot(step: Step, module: nn.Module, optimizer: torch.optim.Optimizer, about: About) -> Snapshot:
    """Copy what the next update would change. Waits for the device no longer than the copy takes."""
    weights = {name: _copied(tensor) for name, tensor in _tensors(module).items()}
    state = {
        f"{key}/{name}": _copied(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Snapshot(step, weights, state, bytes(torch.get_rng_state().tolist()).hex(), about)


def write(checkpoints: Path, held: Snapshot) -> Path:
    """Write `checkpoints/step-N` under a temporary name, flush it to the disk, then rename it."""
    final = checkpoints / f"step-{held.step.step}"
    unfinished = checkpoints
    try:
        unfinished = Path(tempfile.mkdtemp(dir=checkpoints, prefix=_UNFINISHED))
        save_file(held.weights, unfinished / "model.safetensors", {"format": "pt"})
        save_file(held.optimizer, unfinished / "optimizer.safetensors")
        (unfinished / "config.json").write_text(json.dumps(held.about.config, indent=2), encoding="utf-8")
        (unfinished / "tokenizer.json").write_text(held.about.tokenizer_json, encoding="utf-8")
        state = _state(held) | {"sha256": {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}}
        (unfinished / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            path.chmod(0o755 if path.is_dir() else 0o644)
            _flush(path)
        unfinished.rename(final)
        _flush(checkpoints)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot save {final}: {reason}") from None
    finally:
        if unfinished != checkpoints:
            shutil.rmtree(unfinished, ignore_errors=True)
    return final


def load_weights(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Put the weights in place, after every file was checked against its hash; returns state.json."""
    state = read_state(folder)
    _restore(module, load_file(folder / "model.safetensors"), folder)
    return state


def restore(folder: Path, state: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, optimizer and random state back as they were; `state` is what `read_state` gave."""
    _restore(module, load_file(folder / "model.safetensors"), folder)
    _restore_optimizer(module, optimizer, load_file(folder / "optimizer.safetensors"))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch_rng"])), dtype=torch.uint8))


def all_in(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


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


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files are all as they were written; names the file that is not."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        changed = [name for name, digest in state["sha256"].items() if _sha256(folder / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {folder} is not complete ({error}); use another one") from None
    if changed:
        raise InputError(
            f"checkpoint {folder} is damaged: {', '.join(changed)} is not what was written; use another one"
        )
    return state


def surroundings(device: str, n_processes: int = 1) -> dict[str, Any]:
    """What bit-exact repetition depends on besides the settings."""
    return {
        "device": device,
        "processes": n_processes,
        "threads": torch.get_num_threads(),
        "parambudget": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def _state(held: Snapshot) -> dict[str, Any]:
    step = held.step
    return {
        "step": step.step, "tokens": step.tokens, "loss": step.loss, "val_loss": step.val_loss,
        "torch_rng": held.torch_rng, "surroundings": held.about.surroundings,
    }  # fmt: skip


def _copied(value: Tensor) -> Tensor:
    source = value.detach()
    pinned = source.device.type == "cuda"
    copy = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(source, non_blocking=pinned)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters, a shared one once, and the buffers that belong to the weights."""
    saved = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    return dict(module.named_parameters()) | buffers


def _restore(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    parameters = _tensors(module)
    if parameters.keys() != weights.keys():
        name = min(parameters.keys() ^ weights.keys())
        raise InputError(f"checkpoint {folder} is of another model: {name!r} is in only one of the two")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise InputError(
                f"checkpoint {folder} is of another model: {name} is {tuple(weights[name].shape)} there "
                f"and {tuple(parameter.shape)} here"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _restore_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Fused AdamW counts steps on the parameter's device.
        optimizer.state[parameter][kind] = value.to(parameter.device)


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
