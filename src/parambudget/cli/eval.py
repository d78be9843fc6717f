"""`parambudget eval`: evaluate a trained model on questions and on a text."""

from pathlib import Path
from typing import Annotated

import typer

from parambudget.cli._options import (
    DeviceOption,
    JsonOption,
    parse_path,
    print_json,
    print_lines,
    print_notice,
    require_torch,
)
from parambudget.text.forms import TokenDtype


def eval(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, one of its checkpoints, or a Hugging Face folder."
        ),
    ],
    choices: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="Multiple choice: JSON lines of context (or ctx), endings and label, as HellaSwag has them.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="Bits per byte: text or tokens in any form that train reads.",
            show_default="without --choices, the run's own held-out text",
        ),
    ] = None,
    token_dtype: Annotated[
        TokenDtype | None,
        typer.Option(help="Type of the ids in --text, where its files have no header."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a trained model: multiple choice by log-likelihood, and bits per byte of a text.

    The result is also kept in eval.json of the run.

    parambudget eval runs/mine --choices hellaswag_val.jsonl --text held_out.txt
    """
    require_torch("eval")
    from parambudget.render.progress import evaluation_progress, make_console
    from parambudget.render.runs import evaluation_screen
    from parambudget.training.device import mps_notice, select_device
    from parambudget.training.evaluation.evaluate import EvaluationRequest, evaluate

    request = EvaluationRequest(choices, text, token_dtype)
    compute = select_device(device)
    if compute.device.type == "mps" and (notice := mps_notice(device, compute)) is not None:
        print_notice(notice)
    with evaluation_progress(make_console(quiet=as_json)) as on_progress:
        result = evaluate(checkpoint, compute, request, on_progress, print_notice)
    if as_json:
        print_json(result.as_dict())
    else:
        print_lines(evaluation_screen(result))
