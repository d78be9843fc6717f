"""Checkpoints of a model that is shared out among processes, by torch's distributed checkpoint (DCP).

Each process writes the rows that it holds into a file of its own, as safetensors: nothing in it can run code,
which DCP's usual storage could not promise. The leading process then joins them, a tensor at a time, into the
files that a run of one process writes. From those each reads back its own rows, however many they are.
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

from parambudget.training.distributed import PATIENCE


@dataclass(frozen=True, eq=False)
class Pieces:
    """The processes as those that write together, in threads that leave the training's messages alone."""

    group: dist.ProcessGroup
    mesh: DeviceMesh
    """The same processes with the memory of their computers, where the copies lie."""

    @classmethod
    def of_all(cls) -> Self:
        """To be called on every process."""
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        return cls(group, DeviceMesh.from_group(group, "cpu"))

    def copied(self, value: Tensor, copy: Callable[[Tensor], Tensor]) -> Tensor:
        """A copy in the computer's memory that is shared out as the tensor is; `copy` copies this piece."""
        if not isinstance(value, DTensor):
            return copy(value)
        own = copy(value.to_local())
        return DTensor.from_local(
            own, self.mesh, value.placements, shape=value.shape, stride=value.stride(), run_check=False
        )

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write this process's pieces, and return when all have written theirs; if one fails, all raise."""
        storage = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            dcp.save(dict(tensors), storage_writer=storage, process_group=self.group)
        except CheckpointException as told:
            error, _ = next(iter(told.failures.values()))
            raise error from None


def read(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from the safetensors files of a folder: of what is shared out, this process's rows."""
    _reader(folder)(tensors)


def join(folder: Path, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write the whole of some tensors, of which `folder` has the pieces, into one safetensors file."""
    fill = _reader(folder)
    with path.open("wb") as file:
        file.write(_header(tensors))
        for name, tensor in tensors.items():
            whole = torch.empty(tensor.shape)
            fill({name: whole})
            file.write(whole.flatten().numpy().data)


def _reader(folder: Path) -> Callable[[Mapping[str, Tensor]], None]:
    """DCP's own steps of loading, without the messages that `dcp.load` would send to other processes."""
    storage = dcp.HuggingFaceStorageReader(str(folder))
    contents = storage.read_metadata()
    storage.set_up_storage_reader(contents, is_coordinator=False)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        planner = DefaultLoadPlanner()
        planner.set_up_planner(dict(tensors), contents, is_coordinator=False)
        storage.read_data(planner.create_local_plan(), planner).wait()

    return fill


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """What a safetensors file begins with: the length of the table of contents in 8 bytes, and that as JSON.

    Source: huggingface.co/docs/safetensors, "Format".
    """
    contents: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        begin, end = end, end + 4 * tensor.numel()
        contents[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(contents).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return len(text).to_bytes(8, "little") + text
