"""The settings of a run and of its update as flags, with the same text in every command."""

from collections.abc import Callable, Mapping
from typing import Final, cast

from pydantic.fields import FieldInfo

from parambudget.arch.field_text import parse_field
from parambudget.cli._help import MORE_PANEL
from parambudget.cli._options import Command, flag_parameter, plain_default, with_flags
from parambudget.cost.step import NEVER_CHOSEN, STEP_FIELDS, StepConfig, StepFields
from parambudget.formats.source import read_source

STEP_FLAGS: Final = {name: StepConfig.model_fields[name] for name in STEP_FIELDS}
"""The fields of a step that a plan can be told."""
STEP_PANELS: Final = dict.fromkeys(STEP_FLAGS.keys() - {"z_loss", "activation_memory_budget", "shard_degree"})
"""Those that most plans need."""


def with_settings(
    settings: Mapping[str, FieldInfo], panels: Mapping[str, str | None]
) -> Callable[[Command], Command]:
    """Give a command a flag for every one of these settings; it receives those that were used as `settings`.

    `panels` names the panel of each that most runs need (None: among the command's own options); `--help`
    leaves out all others.
    """
    flags = [
        flag_parameter(name, info, panel=panels.get(name, MORE_PANEL), default=_setting_default(name, info))
        for name, info in settings.items()
    ]

    def parse(used: dict[str, object]) -> dict[str, object]:
        return {name: parse_field(name, value, settings[name]) for name, value in used.items()}

    return with_flags("settings", flags, parse)


def step_settings(source: str | None, used: Mapping[str, object]) -> StepFields:
    """What is decided of an update: by flags, else by the `train` block of the config file."""
    from parambudget.training.run.defaults import require_valid

    in_file = read_source(source).train if source is not None else {}
    require_valid(in_file)
    return cast("StepFields", {name: in_file[name] for name in STEP_FLAGS if name in in_file} | {**used})


def _setting_default(name: str, info: FieldInfo) -> str | bool:
    """The default of a setting as the help shows it: many depend on model, text and device."""
    depends = (
        info.is_required()
        or name == "balance_loss"
        or (name in STEP_FIELDS and name not in ("optimizer", *NEVER_CHOSEN))
    )
    return "chosen" if depends else plain_default(info)
