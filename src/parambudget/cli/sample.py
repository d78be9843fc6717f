"""`parambudget sample`: generate text from a trained model."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parambudget.cli._options import DeviceOption, JsonOption, print_json, print_notice, require_torch
from parambudget.errors import ConfigError, InputError
from parambudget.units import count_phrase

if TYPE_CHECKING:
    from parambudget.training.generate import Generation

_BETWEEN = "---"
"""The line between two texts."""
_ASKING = "> "


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Folder of a run, one of its checkpoints, or a Hugging Face folder."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text to continue.", show_default="none")
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            "-i",
            help="Ask for prompts, or read them from standard input: one per line, each continued by itself.",
        ),
    ] = False,
    num_samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Texts to generate for each prompt.", show_default="1"),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of tokens to generate; beyond its context a model sees the last ones only.",
        ),
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
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Sample from the fewest most likely tokens whose probabilities sum to P.",
            show_default="all",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Seed of the sampling; the next text is sampled with N + 1."),
    ] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate text from a trained model.

    parambudget sample runs/mine --prompt "def main(" --temperature 0.5

    parambudget sample runs/mine --interactive
    """
    if interactive and prompt is not None:
        raise ConfigError("--interactive reads the prompts from standard input; leave out --prompt")
    require_torch("sample")
    from parambudget.training.device import mps_notice, select_device
    from parambudget.training.generate import (
        SamplingParams,
        generate_text,
        generate_texts,
        load_checkpoint,
        params_without_effect,
    )

    params = SamplingParams(max_tokens, temperature, top_k, seed, top_p)
    for sentence in params_without_effect(params, num_samples):
        print_notice(sentence)
    compute = select_device(device)
    if compute.device.type == "mps" and (notice := mps_notice(device, compute)) is not None:
        print_notice(notice)
    loaded = load_checkpoint(checkpoint, compute, lambda notice: typer.echo(f"note: {notice}", err=True))
    context = loaded.module.model.longest_generation
    if as_json:
        prompts = _read_prompts(asking=False) if interactive else [prompt or ""]
        texts = [made.as_dict() for made in generate_texts(loaded, prompts, params, num_samples or 1)]
        print_json(texts[0] if not interactive and num_samples is None else texts)
        return
    asking = interactive and sys.stdin is not None and sys.stdin.isatty()
    n_texts = 0
    for one in _read_prompts(asking=asking) if interactive else [prompt or ""]:
        for _ in range(num_samples or 1):
            if n_texts and not asking:
                typer.echo(_BETWEEN)
            own = replace(params, seed=seed + n_texts)
            n_texts += 1
            _show(lambda: generate_text(loaded, one, own, _print_piece), context, asking=asking)  # noqa: B023


def _show(generate: Callable[[], "Generation"], context: int, *, asking: bool) -> None:
    """Print one text as it is generated. Where prompts are asked for, Ctrl-C ends this text alone."""
    try:
        made = generate()
    except KeyboardInterrupt:
        typer.echo()
        if not asking:
            raise
        return
    typer.echo()
    if made.n_dropped:
        dropped = count_phrase(made.n_dropped, "token")
        typer.echo(
            f"(at the end the first {dropped} were out of sight: the model sees {context:,} at most)",
            err=True,
        )


def _print_piece(text: str) -> None:
    typer.echo(text, nl=False)


def _read_prompts(*, asking: bool) -> Iterator[str]:
    """The lines of standard input that are not empty, asked for where a person types them."""
    if sys.stdin is None:
        raise InputError("standard input is closed, so there are no prompts to read; give --prompt instead")
    number = 0
    while True:
        number += 1
        try:
            line = _ask() if asking else sys.stdin.readline()
            line.encode()  # where the locale is C or POSIX, Python reads other bytes as lone surrogates
        except UnicodeError:
            raise InputError(
                f"line {number} of standard input is not UTF-8 text; write it in UTF-8"
            ) from None
        if not line:
            return
        if line.strip():
            yield line.removesuffix("\n")


def _ask() -> str:
    """A line that a person types, with its end; empty after Ctrl-D."""
    with suppress(ImportError):  # not there on Windows
        import readline  # noqa: F401 - `input` then has arrow keys and a history
    try:
        return input(_ASKING) + "\n"
    except EOFError:
        typer.echo()
        return ""
