"""The fit of a law, on the runs of Hoffmann et al. 2022, comes out as Besiroglu et al. 2024 fitted them.

chinchilla_points.csv: parameters, FLOPs and loss of 245 runs, which Besiroglu et al. (arXiv 2404.10102) read
from figure 4 of Hoffmann et al.; from github.com/epoch-research/analyzing-chinchilla, commit 9225838.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from parambudget.ladders.fit import fit_constants, group_losses

PUBLISHED = {
    "E": (1.82, 0.03), "A": (482.01, 124.58), "B": (2085.43, 1293.23), "alpha": (0.35, 0.02),
    "beta": (0.37, 0.02),
}  # fmt: skip
"""Estimates and standard errors, table 1 of Besiroglu et al."""


@pytest.fixture(scope="module")
def constants():
    with (Path(__file__).parent / "chinchilla_points.csv").open() as file:
        rows = [
            [float(row[name]) for name in ("parameters", "flops", "loss")] for row in csv.DictReader(file)
        ]
    # As they did, without the five highest losses, whose runs had hardly begun.
    parameters, flops, losses = np.array(sorted(rows, key=lambda row: row[2])[:-5]).T
    tokens = flops / (6 * parameters)
    return fit_constants(group_losses(parameters, tokens, tokens, losses)).constants


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_constant_lies_within_the_published_interval(constants, name):
    estimate, error = PUBLISHED[name]
    assert abs(getattr(constants, name) - estimate) < 1.96 * error
