"""Checkpoints: a folder that is there whole or not at all.

    step-N/model.safetensors        float32 weights under the names of the table; a tied head once
           optimizer.safetensors    the optimizer's state, `<state>/<tensor>`
           state.json               step, tokens, random state, versions, threads, SHA-256 of the other files
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
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parambudget import __version__
from parambudget.errors import InputError
from parambudget.train.results import Step


def save(
    checkpoints: Path, step: Step, module: nn.Module, optimizer: torch.optim.Optimizer,
    config: dict[str, Any], tokenizer_json: str,
) -> Path:  # fmt: skip
    """Write `checkpoints/step-N` under a temporary name, flush it to the disk, then rename it."""
    final = checkpoints / f"step-{step.step}"
    unfinished = Path(tempfile.mkdtemp(dir=checkpoints, prefix=".unfinished-"))
    try:
        save_file(_weights(module), unfinished / "model.safetensors", {"format": "pt"})
        save_file(_optimizer_state(module, optimizer), unfinished / "optimizer.safetensors")
        (unfinished / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (unfinished / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        hashes = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
        state = {"step": step.step, "tokens": step.tokens, "sha256": hashes, **_surroundings()}
        (unfinished / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            path.chmod(0o755 if path.is_dir() else 0o644)
            _flush(path)
        unfinished.rename(final)
        _flush(checkpoints)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InputError(
            f"cannot save {final}: {error.strerror or error}; earlier checkpoints are untouched"
        ) from None
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def load(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Put weights, and the optimizer's state if one is given, back in place; returns the completed updates.

    Every file is checked against its hash first.
    """
    state = read_state(folder)
    _restore(module, load_file(folder / "model.safetensors"), folder)
    if optimizer is not None:
        _restore_optimizer(module, optimizer, load_file(folder / "optimizer.safetensors"))
        torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch_rng"])), dtype=torch.uint8))
    return int(state["step"])


def all_in(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep`. Each loses its name first, so that none is ever seen in part."""
    for path in all_in(checkpoints)[keep:]:
        doomed = path.rename(checkpoints / f".unfinished-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files are all as they were written; names the file that is not."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        changed = [name for name, digest in state["sha256"].items() if _sha256(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"checkpoint {folder} is not complete ({error}); use another one") from None
    if changed:
        raise InputError(
            f"checkpoint {folder} is damaged: {', '.join(changed)} is not what was written; use another one"
        )
    return state


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in module.named_parameters()}


def _optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    named = module.named_parameters()
    return {
        f"{key}/{name}": value
        for name, parameter in named
        for key, value in optimizer.state[parameter].items()
    }


def _restore(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    parameters = dict(module.named_parameters())
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


def _restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Fused AdamW counts steps on the parameter's device.
        optimizer.state[parameter][kind] = value.to(parameter.device)


def _surroundings() -> dict[str, Any]:
    """What bit-exact repetition depends on besides the settings."""
    return {
        "torch_rng": bytes(torch.get_rng_state().tolist()).hex(),
        "n_threads": torch.get_num_threads(),
        "versions": {
            "parambudget": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": platform.machine(),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
