"""What is predicted of solutions, as columns of their table and as sentences under it."""

from collections.abc import Iterator

from parambudget.search.solutions import (
    EQUAL_NATS,
    EQUAL_SHARE,
    Better,
    Outlook,
    Solution,
    Solutions,
    SweepCertificate,
)
from parambudget.units import format_bytes, format_count

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
