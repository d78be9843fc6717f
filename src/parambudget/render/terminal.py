"""Lines and tables for answers that come at once, in plain text with a little bold.

Not rich: importing it and laying a table out takes about as long as a count or a search. What runs for long
uses it, see `render.console`.
"""

import shutil
import sys
from collections.abc import Collection, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Final

_PIPED_WIDTH: Final = 240


def columns() -> int:
    """How wide a line may be: the terminal's width; piped output has room for any table."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH


def bold(line: str) -> str:
    """The line in bold, where it ends up on a terminal."""
    return f"\033[1m{line}\033[0m" if line else line


def dim(line: str) -> str:
    """The line in a fainter colour, where it ends up on a terminal."""
    return f"\033[2m{line}\033[0m" if line else line


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of that width, broken between words."""
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)


def table(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (),
    gap: int = 2,
    fluid: int | None = None,
    width: int = _PIPED_WIDTH,
) -> list[str]:
    """Rows of cells as aligned lines: to the right, the columns of `left` to the left.

    The column `fluid` is wrapped where the lines would else be longer than `width`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if fluid is not None:
        others = sum(widths) - widths[fluid] + gap * (len(widths) - 1)
        widths[fluid] = min(widths[fluid], max(width - others, 20))
    lines = []
    for row in rows:
        cells = [wrapped(cell, widths[i]) if i == fluid else [cell] for i, cell in enumerate(row)]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = [
                part.ljust(widths[i]) if i in left else part.rjust(widths[i]) for i, part in enumerate(parts)
            ]
            lines.append((" " * gap).join(aligned).rstrip())
    return lines
