"""The answers of the solver on screen: ranked models, why they rank so, what the search has shown."""

import shlex
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Final

from parambudget.arch.config import FIELDS, ModelConfig, flat_fields
from parambudget.arch.description import shape_in_words
from parambudget.arch.dims import has_attention_layers, has_ffn_layers, whole_layer_share
from parambudget.arch.style import STYLES
from parambudget.cost.flops import flops_per_token
from parambudget.formats.source import changed_fields
from parambudget.planning.machine import Machine
from parambudget.render.commands import data_flag, flag, runnable_command, step_flags, value_flag
from parambudget.render.model import as_flags, flags, switch_flags
from parambudget.render.terminal import bold, dim, table, wrap_text
from parambudget.scaling.loss import bound_in_words
from parambudget.search.certificate import Certificate, Error
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP
from parambudget.search.solutions import (
    EQUAL_LOSS_SHARE,
    EQUAL_SHARE,
    BetterSize,
    CurrentModel,
    Forecast,
    Solution,
    SolutionDocument,
    Solutions,
    SolutionsDocument,
)
from parambudget.search.space import AXES, LATENT_SIZES, MIXER_SIZES
from parambudget.units import (
    format_bytes,
    format_count,
    format_seconds,
    format_share,
    format_tolerance,
    plural,
)

_HEADINGS = {
    "tokens_per_second": "tokens/s", "peak_bytes": "memory", "batch_size": "batch", "tokens": "tokens",
    "loss": "loss", "ranked_loss": "loss+shape",
}  # fmt: skip
_NEAR = 0.25
"""Nats above the best within which sizes are named."""


_WIDE: Final = 120
"""Columns of terminal from which the score's terms stand in the same table."""
_IMPLIED: Final = (
    frozenset({"ffn/dim"}),
    frozenset({"ffn/dim", "head"}),
    frozenset({"ffn/dim", "head", "depth", "#"}),
    frozenset({"ffn/dim", "head", "depth", "#", "change", "heads/kv"}),
)
"""Columns to leave out where there is no room, one step after another: a number is never cut short."""


def solutions_screen(found: Solutions, width: int) -> list[str]:
    """The screen of `solve`."""
    if not found:
        return ["no models"]
    current, certificate = found.current, found.certificate
    wide = width >= _WIDE
    lines = [*_current(current, certificate, width), ""] if current else []
    lines += _models(found, width, wide=wide)
    if not wide and not current and not _forecast_headings(found):
        lines += ["", *_terms(found)]
    if current:
        missing = (f"no {name} model: {why}" for name, why in current.unavailable.items())
        lines += [dim(line) for text in missing for line in wrap_text(text, width)]
    lines += ["", *(line for text in search_remarks(found) for line in wrap_text(text, width))]
    return lines + [dim(line) for text in solution_notes(found) for line in wrap_text(text, width)]


def search_remarks(found: Solutions) -> list[str]:
    """The run of the first model, what the search has shown, and whether another size is a better one."""
    better = [better_size_note(found.better)] if found.better else []
    return [*_first_run(found), _certificate(found.certificate), *better, *_size_interval(found)]


def _size_interval(found: Solutions) -> list[str]:
    """Which sizes a fitted law cannot tell apart."""
    if found.size_interval is None:
        return []
    low, high = (format_count(round(size)) for size in found.size_interval)
    return [
        f"The law cannot tell sizes from {low} to {high} apart: nine of ten laws that fit its runs as well "
        "have their best size between"
    ]


def next_commands(
    found: Solutions, given: Mapping[str, object], current: str | None, like: str | None = None,
    source: ModelConfig | None = None,
) -> list[str]:  # fmt: skip
    """What to run next, a command a line: train each resized model; repeat the search."""
    if not found:
        return []
    training = [
        f"{solution.label}: {runnable_command('train', flags(solution.model), data_flag())}"
        for solution in found
        if found.current
    ]
    return [*training, f"To repeat this search: {rerun_command(found, given, current, like, source)}"]


def style_note(found: Solutions, width: int) -> list[str]:
    """That there is another style than the one of these models, with what it was measured to gain; nothing
    for models whose choices were already made, or that are no plain transformers."""
    modern, choices = STYLES["modern"], found[0].model
    if choices.n_attention_layers < choices.n_layers or choices.n_ffn_layers < choices.n_layers:
        return []
    # tied follows from the size, unless it is given.
    if found.current or any(
        getattr(choices, name) != FIELDS[name].default for name in modern.fields if name != "tied"
    ):
        return []
    gains = " and ".join(f"{gain.nats:.3f} nats lower ({gain.setting})" for gain in modern.gains)
    last = modern.gains[-1]
    note = (
        f"--style modern searches models with {modern.in_words}, which export knows no class for; after as "
        f"many tokens it ended {gains}: measured on {last.measured_on}, see {last.source}"
    )
    return wrap_text(note, width)


