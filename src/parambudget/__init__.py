"""Decide which transformer to train on a fixed budget, exactly, and train it.

import parambudget as pb

pb.count("llama-3-8b").total      # 8_030_261_248, equal to the built module
pb.solve("350M", n_layers=24)[0]  # the best of a completely searched lattice
"""

from parambudget.api import count, formula, model, solve, verify
from parambudget.arch.config import ModelConfig
from parambudget.arch.presets import preset
from parambudget.errors import (
    CheckFailed,
    ConfigError,
    InputError,
    MissingExtra,
    NoSolution,
    ParambudgetError,
)

__version__ = "0.1.0"

__all__ = [
    "CheckFailed",
    "ConfigError",
    "InputError",
    "MissingExtra",
    "ModelConfig",
    "NoSolution",
    "ParambudgetError",
    "count",
    "formula",
    "model",
    "preset",
    "solve",
    "verify",
]
