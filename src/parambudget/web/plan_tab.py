"""The Plan tab: what training the page's model takes and gives, beside up to three others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Final

from nicegui import background_tasks, ui

from parambudget import api
from parambudget.arch.config import ModelConfig
from parambudget.arch.fields import ModelFields
from parambudget.errors import ParambudgetError
from parambudget.planning.machine import USABLE_SHARE
from parambudget.planning.run_plan import RunPlan
from parambudget.render.model import memory_part_in_words
from parambudget.render.plan import comparison_rows, plan_answers
from parambudget.render.terminal import without_style
from parambudget.units import format_bytes, format_seconds
from parambudget.web import charts
from parambudget.web.address import MOST_COMPARED, NamedModel, PlanForm, gpu_names
from parambudget.web.calls import plans_of
from parambudget.web.controls import (
    Chart,
    choice_field,
    copy_button,
    error_line,
    name_for_reader,
    section,
    show_error,
    text_field,
)
from parambudget.web.markup import (
    BarMark,
    BarPart,
    answers,
    bar_legend,
    big_figures,
    html_table,
    sentences,
    stacked_bar,
)
from parambudget.web.session import LatestCall, Session, answer_or_error

_EXAMPLE: Final = "Example: a 454M model and three ways to make it smaller, on one H100"
_EXAMPLE_SHAPES: Final[dict[str, ModelFields]] = {
    "current": {"dim": 1024, "n_layers": 24, "n_heads": 16, "intermediate_size": 4096},
    "narrower": {"dim": 896, "n_layers": 24, "n_heads": 14, "intermediate_size": 3584},
    "shallower": {"dim": 1024, "n_layers": 18, "n_heads": 16, "intermediate_size": 4096},
    "balanced": {"dim": 960, "n_layers": 20, "n_heads": 15, "intermediate_size": 3840},
}
_EXAMPLE_FORM: Final = PlanForm(
    hours="1.5", batch_size="16", gradient_accumulation_steps="8", gradient_checkpointing="false"
)
_MILESTONES: Final = 6
"""Times in the table of expected losses."""


class PlanTab:
    """The form of a run, and the plans for it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._plans: dict[str, RunPlan] = {}
        self._commands: list[str] = []
        """That train the first of them."""
        self._planned: object = None
        """What the plans shown are of."""
        with ui.element("div").classes("pb-columns"):
            with ui.element("div").classes("pb-controls"):
                self._add_form()
            with ui.element("div").classes("pb-results"):
                self._error = error_line()
                self._busy = ui.row().classes("pb-busy").props("role=status")
                with self._busy:
                    ui.spinner(size="1.4em")
                    ui.label("Planning...")
                self._busy.set_visibility(False)
                self._figures = ui.html("", sanitize=False).props("aria-live=polite id=plan-figures")
                self._memory = ui.html("", sanitize=False)
                self._chart = Chart(
                    "Expected loss over time", "Expected loss over time; the table below has the same figures"
                )
                self._losses = ui.html("", sanitize=False)
                self._answers = ui.html("", sanitize=False)
                self._call = LatestCall(self._answers)
                self._copy = copy_button("training command", lambda: "\n".join(self._commands))
                self._copy.set_visibility(False)
        session.on_model(self._follow_model)

    def _add_form(self) -> None:
        with section("Models side by side"):
            self._names = ui.element("div").classes("pb-names")
            self._show_names()
            self._add = ui.button("Keep this model to compare", icon="add", on_click=self._keep)
            self._add.props("flat dense no-caps")
            ui.button(_EXAMPLE, icon="auto_stories", on_click=self._take_example).props(
                "flat dense no-caps align=left"
            )
        form = self._session.state.plan
        with section("Machine"):
            self._gpu = choice_field(
                "GPU", {name: name for name in gpu_names()}, form.gpu, self._setter("gpu"), search=True
            )
            self._boxes = {"gpus": self._text("Number of GPUs", "gpus")}
            self._boxes["price"] = self._text("Dollars per GPU and hour", "price", "a dated range")
        with section("Length"):
            self._boxes["hours"] = self._text("Hours", "hours")
            self._boxes["tokens"] = self._text(
                "Tokens", "tokens", "10B; without hours or tokens 20 a parameter"
            )
            self._boxes["unique_tokens"] = self._text("Tokens in the text", "unique_tokens", "unlimited")
        with section("Update"):
            self._boxes["batch_size"] = self._text("Micro-batch (batch_size)", "batch_size", "chosen")
            self._boxes["gradient_accumulation_steps"] = self._text(
                "Micro-steps per update", "gradient_accumulation_steps", "chosen"
            )
            choices = {"": "chosen", "true": "on", "false": "off"}
            self._checkpointing = choice_field(
                "Gradient checkpointing",
                choices,
                form.gradient_checkpointing,
                self._setter("gradient_checkpointing"),
            )

    def _text(self, label: str, name: str, placeholder: str = "") -> ui.input:
        return text_field(
            label, getattr(self._session.state.plan, name), self._setter(name), placeholder=placeholder
        )

    def _setter(self, name: str) -> Callable[[str | None], None]:
        def set_value(value: str | None) -> None:
            if (value or "") != getattr(self._session.state.plan, name):
                self._session.set_form("plan", name, value or "")
                self.refresh()

        return set_value

    def _show_names(self) -> None:
        self._names.clear()
        with self._names:
            ui.label(self._session.state.model.name).classes("pb-chip")
            for other in self._session.state.compared:
                with ui.element("span").classes("pb-chip"):
                    ui.label(other.name)
                    leave_out = ui.button(
                        icon="close", on_click=lambda _, other=other: self._leave_out(other)
                    )
                    name_for_reader(leave_out.props("flat dense round size=xs"), f"Leave out {other.name}")

    def _keep(self) -> None:
        kept = self._session.state.compared
        if len(kept) >= MOST_COMPARED:
            show_error(self._error, f"{MOST_COMPARED + 1} models are compared already; leave one out first")
            return
        base = self._session.state.model
        name = base.name if " " not in base.name else f"kept-{len(kept) + 1}"
        self._session.update(compared=(*kept, replace(base, name=name)))
        self.refresh()

    def _leave_out(self, other: NamedModel) -> None:
        self._session.update(
            compared=tuple(each for each in self._session.state.compared if each is not other)
        )
        self.refresh()

    def _take_example(self) -> None:
        current, *others = (NamedModel(api.model(**shape), name) for name, shape in _EXAMPLE_SHAPES.items())
        self._session.update(plan=_EXAMPLE_FORM, compared=tuple(others))
        self._gpu.value = _EXAMPLE_FORM.gpu
        for name, box in self._boxes.items():
            box.value = getattr(_EXAMPLE_FORM, name)
        self._checkpointing.value = _EXAMPLE_FORM.gradient_checkpointing
        self._session.set_model(current.model, name=current.name)

    def _follow_model(self) -> None:
        if self._session.state.tab == "plan":
            self.refresh()

    def refresh(self) -> None:
        """Plan again if anything that the plans are of has changed."""
        self._show_names()
        background_tasks.create(self._plan())

    async def _plan(self) -> None:
        state = self._session.state
        models = _by_name([state.model, *state.compared])
        wanted = (state.plan, tuple(models.items()))
        show_error(self._error, None)
        if wanted == self._planned:  # what was changed meanwhile was changed back
            self._call.drop()
            self._busy.set_visibility(False)
            return
        self._busy.set_visibility(True)
        made = await self._call.run(
            lambda: answer_or_error(lambda: plans_of(state.plan, list(models.values())))
        )
        if made is None:
            return
        self._busy.set_visibility(False)
        if not isinstance(made, ParambudgetError):
            self._plans = dict(zip(models, made, strict=True))
            made = answer_or_error(self._show)
        stale = isinstance(made, ParambudgetError)
        for element in (self._figures, self._memory, self._losses, self._answers):
            element.classes(add="pb-stale") if stale else element.classes(remove="pb-stale")
        if isinstance(made, ParambudgetError):
            self._planned = None
            show_error(self._error, f"{made}")
            return
        self._planned = wanted

    def _show(self) -> None:
        plans, first = self._plans, next(iter(self._plans.values()))
        self._figures.content = (
            _figures(first)
            if len(plans) == 1
            else html_table(
                comparison_rows(list(plans.values()), list(plans)),
                "Side by side; differences are from the first",
            )
        )
        self._memory.content = _memory(plans)
        if all(plan.fits for plan in plans.values()):
            self._chart.show(charts.loss_over_hours(plans))
            self._losses.content = _losses(plans)
        else:  # the speed of what cannot run is no answer
            self._chart.hide()
            self._losses.content = ""
        words = plain_answers(first)
        self._commands = words.pop("next", [])  # none for what does not fit or cannot be trained there
        self._copy.set_visibility(bool(self._commands))
        self._answers.content = _in_words(plans, words, self._commands)


