"""`parambudget schema`: what does --json print?"""

from importlib import import_module
from typing import Annotated, Any, Final, Union

import typer

from parambudget.cli._options import print_json, print_lines, require_torch
from parambudget.errors import ConfigError, nearest_in_words, suggest

DOCUMENTS: Final = {
    "count": ("render.model.CountDocument", "formats.hf.class_count.ClassCountDocument"),
    "solve": ("render.solutions.SolveDocument",),
    "plan": (
        "planning.run_plan.RunPlanDocument", "planning.run_plan.ComparisonDocument",
        "planning.inference.InferencePlanDocument",
    ),
    "report": ("render.report.ReportDocument",),
    "verify": ("cli.verify.VerifiedDocument",),
    "export": ("cli.export.ExportDocument",),
    "data prepare": ("text.shards.ManifestDocument",),
    "train": ("cli.train.TrainDocument",),
    "runs show": ("cli.runs.ShownRunDocument",),
    "ladder plan": ("ladders.ladder_plan.LadderPlanDocument",),
    "ladder run": ("ladders.run.RungOutcomeDocument",),
    "ladder fit": ("ladders.ladder_fit.LadderFitDocument",),
    "sample": ("training.generate.GenerationDocument",),
    "eval": ("training.evaluation.results.EvaluationDocument",),
    "presets": ("cli.presets.PresetDocument",),
    "gpus": ("cli.gpus.GpuDocument",),
    "calibrate": ("cli.calibrate.CalibrationDocument", "cli.calibrate.ClearedDocument"),
}  # fmt: skip
"""The types of the documents that each command prints, depending on its flags."""
_LISTS: Final = ("presets", "gpus", "ladder run")
"""Commands that print a list of them."""
_ONE_OR_LIST: Final = ("runs show", "sample")
"""Commands that print one, or a list where several were asked for."""
_NEED_TRAINING: Final = ("data prepare", "ladder plan", "ladder run", "sample")
"""Commands whose documents are in files that import what training needs."""


def schema(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", help="A command that has --json, such as runs show.", show_default="list them"
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints with --json.

    Every key is described, with its unit; no other key is ever printed. Without COMMAND, the commands that
    have --json are listed.

    parambudget schema plan
    """
    if not words:
        print_lines(DOCUMENTS)
        return
    command = " ".join(words)
    if command not in DOCUMENTS:
        near = suggest(command, DOCUMENTS)
        hint = nearest_in_words(near) if near else f"use one of {', '.join(DOCUMENTS)}"
        raise ConfigError(f"no command {command!r} has --json; {hint}")
    if command in _NEED_TRAINING:
        require_torch(f"schema {command}")
    print_json(command_schema(command))


def command_schema(command: str) -> dict[str, Any]:
    """The JSON Schema of what a command prints with --json."""
    from parambudget.render.json_schema import json_schema

    form: Any = Union[tuple(map(_load, DOCUMENTS[command]))]  # noqa: UP007  # as many as there are
    if command in _LISTS:
        form = list[form]
    elif command in _ONE_OR_LIST:
        form = form | list[form]
    return json_schema(form, f"parambudget {command} --json")


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"parambudget.{module}"), name)
