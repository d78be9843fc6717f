"""The plan of a run as a screen: every figure with its interval, its convention and its assumptions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isinf
from typing import Final

from parambudget.arch.description import ffn_in_words, shape_in_words
from parambudget.cost.energy import LOAD_SHARE, PUE, Energy
from parambudget.cost.flops import flops_per_token
from parambudget.cost.memory.peak import Phase
from parambudget.cost.memory.recompute import recomputation
from parambudget.cost.params import ParameterCount
from parambudget.cost.speed.throughput import TIME_OVERHEAD, Interval
from parambudget.cost.step import NEVER_CHOSEN, StepConfig
from parambudget.planning.machine import USABLE_SHARE
from parambudget.planning.run_plan import RunPlan
from parambudget.planning.target_loss import FirstRun, Reach
from parambudget.render.commands import data_flag, runnable_command, step_flags
from parambudget.render.model import as_flags, flags, memory_part_in_words
from parambudget.render.terminal import bold, dim, table, wrap_text
from parambudget.units import (
    count_phrase,
    format_amount,
    format_bytes,
    format_count,
    format_flop_rate,
    format_mfu,
    format_seconds,
    format_share,
    plural,
)


def plan_screen(plan: RunPlan, width: int) -> list[str]:
    """The screen of `plan`: a line or two per question."""
    return labelled_lines(plan_answers(plan), width)


def plan_answers(plan: RunPlan) -> dict[str, list[str]]:
    """What a plan says, in a paragraph or more per question."""
    answers = {
        "model": _model(plan), "machine": _machine(plan), "memory": list(_memory(plan)),
        "update": _update(plan), "warnings": list(plan.warnings),
    }  # fmt: skip
    if plan.fits:  # the speed of what cannot run is no answer
        answers |= {
            "speed": _speed(plan), "run": _run(plan), "cost": _cost(plan),
            "energy": _energy(plan), "loss": _loss(plan), "target": _target(plan),
            "first run": _first_run(plan),
            "settings": [
                f"learning rate {plan.learning_rate:g}: {plan.why_learning_rate}", f"batch: {plan.why_batch}",
            ],
            "warnings": answers.pop("warnings"),
            "next": [train_command(plan)] if plan.machine.has_bfloat16 else [],
        }  # fmt: skip
    return answers


def labelled_lines(answers: Mapping[str, Iterable[str]], width: int) -> list[str]:
    """Paragraphs behind the questions that they answer."""
    lines = []
    for name, paragraphs in answers.items():
        for i, text in enumerate(paragraphs):
            # A command stays on one line, however long: it is there to be pasted.
            wrapped = [text] if name in ("next", "first run") else wrap_text(text, max(40, width - 10))
            for j, line in enumerate(wrapped):
                head = name if i == j == 0 else ""
                lines.append(f"{bold(head.ljust(9)) if head else ' ' * 9} {'  ' * (j > 0)}{line}".rstrip())
    return lines


def comparison(plans: Sequence[RunPlan], names: Sequence[str], width: int) -> list[str]:
    """Plans side by side, each figure relative to the first plan's."""
    lines = table(comparison_rows(plans, names), left=(0,), width=width)
    return [bold(lines[0]), *lines[1:]]


def comparison_rows(plans: Sequence[RunPlan], names: Sequence[str]) -> list[list[str]]:
    """The names as headings, and a row of cells for each figure."""
    return [["", *names], *([what, *cells] for what, cells in _compared_figures(plans, plans[0]))]


def train_command(plan: RunPlan, updates: int | None = None) -> str:
    """The command that trains as planned; with `updates` a run of so many of its updates."""
    step = plan.step
    words = [flags(plan.model), data_flag(), *step_flags(step)]
    by_time = plan.goal.hours if updates is None else None
    words += [f"--hours {by_time:g}" if by_time else f"--steps {updates or plan.updates}"]
    return runnable_command("train", *words, processes=step.world_size, nodes=plan.machine.n_nodes)


def plan_command(plan: RunPlan, beside: str) -> str:
    """The command of `plan` that gives this plan again: what was chosen is left to it, every other field of
    the step is given. `beside` are the flags of everything but the model and the step."""
    step = plan.step
    left = {*plan.chosen, *(["shard"] if step.world_size == 1 else [])}
    left |= {name for name in NEVER_CHOSEN if getattr(step, name) == StepConfig.model_fields[name].default}
    given = {name: value for name, value in step.step_fields.items() if name not in left}
    return runnable_command("plan", flags(plan.model), beside, as_flags(given))


