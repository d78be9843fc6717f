"""The answers of the solver as a screen: ranked models, why they rank so, what the search has shown."""

import shlex
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from parambudget.arch.config import ModelConfig, met_width
from parambudget.arch.description import shape_in_words
from parambudget.cost.flops import flops_per_token
from parambudget.formats.source import changed_fields
from parambudget.render.model import as_flags, flags
from parambudget.render.terminal import bold, dim, table, wrap_text
from parambudget.search.certificate import Certificate
from parambudget.search.solutions import (
    EQUAL_NATS,
    EQUAL_SHARE,
    Better,
    Current,
    Outlook,
    Solution,
    Solutions,
    SweepCertificate,
)
from parambudget.search.solve import DEFAULT_TOLERANCE
from parambudget.search.space import AXES, LATENT_SIZES
from parambudget.units import format_bytes, format_count, format_share, format_tolerance, parse_tolerance

_HEADINGS = {
    "tokens_per_second": "tokens/s", "peak_bytes": "memory", "batch_size": "batch", "tokens": "tokens",
    "loss": "loss", "ranked_loss": "loss+shape",
}  # fmt: skip
_NEAR = 0.25
"""Nats above the best within which sizes are named."""


def headings(found: Solutions) -> list[str]:
    """The columns that there are figures for."""
    return [_HEADINGS[name] for name in _shown(found)]


def cells(solution: Solution, found: Solutions) -> list[str]:
    """A solution's figures under those headings."""
    return [_cell(name, solution.outlook) for name in _shown(found)]


def sweep_said(c: SweepCertificate) -> str:
    """What measuring every point has shown, and the best of every size."""
    said = f"complete sweep: {c.lattice_points:,} points measured, {c.possible:,} fit"
    if c.objective != "loss":
        return said
    around = [(size, loss) for size, loss in c.by_size.items() if loss < c.best + _NEAR]
    best = ", ".join(f"{format_count(size)} {loss:.3f}" for size, loss in around)
    return f"{said}; best loss+shape by size: {best}"


def order_said(found: Solutions) -> Iterator[str]:
    """What orders the rows, where that is a prediction, and what the losses in them are good for."""
    if found.rank == "loss":
        yield (
            "rows are in the order of loss+shape, which has a penalty for unusual proportions; those within "
            f"{EQUAL_NATS} nats in that of their score"
        )
    if found.rank in ("speed", "memory"):
        what = "tokens/s" if found.rank == "speed" else "memory"
        yield f"rows are in the order of {what}; those within {EQUAL_SHARE:.0%} in that of their score"
    if found[0].outlook is not None and found[0].outlook.loss is not None:
        yield "losses are to compare: they depend on text and tokenizer; docs/laws.md"


def better_said(better: Better) -> str:
    """That another size is a better use of the budget, in plain words."""
    m = better.model
    return (
        f"this size is not the best for the budget: about {format_count(better.counted)} parameters "
        f"({m.n_layers} layers, dim {m.dim}) are expected to end {better.than - better.loss:.3f} nats lower"
    )


def _shown(found: Solutions) -> list[str]:
    outlooks = [s.outlook for s in found if s.outlook is not None]
    return [name for name in _HEADINGS if any(getattr(each, name) is not None for each in outlooks)]


def _cell(name: str, outlook: Outlook | None) -> str:
    value = getattr(outlook, name, None)
    if value is None or (name == "tokens_per_second" and value == 0):  # it does not fit
        return "-"
    if name == "batch_size" and outlook is not None:
        return f"{value}{' recomputed' if outlook.gradient_checkpointing else ''}"
    if name == "peak_bytes":
        fits = outlook is not None and outlook.batch_size is not None
        return format_bytes(value) if fits else f"{format_bytes(value)}: too much"
    if name in ("loss", "ranked_loss"):
        return f"{value:.3f}"
    return format_count(value) if name == "tokens" else f"{value:,.0f}"


_WIDE: Final = 120
"""Columns of terminal from which the score's terms stand in the same table."""
_IMPLIED: Final = (
    frozenset({"ffn/dim"}),
    frozenset({"ffn/dim", "head"}),
    frozenset({"ffn/dim", "head", "depth", "#"}),
    frozenset({"ffn/dim", "head", "depth", "#", "change", "heads/kv"}),
)
"""What may be left out where there is no room, less by less: a number is never cut short."""


