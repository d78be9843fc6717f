"""`parambudget plan`: does it fit, how fast, how long, how much, how good? Before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parambudget.api import plan_run
from parambudget.arch.config import ModelConfig
from parambudget.cli._options import JsonOption, SourceArgument, print_json, print_lines, with_model_fields
from parambudget.formats.source import load, read_source

if TYPE_CHECKING:
    from parambudget.planning.run_plan import RunPlan

WORK_FIELDS = (
    "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "optimizer", "loss_chunks",
)  # fmt: skip
"""Settings of a config file's `train` block that a plan depends on."""
MACHINE_PANEL = "The machine, its price and the text"


@with_model_fields()
def plan(
    source: SourceArgument = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Sequences per micro-step and device.")
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Micro-steps per update.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Recompute blocks in the backward pass.")
    ] = None,
    optimizer: Annotated[
        Literal["muon", "adamw"] | None, typer.Option(help="What the trainer would use.")
    ] = None,
    shard: Annotated[bool | None, typer.Option(help="Share the model out among the GPUs.")] = None,
    hours: Annotated[float | None, typer.Option(metavar="H", help="Wall time to train for.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens to train on, such as 10B.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Another model beside it; may be given several times."),
    ] = None,
    as_json: JsonOption = False,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="h100, a100, 4090, ... or cpu.",
                     show_default="the one that is here", rich_help_panel=MACHINE_PANEL),
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", help="How many of them.", rich_help_panel=MACHINE_PANEL)
    ] = 1,
    price: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Dollars per hour and GPU.", show_default="a dated range",
                     rich_help_panel=MACHINE_PANEL),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Loss law: besiroglu-2024, hoffmann-2022, muennighoff-2023.",
                     show_default="besiroglu-2024", rich_help_panel=MACHINE_PANEL),
    ] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens of the text, read again when used up.",
                     show_default="without end", rich_help_panel=MACHINE_PANEL),
    ] = None,
    bytes_per_token: Annotated[
        float | None,
        typer.Option(metavar="B", help="Of the text: losses in bits per byte too.",
                     rich_help_panel=MACHINE_PANEL),
    ] = None,
    *,
    fields: dict[str, Any],
) -> None:  # fmt: skip
    """What training a model would take and give, with what is assumed. Exits with 1 where it does not fit.

    parambudget plan config.json --gpu h100 --batch-size 16 --gradient-accumulation-steps 8 --hours 1.5

    parambudget plan llama-3.2-1b --gpu h100 --gpus 8 --tokens 20B --compare qwen3-0.6b
    """
    from parambudget.training.defaults import require_valid

    in_file = read_source(source).train if source is not None else {}
    require_valid(in_file)
    model = load(source, fields).model

    def planned(of: ModelConfig, way: Mapping[str, Any]) -> "RunPlan":
        return plan_run(
            of, gpu, gpus=gpus, price=price, hours=hours, tokens=tokens, law=law, unique_tokens=unique_tokens,
            bytes_per_token=bytes_per_token, **way,
        )  # fmt: skip

    given = {name: in_file[name] for name in WORK_FIELDS if name in in_file} | {
        name: value
        for name, value in {
            "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps,
            "gradient_checkpointing": gradient_checkpointing, "optimizer": optimizer, "shard": shard,
        }.items()
        if value is not None
    }  # fmt: skip
    # Speed and memory compare at one context alone.
    same = {name: fields[name] for name in ("context_length",) if name in fields}
    others = {_named(name): load(name, same).model for name in compare or []}
    first = planned(model, given)
    # The others in the same micro-steps, so that memory and speed compare.
    plans = [first, *(planned(each, first.step.step_fields) for each in others.values())]
    if as_json:
        documents = [each.as_dict() for each in plans]
        print_json(documents[0] if not others else {"plan": documents[0], "compared": documents[1:]})
        raise typer.Exit(not first.fits)
    from parambudget.render.plan import comparison, plan_screen
    from parambudget.render.terminal import columns

    print_lines(plan_screen(plans[0], columns()))
    if others:
        names = ["this model" if source is None else _named(source), *others]
        print_lines(["", *comparison(plans, names, columns())])
    raise typer.Exit(not first.fits)


def _named(source: str) -> str:
    return Path(source).stem if source.endswith(".json") else source