def parameters_in_words(counts: ParameterCount) -> str:
    """How many a model has, and its shape."""
    active = f", {counts.active:,} used per token" if counts.active != counts.total else ""
    return (
        f"{counts.total:,} parameters ({counts.body:,} without embeddings and output head{active}): "
        f"{shape_in_words(counts.model)}, context {counts.model.context_length:,}"
    )


def _model(plan: RunPlan) -> list[str]:
    m = plan.model
    full, causal = flops_per_token(m), flops_per_token(m, "causal")
    flops = f"{format_count(full)} FLOPs per training token"
    if causal != full:
        flops += (
            " in the full convention (attention over the whole context), "
            f"{format_count(causal)} causal (over earlier tokens only)"
        )
    return [parameters_in_words(plan.breakdown), flops]


def _machine(plan: RunPlan) -> list[str]:
    machine, profile = plan.machine, plan.machine.profile
    peak = f", {format_flop_rate(profile.peak_flops)} dense {profile.dtype}" if profile.peak_flops else ""
    measured = f", measured on {profile.measured_on}" if profile.measured_on else ""
    memory, whole = format_bytes(machine.memory_bytes), machine.accelerator
    if whole is not None and machine.memory_bytes < whole.memory_bytes:
        memory += f" of its {format_bytes(whole.memory_bytes)}"
    return [
        f"{machine.name}{peak}, {memory}",
        f"speeds: {profile.name}; {profile.source}{measured}",
    ]


def _memory(plan: RunPlan) -> Iterator[str]:
    peak, there = plan.memory.peak_bytes, plan.machine.memory_bytes
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield (
        f"{verdict}: {format_bytes(peak)} of {format_bytes(there)}, of which {USABLE_SHARE:.0%} can be used; "
        f"memory peaks {_PEAKS[plan.memory.peak_phase]}; {_largest(plan.largest_batch_size)}"
    )
    parts = sorted(plan.memory.parts.items(), key=lambda part: -part[1])
    yield ", ".join(
        f"{memory_part_in_words(name)} {format_bytes(size)}" for name, size in parts if size >= 0.005 * peak
    )
    for suggestion in plan.suggestions:
        yield f"would fit: {suggestion}"


_PEAKS: Final[Mapping[Phase, str]] = {
    "forward": "in the forward pass", "loss": "while the loss is computed",
    "last layer": "in the backward pass of the last layer",
    "a layer between": "in the backward pass of a layer in the middle",
    "first layer": "in the backward pass of the first layer",
    "embedding": "in the backward pass of the embedding", "optimizer": "in the optimizer's step",
}  # fmt: skip
"""When a phase of an update is."""


def _largest(sequences: int) -> str:
    if not sequences:
        return "with these settings not even one sequence at a time fits"
    return f"up to {count_phrase(sequences, 'sequence')} at a time {'fit' if sequences > 1 else 'fits'}"


def _update(plan: RunPlan) -> list[str]:
    step = plan.step
    settings = [
        f"optimizer {step.optimizer}",
        "gradient checkpointing" if step.gradient_checkpointing else "no gradient checkpointing",
    ]
    if step.activation_memory_budget < 1:
        settings += [
            f"{step.activation_memory_budget:.0%} of the activations kept ({recomputation(plan.model, step)})"
        ]
    settings += [f"logits in {step.loss_chunks} chunks"] if step.loss_chunks > 1 else []
    settings += [_sharding(step)] if step.shard else []
    chosen = f" (chosen here: {', '.join(plan.chosen)})" if plan.chosen else ""
    sequences = count_phrase(step.batch_size, "sequence")
    micro_steps = count_phrase(step.gradient_accumulation_steps, "micro-step")
    return [
        f"{sequences} × {micro_steps} (a forward and backward pass each; their gradients add up) = "
        f"{plan.speed.update_tokens:,} tokens in {format_seconds(plan.speed.update_seconds)}; "
        f"{', '.join(settings)}{chosen}"
    ]


def _sharding(step: StepConfig) -> str:
    if step.n_replicas == 1:
        return "sharded"
    return f"sharded within {step.n_shards} GPUs, replicated {step.n_replicas} times"


