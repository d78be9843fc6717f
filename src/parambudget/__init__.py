"""Find the transformer that fits your budget, count it exactly, and train it.

import parambudget as pb

pb.count("llama-3-8b").total      # 8_030_261_248, equal to the built module
pb.solve("350M", n_layers=24)[0]  # the best of a completely searched lattice
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from parambudget._version import __version__ as __version__
from parambudget.errors import (
    CheckFailed,
    ConfigError,
    InputError,
    MissingExtra,
    NoSolution,
    ParambudgetError,
)

if TYPE_CHECKING:
    from parambudget.api import count, formula, model, plan_run, solve, train, verify
    from parambudget.arch.config import ModelConfig
    from parambudget.arch.presets.registry import preset
    from parambudget.formats.hf.weights import load_pretrained
    from parambudget.training.metrics import StepMetrics, TrainResult
    from parambudget.training.request import TrainEvents


__all__ = [
    "CheckFailed",
    "ConfigError",
    "InputError",
    "MissingExtra",
    "ModelConfig",
    "NoSolution",
    "ParambudgetError",
    "StepMetrics",
    "TrainEvents",
    "TrainResult",
    "count",
    "formula",
    "load_pretrained",
    "model",
    "plan_run",
    "preset",
    "solve",
    "train",
    "verify",
]

# Opened when first used: pydantic is most of what importing this package costs, and the command line has to
# say first how it wants it, see `cli.main`.
_ROOMS: Final = {
    "ModelConfig": "arch.config",
    "StepMetrics": "training.metrics",
    "TrainEvents": "training.request",
    "TrainResult": "training.metrics",
    "count": "api",
    "formula": "api",
    "load_pretrained": "formats.hf.weights",
    "model": "api",
    "plan_run": "api",
    "preset": "arch.presets.registry",
    "solve": "api",
    "train": "api",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    """A name of the face from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'parambudget' has no attribute {name!r}")
    return getattr(import_module(f"parambudget.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """What a prompt completes."""
    return __all__
