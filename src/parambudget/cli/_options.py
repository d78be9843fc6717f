"""The model's fields as flags, generated from `ModelConfig` for every command that takes a model, and what
the commands share."""

import inspect
import json
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer

from parambudget.arch.config import BLOCKS, FIELDS
from parambudget.cli._flags import with_flags
from parambudget.errors import MissingExtra
from parambudget.render.model import switch_flags
from parambudget.units import parse_size

SIZE_PANEL: Final = "Model sizes"
CHOICE_PANEL: Final = "Model choices"
BLOCK_PANELS: Final = {"moe": "Mixture of experts", "mla": "Latent attention"}
_SIZES: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size",
    "vocab_size", "context_length",
)  # fmt: skip
_AXES: Final = (
    *_SIZES[:6], "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size"
)  # fmt: skip


def with_model_fields(*, as_axes: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every field of `ModelConfig`; it receives those that were used as `fields`.

    With `as_axes`, the sizes that the solver can search keep their text: `896`, `64,128`, `256:4096:64`.
    """
    axes = _AXES if as_axes else ()

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        flags = [_flag_parameter(name, is_axis=name in axes) for name in FIELDS]

        @wraps(command)
        def with_fields(**values: object) -> None:
            used = {name: value for name in FIELDS if (value := values.pop(name)) is not None}
            fields = {name: _field_value(name, value, is_axis=name in axes) for name, value in used.items()}
            command(**values, fields=fields)

        # typer builds its options from the signature.
        with_fields.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*(parameter for parameter in own if parameter.name != "fields"), *flags]
        )
        return with_fields

    return decorate


def _flag_parameter(name: str, *, is_axis: bool) -> inspect.Parameter:
    """The field as a parameter that typer turns into an option."""
    info, kind = FIELDS[name], _kind(name)
    hint: Any = {"switch": bool, "choice": info.annotation, "number": float}.get(kind, str)
    block = next((block for block, cls in BLOCKS.items() if name in cls.model_fields), None)
    option = typer.Option(
        "/".join(switch_flags(name)) if kind == "switch" else f"--{name.replace('_', '-')}",
        help=info.description,
        rich_help_panel=BLOCK_PANELS[block] if block else SIZE_PANEL if name in _SIZES else CHOICE_PANEL,
        metavar="AXIS" if is_axis else {"size": "N", "list": "A,B"}.get(kind),
        show_default=False,
    )
    annotation = Annotated[hint | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _field_value(name: str, value: object, *, is_axis: bool) -> object:
    """The value of a field from what typer read."""
    if is_axis or not isinstance(value, str):
        return value
    kind = _kind(name)
    if kind == "list":
        return tuple(value.split(","))
    return parse_size(value, name) if kind == "size" else value


def _kind(name: str) -> Literal["size", "list", "switch", "choice", "number"]:
    """What a field holds. A field that may be absent is of the kind of its value."""
    annotation = FIELDS[name].annotation
    if get_origin(annotation) is tuple:
        return "list"
    if get_origin(annotation) is Literal:
        return "choice"
    # A bounded type is an alias; what it bounds is its origin.
    types = {getattr(each, "__origin__", each) for each in (annotation, *get_args(annotation))}
    return "size" if int in types else "switch" if bool in types else "number"


SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Config file or name of a preset; flags change its fields."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def parse_path(text: str) -> Path:
    """The path that a flag gives. An empty one, as from an unset shell variable, would mean this folder."""
    if not text:
        raise typer.BadParameter("'' is not a path; give a name, or . for this folder")
    return Path(text)


def require_torch(command: str) -> None:
    """Raise `MissingExtra` with the install command unless all of the `train` extra is installed."""
    missing = [name for name in ("torch", "safetensors", "tokenizers") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{command} needs {', '.join(missing)}, not installed here; run it as: "
            f"uv run --extra train parambudget {command} ... (or: pip install 'parambudget[train]')"
        )


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output, styled on a terminal and plain when piped."""
    typer.echo("\n".join(lines))


def print_json(value: object) -> None:
    """Print one JSON document on standard output: exact numbers, never wrapped."""
    typer.echo(json.dumps(value, indent=2))


def print_notice(notice: str) -> None:
    """Print one line on standard error, beside the results."""
    typer.echo(f"parambudget: {with_flags(notice)}", err=True)
