"""`parambudget train`: the planned model, trained on real text."""

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parambudget.cli._options import (
    JsonOption,
    SourceArgument,
    parse_path,
    print_notice,
    require_torch,
    with_model_fields,
)
from parambudget.cli.running import Request, run
from parambudget.cost.params import total
from parambudget.errors import InputError
from parambudget.formats.source import Source, load, read_source
from parambudget.training.metrics import config_of, stored_config
from parambudget.training.signals import Stopped, stop_requests
from parambudget.units import format_count, parse_count

RUN_PANEL = "The run: how long, what is kept, how it goes on"


@with_model_fields()
def train(
    source: SourceArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="PATH",
            help="Text, or a folder of text or of `data prepare`.",
            show_default="Python's standard library",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            parser=parse_path,
            metavar="DIR",
            help="Folder of the run.",
            show_default="the next free one in runs/",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Sequences per micro-step and device.")
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Micro-steps per update.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(help="Recompute blocks in the backward pass: less memory, a third more work."),
    ] = None,
    optimizer: Annotated[
        Literal["muon", "adamw"] | None,
        typer.Option(help="Muon for the matrices and AdamW for the rest, or AdamW for all."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="Peak learning rate.")] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "wsd"] | None,
        typer.Option(help="How the learning rate falls after its warm-up."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides the initial weights and the order of the data.")
    ] = None,
    shard: Annotated[
        bool | None,
        typer.Option(help="Share the model out among the processes (FSDP).", show_default="as is quickest"),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimizer updates.", rich_help_panel=RUN_PANEL)
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens to train on, such as 7B.", rich_help_panel=RUN_PANEL),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="H", help="Time to train for; becomes steps before it starts.", rich_help_panel=RUN_PANEL
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in DIR, or start it.", rich_help_panel=RUN_PANEL),
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="CHECKPOINT",
            help="Start from its weights, or a Hugging Face folder's.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(metavar="N", help="Updates between saves.", rich_help_panel=RUN_PANEL)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Newest checkpoints that stay, beside the best.", rich_help_panel=RUN_PANEL
        ),
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option(metavar="N", help="Updates between evaluations.", rich_help_panel=RUN_PANEL)
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT", help="Report to Weights & Biases too (extra wandb).", rich_help_panel=RUN_PANEL
        ),
    ] = None,
    *,
    fields: dict[str, Any],
) -> None:
    """Train the planned model on real text, if the built one has exactly the planned tensors.

    What is left out is chosen and shown with its reason; a config file's `train` block gives settings too.
    """
    require_torch("train")
    flags = {
        "steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_checkpointing": gradient_checkpointing, "optimizer": optimizer,
        "learning_rate": learning_rate, "schedule": schedule, "seed": seed,
        "save_every": save_every, "keep": keep, "eval_every": eval_every,
    }  # fmt: skip

    def request() -> Request:
        _require_sense(out, steps, tokens, hours, resume=resume)
        held = source
        if source is None and not fields and (resume or init is not None):
            held = _held_config(out if resume else None, init)
        of = read_source(source) if source is not None else Source({})
        stored = stored_config(out) if resume and out is not None else None
        model = load(held, fields).model
        again, folder = [*sys.argv[1:], *([] if resume else ["--resume"])], out
        if folder is None:
            folder = next_folder(Path(held).stem if held is not None else format_count(total(model)))
            again += ["--out", str(folder)]
        return Request(
            model, of, stored["provenance"] if stored else of.provenance,
            {name: value for name, value in flags.items() if value is not None},
            data, folder, device, resume, init, hours=hours,
            train_tokens=parse_count(tokens, "--tokens") if tokens is not None else None,
            as_json=as_json, wandb=wandb, shard=shard, again=shlex.join(["parambudget", *again]),
        )  # fmt: skip

    try:
        with stop_requests() as stopped:
            run(device, request, stopped)
    except KeyboardInterrupt:
        print_notice("interrupted")
        raise typer.Exit(130) from None
    except Stopped as by:
        started = shlex.join(["parambudget", *sys.argv[1:]])
        print_notice(f"stopped by {by} before the first update; start it with: {started}")


def _require_sense(
    out: Path | None, steps: int | None, tokens: str | None, hours: float | None, *, resume: bool
) -> None:
    """Refuse flags that contradict each other, or a time that is none."""
    length = {"--steps": steps, "--tokens": tokens, "--hours": hours}
    if len(given := [name for name, value in length.items() if value is not None]) > 1:
        raise InputError(f"{' and '.join(given)} both say how long the run is; give one of them")
    if resume and out is None:
        raise InputError("--resume goes on with the run in a folder; give it with --out DIR")
    if hours is not None and not (math.isfinite(hours) and hours > 0):
        raise InputError(f"--hours {hours:g} is not a time; use a positive number")


def next_folder(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that is not there."""
    n = 1
    while (folder := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return folder


def _held_config(out: Path | None, init: Path | None) -> str:
    """Without a model on the command line: the config of the run to go on with, or of the weights."""
    found = config_of(out) if out is not None else None
    if found is None and init is not None and (init / "config.json").exists():
        found = init / "config.json"
    if found is None:
        lacks = f"{out} holds no run to go on with" if out is not None else f"{init} holds no model"
        raise InputError(f"{lacks}; give a model: a config file, a preset's name, or flags such as --dim")
    return str(found)
