"""The plan of a run as a screen: every figure with its interval, its convention and what it assumes."""

from collections.abc import Iterator, Sequence

from parambudget.arch.description import ffn_in_words, shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.cost.speed.throughput import STALLS, Range
from parambudget.planning.machine import USABLE_SHARE
from parambudget.planning.run_plan import RunPlan
from parambudget.render.model import flags
from parambudget.render.terminal import bold, dim, table, wrap_text
from parambudget.units import (
    format_bytes,
    format_count,
    format_flop_rate,
    format_mfu,
    format_seconds,
    format_share,
)


def plan_screen(plan: RunPlan, width: int) -> list[str]:
    """The screen of `plan`: a line or two a question."""
    answers = {
        "model": _model(plan), "machine": _machine(plan), "memory": _memory(plan), "update": _update(plan),
        "warnings": list(plan.warnings),
    }  # fmt: skip
    if plan.fits:  # how fast it would be, if it could be, is no answer
        answers |= {
            "speed": _speed(plan), "run": _run(plan), "cost": _cost(plan), "loss": _loss(plan),
            "settings": [
                f"learning rate {plan.learning_rate:g}: {plan.why_learning_rate}", f"batch: {plan.why_batch}",
            ],
            "warnings": answers.pop("warnings"), "next": [train_command(plan)],
        }  # fmt: skip
    lines = []
    for name, said in answers.items():
        for i, text in enumerate(said):
            for j, line in enumerate(wrap_text(text, max(40, width - 10))):
                head = name if i == j == 0 else ""
                lines.append(f"{bold(head.ljust(9)) if head else ' ' * 9} {'  ' * (j > 0)}{line}".rstrip())
    return lines


def comparison(plans: Sequence[RunPlan], names: Sequence[str], width: int) -> list[str]:
    """Plans side by side, each figure against the first one's."""
    first = plans[0]
    rows = [["", *names]]
    for what, cells in _compared(plans, first):
        rows.append([what, *cells])
    lines = table(rows, left=(0,), width=width)
    return [bold(lines[0]), *lines[1:]]


def train_command(plan: RunPlan) -> str:
    """The command that trains as planned."""
    work, words = plan.work, ["parambudget train", flags(plan.model)]
    words += [f"--batch-size {work.batch_size}"]
    words += [f"--gradient-accumulation-steps {work.gradient_accumulation_steps}"]
    words += ["--gradient-checkpointing" if work.gradient_checkpointing else "--no-gradient-checkpointing"]
    words += ["--optimizer adamw"] if work.optimizer == "adamw" else []
    words += ["--shard"] if work.sharded else []
    words += [f"--hours {plan.goal.hours:g}" if plan.goal.hours else f"--steps {plan.updates}"]
    line = " ".join(words)
    if work.ranks > 1:
        line = f"torchrun --standalone --nproc-per-node {work.ranks} --no-python {line}"
    return line


def _model(plan: RunPlan) -> list[str]:
    m, counts = plan.model, plan.breakdown
    active = f", {counts.active:,} active" if counts.active != counts.total else ""
    return [
        f"{counts.total:,} parameters ({counts.body:,} body{active}): {shape_in_words(m)}, "
        f"context {m.context_length:,}",
        f"{format_count(flops_per_token(m))} FLOPs per training token, full convention; "
        f"{format_count(flops_per_token(m, 'causal'))} causal",
    ]


def _machine(plan: RunPlan) -> list[str]:
    machine, stack = plan.machine, plan.machine.stack
    peak = f", {format_flop_rate(stack.peak_flops)} dense {stack.dtype}" if stack.peak_flops else ""
    measured = f", measured on {stack.measured_on}" if stack.measured_on else ""
    return [
        f"{machine.name}{peak}, {format_bytes(machine.memory_bytes)}",
        f"speeds: {stack.name}; {stack.source}{measured}",
    ]


def _memory(plan: RunPlan) -> Iterator[str]:
    peak, there = plan.memory.peak_bytes, plan.machine.memory_bytes
    says = "fits" if plan.fits else "DOES NOT FIT"
    yield (
        f"{says}: {format_bytes(peak)} at the peak ({plan.memory.peak_phase}) of {format_bytes(there)}, "
        f"of which {USABLE_SHARE:.0%} can be used; {_largest(plan.largest_batch_size)}"
    )
    parts = sorted(plan.memory.parts.items(), key=lambda part: -part[1])
    yield ", ".join(
        f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in parts if size >= 0.005 * peak
    )
    for remedy in plan.remedies:
        yield f"would fit: {remedy}"


def _largest(sequences: int) -> str:
    return (
        f"micro-batches of up to {sequences:,} fit" if sequences else "not even one sequence at a time does"
    )