def _by_name(models: Sequence[NamedModel]) -> dict[str, ModelConfig]:
    """The models by their names, equal names told apart."""
    named: dict[str, ModelConfig] = {}
    for each in models:
        name, n = each.name, 1
        while name in named:
            n += 1
            name = f"{each.name} ({n})"
        named[name] = each.model
    return named


def plain_answers(plan: RunPlan) -> dict[str, list[str]]:
    """What the screen of `plan` says, without a terminal's styles."""
    return {what: list(map(without_style, texts)) for what, texts in plan_answers(plan).items()}


def _in_words(
    plans: Mapping[str, RunPlan], words: Mapping[str, list[str]], commands: Sequence[str]
) -> str:  # fmt: skip
    """The first plan's answers and command, and what there is to know of the others."""
    name, *others = plans
    text = f"<h2>In words{': ' + escape(name) if others else ''}</h2>{answers(words)}"
    text += "".join(f'<code tabindex="0">{escape(command)}</code>' for command in commands)
    for label in others:
        notes = {"would fit": plans[label].suggestions, "warnings": plans[label].warnings}
        text += f"<h2>{escape(label)}</h2>{answers(notes)}" if any(notes.values()) else ""
    return text


def _figures(plan: RunPlan) -> str:
    rate, hours = plan.speed.tokens_per_second, plan.hours
    figures = {
        "peak memory": (
            format_bytes(plan.memory.peak_bytes),
            f"{'fits' if plan.fits else 'DOES NOT FIT'} in {format_bytes(plan.machine.memory_bytes)} of "
            f"{plan.machine.name}",
        )
    }
    if plan.fits:
        figures |= {
            "tokens/s": (f"{rate.expected:,.0f}", f"{rate.low:,.0f} to {rate.high:,.0f}"),
            "time": (
                format_seconds(3600 * hours.expected),
                f"{format_seconds(3600 * hours.low)} to {format_seconds(3600 * hours.high)}"
                if hours.low != hours.high
                else "as given",
            ),
            "cost": ("not known", "give a price")
            if plan.cost is None
            else (f"${plan.cost.expected:,.2f}", f"${plan.cost.low:,.2f} to ${plan.cost.high:,.2f}"),
            "expected loss": (f"{plan.loss.loss:.3f}", "nats per token; to compare, not to promise"),
        }
    return big_figures(figures)


