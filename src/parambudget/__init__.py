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
    from parambudget.api import count, formula, machine, model, plan, resize, solve, train, verify
    from parambudget.arch.config import ModelConfig
    from parambudget.arch.presets.registry import preset
    from parambudget.formats.hf.weights import load_pretrained
    from parambudget.planning.budget import Budget
    from parambudget.planning.machine import Machine
    from parambudget.planning.run_plan import RunPlan
    from parambudget.scaling.loss import LossLaw
    from parambudget.search.certificate import Certificate
    from parambudget.search.solutions import Forecast, Solution, Solutions
    from parambudget.training.metrics import StepMetrics, TrainResult
    from parambudget.training.run.request import TrainEvents


__all__ = [
    "Budget",
    "Certificate",
    "CheckFailed",
    "ConfigError",
    "Forecast",
    "InputError",
    "LossLaw",
    "Machine",
    "MissingExtra",
    "ModelConfig",
    "NoSolution",
    "ParambudgetError",
    "RunPlan",
    "Solution",
    "Solutions",
    "StepMetrics",
    "TrainEvents",
    "TrainResult",
    "count",
    "formula",
    "load_pretrained",
    "machine",
    "model",
    "plan",
    "preset",
    "resize",
    "solve",
    "train",
    "verify",
]

# Imported when first used: pydantic is most of what importing this package costs, and the command line has to
# configure it first, see `cli.main`.
_LAZY: Final = {
    "Budget": "planning.budget",
    "Certificate": "search.certificate",
    "Forecast": "search.solutions",
    "LossLaw": "scaling.loss",
    "Machine": "planning.machine",
    "ModelConfig": "arch.config",
    "RunPlan": "planning.run_plan",
    "Solution": "search.solutions",
    "Solutions": "search.solutions",
    "StepMetrics": "training.metrics",
    "TrainEvents": "training.run.request",
    "TrainResult": "training.metrics",
    "count": "api",
    "formula": "api",
    "load_pretrained": "formats.hf.weights",
    "machine": "api",
    "model": "api",
    "plan": "api",
    "preset": "arch.presets.registry",
    "resize": "api",
    "solve": "api",
    "train": "api",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its module when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'parambudget' has no attribute {name!r}")
    return getattr(import_module(f"parambudget.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """What a prompt completes."""
    return __all__