def _update(plan: RunPlan) -> list[str]:
    work = plan.work
    ways = [
        f"optimizer {work.optimizer}",
        "recomputed blocks" if work.gradient_checkpointing else "nothing recomputed",
    ]
    ways += [f"logits in {work.loss_chunks} parts"] if work.loss_chunks > 1 else []
    ways += ["sharded"] if work.sharded else []
    chosen = f" (chosen: {', '.join(plan.chosen)})" if plan.chosen else ""
    return [
        f"{work.batch_size} sequences × {work.gradient_accumulation_steps} micro-steps = "
        f"{plan.speed.update_tokens:,} tokens in {format_seconds(plan.speed.update_seconds)}; "
        f"{', '.join(ways)}{chosen}"
    ]


def _speed(plan: RunPlan) -> list[str]:
    speed, rate = plan.speed, plan.speed.tokens_per_second
    said = [f"{rate.expected:,.0f} tokens/s, within {rate.low:,.0f} to {rate.high:,.0f}"]
    if speed.mfu is not None and speed.stack.peak_flops is not None:
        peak = speed.stack.peak_flops * speed.work.ranks
        said.append(
            f"MFU {format_mfu(speed.mfu['full'], peak)} ({speed.mfu['causal']:.1%} causal); "
            f"no software exceeds {speed.limit_tokens_per_second:,.0f} tokens/s there"
        )
    return said


def _run(plan: RunPlan) -> list[str]:
    return [
        f"{format_count(plan.tokens)} tokens ({plan.why_tokens}), "
        f"{plan.tokens_per_parameter:.3g} per parameter, {plan.updates:,} updates, {plan.flops:.3g} FLOPs",
        f"{_times(plan.hours)}, {STALLS:.0%} of it for evaluations, saves and data",
    ]


def _times(hours: Range) -> str:
    expected = format_seconds(3600 * hours.expected)
    if hours.low == hours.high:
        return expected
    return f"{expected}, within {format_seconds(3600 * hours.low)} to {format_seconds(3600 * hours.high)}"


def _cost(plan: RunPlan) -> list[str]:
    price = plan.machine.price
    if plan.cost is None or price is None:
        return ["no price is known; give one with --price"]
    if price.read_on is None:
        return [f"{_dollars(plan.cost)} at ${price.low:g} an hour"]
    return [
        f"{_dollars(plan.cost)} at ${price.middle:.2f} an hour, ${price.low:g} to ${price.high:g}, "
        f"as of {price.read_on}: {price.source}"
    ]


def _dollars(cost: Range) -> str:
    if cost.low == cost.high:
        return f"${cost.expected:,.2f}"
    return f"${cost.expected:,.2f}, within ${cost.low:,.2f} to ${cost.high:,.2f}"


def _loss(plan: RunPlan) -> list[str]:
    best, worst = plan.loss_range
    interval = f", {best:.3f} to {worst:.3f} by the speed" if best != worst else ""
    bits = plan.loss.bits_per_byte
    said = f"{plan.loss.loss:.3f} nats per token expected{interval}"
    return [said + (f", {bits:.4f} bits per byte" if bits is not None else ""), dim(plan.loss.meaning)]


def _compared(plans: Sequence[RunPlan], first: RunPlan) -> Iterator[tuple[str, list[str]]]:
    def against(name: str, values: Sequence[float], form: object) -> tuple[str, list[str]]:
        cells = [form(value) for value in values]  # type: ignore[operator]
        return name, [
            cell if i == 0 else f"{cell} ({format_share(values[i] / values[0] - 1, 1)})"
            for i, cell in enumerate(cells)
        ]

    yield "shape", [f"{p.model.n_layers} × {p.model.dim}, {', '.join(ffn_in_words(p.model))}" for p in plans]
    yield against("parameters", [p.breakdown.total for p in plans], lambda v: f"{v:,}")
    yield against("FLOPs per token", [flops_per_token(p.model) for p in plans], format_count)
    yield "micro-batch", [f"{p.work.batch_size} × {p.work.gradient_accumulation_steps}" for p in plans]
    yield against("peak memory", [p.memory.peak_bytes for p in plans], format_bytes)
    yield "fits", ["yes" if p.fits else "no" for p in plans]
    yield "largest micro-batch", [f"{p.largest_batch_size:,}" for p in plans]
    yield against("tokens/s", [p.speed.tokens_per_second.expected for p in plans], lambda v: f"{v:,.0f}")
    if all(p.speed.mfu for p in plans):
        yield "MFU, full", [f"{p.speed.mfu['full']:.1%}" for p in plans if p.speed.mfu]
    yield against("tokens", [p.tokens for p in plans], format_count)
    yield against("hours", [p.hours.expected for p in plans], lambda v: f"{v:.3g}")
    if all(p.cost for p in plans):
        yield against("dollars", [p.cost.expected for p in plans if p.cost], lambda v: f"{v:,.2f}")
    yield (
        "expected loss",
        [
            f"{p.loss.loss:.3f}" + (f" ({p.loss.loss - first.loss.loss:+.3f})" if p is not first else "")
            for p in plans
        ],
    )
