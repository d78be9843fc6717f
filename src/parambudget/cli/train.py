"""`parambudget train`: the planned model, trained on real text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from parambudget.arch.config import ModelConfig
from parambudget.arch.source import load, read_source
from parambudget.cli.fields import with_model_fields
from parambudget.cli.options import JsonOption, SourceArgument, require_torch
from parambudget.cost.count import total
from parambudget.units import format_count


@with_model_fields()
def train(
    source: SourceArgument = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Text file or folder of text. [default: the source of Python's standard library]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder of the run. [default: the next free one in runs/]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Optimizer updates.")] = None,
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
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="Peak learning rate.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides the initial weights and the order of the data.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Train the planned model on real text, if the built one has exactly the planned tensors.

    What is left out is chosen and shown with its reason; a config file's `train` block gives settings too.
    """
    model = load(source, fields).model
    flags = {
        "steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_checkpointing": gradient_checkpointing, "learning_rate": learning_rate, "seed": seed,
    }  # fmt: skip
    settings = read_source(source).train if source is not None else {}
    settings = settings | {name: value for name, value in flags.items() if value is not None}
    name = Path(source).stem if source is not None else format_count(total(model))
    require_torch("train")
    run(model, settings, data, out or next_folder(name), device, as_json=as_json)


def run(
    model: ModelConfig, settings: dict[str, Any], data: Path | None, out: Path, device: str, *, as_json: bool
) -> None:
    """Read the text, fill in the settings, train; tell each of it before and after."""
    from parambudget.show import training as show
    from parambudget.show.console import console, print_json
    from parambudget.train.batches import require_windows
    from parambudget.train.data import data_for
    from parambudget.train.defaults import complete
    from parambudget.train.device import choose
    from parambudget.train.loop import train as train_model
    from parambudget.train.rundir import require_free

    to = console()
    to.quiet = as_json
    compute = choose(device)
    # What can be known to be wrong is said before the text is read.
    require_free(out)
    complete(settings, model, data_tokens=1, on_cpu=True)
    with to.status("reading the text, training a tokenizer and encoding; they are kept for the next time"):
        tokens = data_for(data, model.vocab_size)
    require_windows(tokens, model.context_length)
    completed = complete(settings, model, len(tokens.train), on_cpu=compute.device.type == "cpu")
    to.print(show.introduction(model, compute.name, tokens, out))
    to.print(show.settings(completed, model))
    with show.watching(to, completed.config.steps) as on_step:
        result = train_model(model, completed.config, tokens, out, device=device, on_step=on_step)
    to.print(show.conclusion(result, model))
    if as_json:
        print_json(result.as_dict())


def next_folder(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that is not there."""
    n = 1
    while (folder := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return folder
