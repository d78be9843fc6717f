"""How a field becomes a flag, the flags of a model for every command that takes one, and what the commands
share."""

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic.fields import FieldInfo

from parambudget._files import json_text
from parambudget._install import TRAINING, require_packages
from parambudget.arch.config import BLOCKS, FIELDS
from parambudget.arch.defaults import DERIVED, DERIVED_IN_BLOCKS
from parambudget.arch.field_text import field_kind, parse_field
from parambudget.arch.style import StyleName
from parambudget.cli._help import BLOCK_PANELS, CHOICE_PANEL, MORE_PANEL, SIZE_PANEL
from parambudget.errors import ConfigError
from parambudget.render.commands import runnable_command, with_runnable_commands
from parambudget.render.model import switch_flags

if TYPE_CHECKING:
    from parambudget.planning.run_plan import RunPlan

_OTHER_NAMES: Final = {
    "machine": "gpu", "max_tokens": "max-tokens", "dollars_per_hour": "price", "context": "context-length",
}  # fmt: skip
"""Arguments whose flag is named differently."""
_ARGUMENTS: Final = frozenset({
    *_OTHER_NAMES, *FIELDS,
    # of a search, a plan and a report
    "target", "active", "tolerance", "like", "style", "rank", "top", "gpus", "gpus_per_node", "hours",
    "gpu_memory", "gpu_tflops", "gpu_bandwidth", "grid_intensity", "network", "stack", "mfu", "compare",
    "inference",
    "dollars", "flops", "memory", "law", "tokens", "unique_tokens", "bytes_per_token", "anchor",
    "target_loss", "kv_groups", "ffn_ratio", "multiple", "counted",
    # of an update and a run
    "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "activation_memory_budget",
    "optimizer", "loss_chunks", "shard", "shard_degree",
    "data", "token_dtype", "out", "resume", "init", "steps", "device", "wandb", "profile",
    "tensorboard", "trackio", "forecast", "save_every", "keep", "eval_every", "eval_tokens",
    "final_learning_rate",
    "scalar_learning_rate", "schedule", "decay_share", "weight_decay_schedule", "momentum",
    "momentum_warmup_steps",
    # of preparing text
    "tokenizer", "validation", "end_of_text", "workers", "field", "separator", "skip_bad_lines",
    # of the page
    "host", "port",
    # of a ladder
    "share", "sizes", "seeds", "ratios", "only",
    # of an evaluation
    "choices", "text", "eval_choices", "eval_text",
    # of a generation and an export
    "temperature", "top_k", "top_p", "num_samples", "seed", "to", "model_type", "weights", "force",
})  # fmt: skip
"""What the library may name in backticks. Anything else there, such as a command, stays as it is."""
_SWITCHES: Final = {"True": "--", "False": "--no-"}
_QUOTED: Final = re.compile(r"`([^`]+)`")
_ASSIGNMENT: Final = re.compile(r"([a-z_]+)(?:=([^,\s]+))?")


_HELP: Final = {
    "help(pb.ModelConfig)": ("count", "--help-model"), "help(pb.StepConfig)": ("plan", "--help-all"),
    "help(pb.TrainConfig)": ("train", "--help-all"),
    "pb.calibrate()": ("calibrate",), "pb.count_class()": ("count", "--class"),
    "pb.ACCELERATORS": ("gpus",), "pb.PRESETS": ("presets",),
}  # fmt: skip
"""The command that does or shows what the library does or shows there."""


def arguments_as_flags(message: str) -> str:
    """The message with flags in place of the arguments, and commands that can be pasted in place of the verbs
    and commands, that it has in backticks."""

    def typed_text(quoted: re.Match[str]) -> str:
        if quoted[1] in _HELP:
            return f"`{runnable_command(*_HELP[quoted[1]])}`"
        return _flags(quoted[1]) or quoted[0]

    return with_runnable_commands(_QUOTED.sub(typed_text, message))


def _flags(arguments: str) -> str | None:
    """`batch_size=16, shard=True` as `--batch-size 16 --shard`; None for text that names no arguments."""
    flags = []
    for argument in arguments.split(", "):
        match = _ASSIGNMENT.fullmatch(argument)
        if match is None or match[1] not in _ARGUMENTS:
            return None
        name, value = _OTHER_NAMES.get(match[1], match[1]).replace("_", "-"), match[2]
        if value is None or value in _SWITCHES:
            flags.append(_SWITCHES.get(value or "True", "--") + name)
        else:
            flags.append(f"--{name} {value}")
    return " ".join(flags)


_SIZES: Final = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size",
    "vocab_size", "context_length",
)  # fmt: skip
_AXES: Final = (
    *_SIZES[:6], "n_experts", "n_experts_per_token", "n_shared_experts", "expert_intermediate_size"
)  # fmt: skip
Command = Callable[..., None]


def with_model_fields(*, as_axes: bool = False) -> Callable[[Command], Command]:
    """Give a command a flag for every field of `ModelConfig`; it receives those that were used as `fields`.

    With `as_axes`, the sizes that the solver can search keep their text: `896`, `64,128`, `256:4096:64`.
    """
    axes = _AXES if as_axes else ()
    flags = [
        flag_parameter(
            name, info, panel=_model_panel(name), default=_model_default(name, as_axes=as_axes),
            is_axis=name in axes,
        )
        for name, info in FIELDS.items()
    ]  # fmt: skip

    def parse(used: dict[str, object]) -> dict[str, object]:
        return {
            name: value if name in axes else parse_field(name, value, FIELDS[name])
            for name, value in used.items()
        }

    return with_flags("fields", flags, parse)


