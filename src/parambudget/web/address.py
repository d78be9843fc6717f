"""The state of the page, and the query of its address that holds it: a link shows the same page again.

    ?tab=plan&model=llama-3-8b&n_layers=24&plan.gpu=h100-sxm&plan.hours=1.5&with=wider+dim=1024+n_layers=18

A model is a preset's name, fields by their own names, or a preset with some fields changed. It never names a
file: a link that somebody sends must not make the page read one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from parambudget.arch.config import FIELDS, ModelConfig, flat_fields
from parambudget.arch.defaults import with_defaults
from parambudget.arch.field_text import parse_field
from parambudget.arch.presets.registry import preset_row
from parambudget.arch.style import STYLES, StyleName
from parambudget.cost.hardware import ACCELERATORS, parse_accelerator
from parambudget.cost.own_gpus import read_own_gpus
from parambudget.errors import ConfigError, InputError
from parambudget.formats.source import changed_fields
from parambudget.planning.machine import CPU
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind, Rank
from parambudget.units import format_tolerance, shorten

TabName = Literal["shape", "solve", "plan", "runs"]
Theme = Literal["auto", "light", "dark"]
SearchStart = Literal["free", "like", "resize"]
MOST_COMPARED: Final = 3
"""Models beside the one of the page."""
_LONGEST_NAME: Final = 40


@dataclass(frozen=True)
class NamedModel:
    """A model, what it is called on the page, and the preset that it was made from."""

    model: ModelConfig
    name: str
    preset: str | None = None


@dataclass(frozen=True)
class SolveForm:
    """What a search is asked for, as it was typed; empty where nothing is given."""

    start: SearchStart = "free"
    """Any shape of a style, the choices of the page's model, or that model resized."""
    style: StyleName = "llama"
    target: str = "350M"
    active: str = ""
    counted: CountKind = "total"
    tolerance: str = format_tolerance(DEFAULT_TOLERANCE)
    vocab_size: str = ""
    context_length: str = ""
    tied: str = ""
    hours: str = ""
    dollars: str = ""
    flops: str = ""
    memory: str = ""
    gpu: str = ""
    gpus: str = "1"
    unique_tokens: str = ""
    rank: Rank | Literal[""] = ""
    top: str = str(DEFAULT_TOP)


@dataclass(frozen=True)
class PlanForm:
    """How long a run is and on what it is trained, as it was typed; empty where nothing is given."""

    gpu: str = "h100-sxm"
    gpus: str = "1"
    hours: str = ""
    tokens: str = ""
    batch_size: str = ""
    gradient_accumulation_steps: str = ""
    gradient_checkpointing: str = ""
    unique_tokens: str = ""
    price: str = ""


@dataclass(frozen=True)
class PageState:
    """All that one browser has chosen."""

    model: NamedModel
    tab: TabName = "shape"
    theme: Theme = "auto"
    solve: SolveForm = field(default_factory=SolveForm)
    plan: PlanForm = field(default_factory=PlanForm)
    compared: tuple[NamedModel, ...] = ()
    """Models that are planned beside the page's own."""
    runs: tuple[str, ...] = ()
    """Names of the runs that are shown; none for all."""


CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "tab": get_args(TabName), "theme": get_args(Theme),
    "solve.start": get_args(SearchStart), "solve.style": tuple(STYLES),
    "solve.counted": get_args(CountKind), "solve.rank": ("", *get_args(Rank)),
    "solve.tied": ("", "true", "false"), "plan.gradient_checkpointing": ("", "true", "false"),
}  # fmt: skip
"""What a parameter may be, where not any text."""
_FORMS: Final = {"solve": SolveForm, "plan": PlanForm}
_FORM_NAMES: Final = tuple(f"{form}.{each.name}" for form, kind in _FORMS.items() for each in fields(kind))
_OTHERS: Final = ("tab", "theme", "model", "name", "with", "run")


def write_address(state: PageState) -> str:
    """The query of the page in this state, without its `?`: the model, and what differs from an empty
    page."""
    empty = PageState(state.model)
    words: list[tuple[str, str]] = [] if state.tab == empty.tab else [("tab", state.tab)]
    words += _model_words(state.model)
    if state.model.name != display_name(state.model.model, state.model.preset):
        words.append(("name", state.model.name))
    for form in _FORMS:
        now, before = getattr(state, form), getattr(empty, form)
        words += [
            (f"{form}.{each.name}", getattr(now, each.name))
            for each in fields(now)
            if getattr(now, each.name) != getattr(before, each.name)
        ]
    for other in state.compared:
        text = " ".join(f"{name}={value}" for name, value in _model_words(other))
        words.append(("with", f"{_one_word(other.name)} {text}"))
    words += [("run", name) for name in state.runs]
    if state.theme != empty.theme:
        words.append(("theme", state.theme))
    return urlencode(words, safe="=,:/")


def read_address(query: str, start: PageState) -> tuple[PageState, str | None]:
    """The state that a query holds, over `start`, the page that opens without one; and what is wrong with it
    in one line, where something is: that part is then left out."""
    state, problems = start, []
    own_name: str | None = None
    words = parse_qsl(query, keep_blank_values=True, max_num_fields=None)
    model_words = [(name, text) for name, text in words if name == "model" or name in FIELDS]
    for name, text in words:
        try:
            if name == "name":
                own_name = _check_length(name, text, _LONGEST_NAME)
            elif (name, text) not in model_words:
                state = _with_parameter(state, name, text)
        except InputError as error:
            problems.append(str(error))
    try:
        if model_words:
            state = replace(state, model=read_model(model_words, own_name))
    except InputError as error:
        problems.append(str(error))
    return state, problems[0] if problems else None


