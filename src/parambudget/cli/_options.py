"""The model's fields as flags: generated from `ModelConfig`, shared by every command that takes a model."""

import inspect
import json
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer

from parambudget.arch.config import BLOCKS, FIELDS
from parambudget.errors import MissingExtra
from parambudget.render.model import switch
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
    """Give a command a flag for every field of `ModelConfig`; those that were used reach it as the dict
    `fields`.

    With `as_axes`, the sizes that a lattice can search keep their text: `896`, `64,128`, `256:4096:64`.
    """
    axes = _AXES if as_axes else ()

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "fields"]

        @wraps(command)
        def with_fields(**given: Any) -> None:
            used = {name: given.pop(name, None) for name in FIELDS}
            fields = {name: _value(name, value, axes) for name, value in used.items() if value is not None}
            command(**given, fields=fields)

        return _with_parameters(with_fields, [*own, *(_flag(name, axes) for name in FIELDS)])

    return decorate


def with_flags_of(command: Callable[..., None], words: Collection[str]) -> Callable[..., None]:
    """The command without the flags of fields that no word names: a flag costs a fifth of a millisecond, used
    or not, and there are eighty."""
    said = {word.partition("=")[0].replace("_", "-") for word in words}

    @wraps(command)
    def with_few(**given: Any) -> None:
        command(**given)

    parameters = inspect.signature(command).parameters.values()
    return _with_parameters(
        with_few, [p for p in parameters if p.name not in FIELDS or said & {*_options(p.name)}]
    )


def _with_parameters(
    command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    # typer reads both; the wrapper's own would show the command without the flags.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(name: str) -> tuple[str, ...]:
    """What sets a field: one option, or two for yes and no."""
    return switch(name) if _is_switch(name) else (f"--{name.replace('_', '-')}",)


def _flag(name: str, axes: tuple[str, ...]) -> inspect.Parameter:
    info = FIELDS[name]
    kind: Any = info.annotation
    metavar = None
    if name in axes:
        kind, metavar = str, "AXIS"
    elif _is_size(name):
        kind, metavar = str, "N"
    elif _is_list(name):
        kind, metavar = str, "A,B"
    elif _is_switch(name):
        kind = bool
    elif get_origin(kind) is not Literal:
        kind = float
    block = next((block for block, cls in BLOCKS.items() if name in cls.model_fields), None)
    panel = BLOCK_PANELS[block] if block else SIZE_PANEL if name in _SIZES else CHOICE_PANEL
    setting = typer.Option(
        "/".join(_options(name)),
        help=info.description,
        rich_help_panel=panel,
        metavar=metavar,
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, setting]
    )


def _value(name: str, given: Any, axes: tuple[str, ...]) -> Any:
    if name in axes:
        return given
    if _is_list(name):
        return tuple(given.split(","))
    return parse_size(given, name) if _is_size(name) else given


def _is_size(name: str) -> bool:
    """Whether the field is a whole number, or one that may be absent."""
    return int in _kinds(name)


def _is_switch(name: str) -> bool:
    """Whether the field is true or false, or one that may be absent."""
    return bool in _kinds(name)


def _is_list(name: str) -> bool:
    return get_origin(FIELDS[name].annotation) is tuple


def _kinds(name: str) -> set[Any]:
    """The types that the field may have, without the bounds of their values."""
    kind = FIELDS[name].annotation
    return {getattr(each, "__origin__", each) for each in (kind, *get_args(kind))}


SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Config file or preset's name; flags change its fields."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def place(text: str) -> Path:
    """A path as a flag gives it. An empty one, as of a variable that is not set, would be this folder."""
    if not text:
        raise typer.BadParameter("'' is no path; give a name, or . for this folder")
    return Path(text)


def require_torch(command: str) -> None:
    """Raise `MissingExtra` with the install command unless the whole `train` extra is there."""
    missing = [name for name in ("torch", "safetensors", "tokenizers") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{command} needs {', '.join(missing)}, not installed here; run it as: "
            f"uv run --extra train parambudget {command} ... (or: pip install 'parambudget[train]')"
        )


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output, styled on a terminal and plain when piped."""
    typer.echo("\n".join(lines))


def print_json(value: Any) -> None:
    """One JSON document on standard output, numbers exact, never wrapped."""
    typer.echo(json.dumps(value, indent=2))


def tell(notice: str) -> None:
    """One line beside the results, on standard error."""
    typer.echo(f"parambudget: {notice}", err=True)
