"""`parambudget sample`: generate text from a trained model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from parambudget.cli._options import JsonOption, print_json, require_torch


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Folder of a run, one of its checkpoints, or a Hugging Face folder."
        ),
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue.")] = "",
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of tokens to generate.")
    ] = 100,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="T",
            min=0,
            help="0 always takes the most likely token; 1 samples from the model's probabilities.",
        ),
    ] = 0.8,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="K", min=1, help="Sample from the K most likely tokens only.", show_default="all"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the sampling; another seed gives another text.")
    ] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate text from a trained model.

    parambudget sample runs/mine --prompt "def main(" --temperature 0.5
    """
    require_torch("sample")
    from parambudget.training.device import select_device
    from parambudget.training.generate import SamplingParams, generate_text, load_checkpoint

    loaded = load_checkpoint(
        checkpoint, select_device(device), lambda notice: typer.echo(f"note: {notice}", err=True)
    )
    params = SamplingParams(max_tokens, temperature, top_k, seed)
    if as_json:
        print_json(asdict(generate_text(loaded, prompt, params)))
        return
    generation = generate_text(loaded, prompt, params, on_text=lambda text: typer.echo(text, nl=False))
    typer.echo()
    if generation.ended == "context_length":
        typer.echo(f"(stopped at context_length={loaded.module.model.longest_generation:,})", err=True)
