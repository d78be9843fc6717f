"""A plan from a current model to a budget as a Markdown document."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Unpack

from parambudget._files import atomic_write
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig, flat_fields
from parambudget.arch.description import shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.cost.formula import Formula, formula
from parambudget.cost.params import ParameterCount
from parambudget.cost.speed.throughput import TIME_OVERHEAD
from parambudget.cost.step import StepFields
from parambudget.errors import ConfigError, InputError
from parambudget.formats.source import ModelLike, as_model
from parambudget.planning.compute_budget import better_size
from parambudget.planning.machine import USABLE_SHARE, Machine, machine_for
from parambudget.planning.run_plan import Goal, RunPlan, plan_run
from parambudget.render.commands import runnable_command
from parambudget.render.model import component_name, flags, products
from parambudget.render.plan import energy_assumptions, train_command
from parambudget.render.solutions import better_size_note
from parambudget.search.resize import resize
from parambudget.search.solutions import BetterSize, Solutions
from parambudget.units import (
    Count,
    format_amount,
    format_bytes,
    format_count,
    format_flop_rate,
    format_seconds,
    format_share,
    parse_count,
)


@dataclass(frozen=True)
class Report:
    """What the document is made of."""

    name: str
    """Of the current model."""
    current: RunPlan
    found: Solutions
    options: Mapping[str, RunPlan]
    """By the label of the solution, in the order of `found`."""
    formula: Formula
    verified: str | None
    """The result of checking the first option against its built module; None where torch is not installed."""
    better: BetterSize | None
    figures: Mapping[str, str]
    """File names of the pictures by what they show; none where matplotlib is not installed."""
    version: str

    @property
    def target(self) -> int:
        """Parameters that are wanted."""
        target = self.found.certificate.target
        assert target is not None, "a search for a parameter count"
        return target


def markdown(report: Report) -> str:
    """The document."""
    sections = [
        _heading(report), _current_model(report), _options(report), _effects(report), _pictures(report),
        _formula(report), _verification(report), _train_commands(report), _assumptions(report),
    ]  # fmt: skip
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _heading(report: Report) -> list[str]:
    total, target = report.current.breakdown.total, report.target
    return [
        f"# From {format_count(total)} to {format_count(target)} parameters",
        "",
        f"Written by parambudget {report.version} for {report.current.machine.name}. Counts are exact; "
        "speeds, memory, cost and losses are predictions; their assumptions are listed at the end.",
    ]


def _current_model(report: Report) -> list[str]:
    plan, target = report.current, report.target
    off = format_share(plan.breakdown.total / target - 1, 2)
    return [
        "## The current model",
        "",
        f"`{report.name}`: {shape_in_words(plan.model)}, vocabulary {plan.model.vocab_size:,}, context "
        f"{plan.model.context_length:,}.",
        "",
        *_counts(plan.breakdown),
        "",
        f"That is {off} from the target of {target:,} {report.found.certificate.counted} parameters.",
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


def _options(report: Report) -> list[str]:
    c = report.found.certificate
    rows = [_option("current", report.current, report)]
    rows += [_option(name, plan, report) for name, plan in report.options.items()]
    lines = [
        "## The options",
        "",
        *_markdown_table(
            ["option", "shape", "parameters", "off target", "FLOPs per token", "largest micro-batch"],
            rows,
        ),
        "",
        f"The options come from a search that checked all {c.lattice_points:,} shapes in the search space; "
        f"{c.within_tolerance:,} are within {float(c.tolerance or 0):.2%} of the target, and the closest is "
        f"{c.best_error:,} parameters off.",
    ]
    unavailable = report.found.current.unavailable if report.found.current else {}
    return lines + [f"\nNo {name} option: {why}." for name, why in unavailable.items()]


def _option(name: str, plan: RunPlan, report: Report) -> list[str]:
    off = plan.breakdown.total / report.target - 1
    return [
        name, shape_in_words(plan.model), f"{plan.breakdown.total:,}",
        format_share(off, 2), format_count(flops_per_token(plan.model)),
        f"{plan.largest_batch_size:,}",
    ]  # fmt: skip


def _effects(report: Report) -> list[str]:
    """Memory, speed and loss of each option against the current model."""
    now = report.current
    rows = [_effect("current", now, now)]
    rows += [_effect(name, plan, now) for name, plan in report.options.items()]
    step = now.step
    lines = [
        "## What to expect",
        "",
        f"On {now.machine.name}, {step.optimizer}, {now.speed.update_tokens:,} tokens per update, for "
        f"{format_seconds(3600 * now.hours.expected)}:",
        "",
        *_markdown_table(
            [
                "option",
                "memory",
                "tokens/s",
                "range",
                "tokens seen",
                *(["epochs"] if now.epochs else []),
                "expected loss",
                "dollars",
                "kWh",
                "kg CO2e",
            ],
            rows,
        ),
        "",
        f"{now.loss.meaning[0].upper()}{now.loss.meaning[1:]}.",
    ]
    most, plan = max({"current": now, **report.options}.items(), key=lambda named: named[1].tokens)
    lines += ["", f"**Note:** {most}: {plan.repetition}."] if plan.repetition else []
    if report.better is not None:
        lines += ["", f"**Note:** {better_size_note(report.better)}."]
    return lines


def _effect(name: str, plan: RunPlan, now: RunPlan) -> list[str]:
    energy = plan.energy
    rate, ours = plan.speed.tokens_per_second, now.speed.tokens_per_second
    memory = f"{format_bytes(plan.memory.peak_bytes)}{'' if plan.fits else ', does not fit'}"
    speed, loss = f"{rate.expected:,.0f}", f"{plan.loss.loss:.3f}"
    if plan is not now:
        memory += f" ({format_share(plan.memory.peak_bytes / now.memory.peak_bytes - 1, 1)})"
        speed += f" ({format_share(rate.expected / ours.expected - 1, 1)})"
        loss += f" ({plan.loss.loss - now.loss.loss:+.3f})"
    if plan.loss.is_bound:
        loss += f", the bound ln {plan.model.vocab_size:,}"
    return [
        name,
        memory,
        speed,
        f"{rate.low:,.0f} to {rate.high:,.0f}",
        format_count(plan.tokens),
        *([format_count(plan.epochs)] if plan.epochs else []),
        loss,
        "not known" if plan.cost is None else f"{plan.cost.expected:,.2f}",
        "not known" if energy is None else format_amount(energy.kilowatt_hours.expected),
        "not known" if energy is None else format_amount(energy.kilograms_co2e.expected),
    ]


def _pictures(report: Report) -> list[str]:
    return [line for what, file in report.figures.items() for line in (f"![{what}]({file})", "")][:-1]


def _formula(report: Report) -> list[str]:
    name, plan = next(iter(report.options.items()))
    formula = report.formula
    sizes = flat_fields(plan.model)
    letters = ", ".join(
        f"{letter} = {sizes.get(field, getattr(plan.model, field, None)):,} ({field})"
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


def _verification(report: Report) -> list[str]:
    name, plan = next(iter(report.options.items()))
    command = runnable_command("verify", flags(plan.model))
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
    return ["## How it was verified", "", text, "", "```console", f"$ {command}", "```"]


def _train_commands(report: Report) -> list[str]:
    if not report.current.machine.has_bfloat16:
        return []
    lines = ["## Training commands", ""]
    for name, plan in report.options.items():
        lines += [f"{name}:", "", "```console", f"$ {train_command(plan)}", "```", ""]
    return lines[:-1]


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


def report(
    current: ModelLike, target: Count, out: str | PathLike[str], *, machine: Machine | str | None = None,
    hours: float | None = None, unique_tokens: Count | None = None, **step: Unpack[StepFields],
) -> Report:  # fmt: skip
    """Write a report on resizing a model: counts, predictions, pictures, verification, commands.

    A Markdown document at `out`, with pictures beside it where matplotlib is installed. Without a machine,
    for this one; without `hours`, for those that the first option takes for 20 tokens per parameter. The text
    has `unique_tokens`: a run that reads more of them repeats it.
    """
    name = Path(current).name if isinstance(current, str | PathLike) else "current model"
    there = machine if isinstance(machine, Machine) else machine_for(machine)
    built = build_report(
        name, as_model(current, {}), target, there,
        hours=hours, unique_tokens=unique_tokens, step=step, verify=_verify if find_spec("torch") else None,
    )  # fmt: skip
    write_report(built, Path(out))
    return built


def _verify(model: ModelConfig) -> str:
    from parambudget.nn.verify import verify

    built = verify(model)
    built.require_agreement()
    return str(built)


def build_report(
    name: str, current: ModelConfig, target: int | str, machine: Machine, *, hours: float | None,
    unique_tokens: int | str | None, step: StepFields, verify: Callable[[ModelConfig], str] | None,
) -> Report:  # fmt: skip
    """The current model and the options, planned for the same machine, batch and training time. `given` are
    fields of the step.

    Without `hours`, those that the first option takes for 20 tokens per parameter, or 4 epochs of the text.
    """
    found = resize(current, parse_count(target, "target"), {})
    text = None if unique_tokens is None else parse_count(unique_tokens, "unique_tokens")
    if hours is None:
        hours = plan_run(found[0].model, machine, Goal(unique_tokens=text), step).hours.expected
    goal = Goal(hours=float(f"{hours:.3g}"), unique_tokens=text)
    now = plan_run(current, machine, goal, step)
    # In the same micro-steps, so that memory and speed compare; the largest that fits is a column.
    options = {option.label: plan_run(option.model, machine, goal, now.step.step_fields) for option in found}
    first = next(iter(options.values()))
    if not any(plan.fits for plan in (now, *options.values())):
        peak = format_bytes(min(plan.memory.peak_bytes for plan in options.values()))
        raise InputError(
            f"none of the models fits on {machine.name} in micro-steps of {now.step.batch_size} sequences: "
            f"at least {peak} are needed; give a smaller `batch_size`, more `gpus` or another `machine`"
        )
    return Report(
        name=name, current=now, found=found, options=options,
        formula=formula(first.model), verified=verify(first.model) if verify else None,
        better=better_size(machine, goal, list(options.values())), figures={}, version=__version__,
    )  # fmt: skip


def write_report(report: Report, out: Path) -> list[Path]:
    """Write the document to `out` and its pictures beside it. Returns the files that were written.

    Without matplotlib there are no pictures, and the document does not mention them.
    """
    if out.suffix != ".md":
        raise ConfigError(f"{out} is not a Markdown file; use a name that ends in .md")
    pictures = _draw_figures(report, out) if find_spec("matplotlib") else {}
    figures = {what: path.name for what, path in pictures.items()}
    atomic_write(out, markdown(replace(report, figures=figures)))
    return [out, *pictures.values()]


def _draw_figures(report: Report, out: Path) -> dict[str, Path]:
    from parambudget.render.figures import landscape, loss_over_hours, memory_by_part, save_png

    plans: dict[str, RunPlan] = {"current": report.current, **report.options}
    models = {name: plan.model for name, plan in report.options.items()}
    sizes, memory, hours = (out.with_name(f"{out.stem}-{what}.png") for what in ("sizes", "memory", "hours"))
    save_png(landscape(models, report.current.model, report.target), sizes)
    save_png(memory_by_part(plans), memory)
    save_png(loss_over_hours(plans), hours)
    return {
        "Parameters over depth and width": sizes, "Peak memory by part": memory,
        "Expected loss over time": hours,
    }  # fmt: skip
