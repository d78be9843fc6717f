"""Figures as HTML: tables, stacked bars and sentences. Every text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_COLOURS: Final = 10
"""Of stacked bars, in the style sheet."""


@dataclass(frozen=True)
class BarPart:
    """A part of a stacked bar."""

    name: str
    size: float
    text: str
    """The size as people write it."""


@dataclass(frozen=True)
class BarMark:
    """A line across a stacked bar, such as the memory that there is."""

    at: float
    text: str


def html_table(
    rows: Sequence[Sequence[str]], caption: str, *, chosen: int | None = None, columns_left: int = 1
) -> str:
    """Rows as a table whose first row is its head; the first columns align left, the others right."""
    head, *body = rows
    cells = "".join(
        f'<th scope="col"{_alignment(i, columns_left)}>{escape(text)}</th>' for i, text in enumerate(head)
    )
    lines = []
    for n, row in enumerate(body):
        attributes = ' aria-current="true"' if n == chosen else ""
        inner = "".join(
            f'<th scope="row">{escape(text)}</th>' if i == 0
            else f"<td{_alignment(i, columns_left)}>{escape(text)}</td>"
            for i, text in enumerate(row)
        )  # fmt: skip
        lines.append(f"<tr{attributes}>{inner}</tr>")
    return (
        f'<div class="pb-scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _alignment(column: int, columns_left: int) -> str:
    return "" if column < columns_left else ' class="pb-right"'


def stacked_bar(parts: Iterable[BarPart], whole: float, label: str, mark: BarMark | None = None) -> str:
    """Parts side by side on a scale that ends at `whole`. A part of size 0 is not drawn and keeps its colour:
    bars of several models have the same legend."""
    shown = [(n, part) for n, part in enumerate(parts) if part.size > 0]
    pieces = "".join(
        f'<span class="pb-piece pb-c{n % _COLOURS}" style="width:{100 * part.size / whole:.3f}%" '
        f'title="{escape(part.name)}: {escape(part.text)}"></span>'
        for n, part in shown
    )
    line = (
        ""
        if mark is None
        else (
            f'<span class="pb-mark" style="left:{100 * min(mark.at / whole, 1):.3f}%" '
            f'title="{escape(mark.text)}"></span>'
        )
    )
    text = "; ".join(f"{part.name} {part.text}" for _, part in shown)
    return f'<div class="pb-bar" role="img" aria-label="{escape(label)}: {escape(text)}">{pieces}{line}</div>'


def bar_legend(names: Iterable[str]) -> str:
    """The names of a stacked bar's parts beside their colours; the table beside it says the same."""
    entries = "".join(
        f'<span><i class="pb-c{n % _COLOURS}"></i>{escape(name)}</span>' for n, name in enumerate(names)
    )
    return f'<div class="pb-legend" aria-hidden="true">{entries}</div>'


def big_figures(figures: Mapping[str, tuple[str, str]]) -> str:
    """A few numbers in large type: name, number, what it means."""
    cells = "".join(
        f'<div class="pb-figure"><dt>{escape(name)}</dt><dd><b>{escape(number)}</b>'
        f"<small>{escape(meaning)}</small></dd></div>"
        for name, (number, meaning) in figures.items()
    )
    return f'<dl class="pb-figures">{cells}</dl>'


def answers(paragraphs: Mapping[str, Iterable[str]]) -> str:
    """Sentences behind the questions that they answer; questions without an answer are left out."""
    parts = []
    for name, texts in paragraphs.items():
        inner = "".join(f"<p>{escape(text)}</p>" for text in texts)
        parts += [f"<dt>{escape(name)}</dt><dd>{inner}</dd>"] if inner else []
    return f'<dl class="pb-answers">{"".join(parts)}</dl>'


def sentences(texts: Iterable[str]) -> str:
    """One paragraph a text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)
