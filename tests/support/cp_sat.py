"""An oracle for the search: the same lattice given to OR-tools CP-SAT as integers and products.

Models with gated FFNs, RMSNorm and no biases count
dim * (vocab + 1 + n_layers * (2 * (queries + keys) + 3 * ffn + 2)).
"""

from dataclasses import dataclass

from ortools.sat.python import cp_model


@dataclass(frozen=True)
class Budget:
    """A target and a lattice with head_dim 64 and 128."""

    target: int
    vocab_size: int
    tied: bool
    layers: range
    dims: range
    groups: tuple[int, ...]
    ratio: tuple[int, int]
    multiple: int


def least_error(budget: Budget) -> int:
    """The least |count - target|, proven."""
    model, count, _ = _model(budget)
    error = model.new_int_var(0, 2 * budget.target, "error")
    model.add_abs_equality(error, count - budget.target)
    model.minimize(error)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def points_within(budget: Budget, error: int) -> int:
    """How many points have |count - target| <= error, by enumerating them."""
    model, count, points = _model(budget)
    model.add(count >= budget.target - error)
    model.add(count <= budget.target + error)
    found = _Distinct(points)
    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    assert solver.solve(model, found) in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return len(found.seen)


def _model(b: Budget) -> tuple[cp_model.CpModel, cp_model.LinearExprT, list[cp_model.IntVar]]:
    model = cp_model.CpModel()
    columns = [
        (dim, head_dim, group, dim + dim // group)
        for dim in b.dims
        for head_dim in (64, 128)
        for group in b.groups
        if dim % (head_dim * group) == 0
    ]
    low, high = b.ratio
    n_layers = model.new_int_var(b.layers[0], b.layers[-1], "n_layers")
    dim = model.new_int_var(b.dims[0], b.dims[-1], "dim")
    head_dim = model.new_int_var(64, 128, "head_dim")
    group = model.new_int_var(1, max(b.groups), "group")
    attention = model.new_int_var(0, 2 * b.dims[-1], "queries + keys")
    model.add_allowed_assignments([dim, head_dim, group, attention], columns)
    units = model.new_int_var(1, high * b.dims[-1] // b.multiple, "ffn / multiple")
    model.add(units * b.multiple >= low * dim)
    model.add(units * b.multiple <= high * dim)
    most = 2 * b.dims[-1] * (2 + 3 * high)
    layer = model.new_int_var(0, most, "a layer / dim")
    model.add(layer == 2 * attention + 3 * b.multiple * units + 2)
    layers = model.new_int_var(0, most * b.layers[-1], "layers / dim")
    model.add_multiplication_equality(layers, [n_layers, layer])
    width = model.new_int_var(0, most * b.layers[-1] + 2 * b.vocab_size + 1, "count / dim")
    model.add(width == layers + b.vocab_size * (1 if b.tied else 2) + 1)
    count = model.new_int_var(0, 3 * b.target, "count")
    model.add_multiplication_equality(count, [dim, width])
    return model, count, [n_layers, dim, head_dim, group, units]


class _Distinct(cp_model.CpSolverSolutionCallback):
    """Collects the points that were found."""

    def __init__(self, points: list[cp_model.IntVar]) -> None:
        super().__init__()
        self.points = points
        self.seen: set[tuple[int, ...]] = set()

    def on_solution_callback(self) -> None:
        self.seen.add(tuple(self.value(variable) for variable in self.points))