def read_model(words: Iterable[tuple[str, str]], name: str | None = None) -> NamedModel:
    """The model of a preset's name and of fields; raises `ConfigError`."""
    given: dict[str, object] = {}
    preset: str | None = None
    for key, text in words:
        if key == "model":
            preset = preset_row(text).name
        elif key in FIELDS:
            given[key] = parse_field(key, text, FIELDS[key])
        else:
            raise ConfigError(
                f"{shorten(key)!r} is not a field of a model; use names such as dim or n_layers"
            )
    base = {} if preset is None else preset_row(preset).model.model_dump()
    model = with_defaults(base | given).model
    return NamedModel(model, name or display_name(model, preset), preset)


def display_name(model: ModelConfig, preset: str | None) -> str:
    """What the page calls a model: the preset's name where nothing is changed."""
    if preset is None:
        return "this model"
    return preset if preset_row(preset).model == model else f"{preset}, changed"


def preset_of(model: ModelConfig, source: str | None) -> str | None:
    """The preset that a source names, where the model is that one; None for files and fields."""
    if source is None:
        return None
    with suppress(ConfigError):
        row = preset_row(source)
        return row.name if row.model == model else None
    return None


def gpu_names() -> list[str]:
    """What can be planned for: the known GPUs, those that a person has described, and a processor."""
    own: list[str] = []
    with suppress(InputError):  # `gpus` says what is wrong with the file
        own = list(read_own_gpus().rows)
    return [*ACCELERATORS, *own, CPU.lower()]


def parse_gpu(text: str) -> str:
    """Which of those a text names; empty stands for none. Raises `InputError`."""
    names = gpu_names()
    return text if text in ("", *names) else parse_accelerator(text).name


def with_form_value(state: PageState, form: str, name: str, text: str) -> PageState:
    """The state with one text of a form, "solve" or "plan", set."""
    value: dict[str, Any] = {name: text}
    changes: dict[str, Any] = {form: replace(getattr(state, form), **value)}
    return replace(state, **changes)


def _with_parameter(state: PageState, name: str, text: str) -> PageState:
    """The state with one parameter of the address read; raises `InputError`."""
    if name in CHOICES and text not in CHOICES[name]:
        raise ConfigError(f"{name}={shorten(text)} in the address; use {_in_words(CHOICES[name])}")
    form, _, field_name = name.partition(".")
    if name in _FORM_NAMES:
        if name == "plan.gpu" and not text:
            raise ConfigError("plan.gpu is empty in the address; name a GPU, such as h100-sxm")
        value = parse_gpu(text) if field_name == "gpu" else _check_length(name, text)
        return with_form_value(state, form, field_name, value)
    if name in ("tab", "theme"):
        changes: dict[str, Any] = {name: text}
        return replace(state, **changes)
    if name == "with":
        return replace(state, compared=(*state.compared, _compared_model(text, len(state.compared))))
    if name == "run":
        return replace(state, runs=(*state.runs, _check_length("run", text)))
    known = ", ".join((*_OTHERS, "solve.target", "plan.gpu"))
    raise ConfigError(f"{shorten(name)!r} in the address is not known; use {known}, or a field of a model")


_LONGEST_VALUE: Final = 200


def _check_length(name: str, text: str, most: int = _LONGEST_VALUE) -> str:
    """The text of a parameter, if it is not too long."""
    if len(text) > most:
        raise ConfigError(f"{name} in the address has {len(text)} characters; use at most {most}")
    return text


def _compared_model(text: str, before: int) -> NamedModel:
    if before >= MOST_COMPARED:
        raise ConfigError(f"the address compares more than {MOST_COMPARED + 1} models; leave one out")
    name, *pairs = text.split() or [""]
    words = [(key, value) for key, _, value in (pair.partition("=") for pair in pairs)]
    if not words:
        raise ConfigError(
            f"with={shorten(text)} in the address; use a name and fields, as with=wide+dim=1024"
        )
    return read_model(words, _check_length("a name after with=", name, _LONGEST_NAME))


def _model_words(named: NamedModel) -> list[tuple[str, str]]:
    """A model as parameters: its preset and what differs, or the fewest fields that give it."""
    if named.preset is not None:
        of_preset = flat_fields(preset_row(named.preset).model)
        changes = {
            name: value
            for name, value in flat_fields(named.model).items()
            if name not in of_preset or of_preset[name] != value
        }
        words = [("model", named.preset), *_field_words(changes)]
        if _reads_as(words, named.model):
            return words
    return list(_field_words(changed_fields(named.model)))


def _reads_as(words: Sequence[tuple[str, str]], model: ModelConfig) -> bool:
    try:
        return read_model(words).model == model
    except ConfigError:
        return False  # such as a block that the preset has and the model has not


def _field_words(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if value is None:
            yield name, "none"
        elif isinstance(value, bool):
            yield name, str(value).lower()
        else:
            yield name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _one_word(name: str) -> str:
    return "-".join(name.split())[:_LONGEST_NAME] or "model"


def _in_words(choices: Sequence[str]) -> str:
    return " or ".join(choice or "nothing" for choice in choices)
