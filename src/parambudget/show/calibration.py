"""A calibration told to a person as it goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from parambudget.training.calibrate import Stage


@contextmanager
def calibrating(to: Console) -> Iterator[Callable[[Stage], None]]:
    """What to call as the work goes on: a bar on a terminal, a line per stage elsewhere."""
    if not to.is_terminal:
        yield lambda stage: to.print(f"{stage.share:4.0%}  {stage.doing}", highlight=False, soft_wrap=True)
        return
    columns = (TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=to, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage: bar.update(task, completed=stage.share, description=stage.doing)