class TrainableSolutionDocument(SolutionDocument):
    """One model that meets the target or the budget, and how to train it."""

    train: str | None
    """The command that trains it as predicted; null where the trainer refuses the GPU."""


class SolveDocument(SolutionsDocument):
    """What a complete search has found, best first, and the certificate of what that proves."""

    solutions: list[TrainableSolutionDocument]  # type: ignore[misc]  # with a key more
    """Best first."""
    command: str
    """The command that repeats this search, every size and choice spelled out."""


def solve_document(
    found: Solutions, given: Mapping[str, object], machine: Machine | None, *, current: str | None = None,
    like: str | None = None, source: ModelConfig | None = None,
) -> SolveDocument:  # fmt: skip
    """The answers of a search, with the commands to repeat it and to train each model.

    `given` are the flags beside the target, by their names with underscores; `current` and `like` are the
    arguments of --from and --like, and `source` is the model of either.
    """
    by_time = not {"hours", "dollars"}.isdisjoint(given)
    document = found.as_dict()
    solutions: list[TrainableSolutionDocument] = [
        {
            **entry,
            "train": train_command(solution, machine, by_time=by_time) if can_train_on(machine) else None,
        }
        for entry, solution in zip(document["solutions"], found, strict=True)
    ]
    return {**document, "solutions": solutions, "command": rerun_command(found, given, current, like, source)}


def rerun_command(
    found: Solutions, given: Mapping[str, object], current: str | None, like: str | None = None,
    source: ModelConfig | None = None,
) -> str:  # fmt: skip
    """The command that gives the same answer, every axis and choice spelled out. `given` are the flags beside
    the target, by their names with underscores. `current` and `like` are the arguments of --from and --like,
    and `source` is the model of either. The answer has a model."""
    c, model = found.certificate, found[0].model
    words = [f"--active {c.active}"] if c.active is not None else []
    words += [f"--target {c.target}"] if c.target is not None else []
    words += [_flag_with_value(name, value) for name, value in given.items()]
    words += [f"--from {shlex.quote(current)}"] if current else []
    # Only --like keeps the sizes of a mixer in proportion to dim.
    like = like if found.mixer_follows_dim else None
    words += [f"--like {shlex.quote(like)}"] if like else []
    words += [f"{flag(name)} {text}" for name, text in c.lattice.items()]
    fields = changed_fields(model)
    if source is not None and (current or like):
        own, before = flat_fields(model), flat_fields(source)
        fields |= {name: value for name, value in own.items() if value not in (None, before.get(name))}
    choices = {name: value for name, value in fields.items() if name not in (*AXES, *LATENT_SIZES)}
    if found.mixer_follows_dim:
        choices = {name: value for name, value in choices.items() if name not in MIXER_SIZES}
    words.append(as_flags({"vocab_size": model.vocab_size, "tied": model.tied} | choices))
    words += [f"--counted {c.counted}"] if c.counted != "total" else []
    if c.tolerance is not None and c.tolerance != DEFAULT_TOLERANCE:
        words.append(f"--tolerance {format_tolerance(c.tolerance)}")
    if not {"hours", "dollars", "flops"}.isdisjoint(given):
        usual = "loss"
    else:
        usual = "size" if c.target is None else "shape"
    words += [f"--rank {found.rank}"] if found.rank != usual else []
    words += [f"--top {found.top}"] if found.top != DEFAULT_TOP else []
    return runnable_command("solve", *words)


def _flag_with_value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return switch_flags(name)[not value]
    return value_flag(name, value)


def can_train_on(machine: Machine | None) -> bool:
    """Whether a command to train is worth printing: the trainer refuses GPUs without bfloat16."""
    return machine is None or machine.has_bfloat16


