"""Commands whose help fits a screen, and that understand what people type.

`--help` shows what most runs need, `--help-all` every flag, `--help-model` those of the architecture. Which
flag is which follows from the panel that it stands in. Names are never cut: the help is plain text, wrapped.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Final, Literal, NamedTuple

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from parambudget.render.commands import runnable_command, with_runnable_commands

SIZE_PANEL: Final = "Model sizes"
CHOICE_PANEL: Final = "Model choices"
BLOCK_PANELS: Final = {
    "moe": "Mixture of experts", "mla": "Latent attention", "indexer": "Sparse attention with an indexer",
    "rope_scaling": "Rescaled rotary positions",
    "multipliers": "Factors on branches", "counted_parts": "Parts that are counted and not built",
    "gated_delta_net": "Gated delta nets", "mamba": "Mamba", "mamba2": "Mamba-2",
    "short_convolution": "Short convolutions", "lightning_attention": "Lightning attention",
    "rg_lru": "Gated linear recurrences (RG-LRU)", "rwkv": "RWKV",
}  # fmt: skip
MORE_PANEL: Final = "More settings"
MODEL_PANELS: Final = (SIZE_PANEL, CHOICE_PANEL, *BLOCK_PANELS.values())
"""Panels of `--help-model`."""
RARE_PANELS: Final = (*MODEL_PANELS, MORE_PANEL)
"""Panels that `--help` leaves out."""
_HELP_PANEL: Final = "Help"
_WIDTH: Final = 80
_NAME_WIDTH: Final = 26
"""Columns for the names of flags; a longer one has a line of its own."""

FORECAST_ALONE: Final = "curve"
_OPTIONAL_VALUES: Final = {"--forecast": FORECAST_ALONE}
"""Flags that may stand without a value, and the value that they then have."""

HelpLevel = Literal["usual", "all", "model"]
"""Which flags a help text shows."""


class Command(TyperCommand):
    """A command with three levels of help, synonyms for its flags, and hints for what it does not know."""

    needs_arguments = True
    """Whether the command does nothing without arguments: it then shows its usage and exits with 2."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with the flags that show help."""
        return [*super().get_params(ctx), *self._help_options(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The words after the command in its usage line; what may be left out stands in brackets."""
        names = [(each.display_name_raw, each.required) for each in _arguments(self.params)]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def _help_options(self, ctx: typer.Context) -> list[TyperOption]:
        if not hasattr(self, "_more_help"):
            panels = {option.rich_help_panel for option in _options(self.params)}
            levels: tuple[HelpLevel, ...] = ("all", "model") if panels & set(MODEL_PANELS) else ("all",)
            self._more_help = [_help_option(self, ctx, level) for level in levels]
        return self._more_help

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; other tools' names become ours first."""
        if not args and self.needs_arguments and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        if not ctx.resilient_parsing:
            args = _translate_synonyms(_with_optional_values(args), self.get_params(ctx))
        try:
            return super().parse_args(ctx, list(args))
        except typer.TyperException as error:
            hint = _hint_for(error, self.get_params(ctx), ctx.command_path)
            if hint is None:
                raise
            raise typer.TyperException(hint) from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of what most runs need."""
        formatter.write("\n".join(_help_lines(self, ctx, "usual")))


class CommandWithDefaults(Command):
    """A command that does something without any arguments."""

    needs_arguments = False


class Group(TyperGroup):
    """A group of commands, whose help is laid out like that of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; without any, show the usage and exit with 2."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, commands and options."""
        lines = _help_lines(self, ctx, "usual")
        rows = [(name, command.get_short_help_str(200)) for name, command in self.commands.items()]
        options = lines.index("Options:")
        formatter.write("\n".join([*lines[:options], "Commands:", *_definitions(rows), "", *lines[options:]]))


def _help_option(command: Command, ctx: typer.Context, level: HelpLevel) -> TyperOption:
    """The flag that shows the help of a level and ends the command: `--help` with another text."""

    def show(ctx: Any, _: object, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            typer.echo("\n".join(_help_lines(command, ctx, level)))
            ctx.exit()

    option = copy(command.get_help_option(ctx))
    assert option is not None
    option.name, option.opts, option.callback = f"help_{level}", [f"--help-{level}"], show
    option.help = f"Show {'every flag' if level == 'all' else 'the flags of the architecture'} and exit."
    return option


def _options(parameters: Iterable[object]) -> list[TyperOption]:
    return [each for each in parameters if isinstance(each, TyperOption) and not each.hidden]


def _arguments(parameters: Iterable[object]) -> list[TyperArgument]:
    return [each for each in parameters if isinstance(each, TyperArgument) and not each.hidden]


class HelpSection(NamedTuple):
    """A heading of a help text, and the names below it with what they mean."""

    title: str
    rows: list[tuple[str, str]]


def help_sections(
    command: TyperCommand | TyperGroup, ctx: typer.Context, level: HelpLevel
) -> list[HelpSection]:
    """The arguments and flags of a command that a level shows, panel by panel."""
    parameters = command.get_params(ctx)
    sections = []
    if (arguments := _arguments(parameters)) and level != "model":
        rows = [(argument.display_name_raw, argument.help or "") for argument in arguments]
        sections.append(HelpSection("Arguments", rows))
    panels: dict[str, list[tuple[str, str]]] = {}
    for option in _options(parameters):
        panel = option.rich_help_panel or "Options"
        if level == "all" or (panel in MODEL_PANELS if level == "model" else panel not in RARE_PANELS):
            panels.setdefault(panel, []).append(_option_row(option, ctx))
    return sections + [HelpSection(panel, rows) for panel, rows in panels.items()]


def _help_lines(command: TyperCommand | TyperGroup, ctx: typer.Context, level: HelpLevel) -> list[str]:
    """The help of a command at a level, no line longer than the width."""
    lines = _wrap(f"Usage: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}", indent=7)
    if level != "model":
        lines += ["", *_text_lines(command.help or "")]
    for title, rows in help_sections(command, ctx, level):
        lines += ["", f"{title}:", *_definitions(rows)]
    model = [option for option in _options(command.params) if option.rich_help_panel in MODEL_PANELS]
    if level == "usual" and model:
        sizes = [option.opts[0] for option in model if option.rich_help_panel == SIZE_PANEL]
        others = len(model) - len(sizes)
        text = f"Model: {', '.join(sizes)}, and {others} more flags, see --help-model."
        lines += ["", *_wrap(text, indent=2)]
    return lines


def _text_lines(text: str) -> Iterator[str]:
    """The paragraphs of a help text, wrapped; a command that can be run stands on lines of its own."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    for number, paragraph in enumerate(paragraphs):
        text = " ".join(paragraph.split())
        is_example = text.startswith("parambudget ")
        follows_example = number > 0 and paragraphs[number - 1].startswith("parambudget ")
        if number and not (is_example and follows_example):
            yield ""
        if is_example:
            lines = _wrap(runnable_command(text.removeprefix("parambudget ")), indent=4, first=2)
            yield from [f"{line} \\" for line in lines[:-1]] + lines[-1:]
        else:
            yield from _wrap(with_runnable_commands(text))


def _option_row(option: TyperOption, ctx: typer.Context) -> tuple[str, str]:
    """The names of a flag with what it takes, and what it does with its default."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        names = f"{names}/{option.secondary_opts[0]}"
    if not option.is_flag:
        names += f" {option.display_type_rich(ctx=ctx)}".replace("<", "[").replace(">", "]")
    default = _default_text(option)
    return names, f"{option.help or ''}{f' [default: {default}]' if default else ''}" + (
        " [required]" if option.required else ""
    )


def _default_text(option: TyperOption) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if value is None or value is False or value == "" or not option.show_default:
        return ""
    return ("on" if value is True else str(value)) if not callable(value) else ""


def _definitions(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names on the left, what they mean on the right; a long name has a line of its own."""
    column = 2 + min(max((len(name) for name, _ in rows), default=0), _NAME_WIDTH) + 2
    for name, meaning in rows:
        lines = _wrap(meaning, width=_WIDTH - column) if meaning else []
        if len(name) > column - 4:
            yield f"  {name}"
        else:
            first = lines.pop(0) if lines else ""
            yield f"  {name}".ljust(column) + first
        yield from (" " * column + line for line in lines)


def _wrap(text: str, *, indent: int = 0, first: int = 0, width: int = _WIDTH) -> list[str]:
    """Lines of at most the width (less what a continued command needs); words stay whole."""
    lines, line = [], " " * first
    for word in text.split():
        if len(line.rstrip()) + 1 + len(word) > width - 2 and line.strip():
            lines.append(line.rstrip())
            line = " " * indent
        line += ("" if not line.strip() else " ") + word
    return [*lines, line.rstrip()]


# What people type


def _flags_by_name(parameters: Iterable[object]) -> dict[str, TyperOption]:
    """The options of a command by each of their long flags, without the dashes."""
    return {
        flag.removeprefix("--"): parameter
        for parameter in _options(parameters)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    }


def _with_optional_values(args: Sequence[str]) -> list[str]:
    """The arguments with a value after each flag that stands without the one that it may have."""
    filled: list[str] = []
    for i, word in enumerate(args):
        filled.append(word)
        following = args[i + 1] if i + 1 < len(args) else "--"
        if word in _OPTIONAL_VALUES and following.startswith("-"):
            filled.append(_OPTIONAL_VALUES[word])
    return filled


def _translate_synonyms(args: list[str], parameters: Sequence[object]) -> list[str]:
    """The arguments with flags that other tools use written as ours, each with a note on standard error."""
    from parambudget.arch.synonyms import our_name

    flags = _flags_by_name(parameters)
    translated: list[str] = []
    ours_by_word: dict[str, str] = {}
    notes: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            translated += [word, *words]
            break
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if word.startswith("--") and name not in flags:
            off, stem = name.startswith("no-"), name.removeprefix("no-").replace("-", "_")
            ours = our_name(stem, [flag.replace("-", "_") for flag in flags])
            if ours is not None:
                option = flags[ours.replace("_", "-")]
                flag = option.secondary_opts[0] if off and option.secondary_opts else option.opts[0]
                notes.append(f"parambudget: --{name} is {flag} here")
                ours_by_word[f"--{name}"] = option.name
                word, name = f"{flag}{equals}{value}", flag.removeprefix("--")
        translated.append(word)
        if word.startswith("--") and name in flags and not flags[name].is_flag and not equals:
            translated += [value for value in [next(words, None)] if value is not None]
    _refuse_two_spellings(args, ours_by_word, flags)
    for note in notes:
        typer.echo(note, err=True)
    return translated


def _refuse_two_spellings(
    args: Sequence[str], ours_by_word: dict[str, str], flags: dict[str, TyperOption]
) -> None:
    """Refuse one setting given under two names."""
    spelled = {f"--{word.removeprefix('--').partition('=')[0].replace('_', '-')}" for word in args}
    for word, ours in ours_by_word.items():
        own = {f"--{flag}" for flag, option in flags.items() if option.name == ours}
        others = {other for other, name in ours_by_word.items() if name == ours and other != word}
        if twice := sorted((own | others) & spelled):
            raise typer.TyperException(f"{word} and {twice[0]} are the same setting; give one of them")


def _whose_flag(unknown: str) -> str | None:
    """Which other commands have a flag that this one lacks, by our name or another tool's; None for no
    other."""
    from parambudget.arch.synonyms import SYNONYMS
    from parambudget.cli.main import COMMANDS, application

    name = unknown.removeprefix("--").partition("=")[0].replace("_", "-")
    ours = SYNONYMS.get(name.replace("-", "_"), name).replace("_", "-")
    flags_by_command = _flags_of_commands(typer.main.get_command(application(*COMMANDS)))
    for flag in (name, ours):
        having = [other for other, flags in flags_by_command.items() if flag in flags]
        if having:
            shown = ", ".join(having[:3]) + (f" and {len(having) - 3} others" if len(having) > 3 else "")
            return f"{'it' if flag == name else f'--{flag}'} belongs to {shown}"
    return None


def _flags_of_commands(command: Any, path: str = "") -> dict[str, dict[str, TyperOption]]:
    """The flags of every command of a group, by the words that name the command."""
    if not isinstance(command, TyperGroup):
        return {path: _flags_by_name(command.params)}
    below = (
        _flags_of_commands(one, f"{path} {name}".strip()) for name, one in command.commands.items()
    )  # fmt: skip
    return {name: flags for each in below for name, flags in each.items()}


def _hint_for(error: typer.TyperException, parameters: Sequence[object], command: str) -> str | None:
    """What helps somebody who typed an unknown flag or a word too many; None where the message is enough."""
    unknown = getattr(error, "option_name", None)
    flags = _flags_by_name(parameters)
    if hasattr(error, "possibilities") and unknown is not None:
        from parambudget.arch.synonyms import nearest_name

        if elsewhere := _whose_flag(unknown):
            return f"no such option: {unknown}; {elsewhere}"
        near = nearest_name(unknown.lstrip("-").replace("-", "_"), [flag.replace("-", "_") for flag in flags])
        hint = (
            f"did you mean --{near.replace('_', '-')}?" if near else f"`{command} --help-all` lists the flags"
        )
        return f"no such option: {unknown}; {hint}"
    extra = re.search(r"unexpected extra argument\(s\) \((.*)\)", error.format_message())
    if extra is None:
        return None
    if "target" in flags and re.fullmatch(r"[\d._,]+[kKmMbBtT]?", extra[1]):
        return f"{extra[1]} is not expected here; write --target {extra[1]}"
    if {"from", "like"} <= flags.keys() and " " not in extra[1]:
        return (
            f"{extra[1]!r} is not expected here; write --from {extra[1]} to resize that model, or --like "
            f"{extra[1]} to take its choices"
        )
    return f"{extra[1]!r} is not expected here; `{command} --help` shows what is"
