"""A closed form as a screen: one line per component, the sum, and what the letters stand for."""

from rich.console import Group
from rich.text import Text

from parambudget.cost.formula import Formula
from parambudget.render.model import name_of
from parambudget.show.console import plain_table


def formula_table(closed: Formula) -> Group:
    """The screen of `count --formula`."""
    table = plain_table()
    table.add_column("component")
    table.add_column("formula")
    for name, expression in closed.components.items():
        table.add_row(name_of(name), str(expression))
    legend = plain_table(show_header=False)
    for letter, field in closed.legend.items():
        legend.add_row(f"[bold]{letter}", field, f"{closed.sizes[field]:,}")
    return Group(
        table, "", Text(f"total = {closed}", style="bold"), f"      = {closed.evaluate():,}", "", legend
    )
