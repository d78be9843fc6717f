"""A field's value from the text that a flag or the address of a page gives."""

from typing import Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from parambudget.errors import ConfigError
from parambudget.units import parse_size, shorten

FieldKind = Literal["size", "list", "switch", "choice", "number"]
_SWITCHES: Final = {"true": True, "false": False}


def parse_field(name: str, value: object, info: FieldInfo) -> object:
    """The value of a field from its text; a value that is no text any more stays. Whether a field may have
    the value is for the model to say."""
    if not isinstance(value, str):
        return value
    kind = field_kind(info)
    if value == "none" and type(None) in get_args(info.annotation):
        return None
    if kind == "switch":
        if value not in _SWITCHES:
            raise ConfigError(f"{name} is {shorten(value)!r}; use true or false")
        return _SWITCHES[value]
    if kind == "list":
        words = value.split(",")
        return tuple(_parse_number(name, word) for word in words) if _holds_numbers(info) else tuple(words)
    if kind == "size":
        return parse_size(value, name)
    return _parse_number(name, value) if kind == "number" else value


def field_kind(info: FieldInfo) -> FieldKind:
    """What a field holds. A field that may be absent is of the kind of its value."""
    annotation = info.annotation
    # A bounded type is an alias; what it bounds is its origin.
    types = {getattr(each, "__origin__", each) for each in (annotation, *get_args(annotation))}
    if tuple in types or any(get_origin(each) is tuple for each in types):
        return "list"
    if get_origin(annotation) is Literal:
        return "choice"
    return "size" if int in types else "switch" if bool in types else "number"


def _parse_number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} {text!r} is not a number") from None


def _holds_numbers(info: FieldInfo) -> bool:
    """Whether a list is one of numbers, not of words."""
    return "float" in str(info.annotation)
