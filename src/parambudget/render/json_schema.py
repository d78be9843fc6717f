"""The JSON Schema (draft 2020-12) of a type of JSON document: closed, and described by its docstrings."""

import ast
import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise, starmap
from typing import Any, Final, cast

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import get_original_bases

from parambudget._json_types import FORMS

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(form: Any, title: str) -> dict[str, Any]:
    """The schema of what is printed of a type: no key that it does not name, and all that are always there.

    Raises `NameError` for an annotation that names what its module does not import.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(form)
    schema = adapter.json_schema(mode="serialization", schema_generator=_DocumentSchema)
    return {"$schema": DRAFT} | schema | {"title": title}


class _DocumentSchema(GenerateJsonSchema):
    """Closes every object, requires what is always written, and takes descriptions from the source."""

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """Of a document."""
        forms = [schema["cls"]] if "cls" in schema else schema["metadata"][FORMS]
        return _close(super().typed_dict_schema(schema), forms)

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Of the dump of a dataclass."""
        return _require_all(_close(super().dataclass_schema(schema), [schema["cls"]]))

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Of the dump of a model, whose fields have descriptions of their own."""
        return _require_all(super().model_schema(schema))

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """No: it would be the key again."""
        return False


def _require_all(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Defaults are of the input: what is printed has a value for every key."""
    properties = {
        name: {key: value for key, value in field.items() if key != "default"}
        for name, field in schema["properties"].items()
    }
    return schema | {"properties": properties, "required": list(properties)}


def _close(schema: JsonSchemaValue, forms: Iterable[type]) -> JsonSchemaValue:
    """The schema of an object, closed, with the docstrings of the fields of its types."""
    docs: dict[str, str] = {}
    for form in forms:
        docs |= _field_docs(form)
    for name, field in schema["properties"].items():
        if name in docs:
            # Beside a $ref a description is one of this use of the type.
            field.setdefault("description", docs[name])
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    return schema | {"additionalProperties": False}


def _field_docs(form: type) -> dict[str, str]:
    """The docstrings under the fields of a class and of those that it extends."""
    docs: dict[str, str] = {}
    for base in get_original_bases(form):
        docs |= _field_docs(base) if hasattr(base, "__annotations__") else {}
    with suppress(OSError):  # the source need not be installed
        fields = ast.parse(inspect.getsource(form)).body[0]
        docs |= dict(filter(None, starmap(_doc_of, pairwise(cast(ast.ClassDef, fields).body))))
    return docs


def _doc_of(field: ast.stmt, after: ast.stmt) -> tuple[str, str] | None:
    """The name of a field and the docstring after it; None where these two statements are something else."""
    if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
        return None
    if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
        return None
    words = str(after.value.value).split()
    return field.target.id, re.sub(r"\bNone\b", "null", " ".join(words))
