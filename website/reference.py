"""The reference pages of the site, generated from the code: commands, Python, fields, GPUs, JSON outputs."""

import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import griffe
import typer
from pydantic import BaseModel

from parambudget.arch.config import BLOCKS, ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.cli._help import help_sections
from parambudget.cli.main import COMMANDS, application
from parambudget.cost.hardware import ACCELERATORS
from parambudget.cost.step import StepConfig
from parambudget.errors import MissingExtra
from parambudget.training.config import TRAIN_FIELDS, TrainConfig
from parambudget.units import format_byte_rate, format_bytes, format_flop_rate

SOURCE: Final = Path(__file__).parents[1] / "src"
Pages = dict[str, str]
"""The Markdown of pages by their paths on the site."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A bar in code needs no escape on the site."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(text: str) -> str:
    """A help text or description, in which nothing but `code` is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_|\[\]])", r"\\\1", html.escape(part, quote=False))
        for part in parts
    )


# Commands


def command_pages() -> Pages:
    """A page for every command with all that its help says, and one that lists them."""
    pages, rows = {}, []
    for command, context in _commands():
        name = context.command_path.removeprefix("parambudget ")
        file = f"{name.replace(' ', '-')}.md"
        pages[f"commands/{file}"] = _command_page(command, context)
        rows.append((f"[{name}]({file})", as_markdown(command.get_short_help_str(200))))
    introduction = (
        "`--help` of a command prints what most runs need, `--help-all` every flag, and `--help-model` the "
        "flags of the architecture. These pages have what `--help-all` prints."
    )
    index = f"# Commands\n\n{introduction}\n\n{table(('command', 'what it does'), rows)}\n"
    return {"commands/index.md": index, **pages}


def _commands() -> Iterator[tuple[Any, typer.Context]]:
    """Every command that does something, with the context that its help needs."""
    group = typer.main.get_command(application(*COMMANDS))
    left = [(group, group.make_context("parambudget", [], resilient_parsing=True))]
    while left:
        command, context = left.pop(0)
        below = getattr(command, "commands", {})
        if not below:
            yield command, context
        left[:0] = [
            (each, each.make_context(name, [], parent=context, resilient_parsing=True))
            for name, each in below.items()
        ]


def _command_page(command: Any, context: typer.Context) -> str:
    usage = f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    parts = [f"# {context.command_path}", f"```text\n{usage}\n```"]
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", command.help or "")]
    for is_example, group in groupby(paragraphs, lambda text: text.startswith("parambudget ")):
        if is_example:
            parts.append("\n".join(["```text", *group, "```"]))
        else:
            parts += map(as_markdown, group)
    for title, rows in help_sections(command, context, "all"):
        cells = [(f"`{name}`", as_markdown(meaning)) for name, meaning in rows]
        head = ("argument" if title == "Arguments" else "flag", "meaning")
        parts.append(f"## {title}\n\n{table(head, cells)}")
    return "\n\n".join(parts) + "\n"


# Python


def python_pages() -> Pages:
    """Every public name of the package, its documentation taken from the source by mkdocstrings."""
    package = griffe.load("parambudget", search_paths=[SOURCE], resolve_aliases=True)
    groups: dict[str, list[str]] = {"functions": [], "types": [], "errors": [], "constants": []}
    for name in package.exports or ():
        groups[_kind_of(package[str(name)])].append(str(name))
    return {
        f"python/{group}.md": f"# {group.capitalize()}\n\n"
        + "\n\n".join(f"::: parambudget.{name}" for name in names)
        + "\n"
        for group, names in groups.items()
    }


def _kind_of(member: griffe.Object | griffe.Alias) -> str:
    if member.is_function:
        return "functions"
    if member.is_attribute:
        return "constants" if member.name.isupper() else "types"
    return "errors" if member.canonical_path.startswith("parambudget.errors.") else "types"


# The config file


def field_tables() -> dict[str, str]:
    """The tables of the fields of a config file, by the markers that stand for them in pages."""
    parts = (ModelConfig, *BLOCKS.values())
    tables = {cls.__name__: _model_table(cls) for cls in parts}
    schema = StepConfig.model_json_schema()["properties"] | TrainConfig.model_json_schema()["properties"]
    rows = [(f"`{name}`", _values(schema[name]), as_markdown(str(info.description)))
            for name, info in TRAIN_FIELDS.items()]  # fmt: skip
    tables["TrainConfig"] = table(("setting", "values", "meaning"), rows)
    return {f"<!-- fields of {name} -->": text for name, text in tables.items()}


