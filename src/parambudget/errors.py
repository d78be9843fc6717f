"""Every error a user can see, as one tree.

    ParambudgetError                 one line: what, got, allowed, what to do next
    ├── InputError (ValueError)      the request cannot be met; exit 2
    │   ├── ConfigError              a model, file or flag with an impossible value
    │   └── NoSolution               no shape within the searched ranges meets the budget; names the nearest
    ├── MissingExtra (ImportError)   an optional package is not installed; gives the install command; exit 2
    ├── CheckFailed                  a check ran and failed (`--expect`, `verify`); exit 1
    └── ReportedElsewhere            another process reports the error; this one exits with the same code

The command line catches the root once, prints the message on stderr and exits with `exit_code`.
"""

from collections.abc import Iterable


class ParambudgetError(Exception):
    """Any error of this package that is meant for its user."""

    exit_code = 2


class InputError(ParambudgetError, ValueError):
    """The request cannot be met."""


class ConfigError(InputError):
    """A model, file or flag with an impossible value."""


class NoSolution(InputError):
    """No shape within the searched ranges meets the budget; the message names the nearest one."""


class MissingExtra(ParambudgetError, ImportError):
    """An optional package is not installed; the message gives the install command."""


class CheckFailed(ParambudgetError):
    """A check ran and failed."""

    exit_code = 1


class ReportedElsewhere(ParambudgetError):
    """Another of several processes reports the error; this one exits silently with the same code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process reports why this one exits with {exit_code}")
        self.exit_code = exit_code


def without_advice(error: ParambudgetError) -> str:
    """What is wrong, without what to do next: for a message that gives other advice, or goes on."""
    problem, _, advice = str(error).rpartition("; ")
    return problem or advice


def suggest(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names most like `name`, the closest first; none below the cutoff (0: `most` in any case)."""
    from difflib import get_close_matches  # milliseconds that only a mistake has to pay for

    return get_close_matches(name[:100], list(known), n=most, cutoff=cutoff)
