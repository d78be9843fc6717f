"""Every error a user can meet, as one tree.

    ParambudgetError                 one line: what, got, allowed, what to do next
    ├── InputError (ValueError)      what was asked for cannot be; exit 2
    │   ├── ConfigError              a model, a file or a flag that says something impossible
    │   └── NoSolution               no point of the lattice meets the budget; names the nearest one
    ├── MissingExtra (ImportError)   the command needs an optional package; gives the install command; exit 2
    ├── CheckFailed                  a check was run and said no (`--expect`, `verify`); exit 1
    └── ToldElsewhere                another process tells it; this one ends as that one does

The command line catches the root once, prints the message on stderr and exits with `exit_code`.
"""


class ParambudgetError(Exception):
    """Anything this package tells a user about what they asked for."""

    exit_code = 2


class InputError(ParambudgetError, ValueError):
    """What was asked for cannot be."""


class ConfigError(InputError):
    """A model, a file or a flag that says something impossible."""


class NoSolution(InputError):
    """No point of the searched lattice meets the budget; the message names the nearest one."""


class MissingExtra(ParambudgetError, ImportError):
    """The command needs an optional package; the message gives the install command."""


class CheckFailed(ParambudgetError):
    """A check was run and said no."""

    exit_code = 1


class ToldElsewhere(ParambudgetError):
    """Of several processes another one tells what is wrong; this one ends in silence with the same code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process tells why this one ends with {exit_code}")
        self.exit_code = exit_code
