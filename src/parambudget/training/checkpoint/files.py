"""Checkpoints: a folder that is there whole or not at all.

    step-N/model.safetensors        float32 weights under the names of the table; a tied head once
           optimizer.safetensors    the optimizer's state, `<state>/<tensor>`
           state.json               step, losses, random state, environment, SHA-256 of the other files and
                                    of its own content
           config.json              model, training settings and corpus: accepted wherever a model is
           tokenizer.json           as Hugging Face `tokenizers` writes it
           metrics.jsonl            the rows of the run up to here

Tensors and JSON only: loading a checkpoint cannot run code. The files are the same whether one process writes
them or several, each its own rows (`sharded`).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from parambudget._documents import CLOSED, Count, Sha256, read_with_seal, write_with_seal
from parambudget._files import publish_folder, require_inside, sha256_of_file, write_json
from parambudget.errors import InputError, without_advice
from parambudget.training.device import Environment
from parambudget.training.distributed import is_sharded
from parambudget.training.metrics import METRICS, RunConfigDocument, StepMetrics, list_checkpoints

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from parambudget.training.checkpoint.sharded import ShardedCheckpointWriter

HASHED: Final = (METRICS, "config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json")
"""Every file of a checkpoint but state.json."""
_UNFINISHED: Final = ".unfinished-"
_SHARDS: Final = "shards"


@dataclass(frozen=True)
class CheckpointState:
    """state.json of a checkpoint."""

    __pydantic_config__ = CLOSED

    step: Annotated[int, Field(ge=1, le=2**31)]
    tokens: Count
    loss: float | None
    val_loss: float | None
    torch_rng: Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]
    """The bytes of torch's random state, in hexadecimal."""
    surroundings: dict[str, str | int | bool]
    """The environment that a bit-exact repetition depends on."""
    sha256: dict[str, Sha256]
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
    metrics: Callable[[], bytes] = bytes
    """Flushes the rows of the run to the disk and returns them."""


def take_snapshot(
    step: StepMetrics, module: nn.Module, optimizer: torch.optim.Optimizer, metadata: RunMetadata,
    metrics: Callable[[], bytes] = bytes,
) -> Snapshot:  # fmt: skip
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
    rng = bytes(torch.get_rng_state().tolist()).hex()
    return Snapshot(step, weights, state, rng, metadata, metrics)


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
            write_json(unfinished / "config.json", metadata.config)
            (unfinished / "tokenizer.json").write_text(metadata.tokenizer_json, encoding="utf-8")
            (unfinished / METRICS).write_bytes(snapshot.metrics())
            hashes = {name: sha256_of_file(unfinished / name) for name in HASHED}
            write_with_seal(unfinished / "state.json", _state_document(snapshot, hashes))
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


def load_weights(folder: Path, module: nn.Module) -> None:
    """Load the weights of a checkpoint that `read_state` has found undamaged."""
    _restore_weights(module, folder)
    require_finite(_saved_tensors(module), str(folder))


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights of which one is not a finite number, and name the tensor."""
    for name, tensor in tensors.items():
        if not all_finite([tensor]):
            raise InputError(
                f"{name} in {where} has values that are not finite: training had diverged; use an earlier "
                "checkpoint, or train again with a lower `learning_rate`"
            )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is a finite number; of sharded tensors, every value that this process has."""
    own = [cast("DTensor", tensor).to_local() if is_sharded(tensor) else tensor for tensor in tensors]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in own]).all())


def restore(
    folder: Path, state: CheckpointState, module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Restore weights, optimizer and random state; `state` is what `read_state` returned."""
    load_weights(folder, module)
    _restore_optimizer(module, optimizer, folder)
    try:
        torch.set_rng_state(torch.tensor(list(bytes.fromhex(state.torch_rng)), dtype=torch.uint8))
    except (RuntimeError, TypeError):
        raise InputError(
            f"the random state in {folder} is not one of this torch ({torch.__version__}); resume with the "
            f"torch that wrote it ({state.surroundings.get('torch', 'not recorded')})"
        ) from None


def best_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, the newest of equals; None if none was evaluated."""
    evaluated = [
        (loss, path) for path in list_checkpoints(checkpoints) if (loss := _val_loss(path)) is not None
    ]
    return min(evaluated, key=lambda pair: pair[0])[1] if evaluated else None


def saved_tokenizer(checkpoints: Path) -> Path | None:
    """tokenizer.json of the newest checkpoint that has it undamaged; None if no checkpoint has one."""
    name = "tokenizer.json"
    for folder in list_checkpoints(checkpoints):
        with suppress(InputError, OSError):
            state = _read_state_file(folder)
            saved = folder / name
            require_inside(saved)
            if saved.stat().st_size and sha256_of_file(saved) == state.sha256.get(name):
                return saved
    return None


def remove_old(checkpoints: Path, keep: int, sound_step: int = 0) -> None:
    """Remove all but the newest `keep`, the best, and the newest one that is known to train on: up to
    `sound_step` of them are."""
    best, saved = best_checkpoint(checkpoints), list_checkpoints(checkpoints)
    sound = newest_sound_checkpoint(checkpoints, sound_step)
    for path in saved[keep:]:
        if path not in (best, sound):
            remove(path)


def newest_sound_checkpoint(checkpoints: Path, sound_step: int) -> Path | None:
    """The newest checkpoint of a step up to which the weights are known to train on; None if none is."""
    sound = (
        path for path in list_checkpoints(checkpoints) if int(path.name.removeprefix("step-")) <= sound_step
    )
    return next(sound, None)


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
        state = _read_state_file(folder)
    except InputError as error:
        raise InputError(
            f"checkpoint {folder} is not complete ({without_advice(error)}); use another one"
        ) from None
    if state.sha256.keys() != set(HASHED):
        raise InputError(
            f"checkpoint {folder} is damaged: state.json has not the hashes of all files; use another one"
        )
    if folder.name.startswith("step-") and folder.name != f"step-{state.step}":
        raise InputError(
            f"checkpoint {folder} is damaged: it holds step {state.step}; rename it or use another one"
        )
    try:
        for name in HASHED:
            require_inside(folder / name)
        changed = [name for name in HASHED if check and sha256_of_file(folder / name) != state.sha256[name]]
    except OSError as error:
        raise InputError(f"checkpoint {folder} is not complete ({error}); use another one") from None
    if changed:
        raise InputError(
            f"checkpoint {folder} is damaged: {', '.join(changed)} does not match its hash; use another one"
        )
    return state


def _read_state_file(folder: Path) -> CheckpointState:
    path = folder / "state.json"
    try:
        require_inside(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return read_with_seal(path, CheckpointState)


def _state_document(snapshot: Snapshot, hashes: dict[str, str]) -> CheckpointState:
    step = snapshot.step
    environment: dict[str, str | int | bool] = {**snapshot.metadata.environment.as_dict()}
    return CheckpointState(
        step.step, step.tokens, step.loss, step.val_loss, snapshot.torch_rng, environment, hashes
    )


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
    with suppress(InputError):
        return _read_state_file(folder).val_loss
    return None
