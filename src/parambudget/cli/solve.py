"""`parambudget solve`: which sizes? From a budget to ranked models and a certificate."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parambudget import api
from parambudget._files import write_json
from parambudget._version import __version__
from parambudget.cli._options import JsonOption, print_json, print_lines, with_model_fields
from parambudget.errors import ConfigError
from parambudget.formats.source import config_document

BUDGET_PANEL = "Other budgets, alone or with --target"
LATTICE_PANEL = "Lattice: a value (896), a list (64,128) or a range (lo:hi, lo:hi:step)"


@with_model_fields(as_axes=True)
def solve(
    target: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Parameters, such as 350M or 1.3B.")
    ] = None,
    active: Annotated[
        str | None,
        typer.Option(metavar="COUNT", help="With --target: of these, parameters that a token meets."),
    ] = None,
    counted: Annotated[
        Literal["total", "body", "active"], typer.Option(help="What the budget counts.")
    ] = "total",
    tolerance: Annotated[str, typer.Option(metavar="SHARE", help="How far off a model may be.")] = "0.5%",
    rank: Annotated[
        Literal["shape", "closest", "loss", "speed", "memory"] | None,
        typer.Option(
            help="By the shape score, the error alone, or what is predicted.",
            show_default="shape; loss where hours or FLOPs are given",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="How many models to show. \\[default: 5]")
    ] = None,
    current: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="The current model (file or preset): the ways to the budget."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Take the choices of a file or preset; search all sizes."),
    ] = None,
    pick: Annotated[int, typer.Option(metavar="K", help="Which of the models -o writes.")] = 1,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the config here.")
    ] = None,
    as_json: JsonOption = False,
    hours: Annotated[
        float | None,
        typer.Option(metavar="H", help="Wall time on the GPU.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    dollars: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Rent of the GPU.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(metavar="N", help="Arithmetic of the run, such as 1e19.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of one GPU, such as 24GB.", rich_help_panel=BUDGET_PANEL),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="h100, a100, 4090, ... or cpu: shows speed and memory.",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Sequences per micro-step.",
            show_default="the quickest that fits",
            rich_help_panel=BUDGET_PANEL,
        ),
    ] = None,
    kv_groups: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS", help="Query heads per kv head; 1 is multi-head.", rich_help_panel=LATTICE_PANEL
        ),
    ] = None,
    ffn_ratio: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Bounds on FFN width (of experts: met by a token) / dim.",
            rich_help_panel=LATTICE_PANEL,
        ),
    ] = None,
    multiple: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="Granularity of FFN and expert widths, and of dim in ranges.",
            rich_help_panel=LATTICE_PANEL,
        ),
    ] = None,
    *,
    fields: dict[str, Any],
) -> None:
    """The models of a budget, from a complete search, ranked the way a practitioner would.

    parambudget solve --target 350M

    parambudget solve --target 7B --vocab-size 128256 --n-layers 28:40 --head-dim 128

    parambudget solve --target 8B --active 1B

    parambudget solve --hours 1.5 --gpu h100
    """
    if current is not None and (like is not None or top is not None or rank is not None):
        raise ConfigError("--from shows each way from that model once; leave out --like, --top and --rank")
    lattice = {"kv_groups": kv_groups, "ffn_ratio": ffn_ratio, "multiple": multiple}
    asked = fields | {
        k: value
        for k, value in (lattice | {"active": active, "top": top, "rank": rank}).items()
        if value is not None
    }
    spent = {"hours": hours, "dollars": dollars, "flops": flops, "memory": memory, "gpu": gpu,
             "batch_size": batch_size}  # fmt: skip
    asked |= {name: value for name, value in spent.items() if value is not None}
    found = api.solve(target, current=current, like=like, counted=counted, tolerance=tolerance, **asked)
    if not 1 <= pick <= len(found):
        raise ConfigError(f"--pick {pick} is not in the list of {len(found)}; use 1 to {len(found)}")
    if out:
        chosen = found[pick - 1]
        provenance = {"solution": pick, "label": chosen.label, "count": chosen.counted}
        if chosen.error is not None:
            provenance["error"] = chosen.error
        if chosen.active_error is not None:
            provenance |= {"active": chosen.active, "active_error": chosen.active_error}
        provenance |= {"certificate": found.certificate.as_dict(), "version": __version__}
        write_json(out, config_document(chosen.model, provenance))
    from parambudget.render.model import flags
    from parambudget.render.solutions import again, commands, solutions_screen
    from parambudget.render.terminal import dim, terminal_width

    length = f" --hours {hours:g}" if hours is not None else ""
    if as_json:
        document = found.as_dict() | {"command": again(found, current)}
        for written, solution in zip(document["solutions"], found, strict=True):
            written["train"] = f"parambudget train {flags(solution.model)}{length}"
        print_json(document)
        return
    print_lines([*solutions_screen(found, terminal_width()), *map(dim, commands(found, current))])
    if out:
        typer.echo(
            f"wrote {out} (number {pick}); next: parambudget verify {out}, parambudget train {out}{length}"
        )
