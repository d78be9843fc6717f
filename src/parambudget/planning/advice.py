"""Suggestions and warnings that go with a plan: all computed, none a rule of thumb."""

from collections.abc import Iterator
from typing import Final

from parambudget.arch.blocks import IndexerConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.dims import chooses_keys
from parambudget.arch.layers import needs_mask, uses_eager_attention
from parambudget.arch.mixers.rows import model_mixer
from parambudget.cost.hardware import ACCELERATORS, GIVEN
from parambudget.cost.memory.peak import peak_bytes, training_memory
from parambudget.cost.own_gpus import ASSUMED_LINK_BYTES
from parambudget.cost.speed.roofline import tokens_per_second
from parambudget.cost.speed.throughput import Throughput
from parambudget.cost.step import MANY_CHUNKS, StepConfig, StepFields
from parambudget.errors import InputError
from parambudget.planning.machine import MAX_GPUS, Machine, usable_bytes
from parambudget.planning.step_search import fastest_step
from parambudget.units import count_phrase, format_byte_rate, format_bytes, format_share

_MOST_GPUS: Final = 8
_BUDGETS: Final = (0.75, 0.5, 0.25)
"""Shares of the activations that are suggested."""
_MUCH_FIXED: Final = 0.1
"""Of an update's time, that is worth a warning."""
_MOST_DOUBLINGS: Final = 3
"""Of the nodes: a run that needs more than eight is planned as one on purpose."""


def suggestions(model: ModelConfig, step: StepConfig, machine: Machine, given: StepFields) -> tuple[str, ...]:
    """What would make a step fit that does not: single changes, the planner's own choice, other machines."""
    lines = []
    everything: dict[str, object] = {"activation_memory_budget": 1.0}
    kept = "" if step.activation_memory_budget == 1 else ", activation_memory_budget=1"
    changes = {
        f"`loss_chunks={MANY_CHUNKS}`": step.replace(loss_chunks=MANY_CHUNKS),
        f"`gradient_checkpointing=True{kept}`": step.replace(gradient_checkpointing=True, **everything),
    }
    if (budget := _largest_budget(model, step, machine)) is not None:
        changes[f"`activation_memory_budget={budget:g}`"] = step.replace(activation_memory_budget=budget)
    for name, changed in changes.items():
        if changed != step and peak_bytes(model, changed) <= machine.usable_bytes:
            lines.append(f"{name}: {_comparison(model, step, changed, machine)}")
    smaller = _smaller_micro_batch(model, step, machine)
    if smaller is not None:
        lines.append(f"`{_batch_arguments(smaller)}`: {_comparison(model, step, smaller, machine)}")
    return (
        *lines,
        *_planners_choice(model, step, machine, given),
        *_other_optimizer(model, step, machine),
        *_other_machines(model, step, machine, given),
    )


def _largest_budget(model: ModelConfig, step: StepConfig, machine: Machine) -> float | None:
    """The largest of a few shares of the activations with which a step fits that keeps them all and is
    faster than with whole blocks recomputed; None where there is none."""
    keeps_all = step.activation_memory_budget == 1 and not step.gradient_checkpointing
    if not keeps_all or step.shard or not step.backend.compiled:
        return None
    in_blocks = tokens_per_second(model, step.replace(gradient_checkpointing=True), machine.profile)
    for budget in _BUDGETS:
        within = step.replace(activation_memory_budget=budget)
        if tokens_per_second(model, within, machine.profile) <= in_blocks:
            return None
        if peak_bytes(model, within) <= machine.usable_bytes:
            return budget
    return None


def _smaller_micro_batch(model: ModelConfig, step: StepConfig, machine: Machine) -> StepConfig | None:
    """The same update in the largest micro-batches that fit."""
    # Several micro-steps keep the sum of their gradients, one does not.
    several = step.replace(gradient_accumulation_steps=2 * step.world_size)
    size = machine.largest_batch_size(model, several)
    return step.with_batch_size(size) if 0 < size < step.batch_size else None


def _batch_arguments(step: StepConfig) -> str:
    steps = step.gradient_accumulation_steps
    return f"batch_size={step.batch_size}, gradient_accumulation_steps={steps}"


def _comparison(model: ModelConfig, before: StepConfig, after: StepConfig, machine: Machine) -> str:
    rates = [tokens_per_second(model, step, machine.profile) for step in (before, after)]
    change = rates[1] / rates[0] - 1
    speed = "equally fast" if abs(change) < 0.005 else f"{format_share(change, 0)} tokens/s"
    return f"{format_bytes(peak_bytes(model, after))}, {speed}"


def _planners_choice(
    model: ModelConfig, step: StepConfig, machine: Machine, given: StepFields
) -> Iterator[str]:
    """What would be chosen if the optimizer alone stayed as given, where something else is given."""
    best = _best_step(model, step, machine, given)
    if best is not None and given.keys() - {"optimizer"}:
        yield f"chosen by the planner, `{_arguments(best)}`: {_comparison(model, step, best, machine)}"


