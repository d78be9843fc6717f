"""What the type of a JSON document says of a dict that comes from a model or a dataclass.

The documents themselves are TypedDicts beside the results that they are made of; a docstring under a field
describes it. `render.json_schema` makes a JSON Schema of all that. Nothing here costs anything before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

FORMS: Final = "parambudget_forms"
"""The key of the types in the metadata of an object that has the fields of several."""


class SchemaOf:
    """In the annotation of a dict: its keys are the fields of these types, all but those in `without`.

    `Annotated[dict[str, Any], SchemaOf(ModelConfig)]` is the type of what `model_dump` returns.
    """

    def __init__(self, *forms: type, without: tuple[str, ...] = ()) -> None:
        self._forms, self._without = forms, without

    def __get_pydantic_core_schema__(self, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The type itself, or the fields of all of them in one object."""
        from pydantic_core.core_schema import typed_dict_field, typed_dict_schema

        if len(self._forms) == 1 and not self._without:
            return handler.generate_schema(self._forms[0])
        fields = {
            name: typed_dict_field(schema, required=required, metadata=metadata)
            for form in self._forms
            for name, schema, required, metadata in _fields_of(form, handler)
            if name not in self._without
        }
        return typed_dict_schema(fields, metadata={FORMS: self._forms})


def _fields_of(
    form: type, handler: GetCoreSchemaHandler
) -> Iterator[tuple[str, CoreSchema, bool, dict[str, Any] | None]]:
    """The fields of a type as pydantic has them: name, type, whether it is always there, metadata."""
    whole: Any = handler.resolve_ref_schema(handler.generate_schema(form))
    while whole["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        whole = handler.resolve_ref_schema(whole["schema"])
    listed = whole["fields"]
    fields = listed.items() if isinstance(listed, dict) else ((each["name"], each) for each in listed)
    for name, field in fields:
        schema = field["schema"]
        if schema["type"] == "default":  # of the input: what is printed has a value
            schema = schema["schema"]
        yield name, schema, field.get("required", True), field.get("metadata")