def train_command(
    solution: Solution, machine: Machine | None, *, by_time: bool, source: str | None = None
) -> str:
    """The command that trains a model as it was predicted; `source` names its config file. With `by_time` the
    trainer measures how many updates the hours are, else the run has so many tokens."""
    forecast, processes, nodes = solution.forecast, 1, 1
    words = [source or flags(solution.model), data_flag()]
    if forecast is not None and machine is not None and forecast.step is not None:
        words += step_flags(forecast.step)
        processes, nodes = machine.world_size, machine.n_nodes
    if forecast is not None and forecast.tokens is not None:
        words += [f"--hours {forecast.hours:.6g}" if by_time else f"--tokens {int(forecast.tokens)}"]
    return runnable_command("train", *words, processes=processes, nodes=nodes)


def _first_run(found: Solutions) -> Iterator[str]:
    """The run of the first model, and what there is to know about it."""
    forecast = found[0].forecast
    if forecast is not None and forecast.tokens is not None:
        parts = [f"{format_count(forecast.tokens)} tokens, {forecast.tokens_per_parameter:.3g} per parameter"]
        if forecast.epochs is not None:
            times = format_count(forecast.epochs)
            parts.append(f"{times} {plural(times, 'epoch')} of the text")
        if forecast.hours is not None:
            parts.append(format_seconds(3600 * forecast.hours))
        if forecast.dollars is not None:
            parts.append(f"${forecast.dollars:,.2f}")
        yield f"the run of model 1: {', '.join(parts)}"
    if forecast is not None:
        yield from (f"warning: {warning}" for warning in forecast.warnings)
    if found.embedding is not None:
        yield f"note: {found.embedding}; --vocab-size sets it"


def better_size_note(better: BetterSize) -> str:
    """That another size is a better use of the budget, in plain words."""
    m, gain = better.model, better.baseline_loss - better.loss
    return (
        f"another size suits the budget better: about {format_count(better.counted)} parameters "
        f"({m.n_layers} layers, dim {m.dim}) are expected to end {gain:.3f} nats lower"
    )


def _models(found: Solutions, width: int, *, wide: bool) -> list[str]:
    """One line per model; on a narrow terminal without the columns that others imply, as far as needed."""
    lines = _table(found, wide, frozenset())
    for left_out in _IMPLIED:
        if max(map(len, lines)) <= width:
            break
        lines = _table(found, wide, left_out)
    best = 0 if found.current else 1
    return [bold(line) if i <= best else line for i, line in enumerate(lines)]


def _table(found: Solutions, wide: bool, left_out: frozenset[str]) -> list[str]:
    rows = solution_rows(found, wide=wide)
    columns = [i for i, name in enumerate(rows[0]) if name not in left_out]
    left = (columns.index(1),)
    return table([[row[i] for i in columns] for row in rows], left=left, gap=2 if wide else 1)


def solution_rows(found: Solutions, *, wide: bool) -> list[list[str]]:
    """Headings, and a row of cells for each model; `wide` ones have the terms of the score."""
    shape = [
        "#",
        "direction" if found.current else "shape",
        "layers",
        "dim",
        *(["heads/kv", "head"] if has_attention_layers(found[0].model) else []),
        *_ffn_headings(found),
    ]
    predicted = _forecast_headings(found)
    terms = tuple(found[0].score) if wide and not predicted else ()
    answer = ["change", "FLOPs", "depth"] if found.current else ["score", *terms]
    error = ["error"] if found.certificate.target is not None else []
    names = [*shape, found.certificate.counted, *error, *_active_headings(found), *predicted, *answer]
    return [names, *(_cells(number, solution, found, wide) for number, solution in enumerate(found, 1))]


def _cells(number: int, solution: Solution, found: Solutions, wide: bool) -> list[str]:
    m = solution.model
    return [
        str(number),
        solution.label,
        str(m.n_layers),
        str(m.dim),
        *([f"{m.n_heads}/{m.n_kv_heads}", str(m.head_dim)] if has_attention_layers(m) else []),
        *_ffn_cells(m, found),
        f"{solution.counted:,}",
        *_error(solution, found.certificate),
        *_active_cells(solution, found),
        *_forecast_cells(solution, found),
        *_answer_cells(solution, found, wide),
    ]


def _answer_cells(solution: Solution, found: Solutions, wide: bool) -> list[str]:
    if found.current:
        return _changes(found.current, solution.model)
    return _score(solution, wide and not _forecast_headings(found))


def _ffn_headings(found: Solutions) -> list[str]:
    """Headings of the FFN, or of the numbers of experts and their width; the ratio is of the active width."""
    if not has_ffn_layers(found[0].model):
        return []
    if found[0].model.moe is None:
        return ["ffn", "ffn/dim"]
    return ["experts", "width", *(["dense"] if _has_dense_layers(found) else []), "ffn/dim"]


