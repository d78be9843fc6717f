"""`parambudget plan`: does a run fit, how fast, how long, how much, how good? Before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from parambudget import api
from parambudget.arch.style import with_style
from parambudget.cli._machine import MachineFigures, with_machine_figures
from parambudget.cli._options import (
    AnchorOption,
    JsonOption,
    MemoryOption,
    SourceArgument,
    StyleOption,
    TargetLossOption,
    arguments_as_flags,
    law_option,
    offer_finished_run,
    print_json,
    print_lines,
    require_model,
    with_flags_in_suggestions,
    with_model_fields,
)
from parambudget.cli._settings import STEP_FLAGS, STEP_PANELS, step_settings, with_settings
from parambudget.formats.source import load

if TYPE_CHECKING:
    from parambudget.arch.style import StyleName

MACHINE_PANEL = "The machine, its price and the text"


@with_model_fields()
@with_machine_figures(energy=True)
@with_settings(STEP_FLAGS, STEP_PANELS)
def plan(
    source: SourceArgument = None,
    style: StyleOption = None,
    hours: Annotated[float | None, typer.Option(metavar="H", help="Training time in hours.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens to train on, such as 10B.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Compare with MODEL; can be repeated."),
    ] = None,
    inference: Annotated[
        bool,
        typer.Option("--inference", help="Plan generation: weights and KV cache."),
    ] = False,
    as_json: JsonOption = False,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="h100, a100, 4090, ... or cpu.",
                     show_default="this machine's", rich_help_panel=MACHINE_PANEL),
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", help="Number of GPUs.", rich_help_panel=MACHINE_PANEL)
    ] = 1,
    memory: MemoryOption = None,
    price: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Dollars per GPU and hour.", show_default="a dated range",
                     rich_help_panel=MACHINE_PANEL),
    ] = None,
    law: Annotated[str | None, law_option(MACHINE_PANEL)] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens in the text; a longer run repeats them.",
                     show_default="unlimited", rich_help_panel=MACHINE_PANEL),
    ] = None,
    bytes_per_token: Annotated[
        float | None,
        typer.Option(metavar="B", help="Mean bytes per token; shows the loss in bits per byte too.",
                     rich_help_panel=MACHINE_PANEL),
    ] = None,
    anchor: AnchorOption = None,
    target_loss: TargetLossOption = None,
    *,
    fields: dict[str, Any],
    figures: MachineFigures,
    settings: dict[str, object],
) -> None:  # fmt: skip
    """Predict memory, speed, cost and loss of a training run. Exits with 1 if it does not fit.

    Every figure comes with its interval and what it assumes.

    parambudget plan config.json --gpu h100 --batch-size 16 --gradient-accumulation-steps 8 --hours 1.5

    parambudget plan llama-3.2-1b --gpu h100 --gpus 8 --tokens 20B --compare qwen3-0.6b
    """
    require_model("plan", source, fields)
    if inference:
        asked = {
            "hours": hours, "tokens": tokens, "law": law, "unique_tokens": unique_tokens,
            "bytes_per_token": bytes_per_token, "dollars_per_hour": price,
            "anchor": anchor, "target_loss": target_loss,
            "gpus": None if gpus == 1 else gpus, "compare": " ".join(compare or []) or None,
            **figures, **settings,
        }  # fmt: skip
        require_inference = {name: value for name, value in asked.items() if value is not None}
        _plan_inference(source, style, fields, gpu, memory, figures, require_inference, as_json=as_json)
    given = step_settings(source, settings)
    completed = load(source, with_style(style, fields, complete=source))
    machine = api.machine(gpu, gpus=gpus, dollars_per_hour=price, **figures)

    # Speed and memory are comparable only at the same context.
    same = {name: fields[name] for name in ("context_length",) if name in fields}
    compared = {_display_name(name): load(name, same) for name in compare or []}
    for name, one in {_display_name(source or ""): completed, **compared}.items():
        for note in one.notes:
            typer.echo(f"note: {name}: {note}", err=True)
    others = {name: one.model for name, one in compared.items()}
    first = api.plan(
        completed.model, machine, hours=hours, tokens=tokens, law=law, unique_tokens=unique_tokens,
        bytes_per_token=bytes_per_token, memory=memory, anchor=anchor, target_loss=target_loss,
        compare=list(others.values()), **given,
    )  # fmt: skip
    plans = [with_flags_in_suggestions(each) for each in (first, *first.compared)]
    if as_json:
        documents = [each.as_dict() for each in plans]
        print_json(documents[0] if not others else {"plan": documents[0], "compared": documents[1:]})
        raise typer.Exit(not first.fits)
    from parambudget.render.plan import comparison, plan_screen
    from parambudget.render.terminal import terminal_width

    print_lines(plan_screen(plans[0], terminal_width()))
    if not plans[0].goal.law.is_measured:
        offer_finished_run(first.model.vocab_size)
    if others:
        names = ["this model" if source is None else _display_name(source), *others]
        print_lines(["", *comparison(plans, names, terminal_width())])
    raise typer.Exit(not first.fits)


def _plan_inference(
    source: str | None, style: "StyleName | None", fields: dict[str, Any], gpu: str | None,
    memory: str | None, figures: MachineFigures, asked: dict[str, object], *, as_json: bool,
) -> None:  # fmt: skip
    """Plan generation instead, and exit."""
    from parambudget.planning.budget import parse_memory
    from parambudget.planning.inference import plan_inference, require_effect
    from parambudget.render.inference import inference_screen
    from parambudget.render.terminal import terminal_width

    require_effect(asked)
    # The tokens of a sequence: a position table of the model keeps its size.
    context = fields.pop("context_length", None) if source is not None else None
    completed = load(source, with_style(style, fields, complete=source))
    for note in completed.notes:
        typer.echo(f"note: {note}", err=True)
    machine = api.machine(gpu, **figures)
    plan = plan_inference(
        completed.model, machine if memory is None else machine.with_memory(parse_memory(memory)),
        batch_size=cast("int", asked.get("batch_size", 1)), context=context,
    )  # fmt: skip
    shown = replace(plan, suggestions=tuple(map(arguments_as_flags, plan.suggestions)))
    print_json(shown.as_dict()) if as_json else print_lines(inference_screen(shown, terminal_width()))
    raise typer.Exit(not plan.fits)


def _display_name(source: str) -> str:
    return Path(source).stem if source.endswith(".json") else source
