"""Where output goes: as wide as the terminal, or wide enough for any table when piped."""

from typing import Any, Final

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH: Final = 240


def console() -> Console:
    """The console for results. Piped output has no colours and does not wrap at 80 columns."""
    to_terminal = Console(highlight=False)
    return to_terminal if to_terminal.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)


def plain_table(**settings: Any) -> Table:
    """A table with a rule under its head and no other lines."""
    return Table(
        **{"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), "header_style": "bold"} | settings
    )
