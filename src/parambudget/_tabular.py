"""Results that are tables: aligned text at a prompt, HTML in a notebook, a pandas DataFrame on request."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parambudget._install import install_advice
from parambudget.errors import MissingExtra

if TYPE_CHECKING:
    import pandas


class HasRows(ABC):
    """A result with `rows()`: a list of dicts with the same keys, one per line of a table."""

    @abstractmethod
    def rows(self) -> Sequence[Mapping[str, object]]:
        """The table as plain Python values."""

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a `pandas.DataFrame`."""
        try:
            import pandas
        except ImportError:
            raise MissingExtra(f"to_pandas() needs pandas; {install_advice(['pandas'], [])}") from None
        return pandas.DataFrame(self.rows())


class Tabular(HasRows):
    """A result that is a table and shows itself as one."""

    def __repr__(self) -> str:
        """The table as aligned text, for a prompt without HTML."""
        rows = self.rows()
        if not rows:
            return ""
        lines = [
            [key.replace("_", " ") for key in rows[0]],
            *([_format_cell(value) for value in row.values()] for row in rows),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        from html import escape

        rows = self.rows()
        if not rows:
            return ""
        head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in rows[0])
        lines = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:right">{escape(_format_cell(value))}</td>' for value in row.values()
            )
            + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _format_cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