def solutions_screen(found: Solutions, width: int) -> list[str]:
    """The screen of `solve`."""
    current = found.current
    wide = width >= _WIDE
    certificate = found.certificate
    lines = []
    if current and isinstance(certificate, Certificate):
        lines = [*_current(current, certificate, width), ""]
    lines += _models(found, width, wide=wide)
    if not wide and not current and not headings(found):
        lines += ["", *_terms(found)]
    if current:
        missing = (f"no {name} one: {why}" for name, why in current.unavailable.items())
        lines += [dim(line) for text in missing for line in wrap_text(text, width)]
    said = _certificate(certificate) if isinstance(certificate, Certificate) else sweep_said(certificate)
    lines += ["", *wrap_text(said, width)]
    if found.better:
        lines += wrap_text(better_said(found.better), width)
    lines += [dim(line) for text in order_said(found) for line in wrap_text(text, width)]
    if found.tying_was_assumed:
        tied = found[0].model.tied
        says = "tied, as is usual below 1B" if tied else "untied, as is usual from 1B"
        lines.append(dim(f"the head is {says}; --{'untied' if tied else 'tied'} for the other"))
    return lines


def commands(found: Solutions, current: str | None) -> list[str]:
    """What to run next, a command a line: train each way out of a current model; search the lattice again."""
    training = [f"{s.label}: parambudget train {flags(s.model)}" for s in found] if found.current else []
    return [*training, f"same lattice: {again(found, current)}"]


def again(found: Solutions, current: str | None) -> str:
    """The command that gives the same answer, every axis and choice spelled out; `current` is what --from
    named."""
    c, model = found.certificate, found[0].model
    words = ["parambudget solve"]
    words += [f"--target {c.target}"] if isinstance(c, Certificate) else []
    words += [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in found.spent.items()]
    words += [f"--from {shlex.quote(current)}"] if current else []
    words += [f"--{name.replace('_', '-')} {text}" for name, text in c.lattice.items()]
    words[1:1] = [f"--active {c.active}"] if isinstance(c, Certificate) and c.active is not None else []
    fields = changed_fields(model)
    told = {name: value for name, value in fields.items() if name not in (*AXES, *LATENT_SIZES)}
    words.append(as_flags({"vocab_size": model.vocab_size, "tied": model.tied} | told))
    if c.counted != "total":
        words.append(f"--counted {c.counted}")
    if isinstance(c, Certificate) and c.tolerance != parse_tolerance(DEFAULT_TOLERANCE):
        words.append(f"--tolerance {format_tolerance(c.tolerance)}")
    long = {"hours", "dollars", "flops"} & found.spent.keys()
    if found.rank not in ("shape", "size") and not (found.rank == "loss" and long):
        words.append(f"--rank {found.rank}")
    if found.top != 5:
        words.append(f"--top {found.top}")
    return " ".join(words)


def _models(found: Solutions, width: int, *, wide: bool) -> list[str]:
    """One line a model; on a narrow terminal without what the other columns imply, as far as it must be."""
    lines = _table(found, wide, frozenset())
    for left_out in _IMPLIED:
        if max(map(len, lines)) <= width:
            break
        lines = _table(found, wide, left_out)
    best = 0 if found.current else 1
    return [bold(line) if i <= best else line for i, line in enumerate(lines)]


def _table(found: Solutions, wide: bool, left_out: frozenset[str]) -> list[str]:
    shape = ["#", "way" if found.current else "shape", "layers", "dim", "heads/kv", "head", *_ffns(found)]
    predicted = headings(found)
    terms = tuple(found[0].score) if wide and not predicted else ()
    answer = ["change", "FLOPs", "depth"] if found.current else ["score", *terms]
    error = ["error"] if isinstance(found.certificate, Certificate) else []
    names = [*shape, found.certificate.counted, *error, *_second(found), *predicted, *answer]
    kept = [i for i, name in enumerate(names) if name not in left_out]
    rows = [names, *(_cells(number, solution, found, wide) for number, solution in enumerate(found, 1))]
    left = (kept.index(1),)
    return table([[row[i] for i in kept] for row in rows], left=left, gap=2 if wide else 1)


