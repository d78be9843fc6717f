"""Checkpoints of a sharded model, by torch's distributed checkpoint (DCP).

Each process writes the rows that it holds into a file of its own, as safetensors: no file can run code, which
DCP's usual storage could not promise. The main process then consolidates them, a tensor at a time, into the
files that a run of one process writes. Any number of processes read their own rows back from those.

The consolidation is not that of `HuggingFaceStorageWriter(enable_consolidation=True)`, which gives its files
other names (model-00001-of-00002.safetensors), writes an index beside them, and leaves `format` and the
alignment out of their headers: a checkpoint has the same files whoever wrote it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from parambudget.training.distributed import TIMEOUT


@dataclass(frozen=True, eq=False)
class ShardedCheckpointWriter:
    """The processes that write a checkpoint together, in threads that do not disturb the training's
    messages."""

    group: dist.ProcessGroup
    mesh: DeviceMesh
    """Those that hold one copy of the model, with CPU memory, where the snapshots are."""

    @classmethod
    def create(cls, n_shards: int) -> Self:
        """A writer for all processes, each of which has to call this; `n_shards` hold one copy of the
        model."""
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=TIMEOUT))
        holding = group
        if n_shards < dist.get_world_size():
            holding, _ = dist.new_subgroups(n_shards, backend="gloo", timeout=TIMEOUT)
        return cls(group, DeviceMesh.from_group(holding, "cpu"))

    def copy_shard(self, value: Tensor, copy: Callable[[Tensor], Tensor]) -> Tensor:
        """A copy in CPU memory that is sharded as the tensor is; `copy` copies this process's shard."""
        if not isinstance(value, DTensor):
            return copy(value)
        own = copy(value.to_local())
        # Of what several processes hold, DCP has one of them write it.
        return DTensor.from_local(
            own, self.mesh, value.placements[-1:], shape=value.shape, stride=value.stride(), run_check=False
        )

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write this process's shards and return when all have written theirs; if one fails, all raise."""
        storage = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            dcp.save(dict(tensors), storage_writer=storage, process_group=self.group)
        except CheckpointException as failed:
            error, _ = next(iter(failed.failures.values()))
            raise error from None


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from the safetensors files of a folder; of sharded ones, this process's rows."""
    _shard_reader(folder)(tensors)


def consolidate(folder: Path, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors whole, of which `folder` has the shards, into one safetensors file."""
    fill = _shard_reader(folder)
    with path.open("wb") as file:
        file.write(_safetensors_header(tensors))
        for name, tensor in tensors.items():
            whole = torch.empty(tensor.shape)
            fill({name: whole})
            file.write(whole.flatten().numpy().data)


def _shard_reader(folder: Path) -> Callable[[Mapping[str, Tensor]], None]:
    """DCP's own steps of loading, without the messages that `dcp.load` would send to other processes."""
    storage = dcp.HuggingFaceStorageReader(str(folder))
    contents = storage.read_metadata()
    storage.set_up_storage_reader(contents, is_coordinator=False)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        planner = DefaultLoadPlanner()
        planner.set_up_planner(dict(tensors), contents, is_coordinator=False)
        storage.read_data(planner.create_local_plan(), planner).wait()

    return fill


def _safetensors_header(tensors: Mapping[str, Tensor]) -> bytes:
    """The beginning of a safetensors file: the length of the header in 8 bytes, and the header as JSON.

    Source: huggingface.co/docs/safetensors, "Format".
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        begin, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return len(text).to_bytes(8, "little") + text
