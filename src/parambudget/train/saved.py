"""Where trained weights lie: a run, one of its checkpoints, or a safetensors file beside a config.json."""

from dataclasses import dataclass
from pathlib import Path

from parambudget.arch.config import ModelConfig
from parambudget.arch.source import load
from parambudget.errors import InputError
from parambudget.train import checkpoint


@dataclass(frozen=True)
class Saved:
    """Trained weights, and what they are of."""

    weights: Path
    model: ModelConfig
    tokenizer: Path | None


def newest(path: Path) -> Path:
    """A checkpoint, or the newest one of a run."""
    folder = path
    if (path / "checkpoints").is_dir():
        saved = checkpoint.all_in(path / "checkpoints")
        if not saved:
            raise InputError(f"{path} has no checkpoint yet; wait for its first save")
        folder = saved[0]
    if not (folder / "state.json").is_file():
        raise InputError(f"{path} is no checkpoint; give a run's folder or its checkpoints/step-N")
    return folder


def find(path: Path) -> Saved:
    """The weights of a path, if they are as they were written."""
    if path.suffix == ".safetensors":
        beside = path.parent / "config.json"
        if not path.is_file() or not beside.is_file():
            raise InputError(f"{path} and {beside} must both be there; give a checkpoint or a run's folder")
        tokenizer = path.parent / "tokenizer.json"
        return Saved(path, load(beside, {}).model, tokenizer if tokenizer.is_file() else None)
    folder = newest(path)
    checkpoint.read_state(folder)
    model = load(folder / "config.json", {}).model
    return Saved(folder / "model.safetensors", model, folder / "tokenizer.json")