def _ffn_cells(m: ModelConfig, found: Solutions) -> list[str]:
    if not has_ffn_layers(m):
        return []
    if m.moe is None:
        return [str(m.intermediate_size), f"{m.intermediate_size / m.dim:.2f}"]
    shared = f"+{m.moe.n_shared_experts}" if m.moe.n_shared_experts else ""
    experts = [f"{m.moe.n_experts}/{m.moe.n_experts_per_token}{shared}", str(m.moe.expert_intermediate_size)]
    dense = [str(m.intermediate_size)] if _has_dense_layers(found) else []
    return [*experts, *dense, f"{m.active_ffn_width / m.dim:.2f}"]


def _has_dense_layers(found: Solutions) -> bool:
    return any(s.model.n_dense_layers for s in found)


def _active_headings(found: Solutions) -> list[str]:
    """Headings of the active count, where it is another one, and of its error, where it has a target."""
    if found[0].model.moe is None or found.certificate.counted == "active":
        return []
    return ["active", *(["error"] if found[0].active_error is not None else [])]


def _active_cells(solution: Solution, found: Solutions) -> list[str]:
    if not _active_headings(found):
        return []
    if solution.active_error is None:
        return [f"{solution.active:,}"]
    return [
        f"{solution.active:,}",
        format_share(Fraction(solution.active_error, solution.active - solution.active_error)),
    ]


def _error(solution: Solution, certificate: Certificate) -> list[str]:
    if certificate.target is None:
        return []
    return [format_share(Fraction(solution.error or 0, certificate.target))]


def _score(solution: Solution, with_terms: bool) -> list[str]:
    return [f"{solution.total_score:.2f}", *(_term_cells(solution) if with_terms else ())]


def _term_cells(solution: Solution) -> list[str]:
    return [f"{value:.2f}" if value >= 0.005 else "·" for value in solution.score.values()]


def _terms(found: Solutions) -> list[str]:
    """The score term by term, for terminals too narrow to show it beside the models."""
    rows = [["#", "score", *found[0].score]]
    rows += [[str(i), f"{s.total_score:.2f}", *_term_cells(s)] for i, s in enumerate(found, 1)]
    head, *lines = table(rows)
    return [bold(head), *lines]


def _changes(current: CurrentModel, model: ModelConfig) -> list[str]:
    change = current.change(model)
    share = change["flops_per_token"] / flops_per_token(current.model)
    return [format_count(change["total"]), format_share(share, 1), f"{change['n_layers']:+d}"]


def _current(current: CurrentModel, certificate: Certificate, width: int) -> list[str]:
    m, target = current.model, certificate.target
    assert target is not None
    off = (current.counted - target) / target
    return wrap_text(
        f"now: {shape_in_words(m)}: {current.counted:,} {certificate.counted} parameters, "
        f"{format_share(off, 2)} from {target:,}; "
        f"{format_count(flops_per_token(m))} FLOPs per token at context {m.context_length}",
        width,
    )


def _certificate(c: Certificate) -> str:
    """What the search has shown: how near it comes to the target, or the best of every size."""
    if c.target is None:
        return _sweep_summary(c)
    assert c.tolerance is not None and c.best_error is not None  # noqa: PT018
    unit = " parameters" if isinstance(c.best_error, int) else ""
    n_ties, n_within = c.ties or 0, c.within_tolerance or 0
    ties = f" ({n_ties:,} tie)" if n_ties > 1 else ""
    following = f"; the next is {_off(c.next_best_error)} off" if c.next_best_error is not None else ""
    target = f"{c.target:,}" if c.active is None else f"{c.target:,} {c.counted} and {c.active:,} active"
    are, tolerance = "is" if n_within == 1 else "are", format_tolerance(c.tolerance)
    return (
        f"Checked all {c.lattice_points:,} shapes; {n_within:,} {are} within {tolerance} of {target}; "
        f"the closest is {_off(c.best_error)}{unit} off{ties}{following}"
    )


def _sweep_summary(c: Certificate) -> str:
    summary = f"Checked all {c.lattice_points:,} shapes; {c.feasible or 0:,} fit"
    if c.objective != "loss" or c.best is None or c.by_size is None:
        return summary
    near = [(size, loss) for size, loss in c.by_size.items() if loss < c.best + _NEAR]
    best = ", ".join(f"{format_count(size)} {loss:.3f}" for size, loss in near)
    return f"{summary}; the best loss+shape at each size: {best}"


