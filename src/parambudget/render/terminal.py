"""Lines and tables for answers that are printed at once, in plain text with a little bold.

Not rich: importing it and laying out a table takes about as long as a count or a search. Live progress uses
it, see `render.progress`.
"""

import re
import shutil
import sys
from collections.abc import Collection, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Final

PIPED_WIDTH: Final = 240


def terminal_width() -> int:
    """The longest line to print: the terminal's width. Piped output has room for any table."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def bold(line: str) -> str:
    """The line in bold, if it reaches a terminal."""
    return f"\033[1m{line}\033[0m" if line else line


def dim(line: str) -> str:
    """The line in a fainter colour, if it reaches a terminal."""
    return f"\033[2m{line}\033[0m" if line else line


def without_style(text: str) -> str:
    """The text as it was before `bold` and `dim`."""
    return re.sub("\033\\[[0-9]m", "", text)


def wrap_text(text: str, width: int) -> list[str]:
    """The text in lines of at most that width, broken between words."""
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)


def table(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (),
    head: bool = False,
    gap: int = 2,
    fluid: int | None = None,
    width: int = PIPED_WIDTH,
) -> list[str]:
    """Rows of cells as aligned lines. Columns align right, those in `left` align left; a `head` is bold.

    The column `fluid` is wrapped where the lines would otherwise be longer than `width`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if fluid is not None:
        others = sum(widths) - widths[fluid] + gap * (len(widths) - 1)
        widths[fluid] = min(widths[fluid], max(width - others, 20))
    lines = []
    for row in rows:
        cells = [wrap_text(cell, widths[i]) if i == fluid else [cell] for i, cell in enumerate(row)]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = [
                part.ljust(widths[i]) if i in left else part.rjust(widths[i]) for i, part in enumerate(parts)
            ]
            line = (" " * gap).join(aligned).rstrip()
            lines.append(bold(line) if head and row is rows[0] else line)
    return lines