def _best_step(
    model: ModelConfig, step: StepConfig, machine: Machine, given: StepFields
) -> StepConfig | None:
    fixed: StepFields = {"optimizer": given["optimizer"]} if "optimizer" in given else {}
    try:
        return fastest_step(model, step.sequences_per_update, machine, fixed)
    except InputError:
        return None


def _arguments(step: StepConfig) -> str:
    """The settings of a step that differ from the simplest one, as arguments of a call."""
    words = [_batch_arguments(step)]
    words += ["gradient_checkpointing=True"] * step.gradient_checkpointing + ["shard=True"] * step.shard
    words += [] if step.shard_degree is None else [f"shard_degree={step.shard_degree}"]
    budget = step.activation_memory_budget
    words += [f"activation_memory_budget={budget:g}"] if budget < 1 else []
    words += [f"loss_chunks={step.loss_chunks}"] if step.loss_chunks > 1 else []
    return ", ".join(words)


def _other_machines(
    model: ModelConfig, step: StepConfig, machine: Machine, given: StepFields
) -> Iterator[str]:
    """Where it would fit: the smallest accelerator that holds it as it is, or the fewest of this one with the
    step that is best there."""
    if machine.accelerator is None:
        return
    peak = peak_bytes(model, step)
    larger = [
        row for row in ACCELERATORS.values() if row.has_bfloat16 and usable_bytes(row.memory_bytes) >= peak
    ]
    if larger:
        least = min(larger, key=lambda row: row.memory_bytes)
        yield f"`machine={least.name}` ({format_bytes(least.memory_bytes)}), unchanged"
    for n in _more_gpus(machine):
        best = _best_step(model, step, machine.with_gpus(n), given)
        if best is not None:
            nodes = f", in {n // machine.gpus_per_node} nodes" if n > machine.gpus_per_node else ""
            yield f"`gpus={n}, {_arguments(best)}`: {format_bytes(peak_bytes(model, best))} each{nodes}"
            return


def _more_gpus(machine: Machine) -> Iterator[int]:
    """Larger numbers of GPUs: those of one node, then whole nodes, each twice as many."""
    yield from range(machine.world_size + 1, min(_MOST_GPUS, machine.gpus_per_node) + 1)
    for power in range(1, _MOST_DOUBLINGS + 1):
        if (n := machine.gpus_per_node * 2**power) > machine.world_size and n <= MAX_GPUS:
            yield n


def _other_optimizer(model: ModelConfig, step: StepConfig, machine: Machine) -> Iterator[str]:
    """Muon, where AdamW is given and the state that it has less of is what is too much."""
    if step.optimizer == "muon":
        return
    unchanged = step.replace(optimizer="muon")
    if peak_bytes(model, unchanged) <= machine.usable_bytes:
        yield f"`optimizer=muon`: {_comparison(model, step, unchanged, machine)}"
    elif (best := _best_step(model, step, machine, {"optimizer": "muon"})) is not None:
        yield f"`optimizer=muon, {_arguments(best)}`: {_comparison(model, step, best, machine)}"


def no_way_to_fit(model: ModelConfig, step: StepConfig, machine: Machine) -> str:
    """What is to be said where nothing that the trainer can do, on more GPUs either, makes a step fit."""
    if machine.accelerator is None:
        return (
            "nothing that the trainer can do fits in the memory of this machine; a GPU or a smaller model may"
        )
    most = max((*_more_gpus(machine), machine.world_size))
    sharded = step.replace(shard=True, world_size=most, gradient_accumulation_steps=most, batch_size=1)
    parts = training_memory(model, sharded).parts if most > 1 else training_memory(model, step).parts
    state = sum(parts[name] for name in ("weights", "gradients", "optimizer"))
    gathered = parts["communication"]
    return (
        f"nothing that the trainer can do fits: sharded over {most:,} GPUs, weights, gradients and optimizer "
        f"state take {format_bytes(state)} on each, and gathered layers {format_bytes(gathered)}; "
        "models of this size are split by tensor, pipeline or expert parallelism, which it does not have"
    )


def warnings(model: ModelConfig, machine: Machine, speed: Throughput) -> Iterator[str]:
    """What slows the run down, and what is not modelled, a line each."""
    yield from hardware_warnings(machine)
    yield from _network_warnings(machine)
    yield from _scaling_warnings(speed)
    yield from _vocabulary_warnings(model, machine)
    yield from _attention_warnings(model, speed)
    yield from _mixer_warnings(model)
    yield from loss_warnings(model)
    if model.moe is None:
        return
    in_turn = ""
    if not machine.profile.runs_experts_at_once:
        n_matrices = model.n_moe_layers * model.moe.n_experts * (3 if model.gated else 2)
        in_turn = f"run one after another, {n_matrices:,} matrices in a micro-step, and "
    yield (
        f"experts {in_turn}are assumed to get equally many tokens; the slowdown of uneven routing is not "
        "modelled"
    )


