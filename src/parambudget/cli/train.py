"""`parambudget train`: the planned model, trained on real text."""

import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parambudget.arch.config import ModelConfig
from parambudget.arch.source import load, read_source
from parambudget.cli.fields import with_model_fields
from parambudget.cli.options import JsonOption, SourceArgument, require_torch
from parambudget.cli.output import print_json
from parambudget.cost.count import total
from parambudget.errors import InputError, MissingExtra
from parambudget.train.config import TrainConfig
from parambudget.train.results import Step
from parambudget.units import format_count, parse_count

if TYPE_CHECKING:
    from parambudget.train.distributed import Ranks

OnStep = Callable[[Step], None]
RUN_PANEL = "The run: how long, what is kept, how it goes on"


@with_model_fields()
def train(
    source: SourceArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Text, or a folder of text or of `data prepare`.",
            show_default="Python's standard library",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder of the run.", show_default="the next free one in runs/"
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
    length = {"steps": steps, "tokens": tokens, "hours": hours}
    if len(given := [f"--{name}" for name, value in length.items() if value is not None]) > 1:
        raise InputError(f"{' and '.join(given)} both say how long the run is; give one of them")
    if resume and out is None:
        raise InputError("--resume goes on with the run in a folder; give it with --out DIR")
    if hours is not None and not (math.isfinite(hours) and hours > 0):
        raise InputError(f"--hours {hours:g} is not a time; use a positive number")
    flags = {
        "steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_checkpointing": gradient_checkpointing, "optimizer": optimizer,
        "learning_rate": learning_rate, "schedule": schedule, "seed": seed,
        "save_every": save_every, "keep": keep, "eval_every": eval_every,
    }  # fmt: skip
    flags = {name: value for name, value in flags.items() if value is not None}
    again = [*sys.argv[1:], *([] if resume else ["--resume"])]
    in_file = read_source(source).train if source is not None else {}
    source = source if source is not None or fields else _held_config(out if resume else None, init)
    model = load(source, fields).model
    if out is None:
        out = next_folder(Path(source).stem if source is not None else format_count(total(model)))
        again += ["--out", str(out)]
    require_torch("train")
    run(
        Request(
            model, in_file, flags, data, out, device, resume, init, hours=hours,
            train_tokens=parse_count(tokens, "--tokens") if tokens is not None else None,
            as_json=as_json, wandb=wandb, shard=shard, again=shlex.join(["parambudget", *again]),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    model: ModelConfig
    in_file: dict[str, Any]
    """Settings of the config file; flags win over them."""
    flags: dict[str, Any]
    data: Path | None
    out: Path
    device: str
    resume: bool
    init: Path | None
    train_tokens: int | None
    hours: float | None
    as_json: bool
    wandb: str | None
    shard: bool | None
    """None: as the plan has it."""
    again: str
    """The command that goes on with this run."""


def run(asked: Request) -> None:
    """Train in this process, or in step with the others that `torchrun` started beside it."""
    from parambudget.train.device import kernels_told
    from parambudget.train.distributed import joined

    with joined(asked.device) as (ranks, device), kernels_told():
        run_as(ranks, replace(ranks.first(asked), device=device))


def run_as(ranks: "Ranks", asked: Request) -> None:
    """Read the text, fill in the settings, train; the leading process tells each of it before and after."""
    from parambudget.show import training as show
    from parambudget.show.console import console
    from parambudget.show.watching import watching
    from parambudget.text.data import data_for
    from parambudget.train.batches import require_windows
    from parambudget.train.device import choose
    from parambudget.train.expect import expected
    from parambudget.train.learner import require_init
    from parambudget.train.loop import train as train_model
    from parambudget.train.rundir import require_free
    from parambudget.train.settings import require_possible, settled
    from parambudget.train.signals import stop_requests

    to = console()
    to.quiet = asked.as_json or not ranks.leads
    tell = _tell if ranks.leads else _keep_silent
    compute = choose(asked.device)
    if compute.device.type == "cuda" and compute.peak_flops is None:
        tell(f"the peak of {compute.name} is not known here, so no MFU is given")
    # What can be known to be wrong is said before the text is read.
    if asked.shard:
        ranks.require_others()
    if asked.init is not None:
        require_init(asked.init)
    if ranks.leads:
        require_free(asked.out, resume=asked.resume)
    if asked.wandb is not None:
        _require_wandb()
    given = require_possible(asked.model, asked.in_file, asked.flags, asked.out if asked.resume else None)
    with to.status("reading the text, training a tokenizer and encoding; they are kept for the next time"):
        data = ranks.leader_first(lambda: data_for(asked.data, asked.model.vocab_size))
    require_windows(data, asked.model.context_length)
    to.print(show.introduction(asked.model, compute.name, data, asked.out))
    settings = settled(
        given, asked.model, data, compute, asked.train_tokens, asked.hours, ranks, shard=asked.shard
    )
    to.print(show.settings(settings.completed, asked.model))
    config = settings.completed.config
    planned = expected(asked.model, config, compute, ranks, shard=settings.shard)
    with (
        stop_requests() as stopped,
        watching(to, config.steps, ranks.peak_flops(compute), compute.peak_memory_bytes, planned) as shown,
        _reported(shown, asked if ranks.leads else replace(asked, wandb=None), config) as on_step,
    ):
        result = train_model(
            asked.model, config, data, asked.out, device=asked.device, ranks=ranks, shard=settings.shard,
            resume=asked.resume, init=asked.init, provenance=settings.provenance, stopped=stopped,
            on_step=on_step, on_notice=tell,
        )  # fmt: skip
    to.print(show.conclusion(result, asked.model))
    if not result.finished:
        by = stopped.signal_name or "a signal to another process"
        tell(f"stopped by {by} after step {result.steps}; go on with: {asked.again}")
    if asked.as_json and ranks.leads:
        print_json(result.as_dict())


def _require_wandb() -> None:
    if find_spec("wandb") is None:
        raise MissingExtra(
            "--wandb needs wandb, which is not installed; run it as: uv run --extra train --extra wandb "
            "parambudget train ... (or: pip install 'parambudget[train,wandb]')"
        )
    from parambudget.train.tracking import require_account

    require_account()


@contextmanager
def _reported(on_step: OnStep, asked: Request, config: TrainConfig) -> Iterator[OnStep]:
    """`on_step`, which also reports to Weights & Biases where that is asked for."""
    if asked.wandb is None:
        yield on_step
        return
    from parambudget.train.tracking import tracked

    with tracked(on_step, asked.wandb, asked.out, asked.model.model_dump() | config.model_dump()) as both:
        yield both


def next_folder(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that is not there."""
    n = 1
    while (folder := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return folder


def _held_config(out: Path | None, init: Path | None) -> str | None:
    """Without a model on the command line: the config of the run to go on with, or of the weights."""
    for folder in (out, init):
        if folder is not None and (folder / "config.json").exists():
            return str(folder / "config.json")
    return None


def _tell(notice: str) -> None:
    typer.echo(f"parambudget: {notice}", err=True)


def _keep_silent(_notice: str) -> None:
    """What a process that does not lead says."""