def _model_table(cls: type[BaseModel]) -> str:
    derived = {
        *with_defaults({"dim": 768, "n_experts": 8, "n_experts_per_token": 2}).defaulted,
        *with_defaults({"dim": 768, "kv_lora_rank": 128}).defaulted,
    }
    rows = []
    for name, field in cls.model_json_schema()["properties"].items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
        if name in derived and (
            default == "required" or name not in ("vocab_size", "context_length", "tied")
        ):
            default = "derived"
        rows.append((f"`{name}`", _values(field), default, as_markdown(field["description"])))
    return table(("field", "values", "default", "meaning"), rows)


def _values(schema: Mapping[str, Any]) -> str:
    """The values that a field may have, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_values, schema["anyOf"]))
    if "$ref" in schema:
        return "an object, see below"
    if "enum" in schema:
        return ", ".join(f'`"{value}"`' for value in schema["enum"])
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if schema["type"] == "array":
        return f"a list of {_values(schema['items'])}"
    bounds = [
        f"{words} {schema[key]:,g}" if isinstance(schema[key], float) else f"{words} {schema[key]:,}"
        for key, words in (
            ("minimum", "at least"), ("exclusiveMinimum", "above"),
            ("maximum", "at most"), ("exclusiveMaximum", "below"),
        )
        if key in schema and abs(schema[key]) < 2**31
    ]  # fmt: skip
    word = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}[
        schema["type"]
    ]
    return " ".join((word, " and ".join(bounds))).strip()


# GPUs


def gpus_page() -> Pages:
    """The GPUs that `--gpu` knows, and the source of each."""
    rows = [
        (
            f"`{one.name}`", format_bytes(one.memory_bytes),
            format_flop_rate(one.peak_flops) + ("" if one.has_bfloat16 else " (float16)"),
            format_byte_rate(one.bandwidth_bytes), format_byte_rate(one.link_bytes),
            f"{one.board_watts:,.0f} W" if one.board_watts else "not known",
        )
        for one in ACCELERATORS.values()
    ]  # fmt: skip
    names_by_source: dict[str, list[str]] = {}
    for one in ACCELERATORS.values():
        names_by_source.setdefault(f"{one.source} ({one.read_on})", []).append(one.name)
    introduction = (
        "What `--gpu` and `pb.machine` know; `parambudget gpus` prints it. Memory is what the driver "
        "reports, the peak is that of dense bfloat16 arithmetic with 32-bit accumulation (of float16 for a "
        "GPU without bfloat16, which the trainer refuses), the link is per direction, and the power is the "
        "most that the board draws. [Your own GPU](planning.md#your-own-gpu) says how to describe another."
    )
    gpus = table(("name", "memory", "dense peak", "bandwidth", "link", "power"), rows)
    sources = "\n".join(
        f"- {', '.join(names)}: {as_markdown(source)}" for source, names in names_by_source.items()
    )
    return {"gpus.md": f"# GPUs\n\n{introduction}\n\n{gpus}\n\n## Sources\n\n{sources}\n"}


# JSON outputs


def schema_pages() -> Pages:
    """The JSON Schema of what every command prints with `--json`, by the command that prints schemas."""
    if "schema" not in COMMANDS:
        return {}
    pages = {}
    for name in _printed("schema").splitlines():
        try:
            schema = f"```json\n{_printed('schema', *name.split()).strip()}\n```"
        except MissingExtra:  # its types stand beside code that needs torch
            schema = (
                f"`parambudget schema {name}` prints it. This site was built without torch, which it needs."
            )
        file = f"schemas/{name.replace(' ', '-')}.md"
        pages[file] = f"# parambudget {name} --json\n\n{schema}\n"
    return pages


def _printed(*arguments: str) -> str:
    """What a command prints."""
    output = io.StringIO()
    with redirect_stdout(output):
        application(arguments[0])(list(arguments), standalone_mode=False)
    return output.getvalue()
