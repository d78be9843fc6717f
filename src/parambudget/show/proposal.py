"""The plan from a current model to a budget, put together and written: the document and its pictures."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from parambudget import __version__
from parambudget._files import write_whole
from parambudget.arch.config import ModelConfig
from parambudget.cost.formula import formula
from parambudget.errors import ConfigError, InputError
from parambudget.planning.compute_budget import better_size
from parambudget.planning.machine import Machine
from parambudget.planning.run_plan import Goal, RunPlan, plan_run
from parambudget.render.report import Report, markdown
from parambudget.search.certificate import Certificate
from parambudget.search.resize import resize
from parambudget.units import format_bytes


def proposal(
    name: str, current: ModelConfig, target: str, machine: Machine, *, hours: float | None,
    batch_size: int | None, gradient_accumulation_steps: int | None,
    verify: Callable[[ModelConfig], str] | None,
) -> Report:  # fmt: skip
    """Current model and ways out, planned for the same machine, batch and wall time.

    Without `hours`, those that the first way out takes for 20 tokens per parameter.
    """
    found = resize(current, target)
    given = {"batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    if hours is None:
        hours = plan_run(found[0].model, machine, Goal(), given).hours.expected
    goal = Goal(hours=float(f"{hours:.3g}"))
    now = plan_run(current, machine, goal, given)
    # In the same micro-steps, so that memory and speed compare; the room for larger ones is a column.
    options = {way.label: plan_run(way.model, machine, goal, vars(now.work)) for way in found}
    first = next(iter(options.values()))
    if not any(plan.fits for plan in (now, *options.values())):
        peak = format_bytes(min(plan.memory.peak_bytes for plan in options.values()))
        raise InputError(
            f"none of the models fits on {machine.name} in micro-steps of {now.work.batch_size} sequences: "
            f"at least {peak} are needed; give a smaller --batch-size, more --gpus or another --gpu"
        )
    return Report(
        name=name, current=now, found=found, options=options,
        formula=formula(first.model), verified=verify(first.model) if verify else None,
        better=better_size(machine, goal, list(options.values())), figures={}, version=__version__,
    )  # fmt: skip


def write(report: Report, out: Path) -> list[Path]:
    """The document at `out` and its pictures beside it; returns what was written.

    Without matplotlib there are no pictures, and the document says nothing of them.
    """
    if out.suffix != ".md":
        raise ConfigError(f"{out} is no Markdown file; use a name that ends in .md")
    pictures = _draw(report, out) if find_spec("matplotlib") else {}
    figures = {what: path.name for what, path in pictures.items()}
    write_whole(out, markdown(report.with_figures(figures)))
    return [out, *pictures.values()]


def _draw(report: Report, out: Path) -> dict[str, Path]:
    from parambudget.render.figures import landscape
    from parambudget.show.figures.plans import loss_over_hours, memory_by_part

    c = report.found.certificate
    assert isinstance(c, Certificate)
    plans: dict[str, RunPlan] = {"current": report.current, **report.options}
    models = {name: plan.model for name, plan in report.options.items()}
    sizes, memory, hours = (out.with_name(f"{out.stem}-{what}.png") for what in ("sizes", "memory", "hours"))
    landscape(models, report.current.model, c.target, sizes)
    memory_by_part(plans, memory)
    loss_over_hours(plans, hours)
    return {
        "Parameters over depth and width": sizes, "Peak memory by part": memory,
        "Expected loss over time": hours,
    }  # fmt: skip
