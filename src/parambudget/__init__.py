"""Find the transformer that fits your budget, count it exactly, and train it.

import parambudget as pb

pb.count("llama-3-8b").total      # 8_030_261_248, equal to the built module
pb.solve("350M", n_layers=24)[0]  # the best of a completely searched lattice
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

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
    from parambudget.api import (
        calibrate,
        count,
        count_class,
        evaluate,
        export,
        formula,
        generate,
        machine,
        memory,
        model,
        plan,
        plan_ladder,
        resize,
        run,
        solve,
        train,
        verify,
    )
    from parambudget.arch.config import ModelConfig
    from parambudget.arch.fields import ModelFields
    from parambudget.arch.presets.registry import PRESETS, preset
    from parambudget.arch.presets.row import Preset
    from parambudget.cost.energy import Energy
    from parambudget.cost.formula import Formula
    from parambudget.cost.hardware import ACCELERATORS, Accelerator
    from parambudget.cost.memory.peak import MemoryBreakdown
    from parambudget.cost.memory.state import InferenceMemory
    from parambudget.cost.params import ParameterCount
    from parambudget.cost.speed.profile import DeviceProfile
    from parambudget.cost.speed.throughput import Interval, Throughput
    from parambudget.cost.step import StepConfig, StepFields
    from parambudget.formats.equivalence import Export
    from parambudget.formats.hf.class_count import ClassCount
    from parambudget.formats.hf.weights import load_pretrained
    from parambudget.formats.source import ModelLike
    from parambudget.ladders.ladder import Ladder
    from parambudget.ladders.ladder_fit import LadderFit
    from parambudget.nn.verify import Difference, Verification
    from parambudget.planning.budget import Budget
    from parambudget.planning.machine import Machine
    from parambudget.planning.measured_run import MeasuredRun
    from parambudget.planning.recommendation import Recommendation
    from parambudget.planning.run_plan import Goal, RunPlan
    from parambudget.render.figures import plot
    from parambudget.render.report import Report, report
    from parambudget.scaling.compute_optimal import Optimum, compute_optimal
    from parambudget.scaling.loss import LOSS_LAWS, LossEstimate, LossLaw, estimate_loss
    from parambudget.search.axis import AxisLike
    from parambudget.search.certificate import Certificate
    from parambudget.search.fields import SearchFields
    from parambudget.search.options import CountKind, Rank
    from parambudget.search.solutions import BetterSize, CurrentModel, Forecast, Solution, Solutions
    from parambudget.training.config import TrainConfig, TrainFields
    from parambudget.training.evaluation.results import Evaluation
    from parambudget.training.generate import Generation
    from parambudget.training.metrics import StepMetrics, TrainResult
    from parambudget.training.run.request import RunStart, TrainEvents
    from parambudget.units import Count


__all__ = [
    "ACCELERATORS",
    "LOSS_LAWS",
    "PRESETS",
    "Accelerator",
    "AxisLike",
    "BetterSize",
    "Budget",
    "Certificate",
    "CheckFailed",
    "ClassCount",
    "ConfigError",
    "Count",
    "CountKind",
    "CurrentModel",
    "DeviceProfile",
    "Difference",
    "Energy",
    "Evaluation",
    "Export",
    "Forecast",
    "Formula",
    "Generation",
    "Goal",
    "InferenceMemory",
    "InputError",
    "Interval",
    "Ladder",
    "LadderFit",
    "LossEstimate",
    "LossLaw",
    "Machine",
    "MeasuredRun",
    "MemoryBreakdown",
    "MissingExtra",
    "ModelConfig",
    "ModelFields",
    "ModelLike",
    "NoSolution",
    "Optimum",
    "ParambudgetError",
    "ParameterCount",
    "Preset",
    "Rank",
    "Recommendation",
    "Report",
    "RunPlan",
    "RunStart",
    "SearchFields",
    "Solution",
    "Solutions",
    "StepConfig",
    "StepFields",
    "StepMetrics",
    "Throughput",
    "TrainConfig",
    "TrainEvents",
    "TrainFields",
    "TrainResult",
    "Verification",
    "calibrate",
    "compute_optimal",
    "count",
    "count_class",
    "estimate_loss",
    "evaluate",
    "export",
    "formula",
    "generate",
    "load_pretrained",
    "machine",
    "memory",
    "model",
    "plan",
    "plan_ladder",
    "plot",
    "preset",
    "report",
    "resize",
    "run",
    "solve",
    "train",
    "verify",
]

# Imported when first used: pydantic is most of what importing this package costs, and the command line has to
# configure it first, see `cli.main`.
_LAZY: Final = {
    "ACCELERATORS": "cost.hardware",
    "Accelerator": "cost.hardware",
    "AxisLike": "search.axis",
    "BetterSize": "search.solutions",
    "Budget": "planning.budget",
    "Certificate": "search.certificate",
    "ClassCount": "formats.hf.class_count",
    "Count": "units",
    "CountKind": "search.options",
    "CurrentModel": "search.solutions",
    "DeviceProfile": "cost.speed.profile",
    "Difference": "nn.verify",
    "Energy": "cost.energy",
    "Evaluation": "training.evaluation.results",
    "Export": "formats.equivalence",
    "Forecast": "search.solutions",
    "Formula": "cost.formula",
    "Generation": "training.generate",
    "Goal": "planning.run_plan",
    "InferenceMemory": "cost.memory.state",
    "Interval": "cost.speed.throughput",
    "LOSS_LAWS": "scaling.loss",
    "Ladder": "ladders.ladder",
    "LadderFit": "ladders.ladder_fit",
    "LossEstimate": "scaling.loss",
    "LossLaw": "scaling.loss",
    "Machine": "planning.machine",
    "MeasuredRun": "planning.measured_run",
    "MemoryBreakdown": "cost.memory.peak",
    "ModelConfig": "arch.config",
    "ModelFields": "arch.fields",
    "ModelLike": "formats.source",
    "Optimum": "scaling.compute_optimal",
    "PRESETS": "arch.presets.registry",
    "ParameterCount": "cost.params",
    "Preset": "arch.presets.row",
    "Rank": "search.options",
    "Recommendation": "planning.recommendation",
    "Report": "render.report",
    "RunPlan": "planning.run_plan",
    "RunStart": "training.run.request",
    "SearchFields": "search.fields",
    "Solution": "search.solutions",
    "Solutions": "search.solutions",
    "StepConfig": "cost.step",
    "StepFields": "cost.step",
    "StepMetrics": "training.metrics",
    "Throughput": "cost.speed.throughput",
    "TrainConfig": "training.config",
    "TrainEvents": "training.run.request",
    "TrainFields": "training.config",
    "TrainResult": "training.metrics",
    "Verification": "nn.verify",
    "calibrate": "api",
    "compute_optimal": "scaling.compute_optimal",
    "count": "api",
    "count_class": "api",
    "estimate_loss": "scaling.loss",
    "evaluate": "api",
    "export": "api",
    "formula": "api",
    "generate": "api",
    "load_pretrained": "formats.hf.weights",
    "machine": "api",
    "memory": "api",
    "model": "api",
    "plan": "api",
    "plan_ladder": "api",
    "plot": "render.figures",
    "preset": "arch.presets.registry",
    "report": "render.report",
    "resize": "api",
    "run": "api",
    "solve": "api",
    "train": "api",
    "verify": "api",
}


if not TYPE_CHECKING:  # type checkers know the names above, and that there are no others

    def __getattr__(name):
        """A public name, imported from its module when it is first used."""
        if name not in _LAZY:
            raise AttributeError(f"module 'parambudget' has no attribute {name!r}")
        try:
            return getattr(import_module(f"parambudget.{_LAZY[name]}"), name)
        except ModuleNotFoundError as error:
            from parambudget._install import require_packages

            require_packages(f"pb.{name}", [str(error.name).partition(".")[0]], ["train"])
            raise


def __dir__() -> list[str]:
    """What a prompt completes."""
    return __all__
