"""The settings of a run as requested, by flags, a config file and the run that is resumed. What is wrong
with them is said before torch is imported and text is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from parambudget.arch.config import ModelConfig
from parambudget.cost.step import MAX_COUNT
from parambudget.errors import ConfigError
from parambudget.formats.source import Source
from parambudget.scaling.hyperparameters import whole_updates
from parambudget.training.config import TrainConfig, with_absent_settings
from parambudget.training.metrics import read_run_config
from parambudget.training.run.defaults import require_valid, with_train_defaults
from parambudget.training.run.same_run import require_length, require_same_run_model, require_same_settings
from parambudget.units import short_repr

GIVEN: Final = "given"
"""Where the provenance of a run lists the settings that were given, not chosen."""


@dataclass(frozen=True)
class RequestedSettings:
    """The settings as requested, before any of them is filled in."""

    fields: dict[str, object]
    given: frozenset[str]
    """Those of `fields` that a person chose; the rest was filled in for an earlier run."""
    stored: dict[str, object] = field(default_factory=dict)
    """Settings of the run that is resumed."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Of that run."""
    resumed: Path | None = None
    """Its folder."""

    @property
    def merged_fields(self) -> dict[str, object]:
        """The settings of the resumed run, overridden by the requested ones."""
        return {**self.stored, **self.fields}

    def require_length(self, steps: int) -> None:
        """Refuse so few steps for the run that is resumed; a new run may have any number."""
        if self.resumed is not None:
            require_length(self.resumed, self.stored, steps)


def merge_sources(source: Source, flags: Mapping[str, object], *, longer: bool) -> RequestedSettings:
    """The settings of a config file and of flags, which win over the file.

    A run's own file lists which of its settings a person gave. Where the run gets another length (`longer`:
    in tokens or hours, or other `steps`), only these stay and the rest is derived anew. A file without that
    list was written by a person: all of it stays. Settings that the version that wrote a run's file did not
    have stay as they were then, for the same length.
    """
    named = source.provenance.get(GIVEN, list(source.train))
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigError(
            f"provenance.{GIVEN} in the config file is {short_repr(named)}; it must be a list of settings"
        )
    given = frozenset(named) & source.train.keys()
    in_file = with_absent_settings(source.train) if GIVEN in source.provenance else source.train
    if longer or flags.get("steps", in_file.get("steps")) != in_file.get("steps"):
        in_file = {name: value for name, value in in_file.items() if name in given}
    return RequestedSettings({**in_file, **flags}, given | flags.keys())


def require_possible(
    model: ModelConfig, requested: RequestedSettings, resumed: Path | None, tokens: int | None = None
) -> RequestedSettings:
    """The same with what is stored of the run to resume, after a check that nothing in it is wrong and that
    the run has this model. `tokens` is the length of the run in place of `steps`."""
    stored = read_run_config(resumed) if resumed is not None else None
    if resumed is not None and stored is not None:
        require_same_run_model(resumed, stored, model.model_dump())
        requested = replace(
            requested,
            stored=with_absent_settings(stored["train"]),
            provenance=stored["provenance"],
            resumed=resumed,
        )
    fields = requested.merged_fields
    if tokens is not None:
        fields.pop("steps", None)
    elif "steps" not in fields:
        fields["steps"] = MAX_COUNT  # the text decides: it may have room for any other setting
    if requested.resumed is not None:
        _require_length(requested, model, tokens)
    config = with_train_defaults(fields, model, data_tokens=1, on_cpu=True, tokens=tokens).config
    if resumed is not None and stored is not None:
        require_same_settings(resumed, stored, config.model_dump())
    return requested


def _require_length(requested: RequestedSettings, model: ModelConfig, tokens: int | None) -> None:
    """Refuse to resume a run for too few steps. Without a length, or with hours, they are not known yet."""
    if tokens is not None:
        step = TrainConfig.read(requested.stored).step
        requested.require_length(whole_updates(tokens, step.tokens_per_update(model.context_length), None))
    elif "steps" in requested.fields:
        require_valid({"steps": requested.fields["steps"]})
        requested.require_length(cast(int, requested.fields["steps"]))