def hardware_warnings(machine: Machine) -> Iterator[str]:
    """What the accelerators lack, and what was not said of them."""
    yield from machine.notes
    gpu = machine.accelerator
    if gpu is None:
        return
    if not gpu.has_bfloat16:
        yield (
            f"{gpu.name} has no bfloat16: planned with its {gpu.peak_dtype} peak, as for a trainer that "
            "multiplies in that; the bundled one needs bfloat16 and refuses it"
        )
    if gpu.source == GIVEN and machine.world_size > 1:
        assumed = " (PCIe 4.0 x16, assumed)" if gpu.link_bytes == ASSUMED_LINK_BYTES else ""
        yield (
            f"the link from one of these GPUs to another carries {format_byte_rate(gpu.link_bytes)} in each "
            f"direction{assumed}"
        )


def loss_warnings(model: ModelConfig) -> Iterator[str]:
    """What the expected loss of a model leaves out."""
    if model.moe is not None:
        yield (
            "the expected loss is that of a dense model with the active parameters; with experts it is "
            "lower, but this law does not say by how much"
        )
    if model.n_mixer_layers:
        yield "the expected loss is that of a model with attention in every layer: the law knows no others"


def _network_warnings(machine: Machine) -> Iterator[str]:
    if machine.n_nodes > 1:
        yield (
            f"{machine.world_size} GPUs are {machine.n_nodes} nodes of {machine.gpus_per_node}: between them "
            f"gradients go over a network of {machine.network_bytes * 8 / 1e9:,.4g} Gb/s per GPU"
        )


def _scaling_warnings(speed: Throughput) -> Iterator[str]:
    """That an update is too small for so many accelerators, where each has a single micro-step left."""
    step = speed.step
    fixed = (speed.seconds["optimizer"] + speed.seconds["communication"]) / speed.update_seconds
    if step.world_size > 1 and step.micro_steps_per_device == 1 and fixed > _MUCH_FIXED:
        yield (
            f"{fixed:.0%} of the time goes to the optimizer and to communication, which do not shrink with "
            f"the batch: updates of {speed.update_tokens:,} tokens leave "
            f"{count_phrase(step.batch_size, 'sequence')} to each of {step.world_size} GPUs. Fewer GPUs for "
            "longer train on more tokens for the same money, and can train a larger model"
        )


def _vocabulary_warnings(model: ModelConfig, machine: Machine) -> Iterator[str]:
    missing = -model.vocab_size % 64
    if missing and machine.accelerator:
        price = missing * model.embedding_width * (1 if model.tied else 2)
        yield (
            f"vocab_size {model.vocab_size:,} is not a multiple of 64, which matmuls are fastest at: the "
            f"trainer pads the output head while it computes. {model.vocab_size + missing:,} rows would "
            f"avoid that, for {price:,} more parameters"
        )


def _mixer_warnings(model: ModelConfig) -> Iterator[str]:
    """What is not known of layers with another mixer than attention."""
    kind = model_mixer(model)
    if kind is not None:
        loop = "convolution" if kind == "short_convolution" else "scan"
        kernels = (
            ". A run that finds fused kernels installed uses them and says so; these figures are not for them"
        )
        yield (
            f"{count_phrase(model.n_mixer_layers, 'layer')} with the mixer {kind} run a {loop} in plain "
            "torch: its memory is measured on a CPU, and its time, counted with attention, is assumed and "
            f"measured on no GPU{'' if kind == 'rwkv' else kernels}"  # no package has one for RWKV-4
        )


def _attention_warnings(model: ModelConfig, speed: Throughput) -> Iterator[str]:
    share = f"{speed.seconds['attention'] / speed.update_seconds:.0%}"
    if uses_eager_attention(model):
        what = "soft-capped scores" if model.attention_softcap is not None else "attention sinks"
        yield (
            f"no fused kernel supports {what}: every score is written to memory, and attention takes {share} "
            "of the time"
        )
        return
    windows = {model.window} if model.n_local_layers else set()
    if model.indexer is not None:
        yield from _indexer_warnings(model, model.indexer, share)
    elif needs_mask(model, None) or any(needs_mask(model, window) for window in windows):
        what = "ALiBi" if model.position == "alibi" else f"a window of {model.window:,}"
        yield (
            f"{what} needs a mask, which rules out the fastest attention kernels, and masked scores are "
            f"computed anyway: attention takes {share} of the time"
        )


def _indexer_warnings(model: ModelConfig, indexer: IndexerConfig, share: str) -> Iterator[str]:
    """What the bundled trainer does with an indexer, and that its time and scratch memory are estimates."""
    if not chooses_keys(model):
        return
    yield (
        f"the trainer computes all {model.context_length:,} scores of a query and masks those beyond the "
        f"{indexer.index_top_k:,} that the indexer chose: attention takes {share} of the time, and the "
        "indexer's own scores about 1 GiB for a moment, which is not in the plan"
    )
    yield (
        "no gradient reaches an indexer, so from scratch it chooses keys at random; start from weights whose "
        f"indexer is trained, or train with at most {indexer.index_top_k:,} tokens, where nothing is chosen"
    )
