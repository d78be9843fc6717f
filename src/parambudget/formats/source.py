"""Where a model comes from: a config file in any of its forms, or the name of a preset."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final, Protocol, cast
from warnings import warn

from parambudget._files import read_json
from parambudget.arch.config import (
    BLOCKS,
    FIELDS,
    KEYWORDS,
    ModelConfig,
    flat_fields,
    require_module,
    without_unnamed_mixers,
)
from parambudget.arch.defaults import (
    DERIVED,
    DERIVED_IN_BLOCKS,
    ResolvedModel,
    unsupported_note,
    with_defaults,
)
from parambudget.arch.fields import ModelFields
from parambudget.arch.style import StyleName, with_style
from parambudget.arch.synonyms import with_our_names
from parambudget.errors import ConfigError, UnsupportedWarning
from parambudget.formats import unread
from parambudget.formats.imported import Imported
from parambudget.formats.meta import FILES as PARAMS_FILES
from parambudget.formats.meta import from_params_json, is_params_json
from parambudget.units import shorten

_CONFIG_KEYS: Final = ("model", "provenance", "train")
_IN_FOLDERS: Final = ("config.json", *PARAMS_FILES)
_COUNT_KEYS: Final = (
    "verified",
    "formula",
    "filled",
    "notes",
    "total",
    "body",
    "active",
    "components",
    "tensors",
)


@dataclass(frozen=True)
class Source:
    """The content of a source, before defaults are filled in."""

    fields: dict[str, Any]
    """Fields of the model, not necessarily all of them."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the model came about: target, count, certificate, version."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of the training run."""
    notes: tuple[str, ...] = ()
    """What a person should know about how it was read."""
    unsupported: tuple[str, ...] = ()
    """What its model computes and ours cannot express; the count is the same."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Fields that it leaves open, each with what to say to a person who does not give it."""


def read_source(source: str | Path) -> Source:
    """A config file of ours, bare model fields, the output of `count --json`, a Hugging Face config.json,
    Meta's params.json or a preset.

    A folder stands for the config.json, else the params.json in it. An existing path takes precedence over a
    preset. What is known not to be a model is named for what it is.
    """
    if not str(source).strip():
        raise ConfigError("the model's name is empty; give a config file, a folder with one or a preset")
    path = Path(source)
    # os.path, because Path.exists raises an error for a name that is too long.
    inside = next((name for name in _IN_FOLDERS if os.path.isfile(path / name)), None)
    path = path / inside if inside else path
    if not os.path.exists(path) and (path.suffix != ".json" or unread.is_url(str(source))):
        return _named_source(str(source))
    unread.require_readable(str(path))
    document = read_json(path, finite=False)
    if not (isinstance(document, dict) and "model_type" in document):
        if isinstance(document, dict) and (reason := unread.explain_document(document, str(path))):
            raise ConfigError(reason)
        document = read_json(path)  # only Hugging Face's own writes numbers that are not finite
    return interpret(document, str(path))


def _named_source(name: str) -> Source:
    """The preset of that name."""
    from parambudget.arch.presets.registry import preset_row  # not needed by a model that is given by flags

    try:
        row = preset_row(name)
    except ConfigError:
        unread.require_readable(name)
        raise
    return Source(row.model.model_dump(), notes=row.notes, unsupported=row.unsupported)


def interpret(document: object, name: str) -> Source:
    """The source in a parsed JSON document; `name` stands for it in messages."""
    if not isinstance(document, dict):
        raise ConfigError(
            f"{name} contains {_json_type(document)}; a config file must be an object of model fields"
        )
    if "model_type" in document:
        from parambudget.formats.hf.importer import from_hf  # forty families, not needed by our own files

        return _imported_source(from_hf(document, name))
    if "model" not in document:
        if is_params_json(document, Path(name).name):
            return _imported_source(from_params_json(document, name))
        if reason := unread.explain_document(document, name):
            raise ConfigError(reason)
        return Source(document)
    unknown = [key for key in document if key not in (*_CONFIG_KEYS, *_COUNT_KEYS)]
    if unknown:
        raise ConfigError(
            f"{name} has an unknown key {unknown[0]!r}; a config file has {', '.join(_CONFIG_KEYS)}"
        )
    parts = {key: document.get(key, {}) for key in _CONFIG_KEYS}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise ConfigError(f"{key} in {name} is {_json_type(part)}; it must be an object")
    return Source(parts["model"], parts["provenance"], parts["train"])


