"""A report as a Markdown document: the decision first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isinf
from typing import TYPE_CHECKING
from urllib.parse import quote

from parambudget.arch.config import flat_fields
from parambudget.arch.description import shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.cost.params import ParameterCount
from parambudget.cost.speed.throughput import TIME_OVERHEAD
from parambudget.planning.machine import USABLE_SHARE
from parambudget.planning.run_plan import RunPlan
from parambudget.planning.target_loss import Reach
from parambudget.render.commands import runnable_command
from parambudget.render.model import component_name, flags, products
from parambudget.render.plan import (
    dollars_in_words,
    energy_assumptions,
    first_run_in_words,
    times_in_words,
    train_command,
)
from parambudget.units import (
    format_amount,
    format_bytes,
    format_count,
    format_flop_rate,
    format_seconds,
    format_share,
)

if TYPE_CHECKING:
    from parambudget.render.report import Report


def markdown(report: Report) -> str:
    """The document."""
    sections = [
        _heading(report), _recommendation(report), _options(report), _expectations(report), _target(report),
        _pictures(report), _formula(report), _current_model(report), _verification(report),
        _commands(report), _assumptions(report),
    ]  # fmt: skip
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _heading(report: Report) -> list[str]:
    total, target = report.current.breakdown.total, report.target
    return [
        f"# From {format_count(total)} to {format_count(target)} parameters",
        "",
        f"`{report.name}` has {total:,} parameters, {format_share(total / target - 1, 2)} from the target of "
        f"{target:,}. What to train instead on {report.current.machine.name}, and what to expect of it? "
        "Counts are exact; speeds, memory, cost and losses are predictions, and their assumptions are listed "
        f"at the end. Written by parambudget {report.version}.",
    ]


def decision_in_words(report: Report) -> list[str]:
    """What is recommended: a sentence, and where it is not an option, a second one for a fixed size."""
    best, other, now = report.recommendation, report.other, report.current
    plan = report.options[report.best_option]
    option = (
        f"train the {report.best_option} option: {shape_in_words(plan.model)}, "
        f"{plan.breakdown.total:,} parameters."
    )
    if best.decision == "option":
        return [option[0].upper() + option[1:]]
    if best.decision == "another size" and other is not None:
        instead = f"Choose another size: {shape_in_words(other.model)}, {other.breakdown.total:,} parameters."
    else:
        instead = (
            f"Stay with the current model: {shape_in_words(now.model)}, {now.breakdown.total:,} parameters."
        )
    return [instead] if best.option is None else [instead, f"If the size is fixed, {option}"]


def _recommendation(report: Report) -> list[str]:
    best, (first, *fixed) = report.recommendation, decision_in_words(report)
    reasons, why_option = ([f"- {why}" for why in each] for each in (best.reasons, best.option_reasons))
    lines = ["## Recommendation", "", f"**{first}**", ""]
    if best.decision == "option":
        return [*lines, *why_option, *reasons]
    return [*lines, *reasons, *(line for each in fixed for line in ("", f"**{each}**", "", *why_option))]


def _options(report: Report) -> list[str]:
    c = report.found.certificate
    are = "is" if c.within_tolerance == 1 else "are"
    scores = {solution.label: f"{solution.total_score:.2f}" for solution in report.found}
    rows = [_option(name, plan, report, scores.get(name, "")) for name, plan in report.plans.items()]
    lines = [
        "## The options",
        "",
        *_markdown_table(
            [
                "option", "shape", "parameters", "off target", "FLOPs per token", "largest micro-batch",
                "shape score",
            ],
            rows,
        ),
        "",
        f"The options come from a search that checked all {c.lattice_points:,} shapes in the search space; "
        f"{c.within_tolerance:,} {are} within {float(c.tolerance or 0):.2%} of the target, and the closest "
        f"is {c.best_error:,} parameters off. The shape score says how unusual a shape is for its size; 0 is "
        "the most usual.",
    ]  # fmt: skip
    unavailable = report.found.current.unavailable if report.found.current else {}
    return lines + [f"\nNo {name} option: {why}." for name, why in unavailable.items()]


def _option(name: str, plan: RunPlan, report: Report, score: str) -> list[str]:
    return [
        _label(name, report), shape_in_words(plan.model), f"{plan.breakdown.total:,}",
        format_share(plan.breakdown.total / report.target - 1, 2),
        format_count(flops_per_token(plan.model)), f"{plan.largest_batch_size:,}", score,
    ]  # fmt: skip


def _label(name: str, report: Report) -> str:
    """In tables the recommended one stands out."""
    best = report.recommendation
    return f"**{name}**" if name == (best.option if best.decision == "option" else best.decision) else name


def _expectations(report: Report) -> list[str]:
    """Memory, speed and loss of each option against the current model."""
    now = report.current
    step = now.step
    why = (
        f", in which {next(iter(report.options))} reads 20 tokens per parameter"
        if now.goal.unique_tokens is None
        else f", in which {next(iter(report.options))} reads 20 tokens per parameter or 4 epochs"
    )
    lines = [
        "## What to expect",
        "",
        f"On {now.machine.name}, {step.optimizer}, {step.batch_size} × {step.gradient_accumulation_steps} "
        f"sequences or {now.speed.update_tokens:,} tokens per update, for "
        f"{format_seconds(3600 * now.hours.expected)}{why if report.hours_are_chosen else ''}:",
        "",
        *_markdown_table(
            [
                "option", "memory", "tokens/s", "range", "tokens seen", *(["epochs"] if now.epochs else []),
                "expected loss", "over the laws", "dollars", "kWh", "kg CO2e",
            ],
            [_expectation(name, plan, report) for name, plan in report.plans.items()],
        ),
        "",
        "Shares and differences in parentheses are against the current model; \"over the laws\" is the "
        f"difference in expected loss by {_laws(now)}. Seeds alone move a loss by up to "
        f"{report.recommendation.seed_nats:.3f} nats. The laws see no shape; the recommendation prices it. "
        f"{now.loss.meaning[0].upper()}{now.loss.meaning[1:]}.",
    ]  # fmt: skip
    if report.other is not None:
        step = report.other.step
        lines += [
            "",
            "Another size is the one that suits this time best, in micro-steps of its own: "
            f"{step.batch_size} × {step.gradient_accumulation_steps} sequences per update.",
        ]
    for name, plan in report.plans.items():
        if not plan.fits and plan.suggestions:
            lines += ["", f"{name} would fit with {', or with '.join(plan.suggestions)}."]
    most, plan = max(report.plans.items(), key=lambda named: named[1].tokens)
    return lines + (["", f"**Note:** {most}: {plan.repetition}."] if plan.repetition else [])


def _laws(plan: RunPlan) -> str:
    """Those that a difference is told by, in words."""
    law = plan.goal.law
    return law.beside_in_words if law.fit is not None else "each of the published laws"


def _expectation(name: str, plan: RunPlan, report: Report) -> list[str]:
    now, energy = report.current, plan.energy
    rate, ours = plan.speed.tokens_per_second, now.speed.tokens_per_second
    memory = f"{format_bytes(plan.memory.peak_bytes)}{'' if plan.fits else ', **does not fit**'}"
    speed, loss, laws = f"{rate.expected:,.0f}", f"{plan.loss.loss:.3f}", ""
    if plan is not now:
        memory += f" ({format_share(plan.memory.peak_bytes / now.memory.peak_bytes - 1, 1)})"
        speed += f" ({format_share(rate.expected / ours.expected - 1, 1)})"
        loss += f" ({plan.loss.loss - now.loss.loss:+.3f})"
        difference = report.recommendation.differences[name]
        laws = f"{difference.low:+.3f} to {difference.high:+.3f}"
    if plan.loss.is_bound:
        loss += f", the bound ln {plan.model.vocab_size:,}"
    return [
        _label(name, report),
        memory,
        speed,
        f"{rate.low:,.0f} to {rate.high:,.0f}",
        format_count(plan.tokens),
        *([format_count(plan.epochs)] if plan.epochs else []),
        loss,
        laws,
        "not known" if plan.cost is None else f"{plan.cost.expected:,.2f}",
        "not known" if energy is None else format_amount(energy.kilowatt_hours.expected),
        "not known" if energy is None else format_amount(energy.kilograms_co2e.expected),
    ]


def _target(report: Report) -> list[str]:
    """Whether the models reach the loss that was asked for."""
    target = report.current.goal.target_loss
    if target is None:
        return []
    head = [f"## Is a loss of {target:g} reached?", ""]
    label = report.first_run
    return [*head, *(_reach_table(report) if label is None else _first_run(report, label))]


def _first_run(report: Report, label: str) -> Iterator[str]:
    """What can be told without a measured run, and which run would tell the rest."""
    plan = report.plans[label]
    assert plan.target is not None and plan.target.first_run is not None  # noqa: PT018
    first = plan.target.first_run
    yield (
        f"{plan.target.loss:g} nats per token cannot be told for this text and tokenizer without one run. "
        "What can be told are differences: in the same time the options are expected to end "
        f"{_range_of_differences(report)} nats from the current model."
    )
    yield ""
    yield (
        "The cheapest run that would tell, for all of them, is "
        f"{first_run_in_words(first, f'the run of {label}')}."
    )
    if plan.machine.has_bfloat16:
        yield from ("", "```console", f"$ {train_command(plan, first.updates)}", "```")
    yield from ("", "Then write this report again with `--anchor` and its folder.")


def _range_of_differences(report: Report) -> str:
    differences = report.recommendation.differences
    expected = [differences[name].expected for name in report.options]
    low, high = min(expected), max(expected)
    return f"{low:+.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:+.3f} to {high:+.3f}"


def _reach_table(report: Report) -> Iterator[str]:
    """Where each model reaches it, by the laws through the measured run."""
    reaches = {
        name: plan.target.reach
        for name, plan in report.plans.items()
        if plan.target is not None and plan.target.reach is not None
    }
    hours = format_seconds(3600 * report.current.hours.expected)
    soon = [name for name, reach in reaches.items() if reach.within_plan and report.plans[name].fits]
    yield (
        f"Within {hours} it is expected of {', '.join(soon)}."
        if soon
        else f"Not within {hours}, by any of the models."
    )
    yield ""
    yield from _markdown_table(
        ["option", "tokens", "time", "dollars", "loss after text without end"],
        [_reach(name, reach, report) for name, reach in reaches.items()],
    )
    fitted = report.current.goal.law.fit is not None
    seeds = "the runs' own spread is in them" if fitted else "seeds are not in them"
    yield from ("", f"Ranges are over {report.current.goal.law.beside_in_words}; {seeds}.")


def _reach(name: str, reach: Reach, report: Report) -> list[str]:
    low, expected, high = reach.limit
    limit = f"{expected:.3f} ({low:.3f} to {high:.3f})"
    label = _label(name, report) + ("" if report.plans[name].fits else " (does not fit)")
    if isinf(reach.tokens.expected):
        return [label, "never", "never", "", limit]
    upper = "never" if isinf(reach.tokens.high) else format_count(reach.tokens.high)
    tokens = f"{format_count(reach.tokens.expected)} ({format_count(reach.tokens.low)} to {upper})"
    dollars = "not known" if reach.cost is None else dollars_in_words(reach.cost)
    return [label, tokens, times_in_words(reach.hours), dollars, limit]


def _pictures(report: Report) -> list[str]:
    # A space or a parenthesis would end the link.
    pictures = [line for what, file in report.figures.items() for line in (f"![{what}]({quote(file)})", "")]
    return ["## Pictures", "", *pictures[:-1]] if pictures else []


def _formula(report: Report) -> list[str]:
    name, formula = report.best_option, report.formula
    model = report.options[name].model
    sizes = flat_fields(model)
    letters = ", ".join(
        f"{letter} = {sizes.get(field, getattr(model, field, None)):,} ({field})"
        for letter, field in formula.legend.items()
    )
    terms = [
        f"- {component_name(component)}: `{expression}`"
        for component, expression in formula.components.items()
    ]
    return [
        "## The formula",
        "",
        f"Derived from the same table of tensors as every count here. For the {name} option, {letters}:",
        "",
        "```",
        f"total = {formula}",
        f"      = {formula.evaluate():,}",
        "```",
        "",
        *terms,
        "",
        f"$$ {formula.latex()} $$",
    ]


def _current_model(report: Report) -> list[str]:
    plan = report.current
    return [
        "## The current model, component by component",
        "",
        f"`{report.name}`: {shape_in_words(plan.model)}, vocabulary {plan.model.vocab_size:,}, context "
        f"{plan.model.context_length:,}.",
        "",
        *_counts(plan.breakdown),
    ]


def _counts(counted: ParameterCount) -> list[str]:
    rows = []
    for component, parameters in counted.by_component.items():
        tensors = [row for row in counted.tensors if row.component == component]
        if parameters:
            share = f"{parameters / counted.total:.2%}"
            rows.append([component_name(component), products(tensors), f"{parameters:,}", share])
    rows.append(["**total**", "", f"**{counted.total:,}**", ""])
    return _markdown_table(["component", "tensors", "parameters", "share"], rows)


def _verification(report: Report) -> list[str]:
    name = report.best_option
    command = runnable_command("verify", flags(report.options[name].model))
    if report.verified is None:
        text = (
            "torch is not installed here, so the module was not built. To check the count against it, tensor "
            "by tensor:"
        )
    else:
        result = report.verified.removeprefix("verified: ")
        text = (
            f"The {name} option was built in torch and checked against the count, tensor by tensor: "
            f"{result}. To repeat the check:"
        )
    return ["## How it was verified", "", text, "", *_console(command)]


def _commands(report: Report) -> list[str]:
    """How to train each option, the best one first, and how to see its figures again."""
    order = [report.best_option, *(name for name in report.options if name != report.best_option)]
    trains = report.current.machine.has_bfloat16
    if not trains and report.flags is None:
        return []
    lines = ["## Commands", "", "Of each model, the plan with the figures above, and the run as planned."]
    if report.flags is None:
        lines[-1] = "The runs as planned. No flags stand for what was planned with, so no plan is repeated."
    for name in dict.fromkeys([*order, *report.plans]):
        plan = report.plans[name]
        planned, runs = report.plan_command(plan), trains and plan.fits and name != "current"
        commands = [*([planned] if planned else []), *([train_command(plan)] if runs else [])]
        lines += ["", f"{name}:", "", *_console(*commands)] if commands else []
    return lines


def _console(*commands: str) -> list[str]:
    return ["```console", *(f"$ {command}" for command in commands), "```"]


def _assumptions(report: Report) -> list[str]:
    return ["## Assumptions", "", *(f"- {line}" for line in _assumptions_of(report.current))]


def _assumptions_of(plan: RunPlan) -> Iterator[str]:
    machine, profile = plan.machine, plan.machine.profile
    peak = (
        f"{format_flop_rate(profile.peak_flops)} dense {profile.dtype}"
        if profile.peak_flops
        else "no published peak"
    )
    memory = f"{format_bytes(machine.memory_bytes)}, of which {USABLE_SHARE:.0%} can be used"
    yield f"machine: {machine.name}, {peak}, {memory}"
    interval = f"{profile.slowest:.2f} to {profile.fastest:.2f} of expected"
    yield f"speeds: {profile.name}, {profile.source}; tokens/s within {interval}"
    yield f"{TIME_OVERHEAD:.0%} of the time goes to evaluations, saves and data"
    if machine.price is not None:
        when = "" if machine.price.read_on is None else f", as of {machine.price.read_on}"
        dollars = f"${machine.price.low:g} to ${machine.price.high:g} per hour{when}"
        yield f"price: {dollars}: {machine.price.source}"
    if plan.energy is not None:
        power = f"{energy_assumptions(plan.energy)}; board power: {plan.energy.board_watts_source}"
        yield f"energy: {power}; processors, disks and network are not counted"
    yield f"loss: {plan.loss.law.name}, {plan.loss.law.source}"
    text = plan.goal.unique_tokens
    yield "text: enough for every run" if text is None else f"text: {format_count(text)} tokens"
    # How often it is read differs between the options: that stands with what they are expected to reach.
    yield from (warning for warning in plan.warnings if warning != plan.repetition)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
