"""The answers of the solver as a screen: ranked models, why they rank so, what the search has shown."""

import shlex
from typing import Final

from parambudget.arch.config import ModelConfig
from parambudget.arch.source import changed_fields
from parambudget.cost.flops import flops_per_token
from parambudget.plan.rank import TERMS
from parambudget.plan.search import Certificate
from parambudget.plan.solution import Current, Solution, Solutions, SweepCertificate
from parambudget.plan.solve import DEFAULT_TOLERANCE
from parambudget.plan.space import SIZES
from parambudget.show.flags import as_flags, flags
from parambudget.show.outlook import better_said, cells, headings, losses_said, sweep_said
from parambudget.show.screen import bold, dim, table, wrapped
from parambudget.units import format_count, format_share, format_tolerance, parse_tolerance

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
        lines += [dim(line) for text in missing for line in wrapped(text, width)]
    said = _certificate(certificate) if isinstance(certificate, Certificate) else sweep_said(certificate)
    lines += ["", *wrapped(said, width)]
    if found.better:
        lines += wrapped(better_said(found.better), width)
    if found[0].outlook is not None and found[0].outlook.loss is not None:
        lines += map(dim, wrapped(losses_said(found.rank), width))
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
    told = {name: value for name, value in changed_fields(model).items() if name not in SIZES}
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
    shape = ["#", "way" if found.current else "shape", "layers", "dim", "heads/kv", "head", "ffn", "ffn/dim"]
    predicted = headings(found)
    terms = TERMS if wide and not predicted else ()
    answer = ["change", "FLOPs", "depth"] if found.current else ["score", *terms]
    error = ["error"] if isinstance(found.certificate, Certificate) else []
    names = [*shape, found.certificate.counted, *error, *predicted, *answer]
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
        str(m.intermediate_size),
        f"{m.intermediate_size / m.dim:.2f}",
        f"{solution.counted:,}",
        *_error(solution, found.certificate),
        *cells(solution, found),
        *(_changes(found.current, m) if found.current else _score(solution, wide and not headings(found))),
    ]


def _error(solution: Solution, certificate: Certificate | SweepCertificate) -> list[str]:
    if isinstance(certificate, SweepCertificate):
        return []
    return [format_share(solution.error / certificate.target)]


def _score(solution: Solution, with_terms: bool) -> list[str]:
    return [f"{solution.total_score:.2f}", *(_term_cells(solution) if with_terms else ())]


def _term_cells(solution: Solution) -> list[str]:
    return [f"{solution.score[term]:.2f}" if solution.score[term] >= 0.005 else "·" for term in TERMS]


def _terms(found: Solutions) -> list[str]:
    """The score term by term, for terminals too narrow to show it beside the models."""
    rows = [["#", "score", *TERMS]]
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
    return wrapped(
        f"now: {m.n_layers} layers, dim {m.dim}, {m.n_heads}/{m.n_kv_heads} heads of {m.head_dim}, "
        f"ffn {m.intermediate_size}: {current.counted:,} {certificate.counted} parameters, "
        f"{format_share(off, 2)} from {certificate.target:,}; "
        f"{format_count(flops_per_token(m))} FLOPs per token at context {m.context_length}",
        width,
    )


def _certificate(c: Certificate) -> str:
    following = "no other error" if c.next_best_error is None else f"next {c.next_best_error:,}"
    tie = f"{c.ties:,} tie" if c.ties > 1 else "no other ties"
    return (
        f"complete search: {c.lattice_points:,} points, {c.within_tolerance:,} within "
        f"{format_tolerance(c.tolerance)} of {c.target:,}; nearest error {c.best_error:,} ({tie}), "
        f"{following}"
    )
