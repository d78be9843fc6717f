"""What a number in a config may be."""

from typing import Annotated, Any, Final

from pydantic import Field

MOST_LAYERS: Final = 10_000
LARGEST_SIZE: Final = 2**31

Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
Count = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Share = Annotated[float, Field(gt=0, le=1)]
# JSON knows no tuple: a list is taken too.
PATTERN: Final[Any] = Field(strict=False, min_length=1)
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    low = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return low + [n // k for k in reversed(low) if k * k != n]
