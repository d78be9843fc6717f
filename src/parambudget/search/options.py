"""The words and defaults of a search, for the library and the command line alike; light to import."""

from fractions import Fraction
from typing import Final, Literal, get_args

from parambudget.errors import ConfigError

CountKind = Literal["total", "body", "active"]
"""Which parameters are counted; see `cost.params.ParameterCount`."""
Rank = Literal["shape", "closest", "loss", "speed", "memory", "size"]
"""What the answers are ordered by: the shape score, the distance from the target, or what is predicted."""

DEFAULT_TOLERANCE: Final = Fraction(1, 200)
"""How far off a target a model may be, as a share of it."""
DEFAULT_TOP: Final = 5
"""How many models are shown."""
MOST_SHOWN: Final = 1000


def check_options(counted: str, rank: str | None, top: int) -> None:
    """Raise `ConfigError` for an unknown kind of count or rank, or an impossible number of models."""
    for name, value, known in (("counted", counted, get_args(CountKind)), ("rank", rank, get_args(Rank))):
        if value is not None and value not in known:
            raise ConfigError(f"{name} is {value!r}; use {' or '.join(known)}")
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= MOST_SHOWN:
        raise ConfigError(f"top is {top!r}; use a whole number from 1 to {MOST_SHOWN}")
