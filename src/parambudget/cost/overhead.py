"""Memory beside the tensors: constants that no table of the model can say, each with its source."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Overhead:
    """What a process holds that is no tensor of the step."""

    context_bytes: int
    """Device context, kernels and workspaces of the matmul library."""
    exchange_bytes: int
    """Buffers of the library through which several processes talk, where there are several."""
    unused_percent: int
    """Of the tensors' bytes: what the allocator has reserved beside them, in pieces that nothing fits in."""
    source: str


NONE: Final = Overhead(0, 0, 0, "tensors alone")
CUDA: Final = Overhead(
    context_bytes=800 * 2**20, exchange_bytes=500 * 2**20, unused_percent=6,
    source=(
        "assumed, not measured here: contexts of 0.3 to 0.6 GB, cuBLAS workspaces of 8 to 32 MiB and NCCL's "
        "0.2 to 1 GB are as commonly given; reserved beside allocated memory is 3 to 10 % of it in public "
        "logs of training (8.8 % in one of modded-nanogpt on H100s)"
    ),
)  # fmt: skip
