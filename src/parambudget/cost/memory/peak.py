"""An update moment by moment: what one device holds while the trainer makes it.

The backward pass is followed through the loss, the last layer (when all others still hold what they kept),
the first layer (when all others have their gradients) and the embedding; then the optimizer's step. Where
all layers are alike, none between these two holds more than the larger of them; where not, the layers that
may are followed too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import prod
from types import SimpleNamespace
from typing import Any, Final, Literal, cast, get_args

import numpy as np

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size, part
from parambudget.arch.layers import Kind, Place, kinds, places, written_out
from parambudget.arch.tensors import tensors
from parambudget.cost.flops import head_parameters
from parambudget.cost.memory.backward import BackwardSnapshot, backward, compiled_recompute_bound
from parambudget.cost.memory.forward import forward, masks
from parambudget.cost.memory.graph import largest, total_bytes
from parambudget.cost.memory.state import optimizer_bytes, optimizer_scratch_bytes, weight_bytes
from parambudget.cost.params import total
from parambudget.cost.step import BFLOAT16, FLOAT32, INT64, StepConfig
from parambudget.errors import InputError
from parambudget.units import format_bytes

Phase = Literal[
    "forward", "loss", "last layer", "a layer between", "first layer", "embedding", "optimizer"
]  # fmt: skip
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
HEAD_MULTIPLE: Final = 64
"""Rows that the trainer pads the output head to on a GPU."""
WINDOWS_AHEAD: Final = 2
"""Micro-batches of token windows on the device: the one in work, and the next."""


@dataclass(frozen=True)
class MemorySnapshot:
    """Bytes on one device at one moment."""

    phase: Phase
    weights: Size
    gradients: Size
    optimizer: Size
    """Its state, and in its step what that takes."""
    weight_copies: Size
    """Matrices in bfloat16."""
    activations: Size
    """What the layers keep for the backward pass."""
    logits: Size
    """What the output head and the loss keep."""
    in_flight: Size
    """Gradients of activations and logits, and what it takes to make them."""
    inputs: Size
    """Token windows, and tables of rotary angles."""
    exchange: Size
    """DDP: copies of the gradients that are averaged. FSDP2: layers made whole, gradients on their way."""
    overhead: Size

    @property
    def total(self) -> Size:
        """Of all of it."""
        return sum((getattr(self, part) for part in PARTS), start=0)


PARTS: Final = tuple(each.name for each in fields(MemorySnapshot))[1:]


def memory_timeline(m: Dims, step: StepConfig) -> Iterator[MemorySnapshot]:
    """The moments of an update of which one holds the most."""
    return _Update(m, step).memory_timeline()


class _Update:
    def __init__(self, m: Dims, step: StepConfig) -> None:
        self.m, self.step, self.backend = m, step, step.backend
        rows = m.vocab_size
        if self.backend.device == "cuda":
            rows = -(-rows // HEAD_MULTIPLE) * HEAD_MULTIPLE
        self.passed = forward(m, step.backend, rows, step.batch_size, z_loss=step.z_loss > 0)
        self.n_tokens = step.batch_size * m.context_length
        self.chunk_tokens = -(-self.n_tokens // step.loss_chunks)
        self.total = total(m)
        # Read from the table once: a lattice has many moments.
        self.weights = self._shared_out(weight_bytes(m))
        self.optimizer = self._shared_out(optimizer_bytes(m, step.optimizer))
        self.head_matrix = head_parameters(m)
        self.places, self.kinds = places(m), kinds(m)
        self.parameters = {kind: layer.parameters for kind, layer in self.passed.layers.items()}
        self.all_layers = sum(many * self.parameters[kind] for kind, many in self.kinds.items())
        self.mask_bytes = prod(masks(m)) * self.backend.matmul_bytes
        self.head_and_bias = sum(row.elements for row in tensors(m) if row.component == "lm_head")

    def memory_timeline(self) -> Iterator[MemorySnapshot]:
        if self.step.gradient_checkpointing and not self.backend.compiled:
            yield self._after_forward()
        yield from self._in_loss()
        last, first = self.places[0], self.places[-1]
        yield from self._in_layer("last layer", last)
        for place in self.places[1:-1]:
            yield from self._in_layer("a layer between", place)
        yield from self._in_layer("first layer", first)
        yield from self._in_embedding()
        yield self._held(
            "optimizer", gradients=self._shared_out(self.total * FLOAT32), exchange=self._averaged_bytes,
            in_flight=optimizer_scratch_bytes(self.m, self.step.optimizer, shard=self.step.shard),
        )  # fmt: skip

    def _after_forward(self) -> MemorySnapshot:
        """Under autocast every copy lives until the loss is there, those of layers that forget theirs too."""
        loss, layers = self.passed.loss, {} if self.step.shard else self.kinds
        logits = total_bytes({*loss.kept, *loss.variables})
        ends = sum(part.copied for part in (self.passed.embedding, self.passed.end, loss))
        copied = sum((many * self.passed.layers[kind].cached for kind, many in layers.items()), start=ends)
        return self._in_pass(
            "forward", None, activations=self._activations(self.kinds, end=True),
            logits=self.chunk_tokens * logits, copied=copied,
        )  # fmt: skip

    def _in_loss(self) -> Iterator[MemorySnapshot]:
        loss, end, chunked = self.passed.loss, self.passed.end, self.step.loss_chunks > 1
        kept, copied = self._activations(self.kinds, end=True), self._copied(self.kinds)
        # In parts, each has a gradient of what the head multiplies, and one of the head's matrix.
        head = self.head_matrix * self.backend.matmul_bytes
        whole = self.n_tokens * loss.input.bytes if chunked else 0
        outside = whole + self.n_tokens * INT64 if chunked else 0
        other_parts = (self.n_tokens - self.chunk_tokens) * loss.input.bytes
        for moment in backward(loss, self.backend, again=chunked):
            yield self._in_pass(
                "loss", moment, activations=kept, copied=copied + end.copied + moment.copied,
                logits=self.chunk_tokens * moment.kept_bytes + outside, pending=head if chunked else 0,
                in_flight=self.chunk_tokens * moment.in_flight_bytes + other_parts,
            )  # fmt: skip
        if chunked:
            # The sum of the matrix's gradients until then and of this part's is a third one.
            yield self._in_pass(
                "loss", None, activations=kept, copied=copied + end.copied, logits=outside,
                in_flight=whole, pending=3 * head,
            )  # fmt: skip
        for moment in backward(end, self.backend):
            kept = self._activations(self.kinds) + self.n_tokens * moment.kept_bytes
            yield self._in_pass(
                "loss", moment, activations=kept, copied=copied + moment.copied, ends=self.head_and_bias,
                in_flight=self.n_tokens * moment.in_flight_bytes + whole,
            )  # fmt: skip

    def _in_layer(self, phase: Phase, place: Place) -> Iterator[MemorySnapshot]:
        """The backward pass of a layer."""
        layer, again = self.passed.layers[place.kind], self.step.gradient_checkpointing
        # Experts are not compiled: what is run again with them is run as it is written.
        apart = (
            [compiled_recompute_bound(layer)]
            if again and self.backend.compiled and not place.kind.experts
            else None
        )
        own = self.n_tokens * layer.input.bytes if again else 0
        for moment in apart or backward(layer, self.backend, again=again):
            kept = self._activations(place.before) + own + self.n_tokens * moment.kept_bytes
            yield self._in_pass(
                phase, moment, activations=kept, in_flight=self.n_tokens * moment.in_flight_bytes,
                copied=self._copied(place.before) + (0 if self.step.shard else moment.copied),
                done=self._parameters(place.behind), ends=self._ends,
            )  # fmt: skip

    def _in_embedding(self) -> Iterator[MemorySnapshot]:
        for moment in backward(self.passed.embedding, self.backend):
            yield self._in_pass(
                "embedding", moment, activations=self.n_tokens * moment.kept_bytes,
                in_flight=self.n_tokens * moment.in_flight_bytes, copied=moment.copied,
                done=self.all_layers, ends=self._ends,
            )  # fmt: skip
        if self.m.tied and not self.backend.bf16 and self.step.loss_chunks == 1:
            # The table's two gradients meet. The head's is a transposed view, to which autograd adds nothing
            # in place: their sum is a third one. A cast or a sum of parts is no view.
            table = self.head_matrix
            yield self._in_pass(
                "embedding", None, done=self.all_layers, pending=2 * table * FLOAT32,
                ends=self._ends + self.passed.embedding.parameters - table,
            )  # fmt: skip

    def _in_pass(
        self, phase: Phase, moment: BackwardSnapshot | None, *, done: Size = 0, ends: Size = 0, pending: Size = 0,
        copied: Size = 0, **held: Size,
    ) -> MemorySnapshot:  # fmt: skip
        """A moment when so many parameters of layers have their gradients, and so many outside of them."""
        gathered = 0
        if self.step.shard:
            # What is outside of the layers; two layers, of which the next is on its way; gradients of one.
            outside, layer = self.total - self.all_layers, self.passed.layer_parameters
            gathered = outside * FLOAT32 + layer * (2 * self.backend.matmul_bytes + FLOAT32)
        gradients = self._waiting(phase, done, ends, moment) + pending
        return self._held(
            phase, gradients=gradients, weight_copies=copied * BFLOAT16,
            exchange=self._averaged_bytes + gathered, **held,
        )  # fmt: skip

    def _waiting(self, phase: Phase, layers: Size, ends: Size, moment: BackwardSnapshot | None) -> Size:
        """Gradients of parameters: of the micro-steps before, and of this one until now."""
        finished, making = (moment.finished, moment.making_bytes) if moment is not None else (0, 0)
        before = self.total if self.step.accumulates else 0
        if self.step.shard:
            # A layer's are sent off when it is done, those outside of the layers when all is done.
            shared = self._shared_out((before if self.step.accumulates else layers) * FLOAT32)
            return shared + (ends + finished) * FLOAT32 + making
        if self.step.accumulates and not (self.backend.compiled and self.m.moe is None):
            # Each is added to the ones before when it is there; a tied head's waits for the embedding's.
            waits = self.m.tied and phase not in ("forward", "loss")
            return (before + (self.head_matrix if waits else 0)) * FLOAT32 + making
        # A compiled backward pass hands over all of them at its end; experts cut it into many.
        return (before + layers + ends + finished) * FLOAT32 + making

    def _held(
        self, phase: Phase, *, gradients: Size, exchange: Size, weight_copies: Size = 0,
        activations: Size = 0, logits: Size = 0, in_flight: Size = 0,
    ) -> MemorySnapshot:  # fmt: skip
        m, step = self.m, self.step
        windows = WINDOWS_AHEAD * step.batch_size * (m.context_length + 1) * INT64
        turned = m.mla.qk_rope_head_dim if m.mla else m.head_dim
        tables = (m.position == "rotary") * (1 if m.rope_theta_local is None else 2)
        angles = tables * m.context_length * turned * FLOAT32
        masked = self.mask_bytes if phase not in ("embedding", "optimizer") and self._masks_stay else 0
        held = MemorySnapshot(
            phase, weights=self.weights, gradients=gradients, optimizer=self.optimizer,
            weight_copies=weight_copies,
            activations=activations, logits=logits, in_flight=in_flight, inputs=windows + angles + masked,
            exchange=exchange, overhead=0,
        )  # fmt: skip
        return replace(held, overhead=step.overhead_bytes(held.total))

    def _activations(self, layers: dict[Kind, Size], *, end: bool = False) -> Size:
        """Of the embedding and of so many layers of each kind."""
        again = self.step.gradient_checkpointing
        parts = ((many, self.passed.layers[kind]) for kind, many in layers.items())
        each = sum(many * (layer.input.bytes if again else layer.kept_bytes) for many, layer in parts)
        ends = self.passed.embedding.kept_bytes + (self.passed.end.kept_bytes if end else 0)
        return self.n_tokens * (each + ends)

    def _copied(self, layers: dict[Kind, Size]) -> Size:
        """Elements of the embedding and of layers that are copied until their backward pass. What is run
        again is copied again; what is made whole from its shares is so in bfloat16."""
        if self.step.gradient_checkpointing or self.step.shard:
            layers = {}
        each = (many * self.passed.layers[kind].copied for kind, many in layers.items())
        return sum(each, start=self.passed.embedding.copied)

    def _parameters(self, layers: dict[Kind, Size]) -> Size:
        return sum((many * self.parameters[kind] for kind, many in layers.items()), start=0)

    @property
    def _masks_stay(self) -> bool:
        """Whether someone needs them for the backward pass: scores that are written out do not, unless it
        is to run the layer again."""
        return self.step.gradient_checkpointing or not written_out(self.m)

    @property
    def _ends(self) -> Size:
        return self.head_and_bias + self.passed.end.parameters

    @property
    def _averaged_bytes(self) -> Size:
        """DistributedDataParallel averages gradients in copies, for which it has room all the time."""
        return 0 if self.step.shard or self.step.world_size == 1 else self.total * FLOAT32

    def _shared_out(self, size_bytes: Size) -> Size:
        return -(-size_bytes // self.step.world_size) if self.step.shard else size_bytes


@dataclass(frozen=True, repr=False)
class MemoryBreakdown(Tabular):
    """What one device holds while a model is trained. Bytes."""

    model: ModelConfig
    step: StepConfig
    peak_bytes: int
    peak_phase: Phase
    """The phase that holds the most."""
    parts: dict[str, int]
    """What is held at the peak; sums to `peak_bytes`."""
    phases: dict[Phase, int]
    """The most that is held in each phase."""

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part of the peak, and the peak."""
        rows: list[dict[str, Any]] = [
            {"part": name, "bytes": size, "share": size / self.peak_bytes}
            for name, size in self.parts.items()
            if size
        ]
        return [*rows, {"part": f"peak: {self.peak_phase}", "bytes": self.peak_bytes, "share": 1.0}]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "peak_bytes": self.peak_bytes,
            "peak_phase": self.peak_phase,
            "parts": dict(self.parts),
            "phases": dict(self.phases),
        }


