"""`count` and `solve` as whole processes, against importing what any such tool must import.

    uv run python benchmarks/startup.py

The yardstick is `python -c "import typer, pydantic, numpy"` with the same Python. Runs alternate; medians of
wall time, and of processor time, which other work on the machine disturbs less. Byte code is cached, as after
any installation: in a folder of its own, filled by a first round that is not timed.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 25
PARAMBUDGET = shutil.which("parambudget", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
COUNT = "count --dim 896 --n-layers 24 --n-heads 14 --intermediate-size 3584"
YARDSTICK = "import typer, pydantic, numpy"
COMMANDS = {
    YARDSTICK: [sys.executable, "-c", YARDSTICK],
    "parambudget count ...": [str(PARAMBUDGET), *COUNT.split()],
    "parambudget solve --target 350M": [str(PARAMBUDGET), "solve", "--target", "350M"],
}
ALLOWED = {"parambudget count ...": "1.3", "parambudget solve --target 350M": "1.6"}


def main() -> None:
    """Print the table."""
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        for _ in range(1 + ROUNDS):
            for name, command in COMMANDS.items():
                start = perf_counter()
                process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
                _, status, used = os.wait4(process.pid, 0)
                assert status == 0, command
                wall[name].append(perf_counter() - start)
                cpu[name].append(used.ru_utime + used.ru_stime)
    table = Table("process", "wall", "ratio", "processor", "ratio", "at most", box=None)
    for name in COMMANDS:
        cells = [name]
        for times in (wall, cpu):
            base = median(times[YARDSTICK][1:])
            cells += [f"{1000 * median(times[name][1:]):.0f} ms", f"{median(times[name][1:]) / base:.2f}"]
        table.add_row(*cells, ALLOWED.get(name, ""))
    console = Console(width=100, highlight=False)
    console.print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {ROUNDS} rounds")
    console.print(table)


if __name__ == "__main__":
    main()
