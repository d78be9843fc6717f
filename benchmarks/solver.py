"""The solver's core against counting every point with NumPy, and against CP-SAT. Same answers, asserted.

    uv run --group dev python benchmarks/solver.py

In turns, each twice in a row with the second time by the clock, so that none meets the cache that another
left behind; without garbage collection, as timeit does; medians. The core is everything from the axes as text
to the certificate: declaring the lattice, its columns, the search; `declare` is the share of the first step.
NumPy evaluates the count at every point, once as one array of all points and once depth by depth, so that its
arrays stay in the cache. CP-SAT gets the same lattice as integers with a table of head layouts, two workers;
its model is built once. It proves the least error only, not the ties, the next one or how many points are
within tolerance.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from time import perf_counter

import numpy as np
import ortools
from ortools.sat.python import cp_model
from rich.console import Console
from rich.table import Table

from parambudget.search.engine import Search
from parambudget.search.space import SearchSpace

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 25
TOLERANCE = Fraction(1, 200)


@dataclass(frozen=True)
class LatticeCase:
    """A lattice of gated models with RMSNorm and no biases, as text for us and as ranges for the others."""

    name: str
    target: int
    vocab_size: int
    tied: bool
    layers: range
    dims: range
    groups: tuple[int, ...]
    ratio: tuple[int, int]
    multiple: int
    known: tuple[int, int, int, int]
    """Points, least error, ties and next error, as first measured with another program."""
    head_dims: tuple[int, ...] = (64, 128)

    def fields(self) -> dict[str, object]:
        """What a user would write."""
        return {
            "vocab_size": self.vocab_size,
            "tied": self.tied,
            "n_layers": f"{self.layers[0]}:{self.layers[-1]}",
            "dim": f"{self.dims[0]}:{self.dims[-1]}:{self.dims.step}",
            "head_dim": ",".join(map(str, self.head_dims)),
            "kv_groups": ",".join(map(str, self.groups)),
            "ffn_ratio": f"{self.ratio[0]}:{self.ratio[1]}",
            "multiple": self.multiple,
        }

    def columns(self) -> Iterator[tuple[int, int, int, range]]:
        """Every width with its attention widths (queries, keys) and FFN widths."""
        low, high = self.ratio
        for dim in self.dims:
            ffn = range(-(-low * dim // self.multiple) * self.multiple, high * dim + 1, self.multiple)
            for head_dim in self.head_dims:
                for group in self.groups:
                    if dim % (head_dim * group) == 0:
                        yield dim, dim, dim // group, ffn


CASES = (
    LatticeCase(
        "350M, the worked example", 350_000_000, 32_768, True, range(4, 65), range(256, 4097, 64),
        (1, 2, 3, 4, 6, 8), (1, 6), 64, (2_311_900, 640, 4, 2_240),
    ),
    LatticeCase(
        "70B", 70_000_000_000, 128_256, False, range(24, 161), range(2048, 16_385, 128),
        (1, 2, 4, 8, 16), (2, 6), 256, (10_905_885, 7_168, 4, 38_400),
    ),
)  # fmt: skip


def core(case: LatticeCase) -> tuple[int, int, int, int | None, int]:
    """Points, least error, ties, next error and points within tolerance, by the solver."""
    search = Search(SearchSpace.declare(case.target, case.fields()), case.target)
    c = search.certificate(TOLERANCE)
    return c.lattice_points, c.best_error, c.ties, c.next_best_error, c.within_tolerance


def by_depth(case: LatticeCase) -> tuple[int, int, int, int | None, int]:
    """The same, by counting every point of the lattice, one depth at a time."""
    outside, layer = points(case)
    reach, errors, found = int(case.target * TOLERANCE), np.empty_like(layer), []
    for n_layers in case.layers:
        np.multiply(layer, n_layers, out=errors)
        np.add(errors, outside, out=errors)
        np.abs(errors, out=errors)
        found.append(errors[errors <= reach])
    return len(layer) * len(case.layers), *summary_of(np.concatenate(found))


def at_once(case: LatticeCase) -> tuple[int, int, int, int | None, int]:
    """The same, by counting every point of the lattice in one array."""
    outside, layer = points(case)
    errors = np.abs(outside + np.array(case.layers)[:, None] * layer)
    return errors.size, *summary_of(errors[errors <= int(case.target * TOLERANCE)])


def points(case: LatticeCase) -> tuple[np.ndarray, np.ndarray]:
    """What every width, head layout and FFN width counts outside the layers, less the target, and in one."""
    columns = list(case.columns())
    many = [len(ffn) for *_, ffn in columns]
    dim, queries, keys = (np.repeat([column[i] for column in columns], many) for i in range(3))
    ffn = np.concatenate([np.arange(f.start, f.stop, f.step) for *_, f in columns])
    outside = case.vocab_size * dim * (1 if case.tied else 2) + dim - case.target
    return outside, 2 * dim * queries + 2 * dim * keys + 3 * dim * ffn + 2 * dim


def summary_of(within: np.ndarray) -> tuple[int, int, int, int]:
    """Least error, ties, next error and number of points, from the errors within tolerance."""
    best = within.min()
    return int(best), int((within == best).sum()), int(within[within > best].min()), len(within)


def cp_sat(case: LatticeCase) -> Callable[[], int]:
    """A function that proves the least error with CP-SAT; its model is built here.

    Of several ways to write the model down the fastest: two products, the count divided by the step of dim,
    every variable bounded by what the tolerance leaves.
    """
    model = cp_model.CpModel()
    unit, slack = case.dims.step, int(case.target * TOLERANCE)
    n_layers = model.new_int_var(case.layers[0], case.layers[-1], "n_layers")
    width = model.new_int_var(case.dims[0] // unit, case.dims[-1] // unit, "dim / unit")
    attention = model.new_int_var(0, 2 * case.dims[-1], "queries + keys")
    layouts = {(dim // unit, queries + keys) for dim, queries, keys, _ in case.columns()}
    model.add_allowed_assignments([width, attention], sorted(layouts))
    low, high = case.ratio
    ffn = model.new_int_var(1, high * case.dims[-1] // case.multiple, "ffn / multiple")
    model.add(ffn * case.multiple >= low * unit * width)
    model.add(ffn * case.multiple <= high * unit * width)
    most, least = 2 * case.target // case.dims[0], case.target // 2 // case.dims[-1]
    layer = model.new_int_var(1, most, "a layer / dim")
    model.add(layer == 2 + 2 * attention + 3 * case.multiple * ffn)
    layers = model.new_int_var(0, most, "layers / dim")
    model.add_multiplication_equality(layers, [n_layers, layer])
    per_dim = model.new_int_var(least, most, "count / dim")
    model.add(per_dim == layers + case.vocab_size * (1 if case.tied else 2) + 1)
    count = model.new_int_var((case.target - slack) // unit, (case.target + slack) // unit, "count / unit")
    model.add_multiplication_equality(count, [width, per_dim])
    error = model.new_int_var(0, slack, "error")
    model.add(error >= unit * count - case.target)
    model.add(error >= case.target - unit * count)
    model.minimize(error)

    def optimum() -> int:
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 2
        assert solver.solve(model) == cp_model.OPTIMAL
        return round(solver.objective_value)

    return optimum


def main() -> None:
    """Print the table."""
    gc.disable()
    console = Console(width=120, highlight=False)
    console.print(f"{os.cpu_count()} cores, numpy {np.__version__}, ortools {ortools.__version__}")
    names = ("lattice", "points", "declare", "core", "numpy at once", "", "by depth", "", "CP-SAT", "")
    table = Table(*names, box=None)
    for case in CASES:
        prove = cp_sat(case)
        contenders: dict[str, Callable[[], object]] = {
            "declare": lambda case=case: SearchSpace.declare(case.target, case.fields()),
            "core": lambda case=case: core(case),
            "at once": lambda case=case: at_once(case),
            "by depth": lambda case=case: by_depth(case),
            "cp_sat": prove,
        }
        answers = {name: run() for name, run in contenders.items()}
        assert answers["core"] == answers["at once"] == answers["by depth"], answers
        assert answers["core"][:4] == case.known, answers
        assert answers["cp_sat"] == case.known[1], answers
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, run in contenders.items():
                run()
                start = perf_counter()
                run()
                seconds[name].append(perf_counter() - start)
        ms = {name: 1000 * median(times) for name, times in seconds.items()}
        rivals = (
            cell
            for name in ("at once", "by depth", "cp_sat")
            for cell in (f"{ms[name]:.1f} ms", f"{ms[name] / ms['core']:.0f}x")
        )
        table.add_row(
            case.name, f"{case.known[0]:,}", f"{ms['declare']:.2f} ms", f"{ms['core']:.2f} ms", *rivals
        )
    console.print(table)


if __name__ == "__main__":
    main()
