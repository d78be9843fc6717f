"""The forms of the page as calls of the library: texts are parsed here, once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from parambudget import api
from parambudget.arch.config import ModelConfig
from parambudget.errors import ConfigError, InputError
from parambudget.planning.budget import Budget
from parambudget.planning.machine import Machine
from parambudget.search.options import DEFAULT_TOP
from parambudget.search.solutions import Solutions
from parambudget.units import parse_count, parse_size, shorten
from parambudget.web.address import PlanForm, SolveForm

if TYPE_CHECKING:
    from parambudget.cost.step import StepFields
    from parambudget.planning.run_plan import RunPlan
    from parambudget.search.fields import SearchFields

_MICRO_STEPS: Final = "gradient_accumulation_steps"
_SWITCHES: Final = {"true": True, "false": False}


def search(form: SolveForm, model: ModelConfig) -> Solutions:
    """The answers to a form; `model` is that of the page. Raises `InputError`."""
    target = form.target.strip() or None
    machine = _machine(form.gpu, form.gpus)
    axes = cast("SearchFields", {
        name: value
        for name, value in (
            ("vocab_size", _size(form.vocab_size, "vocab_size")),
            ("context_length", _size(form.context_length, "context_length")),
            ("tied", _SWITCHES.get(form.tied)),
        )
        if value is not None
    })  # fmt: skip
    active = form.active.strip() or None
    if form.start == "resize":
        if target is None:
            raise ConfigError("a model is resized to a number of parameters; give a target, such as 350M")
        return api.resize(
            model, target, active=active, counted=form.counted, tolerance=form.tolerance, machine=machine,
            **axes,
        )  # fmt: skip
    top = _size(form.top, "top")
    like, style = (model, None) if form.start == "like" else (None, form.style)
    return api.solve(
        target, budget=_budget(form), machine=machine, active=active, counted=form.counted,
        tolerance=form.tolerance, rank=form.rank or None, top=DEFAULT_TOP if top is None else top,
        unique_tokens=form.unique_tokens.strip() or None, like=like, style=style, **axes,
    )  # fmt: skip


def plans_of(form: PlanForm, models: Sequence[ModelConfig]) -> "tuple[RunPlan, ...]":
    """The plans of models for the run of a form, the first one's micro-steps in all. Raises `InputError`."""
    machine = _machine(form.gpu, form.gpus, form.price)
    if machine is None:
        raise InputError("no GPU is chosen to plan for; choose one, such as h100-sxm")
    step = cast("StepFields", {
        name: value
        for name, value in (
            ("batch_size", _size(form.batch_size, "batch_size")),
            (_MICRO_STEPS, _size(form.gradient_accumulation_steps, _MICRO_STEPS)),
            ("gradient_checkpointing", _SWITCHES.get(form.gradient_checkpointing)),
        )
        if value is not None
    })  # fmt: skip
    first, *others = models
    made = api.plan(
        first, machine, hours=_number(form.hours, "hours"), tokens=form.tokens.strip() or None,
        unique_tokens=form.unique_tokens.strip() or None, compare=others, **step,
    )  # fmt: skip
    return (made, *made.compared)


def _machine(gpu: str, gpus: str, price: str = "") -> Machine | None:
    count = parse_count(gpus.strip() or "1", "gpus")
    dollars = _number(price, "price")
    if not gpu:
        if count > 1 or dollars is not None:
            raise InputError("a number or a price of GPUs is given and no GPU is chosen; choose one")
        return None
    return api.machine(gpu, gpus=count, dollars_per_hour=dollars)


def _budget(form: SolveForm) -> Budget | None:
    hours, dollars = _number(form.hours, "hours"), _number(form.dollars, "dollars")
    flops, memory = form.flops.strip() or None, form.memory.strip() or None
    if hours is None and dollars is None and flops is None and memory is None:
        return None
    return Budget(hours=hours, dollars=dollars, flops=flops, memory=memory)


def _size(text: str, name: str) -> int | None:
    return parse_size(text, name) if text.strip() else None


def _number(text: str, name: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} is {shorten(text)!r}; use a number such as 1.5") from None
