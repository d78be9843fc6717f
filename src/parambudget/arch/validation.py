"""Types of the fields with their bounds, and a pydantic report as one line: what, got, allowed."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from parambudget.arch.synonyms import hint_for
from parambudget.units import short_repr

MOST_LAYERS: Final = 10_000
LARGEST_SIZE: Final = 2**31
LARGEST_FLOAT: Final = 1e18
"""The product of two is still a float32."""

LayerCount = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
PositiveSize = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
NonNegativeSize = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST_FLOAT, allow_inf_nan=False)]
# JSON has no tuple, so a list is accepted too.
PATTERN: Final[Any] = Field(strict=False, min_length=1)


def plain_numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with Python's own numbers for NumPy's (and torch's); anything else is as it was."""
    return {
        name: value.item() if getattr(value, "shape", None) == () else value for name, value in fields.items()
    }


def format_validation_error(error: ValidationError, cls: type[BaseModel]) -> str:
    """The most telling finding of a pydantic report as one line: what, got, allowed."""
    findings = error.errors(include_url=False)
    # A misspelt or malformed field is why another one is missing.
    finding = min(findings, key=lambda one: {"extra_forbidden": 0, "missing": 2}.get(one["type"], 1))
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    names = [part for part in finding["loc"] if isinstance(part, str)]
    field = names[-1]
    if finding["type"] == "extra_forbidden":
        known = _field_names(_block_at(names[:-1], cls))
        hint = hint_for(field, known, f"see `help(pb.{cls.__name__})`")
        return f"unknown field {short_repr('.'.join(names))}; {hint}"
    if finding["type"] == "missing":
        what = str(_block_at(names[:-1], cls).model_fields[field].description).rstrip(".")
        return f"{field} is missing ({what[0].lower()}{what[1:]}); give it"
    if finding["type"] == "tuple_type" and (allowed := _words_of(_block_at(names[:-1], cls), field)):
        given = f"{(finding['input'],)!r}" if finding["input"] in allowed else f"({allowed[0]!r},)"
        return (
            f"{field} is {short_repr(finding['input'])}; give a sequence of {', '.join(allowed)}, such as "
            f"{given}"
        )
    message = (
        finding["msg"]
        .removeprefix("Input should be ")
        .removeprefix("Tuple should ")
        .replace("have at least 1 item after validation, not 0", "one word or more")
        .replace("'", '"')
    )
    return f"{field} is {short_repr(finding['input'])}; it must be {message}"


def block_class(info: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds a nested block, or a block or nothing; None for any other field."""
    kinds = (info.annotation, *getattr(info.annotation, "__args__", ()))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _words_of(cls: type[BaseModel], field: str) -> tuple[str, ...]:
    """The words that a pattern is made of; none for another field."""
    kinds = getattr(cls.model_fields[field].annotation, "__args__", ())
    return tuple(str(word) for word in getattr(kinds[0], "__args__", ())) if kinds else ()


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    low = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return low + [n // k for k in reversed(low) if k * k != n]


def _field_names(cls: type[BaseModel]) -> list[str]:
    """The names of the fields that are dumped, those of nested blocks last."""
    blocks = [block for info in cls.model_fields.values() if (block := block_class(info))]
    return [name for one in (cls, *blocks) for name, info in one.model_fields.items() if not info.exclude]


def _block_at(path: list[str], cls: type[BaseModel]) -> type[BaseModel]:
    """The class of the block at a path into a config."""
    for name in path:
        cls = block_class(cls.model_fields[name]) or cls
    return cls
