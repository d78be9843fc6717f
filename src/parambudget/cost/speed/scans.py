"""How long the scans of mixers other than attention take in plain torch. Assumed, not measured on any GPU."""

from typing import Final

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.cost.flops import PASSES, PASSES_WITH_RECOMPUTE
from parambudget.cost.memory.mixers import CHUNK, scan_activations
from parambudget.cost.speed.profile import LAUNCH_SECONDS, DeviceProfile
from parambudget.cost.step import FLOAT32

_TIMES_MOVED: Final = 2
"""In a pass, of each float32 that a scan saves: written, and read by what follows."""
_KERNELS_PER_CHUNK: Final = 8
"""In a pass: two products with the state, two within the chunk, the decay, sums."""


def scan_seconds(m: Dims, profile: DeviceProfile, *, recompute: bool) -> Size:
    """Of one sequence of full context, forward and backward: every float32 that the scans of all layers save
    is moved `_TIMES_MOVED` times per pass. The products of a chunk are short, and memory is what limits
    them."""
    if not np.any(m.n_mixer_layers):
        return 0.0
    passes = PASSES_WITH_RECOMPUTE if recompute else PASSES
    moved = m.n_mixer_layers * scan_activations(m).scanned * m.context_length * FLOAT32
    return passes * _TIMES_MOVED * moved / profile.bandwidth_bytes


def scan_launch_seconds(m: Dims) -> Size:
    """That a host takes to launch the kernels of all scans in one pass: chunk after chunk."""
    n_chunks = -(-int(m.context_length) // CHUNK)
    return m.n_mixer_layers * n_chunks * _KERNELS_PER_CHUNK * LAUNCH_SECONDS
