"""The command line: `parambudget COMMAND`, one file per command: parse, call one function, show."""

import os
import sys
from typing import Annotated

import typer

from parambudget import __version__
from parambudget.cli.count import count
from parambudget.cli.presets import presets
from parambudget.cli.solve import solve
from parambudget.cli.train import train
from parambudget.cli.verify import verify
from parambudget.errors import ParambudgetError

app = typer.Typer(
    name="parambudget",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Flags are the field names with - or _.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
for command in (count, solve, verify, train, presets):
    app.command(no_args_is_help=command is not presets)(command)


@app.callback()
def parambudget(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Decide which transformer to train on a fixed budget, exactly, and train it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; every error a user can cause ends in one line on stderr and an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        code = _fail(error.format_message(), 2)
    except ParambudgetError as error:
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; what it read was enough for it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    typer.echo(f"parambudget: {' '.join(message.split())}", err=True)
    return code
