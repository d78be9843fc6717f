"""The command line: `parambudget COMMAND`, one file per command: parse, call one function, show."""

import gc
import os
import sys
from collections.abc import Collection
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, Final

import typer

from parambudget._version import __version__
from parambudget.errors import ParambudgetError, ReportedElsewhere

# Start-up makes many objects and hardly any garbage: looking for some at every 700th costs 3 %.
gc.set_threshold(100_000)
# No plugin of pydantic's has anything to say to a config, and looking for some reads the metadata of every
# installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
]
COMMANDS: Final = (
    "count", "solve", "plan", "report", "verify", "export", "data", "train", "runs", "sample", "presets",
    "calibrate",
)  # fmt: skip


def application(*names: str, words: Collection[str] | None = None) -> typer.Typer:
    """The command line with these commands, of their flags for fields only those that the words name.

    Each has eighty, so only what is asked for is built.
    """
    app = typer.Typer(
        name="parambudget",
        callback=parambudget,
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        # Flags are the field names with - or _.
        context_settings={
            "token_normalize_func": lambda token: token.replace("_", "-"),
            "help_option_names": ["-h", "--help"],
        },
    )
    for name in names:
        command = getattr(import_module(f"parambudget.cli.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command)
        else:
            if words is not None:
                from parambudget.cli._options import with_flags_of  # pydantic: not before its setting above

                command = with_flags_of(command, words)
            app.command(name, no_args_is_help=name not in ("presets", "calibrate"))(command)
    return app


def parambudget(version: VersionOption = False) -> None:
    """Decide which transformer to train on a fixed budget, exactly, and train it."""


def main() -> None:
    """Run the command line; every error a user can cause ends in one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no × still gets its figures
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except typer.TyperException as error:
        # All processes of torchrun are given the same words: one says what is wrong with them.
        leads = os.environ.get("RANK", "0") == "0"
        code = _fail(_with_value(error), 2) if leads else 2
    except ReportedElsewhere as error:
        code = error.exit_code
    except ParambudgetError as error:
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; what it read was enough for it.
        _print_no_more()
        code = 0
    except OSError as error:
        _print_no_more()
        code = _fail(f"{error}; is there room, and may it be written?", 2)
    sys.exit(code or 0)


def _run(words: list[str]) -> Any:
    """Parse and run a command; its exit code."""
    names = words[:1] if words and words[0] in COMMANDS else COMMANDS
    if len(words) < 2 or {"-h", "--help"} & set(words):
        return application(*names)(standalone_mode=False)
    try:
        return application(*names, words=words)(standalone_mode=False)
    except typer.TyperException:
        # Not understood, and nothing has run: all flags are there to say what might be meant.
        return application(*names)(standalone_mode=False)


def _with_value(error: typer.TyperException) -> str:
    """The message of an option that was not understood, with the value it got where typer leaves it out."""
    cause, message = error.__cause__, error.format_message()
    found: list[Any] = getattr(cause, "errors", list)()
    return message.replace("Input should", f"{found[0]['input']!r} should") if found else message


def _fail(message: str, code: int) -> int:
    # Without a message the help has been shown instead: nothing was asked, so nothing is wrong.
    if not message:
        return 0
    typer.echo(f"parambudget: {' '.join(message.replace('Value error, ', '').split())}", err=True)
    return code


def _print_no_more() -> None:
    """Keep Python from flushing into what is closed or full when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
