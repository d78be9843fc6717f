"""What pydantic found wrong with a config, in one line: what, got, allowed, what to do next."""

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def one_line(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first finding of a pydantic report in the house's form: what, got, allowed."""
    findings = error.errors(include_url=False)
    # A misspelt or malformed field is why another one is missing.
    finding = min(findings, key=lambda one: {"extra_forbidden": 0, "missing": 2}.get(one["type"], 1))
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"])
    names = [part for part in finding["loc"] if isinstance(part, str)]
    field = names[-1]
    if finding["type"] == "extra_forbidden":
        from difflib import get_close_matches

        known = _known(_of(names[:-1], cls))
        near = get_close_matches(field, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(known)}"
        return f"unknown field {'.'.join(names)!r}; {hint}"
    if finding["type"] == "missing":
        what = str(_of(names[:-1], cls).model_fields[field].description).rstrip(".")
        return f"{field} is missing ({what[0].lower()}{what[1:]}); give it"
    message = (
        finding["msg"]
        .removeprefix("Input should be ")
        .removeprefix("Tuple should ")
        .replace("have at least 1 item after validation, not 0", "one word or more")
        .replace("'", '"')
    )
    got = repr(finding["input"])
    return f"{field} is {got if len(got) < 60 else got[:57] + '...'}; it must be {message}"


def block_of(info: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds a nested block or nothing; None for any other field."""
    kinds = getattr(info.annotation, "__args__", ())
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _known(cls: type[BaseModel]) -> list[str]:
    """The names of the fields, those of nested blocks behind the others."""
    blocks = [block for info in cls.model_fields.values() if (block := block_of(info))]
    return [name for one in (cls, *blocks) for name in one.model_fields]


def _of(path: list[str], cls: type[BaseModel]) -> type[BaseModel]:
    """The class of the block at a path into a config."""
    for name in path:
        cls = block_of(cls.model_fields[name]) or cls
    return cls