def _memory(plans: Mapping[str, RunPlan]) -> str:
    machine = next(iter(plans.values())).machine
    names = list(
        dict.fromkeys(
            part for plan in plans.values() for part in plan.memory.parts if plan.memory.parts[part]
        )
    )
    whole = 1.05 * max(machine.memory_bytes, *(plan.memory.peak_bytes for plan in plans.values()))
    mark = BarMark(
        machine.usable_bytes, f"{USABLE_SHARE:.0%} of {format_bytes(machine.memory_bytes)} can be used"
    )
    bars = ""
    for label, plan in plans.items():
        sizes = {name: plan.memory.parts.get(name, 0) for name in names}
        parts = [
            BarPart(memory_part_in_words(name), size, format_bytes(size)) for name, size in sizes.items()
        ]
        if len(plans) > 1:
            bars += sentences([f"{label}: {format_bytes(plan.memory.peak_bytes)}"])
        bars += stacked_bar(parts, whole, f"Memory of {label} by part", mark)
    rows = [
        ["part", *plans],
        *(
            [
                memory_part_in_words(name),
                *(format_bytes(plan.memory.parts.get(name, 0)) for plan in plans.values()),
            ]
            for name in names
        ),
        ["peak", *(format_bytes(plan.memory.peak_bytes) for plan in plans.values())],
    ]
    return (
        f"<h2>Memory of each GPU</h2>{bars}{bar_legend(memory_part_in_words(name) for name in names)}"
        + sentences([f"The line is what a plan may use: {mark.text} on {machine.name}."])
        + html_table(rows, "Peak memory by part")
    )


def _losses(plans: Mapping[str, RunPlan]) -> str:
    rows = [["time", *plans]]
    for hours in charts.plan_hours(list(plans.values()), _MILESTONES):
        rows.append(
            [format_seconds(3600 * hours), *(f"{float(p.loss_after(hours)):.3f}" for p in plans.values())]
        )
    law = next(iter(plans.values())).loss.law.name
    return html_table(rows, f"Expected loss over time, by {law}: to compare, not to promise")
