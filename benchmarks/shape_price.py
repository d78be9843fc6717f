"""What a shape costs: the constants of `planning.shape_price`, fitted to published losses.

    git clone https://github.com/mcleish7/gemstone-scaling-laws
    python benchmarks/shape_price.py gemstone-scaling-laws/wandb_dfs/wandb_df_for_fitting_*hot.jsonl

Each file is one set of runs of McLeish et al. 2025 (arXiv 2502.06857): the learning rate decayed (cool_end),
not decayed (hot), another rate (lr_ablation_hot), longer runs (hot_100b+). Fitted is

    loss = E + A / (N worth)^alpha + B / D^beta

with alpha of the default law, N the body and one table of embeddings, and `worth` as in
`planning.shape_price`. Their head is untied, and their vocabulary has 50,432 entries.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parambudget.planning.shape_price import LAW_VOCABULARY
from parambudget.scaling.loss import DEFAULT_LAW
from parambudget.search.score import usual_aspect
from parambudget.search.space import WIDTH_FIT

VOCABULARY = 50_432
START = (2.1, -0.3, -1.0, 0.4, 0.1, 0.05, 0.5)
"""E, ln of A at 100M parameters, ln of B at 10B tokens, beta, and the three constants."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


def fit(rows: list[dict[str, float]]) -> tuple[Floats, float]:
    """The parameters in the order of `START`, and the root mean square of what is left."""
    width, depth, tokens, active, measured = (
        np.array([row[name] for row in rows], dtype=np.float64)
        for name in ("width", "depth", "tokens", "params_active_precise", "final_loss")
    )
    embedding = VOCABULARY * width
    body = active - 2 * embedding
    counted = body + embedding
    strayed = np.log(width / depth / usual_aspect(body))
    factor, power = WIDTH_FIT
    usual_share = np.minimum(LAW_VOCABULARY * factor * counted ** (power - 1), 0.6)

    def residuals(parameters: Floats) -> Floats:
        floor, log_a, log_b, beta, wide, deep, embedding_worth = parameters
        discount = 1 - embedding_worth
        worth = np.exp(-np.where(strayed > 0, wide, deep) * strayed**2)
        worth = worth * (1 - discount * embedding / counted) / (1 - discount * usual_share)
        of_size = np.exp(log_a - DEFAULT_LAW.alpha * np.log(counted * worth / 1e8))
        expected: Floats = floor + of_size + np.exp(log_b - beta * np.log(tokens / 1e10)) - measured
        return expected

    found = least_squares(residuals, np.array(START))
    return found, float(np.sqrt(np.mean(residuals(found) ** 2)))


def least_squares(residuals: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Levenberg and Marquardt's minimum of the sum of squares."""
    at, damping = start, 1e-2
    left = residuals(at)
    for _ in range(500):
        steps = 1e-6 * np.maximum(1, np.abs(at))
        slope = np.stack([(residuals(at + step) - left) / step.max() for step in np.diag(steps)], axis=1)
        square, down = slope.T @ slope, slope.T @ left
        while damping < 1e12:
            following = at - np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-12), down)
            after = residuals(following)
            if after @ after <= left @ left:
                break
            damping *= 4
        else:
            return at
        settled = left @ left - after @ after < 1e-12 * (left @ left)
        at, left, damping = following, after, max(damping / 3, 1e-12)
        if settled and damping < 1e-3:
            break
    return at


def main() -> None:
    """Print the fit of each file, and of the first without each of its models."""
    if len(sys.argv) < 2:
        raise SystemExit("give files of losses; see the head of this script")
    print("| runs | losses | wider | deeper | embedding | rms |\n|---|---|---|---|---|---|")
    sets = {path.stem.removeprefix("wandb_df_for_fitting_"): read(path) for path in map(Path, sys.argv[1:])}
    name, rows = next(iter(sets.items()))
    for shape in sorted({(row["width"], row["depth"]) for row in rows}):
        others = [row for row in rows if (row["width"], row["depth"]) != shape]
        sets[f"{name} without {shape[0]:g} x {shape[1]:g}"] = others
    for label, some in sets.items():
        found, rms = fit(some)
        print(f"| {label} | {len(some)} | {' | '.join(f'{value:.3f}' for value in found[4:])} | {rms:.4f} |")


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
