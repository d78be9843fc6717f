"""`parambudget data`: tokenize text for training."""

from pathlib import Path
from typing import Annotated

import typer

from parambudget.cli._help import Command, Group
from parambudget.cli._options import (
    JsonOption,
    arguments_as_flags,
    parse_path,
    print_json,
    print_lines,
    print_notice,
    require_torch,
)
from parambudget.errors import InputError
from parambudget.units import parse_size

data = typer.Typer(name="data", help="Tokenize text for training.", cls=Group, rich_markup_mode=None)


@data.command(cls=Command)
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file or folder of text, JSON lines, JSON or parquet; or, from the network, openwebtext, "
            "fineweb-edu or hf:OWNER/NAME/SUBSET on the Hugging Face hub.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", parser=parse_path, metavar="DIR", help="New folder for the tokens.")
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="TOKENIZER",
            help="A tokenizer.json, a folder with one or with vocab.json and merges.txt, bpe to train one on "
            "the source, or (from the network) hf:NAME, such as hf:gpt2.",
        ),
    ],
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N", help="With bpe: the most entries it may have.")
    ] = None,
    field: Annotated[str, typer.Option(metavar="NAME", help="Field or column that holds the text.")] = "text",
    separator: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Separates the documents of a text file, such as '<|endoftext|>'.",
            show_default="a file is one document",
        ),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=0.5,
            help="Share of the documents to hold out.",
            show_default="0.05, or what gives 10 MB if that is less",
        ),
    ] = None,
    end_of_text: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Token that ends a document.", show_default="the tokenizer's own"),
    ] = None,
    skip_bad_lines: Annotated[
        bool, typer.Option(help="Skip and count records that are damaged or not text.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes to use.", show_default="one per processor"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn text into token files that training maps into memory.

    The source is streamed and may be larger than memory. After an interruption, run the same command again.

    parambudget data prepare texts/ --tokenizer bpe --vocab-size 32768 -o tokens
    """
    if not source:
        raise InputError("SOURCE is empty; give a file or a folder of text")
    require_torch("data prepare")
    from parambudget.render.progress import make_console, preparation_progress
    from parambudget.render.runs import preparation_screen
    from parambudget.text.prepare import PrepareRequest, prepare
    from parambudget.text.records import TextLayout

    entries = parse_size(vocab_size, "vocab_size") if vocab_size else None
    request = PrepareRequest(
        source, tokenizer, entries, TextLayout(field, separator, skip_bad_lines), validation, end_of_text
    )
    try:
        with preparation_progress(make_console(quiet=as_json)) as on_progress:
            manifest = prepare(
                request, out, n_workers=workers, on_progress=on_progress, on_notice=print_notice
            )
    except KeyboardInterrupt:
        typer.echo("parambudget: interrupted; run the same command again to continue", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json(manifest.as_dict())
    else:
        print_lines(map(arguments_as_flags, preparation_screen(manifest, out)))
