"""A plan from a current model to a budget: what is recommended, the options, and the document about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf
from os import PathLike, fspath
from pathlib import Path
from typing import Unpack

from typing_extensions import TypedDict

from parambudget._files import atomic_write
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.cost.formula import Formula, formula
from parambudget.cost.memory.peak import training_memory
from parambudget.cost.step import StepFields, read_step_fields
from parambudget.errors import ConfigError, InputError
from parambudget.formats.source import ModelLike, as_model
from parambudget.planning.budget import parse_memory
from parambudget.planning.compute_budget import better_size
from parambudget.planning.machine import Machine, machine_for, machine_keywords
from parambudget.planning.measured_run import MeasuredRun
from parambudget.planning.recommendation import (
    ANOTHER_SIZE,
    Option,
    Recommendation,
    RecommendationDocument,
    recommend,
)
from parambudget.planning.run_plan import Goal, RunPlan, RunPlanDocument, plan_run
from parambudget.render.commands import value_flag
from parambudget.render.plan import plan_command, train_command
from parambudget.render.report_document import markdown
from parambudget.scaling.law_file import find_law
from parambudget.scaling.loss import DEFAULT_LAW, LOSS_LAWS, LossLaw
from parambudget.search.certificate import CertificateDocument
from parambudget.search.resize import resize
from parambudget.search.solutions import Solutions
from parambudget.training.anchor_source import measured_run
from parambudget.units import Count, format_bytes, format_exact_bytes, parse_count

AnchorLike = MeasuredRun | str | PathLike[str]
"""A measured run, or what it can be read from."""


class ReportedModelDocument(TypedDict):
    """What is expected of one model."""

    ranked_loss: float
    """Expected loss of a model of the usual shape that is as good, in nats per token: what solve ranks by."""
    plan: RunPlanDocument
    """What plan --json prints of it."""
    command: str | None
    """The plan command that has these figures; null where no flags stand for the machine, law or anchor."""
    train: str | None
    """The command that trains it as planned; null where it does not fit or the trainer refuses the GPU."""


class ReportedOptionDocument(ReportedModelDocument):
    """What is expected of one option."""

    label: str
    """The direction in which the current model was resized."""
    error: int
    """Parameters beyond the target."""
    score: float
    """How unusual the shape is for its size; 0 is the most usual."""


class TellingRunDocument(TypedDict):
    """The cheapest run that would tell whether the target loss is reached."""

    label: str
    """Of the model whose run it begins."""
    train: str | None
    """The command that trains it; null where the trainer refuses the GPU."""


class ReportDocument(TypedDict):
    """The current model and the options, planned for the same run, and what follows from it."""

    name: str
    """Of the current model."""
    version: str
    """Of parambudget."""
    target: int
    """Parameters that are wanted."""
    recommendation: RecommendationDocument
    """What to train, and why."""
    current: ReportedModelDocument
    """The current model."""
    options: list[ReportedOptionDocument]
    """The models of the target's size."""
    unavailable: dict[str, str]
    """Directions in which there is no option, with the reason."""
    another_size: ReportedModelDocument | None
    """The size that suits the hours best, in its own micro-steps; null where it is not expected to end below
    all options."""
    first_run: TellingRunDocument | None
    """null without a target loss, and where a measured run is there."""
    certificate: CertificateDocument
    """What the search behind the options proves."""
    formula: str
    """The closed form of the parameters of the best option."""
    verified: str | None
    """The result of checking the best option against its built module; null where torch is not installed."""
    figures: dict[str, str]
    """File names of the pictures by what they show."""