def _off(error: Error) -> str:
    """A number of parameters; with two targets the larger relative error, which has no sign."""
    return f"{error:,}" if isinstance(error, int) else format_share(error, 5).lstrip("+")


def _forecast_headings(found: Solutions) -> list[str]:
    """The predicted columns that there are figures for."""
    return [_HEADINGS[name] for name in _forecast_columns(found)]


def _forecast_cells(solution: Solution, found: Solutions) -> list[str]:
    return [_forecast_cell(name, solution.forecast) for name in _forecast_columns(found)]


def _forecast_columns(found: Solutions) -> list[str]:
    forecasts = [s.forecast for s in found if s.forecast is not None]
    return [name for name in _HEADINGS if any(getattr(forecast, name) is not None for forecast in forecasts)]


def _forecast_cell(name: str, forecast: Forecast | None) -> str:
    value = getattr(forecast, name, None)
    if value is None:  # it does not fit
        return "-"
    if name == "batch_size" and forecast is not None:
        return f"{value}{' recomputed' if forecast.gradient_checkpointing else ''}"
    if name == "peak_bytes":
        fits = forecast is not None and forecast.batch_size is not None
        return format_bytes(value) if fits else f"{format_bytes(value)}: too much"
    if name in ("loss", "ranked_loss"):
        return f"{value:.3f}"
    return format_count(value) if name == "tokens" else f"{value:,.0f}"


def solution_notes(found: Solutions) -> Iterator[str]:
    """What the score is, what orders the rows, what the losses are good for, and what was assumed."""
    if found.current:
        known = (label for s in found if (label := s.label) in _DIRECTIONS)
        yield f"direction: {', '.join(f'{label} ({_DIRECTIONS[label]})' for label in known)}"
    else:
        yield _score_legend(found)
    if found.rank == "loss":
        yield (
            "rows are ordered by loss+shape, the loss of the usual shape that is as good; rows within "
            f"{EQUAL_LOSS_SHARE:.1%} of what compute can still reduce are ordered by score"
        )
    if found.rank == "size" and found.certificate.target is not None:
        yield "rows are ordered by their parameters, the most first; equal ones by their shape score"
    if found.rank in ("speed", "memory"):
        what = "tokens/s" if found.rank == "speed" else "memory"
        yield f"rows are ordered by {what}; rows within {EQUAL_SHARE:.0%} of each other are ordered by score"
    if found[0].forecast is not None and found[0].forecast.loss is not None:
        level = found[0].forecast.loss_level
        yield (
            "losses are for comparison only: they depend on text and tokenizer; see docs/laws.md"
            if level is None
            else f"losses are at the level of {level}: of its text and tokenizer; see docs/planning.md"
        )
    if any(s.forecast is not None and s.forecast.loss_is_bound for s in found):
        yield f"losses: {bound_in_words(found[0].model.vocab_size)}"
    if found.tying_was_assumed:
        yield (
            "the output head is tied to the embedding, as is usual below 1B; --untied separates them"
            if found[0].model.tied
            else "the output head is not tied to the embedding, as is usual from 1B; --tied shares one matrix"
        )


_DIRECTIONS: Final = {
    "narrower": "smaller dim, same layers", "wider": "larger dim, same layers",
    "shallower": "fewer layers, same dim", "deeper": "more layers, same dim",
    "thinner": "smaller FFN, same layers and dim", "fatter": "larger FFN, same layers and dim",
    "balanced": "the usual dim / layers of the size",
}  # fmt: skip
_TERM_MEANINGS: Final = {
    "aspect": "dim / layers",
    "ffn": "FFN width / dim, alignment",
    "heads": "number, width",
    "width": "alignment of dim",
    "depth": "layers divisible by 4",
    "kv": "query heads per kv head",
    "experts": "number, width",
}


def _score_legend(found: Solutions) -> str:
    """What the score means, and each of its terms where they are shown."""
    meaning = "score: how unusual the shape is for its size; 0 is the most usual"
    if _forecast_headings(found):
        return meaning
    share = whole_layer_share(found[0].model.mixer_pattern, found[0].model.ffn_pattern)
    terms = ", ".join(f"{name} ({_TERM_MEANINGS[name]})" for name in found[0].score)
    halves = "; layers with a mixer or an FFN alone count half" if share < 1 else ""
    return f"{meaning}. Sum of {terms}{halves}"