def with_flags(
    collected: str, flags: list[inspect.Parameter], parse: Callable[[dict[str, object]], dict[str, object]]
) -> Callable[[Command], Command]:
    """Give a command more flags; it receives the values of those that were used as one dict."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def command_with_flags(**values: object) -> None:
            used = {
                flag.name: value for flag in flags if (value := values.pop(flag.name)) is not None
            }  # fmt: skip
            command(**values, **{collected: parse(used)})

        # typer builds its options from the signature.
        command_with_flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*(parameter for parameter in own if parameter.name != collected), *flags]
        )
        return command_with_flags

    return decorate


def flag_parameter(
    name: str, info: FieldInfo, *, panel: str | None, default: str | bool, is_axis: bool = False
) -> inspect.Parameter:
    """The field as a parameter that typer turns into an option."""
    kind = field_kind(info)
    hint: Any = {"switch": bool, "choice": info.annotation}.get(kind, str)
    option = typer.Option(
        *(_switch_declarations(name) if kind == "switch" else [f"--{name.replace('_', '-')}"]),
        help=info.description,
        rich_help_panel=panel,
        metavar="AXIS" if is_axis else {"size": "N", "list": "A,B", "number": "X"}.get(kind),
        show_default=default,
    )
    annotation = Annotated[hint | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _switch_declarations(name: str) -> list[str]:
    """What typer is told of a switch. Every one has its --no-x, also where another word is usual."""
    on, off = switch_flags(name)
    usual = f"--no-{name.replace('_', '-')}"
    return [f"{on}/{off}", *([] if off == usual else [f" /{usual}"])]


def _model_panel(name: str) -> str:
    block = next((block for block, cls in BLOCKS.items() if name in cls.model_fields), None)
    return BLOCK_PANELS[block] if block else SIZE_PANEL if name in _SIZES else CHOICE_PANEL


def _model_default(name: str, *, as_axes: bool) -> str | bool:
    """The default of a model's field as the help shows it."""
    if as_axes and name in _AXES:
        return False  # the ranges follow from the target
    if as_axes and name == "tied":
        return "tied below 1B parameters"
    if name in (*DERIVED, *DERIVED_IN_BLOCKS, "n_layers"):
        return "derived"
    return plain_default(FIELDS[name])


def plain_default(info: FieldInfo) -> str | bool:
    """The default of a field as the help shows it; False where there is none to show."""
    if info.is_required() or info.default is None:
        return False
    if isinstance(info.default, bool):
        return "on" if info.default else "off"
    return ",".join(map(str, info.default)) if isinstance(info.default, tuple) else str(info.default)


SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="Config file or preset name; flags override its fields."),
]
StyleOption = Annotated[
    StyleName | None,
    typer.Option(
        help="modern: QK-norm, ReLU^2 without a gate, capped logits, untied head.",
        show_default="llama",
    ),
]
AnchorOption = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="A measured run that losses and speed take their level from: its folder, or "
        "loss=3.21,tokens=400M,model=FILE or tokens-per-second=140000.",
        rich_help_panel=MORE_PANEL,
    ),
]
TargetLossOption = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        help="When the model reaches this loss; with --anchor, or which run would tell.",
        rich_help_panel=MORE_PANEL,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory of one GPU to plan with, such as 24GB.",
        show_default="all of it",
        rich_help_panel=MORE_PANEL,
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N, or mps (untried).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def law_option(panel: str) -> Any:
    """The option of the law that losses are expected by, in a panel of the help."""
    return typer.Option(
        metavar="LAW",
        help="besiroglu-2024, hoffmann-2022, muennighoff-2023, or a law.json.",
        show_default="besiroglu-2024", rich_help_panel=panel,
    )  # fmt: skip


def parse_path(text: str) -> Path:
    """The path that a flag gives. An empty one, as from an unset shell variable, would mean this folder."""
    if not text:
        raise typer.BadParameter("'' is not a path; give a name, or . for this folder")
    return Path(text)


def require_torch(command: str) -> None:
    """Raise `MissingExtra` with what to do unless all that training needs is installed."""
    require_packages(command, TRAINING, ["train"])


def require_model(command: str, source: str | None, fields: Mapping[str, object], more: str = "") -> None:
    """Raise `ConfigError` with the ways to name a model where a command was given none."""
    if source is None and not fields:
        rest = f" {more}" if more else ""
        start = runnable_command(command)
        raise ConfigError(
            f"no model is given; name a preset or a config file ({start} gpt2{rest}), or give its sizes "
            f"({start} --dim 256 --n-layers 6{rest})"
        )


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output, styled on a terminal and plain when piped."""
    typer.echo("\n".join(lines))


def print_json(value: object) -> None:
    """Print one JSON document on standard output: exact numbers, never wrapped."""
    typer.echo(json_text(value, indent=2))


def print_notice(notice: str) -> None:
    """Print one line on standard error, beside the results."""
    typer.echo(f"parambudget: {arguments_as_flags(notice)}", err=True)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show on a terminal that work of some seconds goes on, and for how long; nothing elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from parambudget.render.progress import StatusLine, make_console

    with closing(StatusLine(make_console(to_stderr=True))) as status:
        status.show(text)
        yield


def offer_finished_run(vocab_size: int) -> None:
    """Name a run of that vocabulary which predictions can take their level from, where one lies where `train`
    puts them."""
    from parambudget.planning.finished_runs import newest_finished_run
    from parambudget.training.config import RUNS

    folder = newest_finished_run(RUNS, vocab_size)
    if folder is not None:
        print_notice(
            f"the finished run {folder} has the same vocabulary; with --anchor {shlex.quote(str(folder))} "
            "losses are at the level of its text"
        )


def with_flags_in_suggestions(plan: "RunPlan") -> "RunPlan":
    """The plan with flags in place of the arguments that its suggestions name."""
    return replace(plan, suggestions=tuple(map(arguments_as_flags, plan.suggestions)))