@dataclass(frozen=True)
class Report:
    """The current model and the options, planned for the same run, and what follows from it."""

    name: str
    """Of the current model."""
    recommendation: Recommendation
    current: RunPlan
    found: Solutions
    options: Mapping[str, RunPlan]
    """By the label of the solution, in the order of `found`."""
    formula: Formula
    """Of the best option."""
    verified: str | None
    """The result of checking the best option against its built module; None where torch is not installed."""
    other: RunPlan | None
    """Of the size that suits the hours best, in its own micro-steps; None where it is not expected to end
    below all options."""
    hours_are_chosen: bool
    """Nobody gave hours: they are those of 20 tokens per parameter, or 4 epochs."""
    flags: str | None
    """What the command of each plan has in common; None where the machine, the law or the anchor is a value
    that no flags stand for."""
    figures: Mapping[str, str]
    """File names of the pictures by what they show; none where there are no files, or no matplotlib."""
    version: str

    @property
    def target(self) -> int:
        """Parameters that are wanted."""
        target = self.found.certificate.target
        assert target is not None, "a search for a parameter count"
        return target

    @property
    def plans(self) -> dict[str, RunPlan]:
        """All plans by label: of the current model, the options, and the other size."""
        other = {} if self.other is None else {ANOTHER_SIZE: self.other}
        return {"current": self.current, **self.options, **other}

    @property
    def best_option(self) -> str:
        """The label of the best option; of the first one where none fits."""
        return self.recommendation.option or self.found[0].label

    @property
    def first_run(self) -> str | None:
        """The label of the plan whose beginning is the cheapest run that would tell the target loss; None
        without one, and where a measured run is there."""
        shares = {
            label: plan.target.first_run.share
            for label, plan in {"current": self.current, **self.options}.items()
            if plan.fits and plan.target is not None and plan.target.first_run is not None
        }
        # That of the best option, if no other is shorter.
        return min(shares, key=lambda label: (shares[label], label != self.best_option), default=None)

    def plan_command(self, plan: RunPlan) -> str | None:
        """The command of `plan` that has the figures of one of the plans; None where no flags stand for
        them."""
        return None if self.flags is None else plan_command(plan, self.flags)

    def as_dict(self) -> ReportDocument:
        """Plain JSON values; `plan` of each model is what `plan --json` prints."""
        first = self.first_run
        return {
            "name": self.name, "version": self.version, "target": self.target,
            "recommendation": self.recommendation.as_dict(),
            "current": self._entry(self.current),
            "options": [
                {
                    "label": s.label, "error": self.options[s.label].breakdown.total - self.target,
                    "score": s.total_score,
                    **self._entry(self.options[s.label]),
                }
                for s in self.found
            ],
            "unavailable": dict(self.found.current.unavailable) if self.found.current else {},
            "another_size": None if self.other is None else self._entry(self.other),
            "first_run": None if first is None else {"label": first, "train": self._first_run_command(first)},
            "certificate": self.found.certificate.as_dict(),
            "formula": str(self.formula), "verified": self.verified, "figures": dict(self.figures),
        }  # fmt: skip

    def _entry(self, plan: RunPlan) -> ReportedModelDocument:
        return {
            "ranked_loss": plan.ranked_loss, "plan": plan.as_dict(), "command": self.plan_command(plan),
            "train": train_command(plan) if plan.machine.has_bfloat16 and plan.fits else None,
        }  # fmt: skip

    def _first_run_command(self, label: str) -> str | None:
        plan = self.plans[label]
        assert plan.target is not None and plan.target.first_run is not None  # noqa: PT018
        return train_command(plan, plan.target.first_run.updates) if plan.machine.has_bfloat16 else None


def report(
    current: ModelLike, target: Count, out: str | PathLike[str] | None = None, *,
    machine: Machine | str | None = None, hours: float | None = None,
    law: LossLaw | str | PathLike[str] | None = None, unique_tokens: Count | None = None,
    memory: str | int | None = None, anchor: AnchorLike | None = None, target_loss: float | None = None,
    **step: Unpack[StepFields],
) -> Report:  # fmt: skip
    """Decide how to resize a model: a recommendation, predictions, pictures, verification, commands.

    A Markdown document at `out`, with pictures beside it where matplotlib is installed; without `out` nothing
    is written. Without a machine, for this one; without `hours`, for those that the first option takes for 20
    tokens per parameter. The text has `unique_tokens`: a run that reads more of them repeats it. `law`,
    `memory`, `anchor`, `target_loss` and `step` are those of `plan`.
    """
    if out is not None:
        check_report_path(Path(out))
    name = Path(current).name if isinstance(current, str | PathLike) else "current model"
    there = machine if isinstance(machine, Machine) else machine_for(machine)
    goal = Goal(
        hours, unique_tokens=None if unique_tokens is None else parse_count(unique_tokens, "unique_tokens"),
        law=find_law(law), target_loss=target_loss,
    )  # fmt: skip
    if memory is not None:
        there = there.with_memory(parse_memory(memory))
    built = build_report(
        name, as_model(current, {}), target, there, goal,
        step=step, anchor=anchor, verify=_verify if find_spec("torch") else None,
    )  # fmt: skip
    if out is not None:
        built, _ = write_report(built, Path(out))
    return built


def _verify(model: ModelConfig) -> str:
    from parambudget.nn.verify import verify

    built = verify(model)
    built.require_agreement()
    return str(built)