def training_memory(model: ModelConfig, step: StepConfig) -> MemoryBreakdown:
    """What the bundled trainer holds on each device while it trains `model` so, in the steady state.

    No torch needed; tests hold it against torch's own tracker of a step. What is assumed of a GPU beside the
    tensors is in `cost.memory.state`.
    """
    by_phase: dict[Phase, MemorySnapshot] = {}
    for held in memory_timeline(model, step):
        if held.phase not in by_phase or held.total > by_phase[held.phase].total:
            by_phase[held.phase] = held
    peak = max(by_phase.values(), key=lambda held: held.total)
    return MemoryBreakdown(
        model, step, peak_bytes=peak.total, peak_phase=peak.phase,
        parts={part: getattr(peak, part) for part in PARTS},
        phases={phase: by_phase[phase].total for phase in PHASES if phase in by_phase},
    )  # fmt: skip


def peak_bytes(m: Dims, step: StepConfig) -> Size:
    """The most that one device holds: an array where the sizes of `m` are arrays."""
    if not np.ndim(m.n_layers) or len(kinds(m)) == 1:
        return largest(held.total for held in memory_timeline(m, step))
    # Which layers come before which is known for one depth at a time.
    found = np.zeros(np.shape(m.n_layers), dtype=np.int64)
    for n_layers in np.unique(m.n_layers[m.n_layers > 0]):
        there = m.n_layers == n_layers
        one = SimpleNamespace(**vars(part(m, there)) | {"n_layers": int(n_layers)})
        found[there] = largest(held.total for held in memory_timeline(cast(Dims, one), step))
    return found


def largest_micro_batch(model: ModelConfig, step: StepConfig, memory_bytes: int) -> int:
    """The most sequences per micro-step with which training stays within `memory_bytes` on a device.

    The step's own batch size does not matter. Found by trying: the more sequences, the more is held.
    """

    def fits(n: int) -> bool:
        return bool(peak_bytes(model, step.replace(batch_size=n)) <= memory_bytes)

    if not fits(1):
        least = format_bytes(peak_bytes(model, step.replace(batch_size=1)))
        raise InputError(
            f"not even one sequence of {model.context_length} tokens fits: it takes {least} and there are "
            f"{format_bytes(memory_bytes)}; use gradient checkpointing, loss chunks, more devices or a "
            "smaller model"
        )
    below, above = 1, 2
    while fits(above):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
