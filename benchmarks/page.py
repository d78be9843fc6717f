"""How long `parambudget explore` takes to answer, against importing the framework that serves its page; and
what the server computes when a slider moves.

    uv run --group dev python benchmarks/page.py [ROUNDS]

Runs alternate; medians of wall time, and of processor time, which other work on the machine disturbs less.
The page's time ends when it has printed its address. Byte code is cached by a first round that is not timed.
"""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from statistics import median
from time import perf_counter, process_time

import psutil
from rich.console import Console
from rich.table import Table

import parambudget as pb
from parambudget.web.address import NamedModel, PageState, write_address
from parambudget.web.model_edit import change_field
from parambudget.web.shape_tab import count_breakdown, count_figures

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
EXPLORE = [sys.executable, "-m", "parambudget", "explore", "--no-open", "--port", "0"]
COMMANDS = {
    "import nicegui": [sys.executable, "-c", "import nicegui; print('ready', flush=True); input()"],
    "parambudget explore": EXPLORE,
}


def seconds_until_ready(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor time until the process prints its first line."""
    start = perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    wall, used = perf_counter() - start, psutil.Process(process.pid).cpu_times()
    assert line, command
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    return wall, used.user + used.system


def slider_seconds(name: str, changes: int = 300) -> float:
    """Processor time of one change on the server: the new model, its figures, and the page's address."""
    model = pb.preset(name)
    start = process_time()
    for n in range(changes):
        changed = change_field(model, "n_layers", 4 + n % 60).model
        counted = pb.count(changed)
        count_figures(counted)
        count_breakdown(counted)
        write_address(PageState(NamedModel(changed, "changed", name)))
    return (process_time() - start) / changes


def main() -> None:
    """Print the table."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        for _ in range(1 + ROUNDS):
            for name, command in COMMANDS.items():
                times[name].append(seconds_until_ready(command, environment))
    table = Table("process", "wall", "ratio", "processor", "ratio", box=None)
    for name in COMMANDS:
        cells = [name]
        for i in range(2):
            own, base = (median(each[i] for each in times[key][1:]) for key in (name, "import nicegui"))
            cells += [f"{own:.2f} s", f"{own / base:.2f}"]
        table.add_row(*cells)
    console = Console(width=100, highlight=False)
    console.print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {ROUNDS} rounds")
    console.print(table)
    for name in ("gpt2", "deepseek-v3"):
        console.print(
            f"a slider's change on the server, {name}: {1000 * slider_seconds(name):.1f} ms of processor time"
        )


if __name__ == "__main__":
    main()