def _imported_source(imported: Imported) -> Source:
    return Source(
        imported.fields, notes=imported.notes, unsupported=imported.unsupported, missing=imported.missing
    )


class HasModel(Protocol):
    """A result that is about one model: one of a solver's answers, a plan, a count."""

    @property
    def model(self) -> ModelConfig:
        """The model."""


ModelLike = ModelConfig | HasModel | str | PathLike[str]
"""A model, one of a solver's answers, a config file's path or a preset's name."""


def as_model(source: ModelLike | None, changes: ModelFields, style: StyleName | None = None) -> ModelConfig:
    """The complete model of a source, of fields alone, or of a source with some fields changed. A `style`
    fills in choices of fields alone."""
    fields = with_our_names(changes, KEYWORDS) if changes else {}
    if style is not None:
        fields = with_style(style, fields, complete=None if source is None else source_in_words(source))
    if source is None or isinstance(source, str | PathLike):
        resolved = load(None if source is None else os.fspath(source), fields)
        if resolved.unsupported:
            note = unsupported_note(resolved.unsupported, is_built=resolved.model.counted_parts is None)
            warn(f"{source}: {note}", UnsupportedWarning, stacklevel=3)
        return resolved.model
    model = source if isinstance(source, ModelConfig) else getattr(source, "model", None)
    if not isinstance(model, ModelConfig):
        raise ConfigError(
            f"{shorten(repr(source))} is not a model; give a ModelConfig, one of a solver's answers, the "
            "path of a config file or a preset's name"
        )
    return model.replace(**cast(ModelFields, fields)) if fields else model


def source_in_words(source: ModelLike) -> str:
    """A source as messages name it."""
    return shorten(os.fspath(source)) if isinstance(source, str | PathLike) else "the model given"


def load(source: str | Path | None, changes: Mapping[str, object]) -> ResolvedModel:
    """The model of a source with some fields changed, or without a source the model of the fields alone."""
    if source is None:
        return with_defaults(dict(changes))
    return resolve(read_source(source), changes, str(source))


def resolve(source: Source, changes: Mapping[str, object], name: str) -> ResolvedModel:
    """The model of what was read with some fields changed; `name` stands for the source in messages."""
    try:
        for field_name, reason in source.missing.items():
            if field_name not in changes:
                raise ConfigError(reason)
        resolved = with_defaults(without_unnamed_mixers(source.fields, changes) | dict(changes))
        return replace(resolved, notes=source.notes, unsupported=source.unsupported)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def load_whole_function(source: str | Path | None, changes: Mapping[str, object]) -> ResolvedModel:
    """The same for what trains or exports the model: it must compute what the source says."""
    resolved = load(source, changes)
    require_module(resolved.model)
    require_whole_function(resolved.unsupported, str(source))
    return resolved


def require_whole_function(unsupported: Sequence[str], name: str) -> None:
    """Refuse a source whose model computes what ours cannot express."""
    if unsupported:
        raise ConfigError(
            f"{name}: a model here cannot express {shorten(', '.join(unsupported), 200)}, so it would "
            "compute something else than the original; count and plan take it, and the output of "
            "count --json is a model without that"
        )


def config_document(
    model: ModelConfig, provenance: Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of a config file, as plain JSON values."""
    parts = {"provenance": provenance, "train": train}
    return {"model": model.model_dump()} | {key: dict(part) for key, part in parts.items() if part}


def changed_fields(model: ModelConfig) -> dict[str, Any]:
    """The fewest fields that `with_defaults` turns back into this model, in the order of the config."""
    whole = flat_fields(model)
    given = {name: value for name, value in whole.items() if not _is_default(name, value)}
    for block, kind in BLOCKS.items():
        names = tuple(kind.model_fields)
        if getattr(model, block) is not None and not given.keys() & set(names):
            given[names[0]] = whole[names[0]]  # a block is there because one of its fields is
    for name in (*DERIVED[1:], *DERIVED_IN_BLOCKS):
        without = {key: value for key, value in given.items() if key != name}
        if name in given and _describes(without, model):
            given = without
    return given


def _describes(fields: Mapping[str, Any], model: ModelConfig) -> bool:
    try:
        return with_defaults(fields).model == model
    except ConfigError:
        return False  # such as n_heads that do not divide dim: head_dim must then be given


def _is_default(name: str, value: object) -> bool:
    info = FIELDS[name]
    return not info.is_required() and info.default == value and name not in DERIVED


def _json_type(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
