"""Every error a user can see, as one tree.

    ParambudgetError                 one line: what, got, allowed, what to do next
    ├── InputError (ValueError)      the request cannot be met; exit 2
    │   ├── ConfigError              a model, file or flag with an impossible value
    │   └── NoSolution               no shape within the searched ranges meets the budget; names the nearest
    ├── MissingExtra (ImportError)   an optional package is not installed; gives the install command; exit 2
    ├── CheckFailed                  a check ran and failed (`--expect`, `verify`); exit 1
    └── ReportedElsewhere            another process reports the error; this one exits with the same code

The command line catches the root once, prints the message on stderr and exits with `exit_code`. What is no
error is a note: an `UnsupportedWarning` in Python, a line on stderr on the command line.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

LONGEST_MESSAGE: Final = 460
"""Characters of a message; with the program's name and flags for arguments its line stays below 500."""


class ParambudgetError(Exception):
    """Any error of this package that is meant for its user, in one line whatever values it quotes."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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


class UnsupportedWarning(UserWarning):
    """A model here computes less than what its source names; the count is the same."""


def without_advice(error: ParambudgetError) -> str:
    """What is wrong, without what to do next: for a message that gives other advice, or goes on."""
    problem, _, advice = str(error).rpartition("; ")
    return problem or advice


def one_line(message: str, most: int = LONGEST_MESSAGE) -> str:
    """The message in one line of at most `most` characters, without characters that command a terminal.

    What is cut is the middle of long words, such as a path or a value, before that of the message, whose end
    says what to do.
    """
    line = re.sub(r"\s*[^\S ]\s*", " ", message).strip()
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    for longest in (200, 100, 40):
        if len(line) > most:
            line = " ".join(_without_middle(word, longest) for word in line.split(" "))
    return _without_middle(line, most)


def _without_middle(text: str, most: int) -> str:
    kept = (most - 3) // 2
    return text if len(text) <= most else f"{text[:kept]}...{text[-kept:]}"


def suggest(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The known names most like `name`, the closest first; none below the cutoff (0: `most` in any case)."""
    from difflib import get_close_matches  # milliseconds that only a mistake has to pay for

    return get_close_matches(name[:100], list(known), n=most, cutoff=cutoff)


def nearest_in_words(near: Sequence[str]) -> str:
    """Suggested names as the end of a message: "the nearest is x", "the nearest are x, y"."""
    return f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
