"""`parambudget solve`: which sizes? From a target or a budget to ranked models and a certificate."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from parambudget import api
from parambudget._files import write_json
from parambudget._version import __version__
from parambudget.arch.style import with_style
from parambudget.cli._help import MORE_PANEL
from parambudget.cli._machine import MachineFigures, with_machine_figures
from parambudget.cli._options import (
    AnchorOption,
    JsonOption,
    StyleOption,
    law_option,
    print_json,
    print_lines,
    spinner,
    with_model_fields,
)
from parambudget.cli._settings import STEP_FLAGS, with_settings
from parambudget.errors import ConfigError, NoSolution
from parambudget.formats.source import config_document, load
from parambudget.search.options import DEFAULT_TOLERANCE, DEFAULT_TOP, CountKind, Rank
from parambudget.units import format_tolerance

if TYPE_CHECKING:
    from parambudget.cost.step import StepFields
    from parambudget.planning.budget import Budget
    from parambudget.search.fields import SearchFields
    from parambudget.search.solutions import Solutions

BUDGET_PANEL = "Other budgets, alone or with --target"
LATTICE_PANEL = "Search space (the lattice): 896, a list 64,128 or a range lo:hi, lo:hi:step"


@with_model_fields(as_axes=True)
@with_machine_figures()
@with_settings(STEP_FLAGS, {"batch_size": BUDGET_PANEL})
def solve(
    target: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Parameters, such as 350M or 1.3B.")
    ] = None,
    active: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT", help="With --target: parameters used per token, for models with experts."
        ),
    ] = None,
    counted: Annotated[
        CountKind,
        typer.Option(
            help="What the target counts. body: without embeddings and output head; active: used per token."
        ),
    ] = "total",
    tolerance: Annotated[
        str, typer.Option(metavar="SHARE", help="How far off the target a model may be.")
    ] = format_tolerance(DEFAULT_TOLERANCE),
    rank: Annotated[
        Rank | None,
        typer.Option(
            help="Order by how usual the shape is (its score), by the error alone, by size (most "
            "parameters first), or by a prediction.",
            show_default="shape; loss for hours, dollars or FLOPs; size for memory alone",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="How many models to show.", show_default=str(DEFAULT_TOP))
    ] = None,
    current: Annotated[
        str | None,
        typer.Option("--from", metavar="MODEL", help="Resize this model (file or preset) to the target."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Search all sizes of models that are otherwise like this file or preset."
        ),
    ] = None,
    style: StyleOption = None,
    pick: Annotated[int, typer.Option(metavar="K", help="Number of the model that -o writes.")] = 1,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the config to FILE.")
    ] = None,
    as_json: JsonOption = False,
    hours: Annotated[
        float | None,
        typer.Option(metavar="H", help="Training time on the GPU, in hours.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    dollars: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Cost of renting the GPU.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="FLOPs of the training run, such as 1e19.", rich_help_panel=BUDGET_PANEL
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of one GPU, such as 24GB.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="h100, a100, 4090, ... or cpu: shows speed and memory.",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of GPUs.", show_default="1", rich_help_panel=MORE_PANEL),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="USD",
            help="Dollars per GPU and hour.",
            show_default="a dated range",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    law: Annotated[str | None, law_option(MORE_PANEL)] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Tokens in the text; a longer run repeats them.",
            show_default="unlimited",
            rich_help_panel=MORE_PANEL,
        ),
    ] = None,
    anchor: AnchorOption = None,
    kv_groups: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS",
            help="Query heads per key/value head; 1 is multi-head attention.",
            rich_help_panel=LATTICE_PANEL,
        ),
    ] = None,
    ffn_ratio: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Bounds on FFN width / dim (with experts: the width used per token).",
            rich_help_panel=LATTICE_PANEL,
        ),
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="FFN and expert widths, and dim in a range, are multiples of M.",
            rich_help_panel=LATTICE_PANEL,
        ),
    ] = None,
    *,
    fields: dict[str, Any],
    figures: MachineFigures,
    settings: dict[str, object],
) -> None:
    """Find models of a given size or for a budget by exhaustive search, most usual shapes first.

    parambudget solve --target 350M

    parambudget solve --target 7B --vocab-size 128256 --n-layers 28:40 --head-dim 128

    parambudget solve --target 8B --active 1B

    parambudget solve --hours 1.5 --gpu h100
    """
    if current is not None:
        with_style(style, {}, complete=current)
    if current is not None and any(value is not None for value in (law, unique_tokens, anchor)):
        raise ConfigError(
            "--from resizes a model to a --target, and --law, --unique-tokens and --anchor are for a budget "
            "of hours, dollars or FLOPs; leave them out"
        )
    if current is not None and (like is not None or top is not None or rank is not None):
        raise ConfigError(
            "--from gives one answer per direction from that model; leave out --like, --top and --rank"
        )
    step = cast("StepFields", settings) or None
    machine = None
    if any(value is not None for value in (gpu, gpus, price)) or figures:
        machine = api.machine(gpu, gpus=1 if gpus is None else gpus, dollars_per_hour=price, **figures)
    lattice = {"kv_groups": kv_groups, "ffn_ratio": ffn_ratio, "multiple": multiple}
    axes = cast("SearchFields", fields | {name: v for name, v in lattice.items() if v is not None})
    limits: dict[str, object] = {"hours": hours, "dollars": dollars, "flops": flops, "memory": memory}
    with spinner("searching"), _explained_target(target):
        if current is None:
            found = api.solve(
                target, budget=_budget(hours, dollars, flops, memory), machine=machine, step=step,
                law=law, anchor=anchor, unique_tokens=unique_tokens, active=active, counted=counted,
                tolerance=tolerance, rank=rank,
                top=DEFAULT_TOP if top is None else top, like=like, style=style, **axes,
            )  # fmt: skip
        elif target is None or any(value is not None for value in limits.values()):
            raise ConfigError(
                "--from resizes a model to a --target; leave out --hours, --dollars, --flops and --memory"
            )
        else:
            found = api.resize(
                current, target, active=active, counted=counted, tolerance=tolerance, machine=machine,
                step=step, **axes,
            )  # fmt: skip
    if not 1 <= pick <= len(found):
        raise ConfigError(f"--pick {pick} is not in the list of {len(found)}; use 1 to {len(found)}")
    if pick != 1 and out is None:
        raise ConfigError(
            f"--pick {pick} has no effect: it is the model that -o writes; give -o, or leave it out"
        )
    if out:
        _write_config(found, pick, out)
    given = {name: value for name, value in limits.items() if value is not None}
    beside = {
        "gpu": gpu,
        "gpus": gpus,
        "price": price,
        "law": law,
        "unique_tokens": unique_tokens,
        "anchor": anchor,
    }
    given |= {name: v for name, v in beside.items() if v is not None} | {**figures, **settings}
    named = current or like
    source = None if named is None else load(named, {}).model
    if as_json:
        from parambudget.render.solutions import solve_document

        print_json(solve_document(found, given, machine, current=current, like=like, source=source))
        return
    from parambudget.render.solutions import (
        can_train_on,
        next_commands,
        solutions_screen,
        style_note,
        train_command,
    )
    from parambudget.render.terminal import dim, terminal_width

    notes = style_note(found, terminal_width()) if like is None and style is None else []
    commands = next_commands(found, given, current, like, source)
    print_lines([*solutions_screen(found, terminal_width()), *map(dim, [*notes, *commands])])
    if out:
        by_time = hours is not None or dollars is not None
        command = train_command(found[pick - 1], machine, by_time=by_time, source=shlex.quote(str(out)))
        after = f"; next: {command}" if can_train_on(machine) else ""
        typer.echo(f"wrote model {pick} of the list to {out}{after}")


@contextmanager
def _explained_target(target: str | None) -> Iterator[None]:
    """Where nothing is as small as the target and the target has no unit, one was probably forgotten."""
    try:
        yield
    except NoSolution:
        if target is None or not re.fullmatch(r"[0-9]{1,4}", target):
            raise
        raise NoSolution(
            f"--target {target} is {target} parameters, and no model is that small; did you mean {target}M?"
        ) from None


def _budget(
    hours: float | None, dollars: float | None, flops: str | None, memory: str | None
) -> "Budget | None":
    if all(limit is None for limit in (hours, dollars, flops, memory)):
        return None
    from parambudget.planning.budget import Budget

    return Budget(hours=hours, dollars=dollars, flops=flops, memory=memory)


def _write_config(found: "Solutions", pick: int, out: Path) -> None:
    """One of the models as a config file, with the search that it comes from."""
    solution = found[pick - 1]
    origin = {"certificate": found.certificate.as_dict(), "version": __version__}
    provenance = {"solution": pick} | solution.provenance() | origin
    write_json(out, config_document(solution.model, provenance))
