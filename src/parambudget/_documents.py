"""JSON documents that this package wrote, read back: of the form that they were written in, and unchanged.

A document has the form of a frozen dataclass whose fields carry their bounds. A sealed one also holds the
SHA-256 of its other content, so that no damage to it is taken for another value.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from parambudget._files import json_text, read_json, write_json
from parambudget.errors import InputError
from parambudget.units import short_repr

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Document = TypeVar("Document", bound="DataclassInstance")
CLOSED: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""The `__pydantic_config__` of a document: nothing is converted, nothing else may stand in it."""
SEAL: Final = "seal"
"""The key of the SHA-256 of everything else in a document."""

Count = Annotated[int, Field(ge=0, le=2**62)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def write_with_seal(path: Path, document: "DataclassInstance") -> None:
    """Write a document with its seal, atomically."""
    write_json(path, sealed_fields(asdict(document)))


def sealed_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields as they come back from JSON, and their seal."""
    plain = json.loads(json_text(fields))
    return {**plain, SEAL: _seal(plain)}


def read_with_seal(path: Path, form: type[Document]) -> Document:
    """The document in a file that `write_with_seal` wrote; the error of any other one is one line."""
    return parse_document(unsealed_fields(read_json(path), path), form, str(path))


def unsealed_fields(content: object, path: Path) -> dict[str, Any]:
    """The fields in the JSON value of a file, whose seal matches them."""
    if not isinstance(content, dict) or SEAL not in content:
        raise InputError(f"{path} has no {SEAL} of its content: it is damaged, or of an older version")
    fields = {name: value for name, value in content.items() if name != SEAL}
    if content[SEAL] != _seal(fields):
        raise InputError(f"{path} is damaged: its content does not match its {SEAL}")
    return fields


def parse_document(content: object, form: type[Document], name: str) -> Document:
    """The document that a JSON value holds; the error says what is wrong in `name`."""
    try:
        document: Document = _adapter(form).validate_json(json.dumps(content))
    except ValidationError as error:
        finding = error.errors(include_url=False, include_input=True)[0]
        where = repr(".".join(str(part) for part in finding["loc"]) or "it")[1:-1]
        got = "" if finding["type"] == "missing" else f" is {short_repr(finding['input'])}"
        raise InputError(f"{name} is damaged: {where[:100]}{got} ({finding['msg'].lower()[:150]})") from None
    return document


@cache
def _adapter(form: type[Document]) -> TypeAdapter[Document]:
    return TypeAdapter(form)


def _seal(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the content, wherever its keys stand and however it is indented."""
    content = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
