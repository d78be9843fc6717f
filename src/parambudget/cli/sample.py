"""`parambudget sample`: what does a trained model write?"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from parambudget.cli._options import JsonOption, print_json, require_torch
from parambudget.errors import InputError


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's folder, one of its checkpoints, or a folder of Hugging Face."
        ),
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to go on with.")] = "",
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Most tokens to generate.")] = 100,
    temperature: Annotated[
        float,
        typer.Option(metavar="T", min=0, help="0 takes the likeliest token, 1 the model's odds."),
    ] = 0.8,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Draw from the K likeliest only.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed, another text.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Let a trained model go on with a text.

    parambudget sample runs/mine --prompt "def main(" --temperature 0.5
    """
    if not math.isfinite(temperature):
        raise InputError(
            f"--temperature {temperature:g} is not finite; use 0 or a positive number such as 0.8"
        )
    require_torch("sample")
    from parambudget.training.device import choose
    from parambudget.training.generate import Drawing, load_checkpoint
    from parambudget.training.generate import sample as generate

    loaded = load_checkpoint(
        checkpoint, choose(device), lambda notice: typer.echo(f"note: {notice}", err=True)
    )
    drawing = Drawing(max_tokens, temperature, top_k, seed)
    if as_json:
        print_json(asdict(generate(loaded, prompt, drawing)))
        return
    made = generate(loaded, prompt, drawing, on_text=lambda piece: typer.echo(piece, nl=False))
    typer.echo()
    if made.ended == "context_length":
        typer.echo(f"(stopped at context_length={loaded.module.model.context_length:,})", err=True)