def _speed(plan: RunPlan) -> list[str]:
    speed, rate = plan.speed, plan.speed.tokens_per_second
    best = speed.best_tokens_per_second
    fastest = f"; the fastest stacks reach {best:,.0f}" if best is not None else ""
    lines = [f"{rate.expected:,.0f} tokens/s ({rate.low:,.0f} to {rate.high:,.0f}){fastest}"]
    if speed.mfu is not None and speed.profile.peak_flops is not None:
        peak = speed.profile.peak_flops * speed.step.world_size
        causal = f" ({speed.mfu['causal']:.1%} causal)" if speed.mfu["causal"] != speed.mfu["full"] else ""
        lines.append(
            f"MFU {format_mfu(speed.mfu['full'], peak)}{causal}; "
            f"hardware limit: {speed.limit_tokens_per_second:,.0f} tokens/s"
        )
    return lines


def _run(plan: RunPlan) -> list[str]:
    epochs = "" if plan.epochs is None else format_count(plan.epochs)
    times = f"{epochs} {plural(epochs, 'epoch')} of the text, " if epochs else ""
    return [
        f"{format_count(plan.tokens)} tokens ({plan.why_tokens}), {times}"
        f"{plan.tokens_per_parameter:.3g} tokens per parameter, {count_phrase(plan.updates, 'update')}, "
        f"{plan.flops:.3g} FLOPs",
        f"{times_in_words(plan.hours)}, {TIME_OVERHEAD:.0%} of it for evaluations, checkpoints and data",
    ]


def times_in_words(hours: Interval) -> str:
    """A duration with the ends of its interval."""
    expected = format_seconds(3600 * hours.expected)
    if hours.low == hours.high:
        return expected
    high = "never" if isinf(hours.high) else format_seconds(3600 * hours.high)
    return f"{expected} ({format_seconds(3600 * hours.low)} to {high})"


def _cost(plan: RunPlan) -> list[str]:
    price = plan.machine.price
    if plan.cost is None or price is None:
        return ["no price is known; set one with --price"]
    if price.read_on is None:
        return [f"{dollars_in_words(plan.cost)} at ${price.low:g} an hour"]
    return [
        f"{dollars_in_words(plan.cost)} at ${price.middle:.2f} an hour (${price.low:g} to ${price.high:g} "
        f"on {price.read_on}: {price.source})"
    ]


def _energy(plan: RunPlan) -> list[str]:
    energy = plan.energy
    if energy is None:
        what = plan.machine.accelerator.name if plan.machine.accelerator else "a processor"
        return [f"not estimated: the power of {what} is not known"]
    used = f"{_amount(energy.kilowatt_hours, 'kWh')}, {_amount(energy.kilograms_co2e, 'kg CO2e')}"
    return [f"{used}, assuming {energy_assumptions(energy)}"]


def energy_assumptions(energy: Energy) -> str:
    """What an energy was computed from, in words."""
    return (
        f"{LOAD_SHARE:.0%} of {energy.board_watts:,g} W a GPU, PUE {PUE:g} and {energy.grid_intensity:,g} g "
        f"CO2e/kWh ({energy.grid_source})"
    )


def _amount(amount: Interval, unit: str) -> str:
    expected = f"{format_amount(amount.expected)} {unit}"
    if amount.low == amount.high:
        return expected
    return f"{expected} ({format_amount(amount.low)} to {format_amount(amount.high)})"


def dollars_in_words(cost: Interval) -> str:
    """Dollars with the ends of their interval."""
    if cost.low == cost.high:
        return f"${cost.expected:,.2f}"
    high = "never" if isinf(cost.high) else f"${cost.high:,.2f}"
    return f"${cost.expected:,.2f} (${cost.low:,.2f} to {high})"


def _loss(plan: RunPlan) -> list[str]:
    best, worst = plan.loss_range
    law = plan.goal.law
    seeds = ", with seeds" if law.fit is not None else ", seeds"
    over = f"{law.beside_in_words}{seeds}" if law.is_measured else ""
    if plan.goal.hours is not None:
        over = f"{over} and speeds" if over else "the range of speeds"
    interval = f" ({best:.3f} to {worst:.3f} over {over})" if best != worst else ""
    bits = plan.loss.bits_per_byte
    expected = f"at most, the bound ln {plan.model.vocab_size:,}" if plan.loss.is_bound else "expected"
    text = f"{plan.loss.loss:.3f} nats per token {expected}{interval}"
    return [text + (f", {bits:.4f} bits per byte" if bits is not None else ""), dim(plan.loss.meaning)]