def build_report(
    name: str, current: ModelConfig, target: int | str, machine: Machine, goal: Goal, *, step: StepFields,
    anchor: AnchorLike | None, verify: Callable[[ModelConfig], str] | None,
) -> Report:  # fmt: skip
    """The current model and the options, planned for the same machine, update and training time. `step` has
    the fields of the update that are given.

    Without hours in the goal, they are those that the first option takes for 20 tokens per parameter, or 4
    epochs of the text. Raises `InputError` where nothing fits.
    """
    step = read_step_fields(step, world_size=machine.world_size)
    found = resize(current, parse_count(target, "target"), {})
    flags = _flags_beside_model(machine, goal.law, anchor)
    if (measured := measured_run(anchor)) is not None:
        machine = measured.machine_at_its_speed(machine)
        goal = replace(goal, law=measured.law_at_its_level(goal.law))
    hours_are_chosen = goal.hours is None
    if hours_are_chosen:
        hours = plan_run(found[0].model, machine, goal, step).hours.expected
        goal = replace(goal, hours=float(f"{hours:.3g}"))
    now, options = _comparable_plans(current, [each.model for each in found], machine, goal, step)
    plans = {solution.label: plan for solution, plan in zip(found, options, strict=True)}
    better = better_size(machine, goal, options, step)
    other = None if better is None else plan_run(better.model, machine, goal, step)
    least = min((each.loss.loss for each in options if each.fits), default=inf)
    if other is not None and other.loss.loss >= least:
        other = None
    scored = [Option(s.label, plans[s.label], s.total_score, s.error or 0) for s in found]
    best = recommend(now, scored, other)
    shown = found[0].model if best.option is None else plans[best.option].model
    return Report(
        name=name, recommendation=best, current=now, found=found, options=plans,
        formula=formula(shown), verified=verify(shown) if verify else None, other=other,
        hours_are_chosen=hours_are_chosen,
        flags=None if flags is None else " ".join([*flags, *_goal_flags(goal)]),
        figures={}, version=__version__,
    )  # fmt: skip


def _comparable_plans(
    current: ModelConfig, others: Sequence[ModelConfig], machine: Machine, goal: Goal, step: StepFields
) -> tuple[RunPlan, list[RunPlan]]:
    """The plans of the current and the other models in the same micro-steps, so that memory and speed
    compare: of those chosen for models that fit, the first in which all fit, or else most of them."""
    models = [current, *others]
    reference, most = None, 0
    for model in models:
        plan = plan_run(model, machine, goal, step)
        if not plan.fits:
            continue
        n = sum(machine.fits(training_memory(each, plan.step).peak_bytes) for each in models)
        if n > most:
            reference, most = plan, n
        if most == len(models):
            break
    if reference is None:
        peak = format_bytes(min(plan_run(each, machine, goal, step).memory.peak_bytes for each in others))
        raise InputError(
            f"none of the models fits on {machine.name}: at least {peak} are needed; give a smaller "
            "`batch_size`, more `gpus` or another `machine`"
        )
    same = reference.step.step_fields
    now = reference if reference.model == current else plan_run(current, machine, goal, same)
    return now, [plan_run(model, machine, goal, same) for model in others]


def _flags_beside_model(machine: Machine, law: LossLaw, anchor: AnchorLike | None) -> list[str] | None:
    """The flags of the machine, the law and the measured run; None where one of them has none."""
    keywords = machine_keywords(machine)
    is_named = law.fit is not None or law in LOSS_LAWS.values()
    if keywords is None or not is_named or isinstance(anchor, MeasuredRun):
        return None
    other_names = {"dollars_per_hour": "price"}
    words = [value_flag(other_names.get(name, name), value) for name, value in keywords.items()]
    if machine.memory_bytes != machine_for(**keywords).memory_bytes:
        words.append(value_flag("memory", format_exact_bytes(machine.memory_bytes)))
    words += [value_flag("law", law.name)] if law != DEFAULT_LAW else []
    return words + ([value_flag("anchor", fspath(anchor))] if anchor is not None else [])


def _goal_flags(goal: Goal) -> Iterator[str]:
    for name in ("hours", "unique_tokens", "target_loss"):
        if (value := getattr(goal, name)) is not None:
            yield value_flag(name, value)


def check_report_path(out: Path) -> None:
    """Refuse a path that no document can be written to, before anything is computed for it."""
    if out.suffix != ".md":
        raise ConfigError(f"{out} is not a Markdown file; use a name that ends in .md")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent} is not a folder; create it first, or write to another one")


def write_report(report: Report, out: Path) -> tuple[Report, list[Path]]:
    """Write the document to `out` and its pictures beside it; the report that names them, and the files that
    were written.

    Without matplotlib there are no pictures, and the document does not mention them.
    """
    check_report_path(out)
    pictures = _draw_figures(report, out) if find_spec("matplotlib") else {}
    report = replace(report, figures={what: path.name for what, path in pictures.items()})
    atomic_write(out, markdown(report))
    return report, [out, *pictures.values()]


def _draw_figures(report: Report, out: Path) -> dict[str, Path]:
    from parambudget.render.figures import landscape, loss_differences, memory_by_part, save_png

    models = {name: plan.model for name, plan in report.plans.items() if plan is not report.current}
    paths = [out.with_name(f"{out.stem}-{what}.png") for what in ("hours", "sizes", "memory")]
    figures = {
        # Of the other size the difference is much larger, and these could not be told apart beside it.
        "Expected loss over time, minus that of the current model": loss_differences(
            {"current": report.current, **report.options}, report.recommendation.seed_nats
        ),
        "Parameters over depth and width": landscape(models, report.current.model, report.target),
        "Peak memory by part": memory_by_part(report.plans),
    }
    for figure, path in zip(figures.values(), paths, strict=True):
        save_png(figure, path)
    return dict(zip(figures, paths, strict=True))
