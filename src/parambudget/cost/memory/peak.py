"""An update moment by moment: what one device holds while the trainer executes it.

The backward pass is followed through the loss, the last layer (when all others still hold what they saved),
the first layer (when all others have their gradients) and the embedding; then comes the optimizer's step.
Where all layers are alike, none in between holds more than the larger of these two; where they are not, the
layers that may are followed too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import prod
from typing import Any, Final, Literal, get_args

import numpy as np
from typing_extensions import TypedDict

from parambudget._tabular import Tabular
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import Dims, Size, heads_of, is_local, lends_keys, shares_keys, value_width
from parambudget.arch.layers import (
    LayerKind,
    LayerPosition,
    layer_kind_counts,
    peak_layer_candidates,
    uses_eager_attention,
)
from parambudget.arch.sizes import take_models
from parambudget.cost.flops import head_parameters
from parambudget.cost.memory.backward import BackwardSnapshot, backward, compiled_recompute_maximum
from parambudget.cost.memory.forward import (
    ForwardPass,
    Segment,
    document_mask_elements,
    forward_of_step,
    masks,
    shared_choices_bytes,
)
from parambudget.cost.memory.graph import largest, total_bytes
from parambudget.cost.memory.recompute import (
    STAGES,
    Recomputation,
    Recomputed,
    recomputation,
    recomputing_pass,
)
from parambudget.cost.memory.state import (
    optimizer_bytes,
    optimizer_scratch_bytes,
    trained_parameters,
    weight_bytes,
)
from parambudget.cost.step import BFLOAT16, FLOAT32, INT64, MAX_COUNT, StepConfig
from parambudget.errors import InputError
from parambudget.units import format_bytes

Phase = Literal[
    "forward", "loss", "last layer", "a layer between", "first layer", "embedding", "optimizer"
]  # fmt: skip
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
MICRO_BATCHES_LOADED: Final = 2
"""Micro-batches of token windows on the device: the current one, and the next."""


@dataclass(frozen=True)
class MemorySnapshot:
    """Bytes on one device at one moment."""

    phase: Phase
    step: StepConfig
    weights: Size
    gradients: Size
    optimizer: Size
    """Its state."""
    weight_copies: Size
    """Matrices in bfloat16: leaves, and what autocast has cast."""
    activations: Size
    """What the layers save for the backward pass."""
    logits: Size
    """What the output head and the loss save."""
    in_flight: Size
    """Gradients of activations and logits, and the scratch space of backward and optimizer."""
    inputs: Size
    """Token windows, attention masks, and tables of rotary angles."""
    communication: Size
    """DDP: copies of the gradients that are averaged. FSDP2: gathered layers, and gradients to be reduced."""

    @cached_property
    def tensor_bytes(self) -> Size:
        """The sum of the tensors."""
        sizes = [getattr(self, name) for name in _TENSORS]
        # Arrays are long, and many parts are nothing.
        return sum((size for size in sizes if not isinstance(size, int) or size), start=0)

    @property
    def overhead(self) -> Size:
        """Beside the tensors."""
        return self.step.overhead_bytes(self.tensor_bytes)

    @cached_property
    def total(self) -> Size:
        """The sum of the parts."""
        return self.tensor_bytes + self.overhead


_TENSORS: Final = tuple(field.name for field in fields(MemorySnapshot))[2:]
PARTS: Final = (*_TENSORS, "overhead")


class MemoryDocument(TypedDict):
    """Predicted memory of one device while a model is trained, in bytes."""

    peak_bytes: int
    """The most that the device holds during an update."""
    peak_phase: Phase
    """The phase of an update that holds the most."""
    parts: dict[str, int]
    """Bytes at the peak by what they hold (weights, gradients, optimizer, activations, ...); they sum to
    the peak."""
    phases: dict[Phase, int]
    """The peak of each phase of an update, in bytes."""


@dataclass(frozen=True, repr=False)
class MemoryBreakdown(Tabular):
    """What one device holds while a model is trained. Bytes."""

    model: ModelConfig
    step: StepConfig
    peak_bytes: int
    peak_phase: Phase
    """The phase that holds the most."""
    parts: dict[str, int]
    """What is in memory at the peak; sums to `peak_bytes`."""
    phases: dict[Phase, int]
    """The peak of each phase."""

    def rows(self) -> list[dict[str, Any]]:
        """One dict per part of the peak, and the peak."""
        rows: list[dict[str, Any]] = [
            {"part": name, "bytes": size, "share": size / self.peak_bytes}
            for name, size in self.parts.items()
            if size
        ]
        return [*rows, {"part": f"peak: {self.peak_phase}", "bytes": self.peak_bytes, "share": 1.0}]

    def as_dict(self) -> MemoryDocument:
        """Plain JSON values."""
        return {
            "peak_bytes": self.peak_bytes,
            "peak_phase": self.peak_phase,
            "parts": dict(self.parts),
            "phases": dict(self.phases),
        }


def training_memory(model: ModelConfig, step: StepConfig) -> MemoryBreakdown:
    """What the bundled trainer holds on each device while it trains `model`, after the first update.

    Needs no torch; tests compare it with torch's own tracker of a step. What is assumed of a GPU beside the
    tensors is `cost.step.CUDA_OVERHEAD`.
    """
    by_phase: dict[Phase, MemorySnapshot] = {}
    for snapshot in memory_timeline(model, step, peaks_alone=True):
        known = by_phase.get(snapshot.phase)
        if known is None or snapshot.total > known.total:
            by_phase[snapshot.phase] = snapshot
    peak = max(by_phase.values(), key=lambda snapshot: snapshot.total)
    return MemoryBreakdown(
        model, step, peak_bytes=peak.total, peak_phase=peak.phase,
        parts={name: getattr(peak, name) for name in PARTS},
        phases={phase: by_phase[phase].total for phase in PHASES if phase in by_phase},
    )  # fmt: skip


def peak_bytes(m: Dims, step: StepConfig) -> Size:
    """The most that one device holds: an array where the sizes of `m` are arrays."""
    if not np.ndim(m.n_layers) or len(layer_kind_counts(m)) == 1:
        return _peak(m, step)
    # Which layers come before which is known for one depth at a time.
    peaks = np.zeros(np.shape(m.n_layers), dtype=np.int64)
    for n_layers in np.unique(m.n_layers[m.n_layers > 0]):
        here = m.n_layers == n_layers
        one_depth = take_models(m, here, n_layers=int(n_layers))
        peaks[here] = _peak(one_depth, step)
    return peaks


def _peak(m: Dims, step: StepConfig) -> Size:
    stages = recomputation(m, step).stage
    peaks = {
        stage: largest(
            snapshot.total for snapshot in memory_timeline(m, step, STAGES[stage], peaks_alone=True)
        )
        for stage in np.unique(stages)
    }
    if len(peaks) == 1:
        return next(iter(peaks.values()))
    return np.select([stages == stage for stage in peaks], list(peaks.values()))


def largest_micro_batch(model: ModelConfig, step: StepConfig, memory_bytes: int) -> int:
    """The most sequences per micro-step with which training stays within `memory_bytes` on a device.

    The step's own batch size does not matter. Found by bisection: more sequences need more memory.
    """

    def fits(n: int) -> bool:
        return n <= MAX_COUNT and bool(peak_bytes(model, step.replace(batch_size=n)) <= memory_bytes)

    if not fits(1):
        needed = format_bytes(peak_bytes(model, step.replace(batch_size=1)))
        raise InputError(
            f"not even one sequence of {model.context_length} tokens fits: it needs {needed} of "
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


def memory_timeline(
    m: Dims, step: StepConfig, recomputed: Recomputed | None = None, *, peaks_alone: bool = False
) -> Iterator[MemorySnapshot]:
    """The moments of an update of which one holds the most. What is `recomputed` within the budget of the
    step is found out where it is not given; for arrays of sizes it has to be. With `peaks_alone`, of alike
    layers only those are followed in which a phase may have its peak."""
    again = recomputation(m, step)
    recomputed = STAGES[int(again.stage)] if recomputed is None else recomputed
    update = _Update.of(m, step, again, recomputed)
    if step.gradient_checkpointing and not step.backend.compiled:
        yield _after_forward(update)
    yield from _in_loss(update)
    last, *between, first = update.places
    yield from _in_layer(update, "last layer", last)
    for place in _fullest_of_each_kind(update, between) if peaks_alone else between:
        yield from _in_layer(update, "a layer between", place)
    yield from _in_layer(update, "first layer", first)
    if recomputed == "matmuls too":
        yield from _in_recomputed_layers(update)
    yield from _in_embedding(update)
    yield _snapshot(
        update, "optimizer", gradients=update.own_gradient_bytes,
        communication=0, in_flight=optimizer_scratch_bytes(m, step),
    )  # fmt: skip


@dataclass(frozen=True)
class _Update:
    """The sizes that stay the same throughout an update."""

    m: Dims
    step: StepConfig
    passed: ForwardPass
    places: list[LayerPosition]
    """The layers that are followed, the last one first."""
    kinds: dict[LayerKind, Size]
    """The number of layers of each kind."""
    total: Size
    """Parameters of the model."""
    head_matrix: Size
    """Elements of the output head."""
    head_gradient_bytes: Size
    """Of the output head, its bias included."""
    weights_bytes: Size
    optimizer_bytes: Size
    input_bytes: Size
    """Token windows and tables of rotary angles."""
    mask_bytes: Size
    recomputed: Recomputed
    again: Recomputation
    """What is recomputed within the step's budget, and how much of it."""
    left_out_bytes: Size
    """What the first layers do not save because their matmuls are recomputed."""
    moments: dict[LayerKind, list[BackwardSnapshot]] = field(default_factory=dict)
    """Of the backward passes of layers, as far as they were asked for."""

    @classmethod
    def of(cls, m: Dims, step: StepConfig, again: Recomputation, recomputed: Recomputed) -> "_Update":
        """Read from the table of tensors once: arrays of models have many moments."""
        windows = MICRO_BATCHES_LOADED * step.batch_size * (m.context_length + 1) * INT64
        rotated = m.mla.qk_rope_head_dim if m.mla else m.head_dim
        n_tables = (m.position == "rotary") * (1 if m.rope_theta_local is None else 2)
        passed = recomputing_pass(forward_of_step(m, step), recomputed)
        mask_elements = (
            document_mask_elements(m, step.backend, step.batch_size) if step.mask_documents
            else prod(masks(m))
        )  # fmt: skip
        return cls(
            m, step, passed, peak_layer_candidates(m), layer_kind_counts(m), total=trained_parameters(m),
            head_matrix=head_parameters(m), head_gradient_bytes=passed.loss.gradient_bytes(step.backend),
            weights_bytes=_own_share(weight_bytes(m), step),
            optimizer_bytes=_own_share(optimizer_bytes(m, step.optimizer), step),
            input_bytes=windows + n_tables * m.context_length * rotated * FLOAT32,
            mask_bytes=mask_elements * step.backend.matmul_bytes,
            recomputed=recomputed, again=again,
            left_out_bytes=again.left_out_bytes if recomputed == "matmuls too" else 0,
        )  # fmt: skip

    @property
    def n_tokens(self) -> Size:
        """Of a micro-step."""
        return self.step.batch_size * self.m.context_length

    @property
    def chunk_tokens(self) -> Size:
        """Of a chunk of the logits."""
        return -(-self.n_tokens // self.step.loss_chunks)

    @cached_property
    def end_gradient_bytes(self) -> Size:
        """Of what is behind the last layer."""
        return self.head_gradient_bytes + self.passed.end.gradient_bytes(self.step.backend)

    @cached_property
    def leaf_bytes(self) -> Size:
        """Of the bfloat16 leaves."""
        ends = (self.passed.embedding, self.passed.end, self.passed.loss)
        layers = (n * self.passed.layers[kind].leaf_elements for kind, n in self.kinds.items())
        return sum(layers, start=sum(segment.leaf_elements for segment in ends)) * BFLOAT16

    @cached_property
    def all_gradient_bytes(self) -> Size:
        """Of every parameter."""
        return self.total * FLOAT32

    @cached_property
    def own_gradient_bytes(self) -> Size:
        """Of the parameters that this device keeps."""
        return self.own_share(self.all_gradient_bytes)

    @cached_property
    def communication_bytes(self) -> Size:
        """Beside what this device keeps.

        DistributedDataParallel averages gradients in copies, which stay allocated: after the backward pass
        they are the gradients. FSDP2 gathers what is outside of the layers and two layers, of which the next
        is on its way, and reduces the gradients of one.
        """
        if not self.step.shard:
            return 0 if self.step.world_size == 1 else self.all_gradient_bytes
        outside, layer = self.total - self.layer_parameters(self.kinds), self.passed.layer_parameters
        return outside * FLOAT32 + layer * (2 * self.step.backend.matmul_bytes + FLOAT32)

    @property
    def masks_are_saved(self) -> bool:
        """Whether the backward pass needs the attention masks: that of eager attention does not, unless it
        recomputes the layer."""
        return self.step.gradient_checkpointing or not uses_eager_attention(self.m)

    def own_share(self, size_bytes: Size) -> Size:
        """Of what is divided among the devices where the model is."""
        return _own_share(size_bytes, self.step)

    @property
    def per_layer_bytes(self) -> Size:
        """Per token, of the narrow embeddings of all layers."""
        own = self.passed.embedding.per_layer
        return 0 if own is None else own.bytes

    def waiting_bytes(self, behind: Mapping[LayerKind, Size]) -> Size:
        """Of the gradients of the own embeddings of layers behind, which wait for those of layers before."""
        if self.passed.embedding.per_layer is None:
            return 0
        share = sum(behind.values(), start=0) / self.m.n_layers
        return _whole(self.n_tokens * self.per_layer_bytes * share)

    def lent_bytes(self, layer: int) -> Size:
        """Per token, of keys and values that earlier layers lend to later ones, while the backward pass of
        that layer runs: their gradients wait for the layer that lends them, and layers that run again read
        them."""
        elements: Size = 0
        for lender, borrowers, lent in self.loans:
            waits = lender <= layer < borrowers[-1]
            is_read_again = self.step.gradient_checkpointing and borrowers[0] <= layer
            elements = elements + (int(waits) + int(is_read_again)) * lent
        return elements * self.step.backend.matmul_bytes

    @cached_property
    def loans(self) -> list[tuple[int, list[int], Size]]:
        """Layers that lend their keys and values, those that use them, and how many elements they are per
        token."""
        m, found = self.m, []
        layers = range(int(m.n_layers) if m.n_kv_shared_layers else 0)
        for lender in (at for at in layers if lends_keys(m, at)):
            _, n_kv_heads, head_dim = heads_of(m, local=is_local(m, lender))
            borrowers = [at for at in layers if shares_keys(m, at) and is_local(m, at) == is_local(m, lender)]
            found.append((lender, borrowers, n_kv_heads * (head_dim + value_width(m, head_dim))))
        return found

    def saved_by_all_bytes(self, *, end: bool = False) -> Size:
        """Saved by the embedding and every layer, and by the end, when no backward pass of a layer has
        begun."""
        saved = self.saved_bytes(self.kinds, end=end)
        return saved + self.n_tokens * self.lent_bytes(int(self.m.n_layers) - 1) if self.loans else saved

    def saved_bytes(self, layers: Mapping[LayerKind, Size], *, end: bool = False) -> Size:
        """Saved by the embedding and so many layers of each kind, and by the end."""
        per_token = self.passed.embedding.saved_bytes + (self.passed.end.saved_bytes if end else 0)
        for kind, n_layers in layers.items():
            layer = self.passed.layers[kind]
            saved = layer.input.bytes if self.step.gradient_checkpointing else layer.saved_bytes
            per_token = per_token + n_layers * saved
        if self.step.gradient_checkpointing:
            n_indexers = sum((n for kind, n in layers.items() if kind.has_indexer), start=0)
            per_token = per_token + shared_choices_bytes(self.m, self.step.backend, n_indexers)
            # The layers that run again take what they take from it.
            per_token = per_token + self.per_layer_bytes
        return largest((self.n_tokens * per_token - self.left_out_bytes, 0 * self.left_out_bytes))

    def copied_elements(self, layers: Mapping[LayerKind, Size]) -> Size:
        """Elements of the embedding and of layers whose bfloat16 copies wait for their backward pass. What is
        recomputed is copied again; what is gathered from shards is gathered in bfloat16."""
        if self.step.gradient_checkpointing or self.step.shard:
            layers = {}
        copied = (n * self.passed.layers[kind].copied_elements for kind, n in layers.items())
        return sum(copied, start=self.passed.embedding.copied_elements)

    def residual_sums_bytes(self, behind: Segment) -> Size:
        """Of the residual stream, where within a budget what is added to it is saved, not the sums: the sum
        that a segment reads, and the one that it is computed from."""
        return 2 * self.n_tokens * behind.input.bytes if self.recomputed != "nothing" else 0

    def layer_moments(self, kind: LayerKind) -> list[BackwardSnapshot]:
        """The moments of the backward pass of such a layer."""
        if kind not in self.moments:
            backend, layer, recompute = (
                self.step.backend,
                self.passed.layers[kind],
                self.step.gradient_checkpointing,
            )
            # Experts that run in turn are not compiled: with them, a layer is recomputed eagerly.
            is_whole = backend.runs_experts_at_once or not kind.experts
            if recompute and backend.compiled and is_whole:
                self.moments[kind] = [compiled_recompute_maximum(layer)]
            else:
                self.moments[kind] = backward(layer, backend, recompute=recompute)
        return self.moments[kind]

    def layer_parameters(self, layers: Mapping[LayerKind, Size]) -> Size:
        """Of so many layers of each kind."""
        return sum((n * self.passed.layers[kind].parameters for kind, n in layers.items()), start=0)

    def layer_gradient_bytes(self, layers: Mapping[LayerKind, Size]) -> Size:
        """Of so many layers of each kind whose backward pass is over."""
        return sum((n * self.gradient_bytes_by_kind[kind] for kind, n in layers.items()), start=0)

    @cached_property
    def gradient_bytes_by_kind(self) -> dict[LayerKind, Size]:
        """Of one layer of each kind."""
        backend = self.step.backend
        return {kind: layer.gradient_bytes(backend) for kind, layer in self.passed.layers.items()}


def _own_share(size_bytes: Size, step: StepConfig) -> Size:
    return -(-size_bytes // step.n_shards)


def _after_forward(update: _Update) -> MemorySnapshot:
    """Autocast keeps every copy until the loss is there, also those of layers that save only their input."""
    passed, layers = update.passed, {} if update.step.shard else update.kinds
    logits = total_bytes({*passed.loss.saved_activations, *passed.loss.variables})
    ends = sum(segment.copied_elements for segment in (passed.embedding, passed.end, passed.loss))
    copied = sum((n * passed.layers[kind].cached_elements for kind, n in layers.items()), start=ends)
    return _in_pass(
        update, "forward", None, activations=update.saved_by_all_bytes(end=True),
        logits=update.chunk_tokens * logits, copied=copied,
    )  # fmt: skip


def _in_loss(update: _Update) -> Iterator[MemorySnapshot]:
    """The backward pass of the loss, the output head and what stands between them and the last layer."""
    loss, end, backend = update.passed.loss, update.passed.end, update.step.backend
    is_chunked = update.step.loss_chunks > 1
    saved, copied = update.saved_by_all_bytes(end=True), update.copied_elements(update.kinds)
    # With chunks, there is a gradient of the head's input, and in each chunk one of the head's matrix.
    head = update.head_matrix * backend.matmul_bytes
    input_gradient = update.n_tokens * loss.input.bytes if is_chunked else 0
    outside = input_gradient + update.n_tokens * INT64 if is_chunked else 0
    sums = update.residual_sums_bytes(end)
    other_chunks = (update.n_tokens - update.chunk_tokens) * loss.input.bytes
    for moment in backward(loss, backend, recompute=is_chunked):
        yield _in_pass(
            update, "loss", moment, activations=saved,
            copied=copied + end.copied_elements + moment.copied_elements,
            logits=update.chunk_tokens * moment.saved_bytes + outside, pending=head if is_chunked else 0,
            in_flight=update.chunk_tokens * moment.in_flight_bytes + other_chunks + sums,
        )  # fmt: skip
    if is_chunked:
        # The sum of the matrix's gradients so far and of this chunk's is a third one.
        yield _in_pass(
            update, "loss", None, activations=saved, copied=copied + end.copied_elements, logits=outside,
            in_flight=input_gradient + sums, pending=3 * head,
        )  # fmt: skip
    for moment in backward(end, backend):
        yield _in_pass(
            update, "loss", moment,
            activations=update.saved_by_all_bytes() + update.n_tokens * moment.saved_bytes,
            copied=copied + moment.copied_elements, end_gradients=update.head_gradient_bytes,
            in_flight=update.n_tokens * moment.in_flight_bytes + input_gradient + sums,
        )  # fmt: skip


def _in_layer(update: _Update, phase: Phase, place: LayerPosition) -> Iterator[MemorySnapshot]:
    """The backward pass of a layer."""
    step, layer = update.step, update.passed.layers[place.kind]
    own_input = update.n_tokens * layer.input.bytes if step.gradient_checkpointing else 0
    saved, copied = update.saved_bytes(place.before) + own_input, update.copied_elements(place.before)
    sums, layer_gradients = update.residual_sums_bytes(layer), update.layer_gradient_bytes(place.after)
    waiting = update.waiting_bytes(place.after)
    if update.loans:
        waiting = waiting + update.n_tokens * update.lent_bytes(int(place.layer))
    for moment in update.layer_moments(place.kind):
        yield _in_pass(
            update, phase, moment, activations=saved + update.n_tokens * moment.saved_bytes,
            in_flight=update.n_tokens * moment.in_flight_bytes + sums + waiting,
            copied=copied + (0 if step.shard else moment.copied_elements),
            layer_gradients=layer_gradients, end_gradients=update.end_gradient_bytes,
        )  # fmt: skip


def _fullest_of_each_kind(update: _Update, places: Sequence[LayerPosition]) -> Iterator[LayerPosition]:
    """Of alike layers, those in which some model holds the most: what a moment of the backward pass adds to
    what is held before is the same in all of them."""
    alike: dict[LayerKind, list[LayerPosition]] = {}
    for place in places:
        alike.setdefault(place.kind, []).append(place)
    for group in alike.values():
        if len(group) == 1:
            yield group[0]
            continue
        held = [next(_in_layer(update, "a layer between", place)).total for place in group]
        for at in np.unique(np.argmax(np.stack(np.broadcast_arrays(*held)), axis=0)):
            yield group[at]


def _in_recomputed_layers(update: _Update) -> Iterator[MemorySnapshot]:
    """The backward pass of the last layer whose matmuls are recomputed, some of them perhaps not.

    Layers before it have saved what is added to the residual stream, those behind it have their gradients.
    """
    again, n_layers = update.again, update.m.n_layers
    n_recomputed = again.inner_share * n_layers
    saved_in_it = (np.ceil(n_recomputed) - n_recomputed) * again.inner_bytes / n_layers
    saved = again.inner_share * again.residual_bytes + saved_in_it
    gradients = (1 - again.inner_share) * update.layer_gradient_bytes(update.kinds)
    for layer in update.passed.layers.values():
        moment = compiled_recompute_maximum(layer)
        yield _in_pass(
            update, "a layer between", moment, end_gradients=update.end_gradient_bytes,
            activations=_whole(saved) + update.n_tokens * (layer.input.bytes + moment.saved_bytes),
            in_flight=update.n_tokens * moment.in_flight_bytes + update.residual_sums_bytes(layer),
            layer_gradients=_whole(gradients),
        )  # fmt: skip


def _whole(size: Size) -> Size:
    """Rounded up, where states of chunks shared out among their tokens leave fractions of a byte."""
    if isinstance(size, int):
        return size
    whole = np.ceil(size).astype(np.int64)
    return whole if np.ndim(size) else int(whole)


def _in_embedding(update: _Update) -> Iterator[MemorySnapshot]:
    """The backward pass of the embedding."""
    step, all_layers = update.step, update.layer_gradient_bytes(update.kinds)
    for moment in backward(update.passed.embedding, step.backend):
        yield _in_pass(
            update, "embedding", moment, activations=update.n_tokens * moment.saved_bytes,
            in_flight=update.n_tokens * moment.in_flight_bytes, copied=moment.copied_elements,
            layer_gradients=all_layers, end_gradients=update.end_gradient_bytes,
        )  # fmt: skip
    if update.m.tied and not step.backend.bf16 and step.loss_chunks == 1:
        # The two gradients of the table are added. The head's is a transposed view, to which autograd adds
        # nothing in place, so the sum is a third one. A cast or a sum of chunks is not a view.
        table, embedding = update.head_matrix * FLOAT32, update.passed.embedding.gradient_bytes(step.backend)
        yield _in_pass(
            update, "embedding", None, layer_gradients=all_layers, pending=2 * table,
            end_gradients=update.end_gradient_bytes + embedding - table,
        )  # fmt: skip


def _in_pass(
    update: _Update, phase: Phase, moment: BackwardSnapshot | None, *, layer_gradients: Size = 0,
    end_gradients: Size = 0, pending: Size = 0, copied: Size = 0, activations: Size = 0, logits: Size = 0,
    in_flight: Size = 0,
) -> MemorySnapshot:  # fmt: skip
    """A moment when there are so many bytes of gradients of layers, and so many of what is behind them."""
    gradients = _gradient_bytes(update, phase, layer_gradients, end_gradients, moment) + pending
    return _snapshot(
        update, phase, gradients=gradients, weight_copies=copied * BFLOAT16,
        communication=update.communication_bytes, activations=activations, logits=logits,
        in_flight=in_flight,
    )  # fmt: skip


def _gradient_bytes(
    update: _Update, phase: Phase, layers: Size, ends: Size, moment: BackwardSnapshot | None
) -> Size:
    """Gradients of parameters: the sum of the micro-steps before, and those of this one so far."""
    finished, unfinished = (moment.finished_bytes, moment.unfinished_bytes) if moment else (0, 0)
    step = update.step
    before = update.all_gradient_bytes if step.accumulates else 0
    if step.shard:
        # A layer's are reduced when it is done, those outside of the layers when everything is done.
        reduced = update.own_gradient_bytes if step.accumulates else update.own_share(layers)
        return reduced + ends + finished + unfinished
    is_one_graph = step.backend.compiled and (update.m.moe is None or step.backend.runs_experts_at_once)
    if step.accumulates and not is_one_graph:
        # Each is added to the ones before as soon as it is there; a tied head's waits for the embedding's,
        # unless it is that of a leaf.
        waits = update.m.tied and phase not in ("forward", "loss") and step.matmul_weights != "leaves"
        return before + (update.head_matrix * FLOAT32 if waits else 0) + unfinished
    # A compiled backward pass hands over all gradients at its end; experts that run in turn cut it into many
    # passes.
    return before + layers + ends + finished + unfinished


def _snapshot(
    update: _Update, phase: Phase, *, gradients: Size, communication: Size, weight_copies: Size = 0,
    activations: Size = 0, logits: Size = 0, in_flight: Size = 0,
) -> MemorySnapshot:  # fmt: skip
    has_masks = phase not in ("embedding", "optimizer") and update.masks_are_saved
    return MemorySnapshot(
        phase, update.step, weights=update.weights_bytes, gradients=gradients,
        optimizer=update.optimizer_bytes,
        weight_copies=weight_copies + update.leaf_bytes, activations=_whole(activations), logits=logits,
        in_flight=_whole(in_flight),
        inputs=update.input_bytes + (update.mask_bytes if has_masks else 0), communication=communication,
    )  # fmt: skip