def _target(plan: RunPlan) -> list[str]:
    target = plan.target
    if target is None:
        return []
    if target.first_run is not None:
        first = first_run_in_words(target.first_run, "this run")
        return [
            f"{target.loss:g} nats per token cannot be told for this text and tokenizer without one run; the "
            f"cheapest that would tell is {first}. Then plan again with --anchor and its folder"
        ]
    assert target.reach is not None
    return [f"{target.loss:g} nats per token: {_reach_in_words(plan, target.reach)}"]


def first_run_in_words(first: FirstRun, whole: str) -> str:
    """How long the run is that would tell, as a part of a `whole` one, and what it costs."""
    part = "all" if first.share == 1 else f"1/{round(1 / first.share)}"
    dollars = "" if first.cost is None else f", {dollars_in_words(first.cost)}"
    tokens = format_count(first.tokens)
    return f"{part} of {whole}: {tokens} tokens, {times_in_words(first.hours)}{dollars}"


def _reach_in_words(plan: RunPlan, reach: Reach) -> str:
    low, expected, high = reach.limit
    laws = plan.goal.law.beside_in_words
    limit = f"its limit is {expected:.3f} ({low:.3f} to {high:.3f} over {laws})"
    if isinf(reach.tokens.expected):
        some = (
            ""
            if isinf(reach.tokens.low)
            else f"; one of the laws expects it at {format_count(reach.tokens.low)}"
        )
        return f"not reached by this model, however long it trains: {limit}{some}"
    n, dollars = reach.tokens, "" if reach.cost is None else f", {dollars_in_words(reach.cost)}"
    upper = "never" if isinf(n.high) else format_count(n.high)
    where = "within" if reach.within_plan else "beyond"
    return (
        f"reached after {format_count(n.expected)} tokens ({format_count(n.low)} to {upper} over {laws}), "
        f"{times_in_words(reach.hours)}{dollars}: {where} the planned run of {format_count(plan.tokens)}; "
        f"{limit}"
    )


def _first_run(plan: RunPlan) -> list[str]:
    if plan.target is None or plan.target.first_run is None or not plan.machine.has_bfloat16:
        return []
    return [train_command(plan, plan.target.first_run.updates)]


def _compared_figures(plans: Sequence[RunPlan], first: RunPlan) -> Iterator[tuple[str, list[str]]]:
    def against(name: str, values: Sequence[float], form: Callable[[float], str]) -> tuple[str, list[str]]:
        cells = [form(value) for value in values]
        return name, [
            cell if i == 0 else f"{cell} ({format_share(values[i] / values[0] - 1, 1)})"
            for i, cell in enumerate(cells)
        ]

    yield "shape", [", ".join([f"{p.model.n_layers} × {p.model.dim}", *ffn_in_words(p.model)]) for p in plans]
    yield against("parameters", [p.breakdown.total for p in plans], lambda v: f"{v:,}")
    yield against("FLOPs per token", [flops_per_token(p.model) for p in plans], format_count)
    yield "micro-batch", [f"{p.step.batch_size} × {p.step.gradient_accumulation_steps}" for p in plans]
    yield against("peak memory", [p.memory.peak_bytes for p in plans], format_bytes)
    yield "fits", ["yes" if p.fits else "no" for p in plans]
    yield "largest micro-batch", [f"{p.largest_batch_size:,}" for p in plans]
    yield against("tokens/s", [p.speed.tokens_per_second.expected for p in plans], lambda v: f"{v:,.0f}")
    if all(p.speed.mfu for p in plans):
        yield "MFU, full convention", [f"{p.speed.mfu['full']:.1%}" for p in plans if p.speed.mfu]
    yield against("tokens", [p.tokens for p in plans], format_count)
    if all(p.epochs for p in plans):
        yield against("epochs", [p.epochs for p in plans if p.epochs], format_count)
    yield against("hours", [p.hours.expected for p in plans], lambda v: f"{v:.3g}")
    if all(p.cost for p in plans):
        yield against("dollars", [p.cost.expected for p in plans if p.cost], lambda v: f"{v:,.2f}")
    if all(p.energy for p in plans):
        energies = [p.energy for p in plans if p.energy]
        yield against("kWh", [e.kilowatt_hours.expected for e in energies], format_amount)
        yield against("kg CO2e", [e.kilograms_co2e.expected for e in energies], format_amount)
    yield (
        "expected loss",
        [
            f"{p.loss.loss:.3f}"
            + (f" ({p.loss.loss - first.loss.loss:+.3f})" if p is not first else "")
            + (f", the bound ln {p.model.vocab_size:,}" if p.loss.is_bound else "")
            for p in plans
        ],
    )
