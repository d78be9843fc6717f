"""The command line: `parambudget COMMAND`. One file per command: parse, call one function, print."""

import gc
import os
import sys
import warnings
from contextlib import nullcontext, suppress
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Final, TextIO

import typer

from parambudget._version import __version__
from parambudget.cli._help import Command, CommandWithDefaults, Group
from parambudget.cli._options import arguments_as_flags, print_notice
from parambudget.cli._streams import discard_unwritten, lossy_output, replace_closed_streams
from parambudget.errors import ConfigError, ParambudgetError, ReportedElsewhere, UnsupportedWarning, one_line

# Start-up makes many objects and hardly any garbage: a collection at every 700th costs 3 %.
gc.set_threshold(100_000)
# No pydantic plugin is of use here, and searching for plugins reads the metadata of every installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")

_LONGEST_LINE: Final = 480
"""Characters of an error after the name of the program."""


_show_other_warning: Final = warnings.showwarning


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
]
COMMANDS: Final = (
    "count", "solve", "plan", "report", "verify", "export", "data", "train", "runs", "ladder", "sample",
    "eval", "explore", "presets", "gpus", "calibrate", "schema", "mcp",
)  # fmt: skip
_WITHOUT_ARGUMENTS: Final = ("explore", "presets", "gpus", "calibrate", "schema", "mcp")
"""Commands that do something without any."""
_WITHOUT_MATRICES: Final = ("solve", "plan", "explore")
"""Commands that compute with numpy and multiply no matrices."""
_LONG: Final = ("train", "data", "ladder", "calibrate")
"""Commands whose work goes on whatever becomes of the terminal or the log: their results are in files."""


def application(*names: str) -> typer.Typer:
    """The command line with these commands. Each has about eighty flags, so only the one that is asked for is
    built."""
    app = typer.Typer(
        name="parambudget",
        cls=Group,
        callback=parambudget,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
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
            app.command(name, cls=CommandWithDefaults if name in _WITHOUT_ARGUMENTS else Command)(command)
    return app


def parambudget(version: VersionOption = False) -> None:
    """Find the transformer that fits your budget, count it exactly, and train it."""


def main() -> None:
    """Run the command line. Every error a user can cause ends in one line on stderr and an exit code."""
    replace_closed_streams()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show × still shows the figures
    names = sys.argv[1:2] if sys.argv[1:] and sys.argv[1] in COMMANDS else COMMANDS
    if names[0] in _WITHOUT_MATRICES:
        # numpy's OpenBLAS starts a thread per core when it is imported: 50 ms, a fifth of `solve`.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _require_utf8(sys.argv[1:])
        app = application(*names)
        with lossy_output() if names[0] in _LONG else nullcontext():
            code = app(prog_name="parambudget", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        # All processes of torchrun get the same command line: one of them reports what is wrong with it.
        from parambudget.training.launch import is_main_process

        code = _print_error(_usage_message(error), 2) if is_main_process() else 2
    except ReportedElsewhere as error:
        code = error.exit_code
    except ParambudgetError as error:
        code = _print_error(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _print_error("interrupted", 130)
    except (BrokenPipeError, SystemExit) as error:
        # The reader of a pipe (head, less) has closed it and has all it wanted. Typer makes an exit of that.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        discard_unwritten(sys.stdout)
        code = 0
    except OSError as error:
        discard_unwritten(sys.stdout)
        code = _print_error(f"{error}; check the free space and the permissions", 2)
    sys.exit(code or 0)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Print what a verb says about a model as a note; it has no place in the code of a person here."""
    if issubclass(category, UnsupportedWarning):
        print_notice(f"note: {message}")
    else:
        _show_other_warning(message, category, filename, lineno, file, line)


def _require_utf8(arguments: list[str]) -> None:
    """Refuse words with other bytes: no JSON file and no tokenizer could hold them."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"the argument {word!r} is not UTF-8 text; write it in UTF-8, and rename a file of that name"
            ) from None


def _usage_message(error: typer.TyperException) -> str:
    """The message about a flag that could not be read, with the value it got where typer leaves that out."""
    from pydantic_core import ValidationError

    cause, message = error.__cause__, error.format_message()
    if not isinstance(cause, ValidationError):
        return message
    return message.replace("Input should", f"{cause.errors()[0]['input']!r} should")


def _print_error(message: str, code: int) -> int:
    """Print the message in one line and return the exit code to end with."""
    # Without a message the help has been shown instead: nothing was asked for, so nothing is wrong.
    if not message:
        return 0
    line = one_line(arguments_as_flags(" ".join(message.replace("Value error, ", "").split())), _LONGEST_LINE)
    with suppress(OSError):  # the exit code says it where nothing can be printed
        typer.echo(f"parambudget: {line}", err=True)
    discard_unwritten(sys.stderr)
    return code
