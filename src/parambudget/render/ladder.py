"""Ladders as screens: the small runs and what they buy, how they go, and the law with what it predicts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from parambudget.ladders.design import Rung, embedding_share
from parambudget.ladders.ladder_fit import LadderFit
from parambudget.ladders.ladder_plan import LadderPlan
from parambudget.render.terminal import dim, table, wrap_text
from parambudget.scaling.loss_interval import LossInterval
from parambudget.units import count_phrase, format_count, format_seconds

if TYPE_CHECKING:
    from parambudget.ladders.run import RungOutcome


def ladder_plan_screen(plan: LadderPlan, width: int) -> list[str]:
    """The screen of `ladder plan`."""
    target, model, certainty = plan.target, plan.target.model, plan.certainty
    head = [
        "#",
        "parameters",
        "embedding",
        "tokens",
        "per parameter",
        "seed",
        "updates",
        "time",
        "without it",
    ]
    rows = [_rung_cells(plan, number, rung) for number, rung in enumerate(plan.rungs, 1)]
    if plan.total_hours is None:
        time = head.index("time")
        head, *rows = [[*row[:time], *row[time + 1 :]] for row in (head, *rows)]
    summary = (
        f"target: {format_count(round(target.n_parameters))} parameters on {format_count(target.tokens)} "
        f"tokens of {plan.data.name} ({format_count(target.unique_tokens)} tokens; vocabulary "
        f"{model.vocab_size:,}, context {model.context_length:,})",
        f"ladder: {count_phrase(len(plan.rungs), 'run')}, {plan.share:.1%} of the target's FLOPs"
        f"{_cost(plan)}",
    )
    said = (
        f"With it the target's loss should be known to ±{certainty.width / 2:.3f} nats (half of a 90 % "
        "interval); 'without it' is that without the runs of this size and length. Simulated, for an assumed "
        f"loss of {certainty.loss:.2f}, the exponents of published laws, and runs that scatter by half a "
        f"percent. Models of a quarter or four times the size would end {certainty.neighbours:.3f} higher."
    )
    lines = [line for text in summary for line in wrap_text(text, width)]
    if warning := target.overfitting_warning:
        lines += wrap_text(f"warning: {warning}", width)
    return [*lines, "", *table([head, *rows], head=True), "", *map(dim, wrap_text(said, width))]


def _rung_cells(plan: LadderPlan, number: int, rung: Rung) -> list[str]:
    hours = plan.hours(rung)
    return [
        str(number), format_count(round(rung.n_parameters)), f"{embedding_share(rung.model):.0%}",
        format_count(rung.tokens), f"{rung.tokens / rung.n_parameters:.1f}", str(rung.config.seed),
        f"{rung.config.steps:,}", "" if hours is None else format_seconds(3600 * hours),
        f"±{plan.certainty.without[rung.n_parameters, rung.tokens] / 2:.3f}",
    ]  # fmt: skip


def _cost(plan: LadderPlan) -> str:
    """Time and money of all rungs, as far as they are known."""
    if plan.machine is None or plan.total_hours is None:
        return ""
    time = f", {format_seconds(3600 * plan.total_hours)} on {plan.machine.name}"
    dollars = plan.dollars
    return time if dollars is None else f"{time}, ${dollars.low:,.2f} to ${dollars.high:,.2f}"


def outcome_line(number: int, n_rungs: int, outcome: "RungOutcome") -> str:
    """A rung that is done, or why it is not."""
    start = f"rung {number} of {n_rungs}, {outcome.entry.name}:"
    result = outcome.result
    if outcome.state == "busy":
        return f"{start} another process is training it"
    if result is None:
        return f"{start} failed: {outcome.problem}"
    if outcome.state == "stopped":
        return f"{start} stopped after {count_phrase(result.steps, 'update')}"
    loss = "no finite loss" if result.val_loss is None else f"loss {result.val_loss:.4f}"
    return f"{start} {loss}, {format_seconds(result.update_seconds)}"


def ladder_fit_screen(fit: LadderFit, path: Path, width: int) -> list[str]:
    """The screen of `ladder fit`: the held-out runs first."""
    target, optimum = fit.target, fit.optimum
    low, best, high = (format_count(round(n)) for n in (optimum.low, optimum.expected, optimum.high))
    texts = [
        f"target: {format_count(round(target.n_parameters))} parameters on {format_count(target.tokens)} "
        f"tokens should end at {interval_in_words(fit.prediction)} nats per token",
        f"size: its compute is best spent on {best} parameters; the runs cannot tell sizes from {low} to "
        f"{high} apart",
        *(f"left out: {line}" for line in fit.left_out),
        *(f"warning: {line}" for line in fit.warnings),
    ]
    return [
        *wrap_text(_held_out(fit), width), "", *table(_run_rows(fit), left=(0,), head=True), "",
        *table(list(_constant_rows(fit)), left=(0, 2), head=True), "",
        *(line for text in texts for line in wrap_text(text, width)), f"law: {path}",
    ]  # fmt: skip


def _held_out(fit: LadderFit) -> str:
    if not fit.held_out:
        return "held out: nothing, because too few runs are left without the largest ones"
    worst = max(abs(each.error) for each in fit.held_out)
    inside = sum(each.predicted.contains(each.point.loss) for each in fit.held_out)
    return (
        f"held out: the largest runs, predicted from the smaller ones alone, are off by at most {worst:.2%}; "
        f"{inside} of {len(fit.held_out)} inside the 90 % interval"
    )


def _run_rows(fit: LadderFit) -> list[list[str]]:
    held = {each.point.entry.name: each for each in fit.held_out}
    rows = [["run", "parameters", "tokens", "seed", "loss", "law", "off by", "predicted", "error"]]
    for point in fit.points:
        entry, fitted, one = point.entry, fit.fitted_loss(point), held.get(point.entry.name)
        predicted = ["", ""] if one is None else [interval_in_words(one.predicted), f"{one.error:+.2%}"]
        rows.append([
            entry.name, format_count(round(entry.n_parameters)), format_count(entry.tokens), str(entry.seed),
            f"{point.loss:.4f}", f"{fitted:.4f}", f"{point.loss / fitted - 1:+.2%}", *predicted,
        ])  # fmt: skip
    return rows


def _constant_rows(fit: LadderFit) -> Iterator[list[str]]:
    yield ["constant", "", "90 % interval"]
    for name, value in fit.constants.items():
        yield [name, f"{value.expected:.4g}", f"{value.low:.4g} to {value.high:.4g}"]


def interval_in_words(interval: LossInterval) -> str:
    """`3.080 (3.050 to 3.110)`."""
    return f"{interval.expected:.3f} ({interval.low:.3f} to {interval.high:.3f})"