def _cells(number: int, solution: Solution, found: Solutions, wide: bool) -> list[str]:
    m = solution.model
    return [
        str(number),
        solution.label,
        str(m.n_layers),
        str(m.dim),
        f"{m.n_heads}/{m.n_kv_heads}",
        str(m.head_dim),
        *_ffn_cells(m, found),
        f"{solution.counted:,}",
        *_error(solution, found.certificate),
        *_second_cells(solution, found),
        *cells(solution, found),
        *(_changes(found.current, m) if found.current else _score(solution, wide and not headings(found))),
    ]


def _ffns(found: Solutions) -> list[str]:
    """Headings of the FFN, or of experts per token, of all and shared, and of their width; the ratio is that
    of what a token meets."""
    if found[0].model.moe is None:
        return ["ffn", "ffn/dim"]
    return ["experts", "width", *(["dense"] if _some_dense(found) else []), "ffn/dim"]


def _ffn_cells(m: ModelConfig, found: Solutions) -> list[str]:
    if m.moe is None:
        return [str(m.intermediate_size), f"{m.intermediate_size / m.dim:.2f}"]
    shared = f"+{m.moe.n_shared_experts}" if m.moe.n_shared_experts else ""
    experts = [f"{m.moe.n_experts}/{m.moe.n_experts_per_token}{shared}", str(m.moe.expert_intermediate_size)]
    dense = [str(m.intermediate_size)] if _some_dense(found) else []
    return [*experts, *dense, f"{met_width(m.moe) / m.dim:.2f}"]


def _some_dense(found: Solutions) -> bool:
    return any(s.model.n_dense_layers for s in found)


def _second(found: Solutions) -> list[str]:
    """Headings of what is active, where that is another count, and of its error, where it is a budget."""
    if found[0].model.moe is None or found.certificate.counted == "active":
        return []
    return ["active", *(["error"] if found[0].active_error is not None else [])]


def _second_cells(solution: Solution, found: Solutions) -> list[str]:
    if not _second(found):
        return []
    if solution.active_error is None:
        return [f"{solution.active:,}"]
    return [
        f"{solution.active:,}",
        format_share(solution.active_error / (solution.active - solution.active_error)),
    ]


def _error(solution: Solution, certificate: Certificate | SweepCertificate) -> list[str]:
    if isinstance(certificate, SweepCertificate):
        return []
    return [format_share((solution.error or 0) / certificate.target)]


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


def _changes(current: Current, model: ModelConfig) -> list[str]:
    change = current.change(model)
    share = change["flops_per_token"] / flops_per_token(current.model)
    return [format_count(change["total"]), format_share(share, 1), f"{change['n_layers']:+d}"]


def _current(current: Current, certificate: Certificate, width: int) -> list[str]:
    m = current.model
    off = (current.counted - certificate.target) / certificate.target
    return wrap_text(
        f"now: {shape_in_words(m)}: {current.counted:,} {certificate.counted} parameters, "
        f"{format_share(off, 2)} from {certificate.target:,}; "
        f"{format_count(flops_per_token(m))} FLOPs per token at context {m.context_length}",
        width,
    )


def _certificate(c: Certificate) -> str:
    following = "no other error" if c.next_best_error is None else f"next {_off(c.next_best_error)}"
    tie = f"{c.ties:,} tie" if c.ties > 1 else "no other ties"
    target = f"{c.target:,}" if c.active is None else f"{c.target:,} {c.counted} and {c.active:,} active"
    return (
        f"complete search: {c.lattice_points:,} points, {c.within_tolerance:,} within "
        f"{format_tolerance(c.tolerance)} of {target}; nearest error {_off(c.best_error)} ({tie}), "
        f"{following}"
    )


def _off(error: int | Fraction) -> str:
    """An error in parameters; of two budgets the larger share, which has no sign."""
    return f"{error:,}" if isinstance(error, int) else format_share(error, 5).lstrip("+")
