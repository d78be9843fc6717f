"""The settings of a run: from flags, the config file, the run that it goes on with, and the time there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parambudget.arch.config import ModelConfig
from parambudget.train.config import TrainConfig
from parambudget.train.defaults import Completed, complete
from parambudget.train.device import Compute
from parambudget.train.distributed import ALONE, Ranks
from parambudget.train.fit import settings_for_hours, settings_that_fit
from parambudget.train.resume import require_same_model, require_same_settings
from parambudget.train.rundir import stored_config
from parambudget.train.tokens import TokenData

_PLANNED = ("hours", "update_seconds")
"""What the provenance of a run holds of the time it was planned for."""


@dataclass(frozen=True)
class Given:
    """What is said about the settings before any of them is filled in."""

    fields: dict[str, Any]
    stored: dict[str, Any] = field(default_factory=dict)
    """Settings of the run that is gone on with."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Of that run."""


@dataclass(frozen=True)
class Settled:
    """Complete settings, and what the run's provenance should say of them."""

    completed: Completed
    provenance: dict[str, Any]


def require_possible(
    model: ModelConfig, in_file: Mapping[str, Any], flags: Mapping[str, Any], resumed: Path | None
) -> Given:
    """What is given, flags before the file, if nothing in it is wrong and `resumed` has this model."""
    stored = stored_config(resumed) if resumed is not None else None
    given = Given({**in_file, **flags})
    if resumed is not None and stored is not None:
        require_same_model(resumed, stored, model.model_dump())
        given = Given(given.fields, stored["train"], stored["provenance"])
    fields = complete({**given.stored, **given.fields}, model, data_tokens=1, on_cpu=True).config.model_dump()
    if resumed is not None and stored is not None:
        require_same_settings(resumed, stored, fields)
    return given


def settled(
    given: Given, model: ModelConfig, data: TokenData, compute: Compute,
    train_tokens: int | None, hours: float | None, ranks: Ranks = ALONE, *, shard: bool = False,
) -> Settled:  # fmt: skip
    """The settings given and those of the run that is gone on with; the rest from model, text and device."""
    fields = {**given.stored, **given.fields}
    planned = {name: given.provenance[name] for name in _PLANNED if name in given.provenance}
    if train_tokens is not None or hours is not None:
        fields.pop("steps", None)
    on_cpu = compute.device.type == "cpu"
    found = complete(fields, model, len(data.train), on_cpu=on_cpu, train_tokens=train_tokens)
    if ranks.size > 1 and not {"batch_size", "gradient_accumulation_steps"} & fields.keys():
        fields |= shared_out(found.config, ranks)
        found = complete(fields, model, len(data.train), on_cpu=on_cpu, train_tokens=train_tokens)
    ranks.require_even(found.config)
    if not on_cpu and not given.stored:
        found = settings_that_fit(found, model, data, compute, ranks, shard=shard)
    if hours is not None:
        timed = planned.get("update_seconds")
        found, seconds = settings_for_hours(
            found, fields, model, data, compute, hours, timed, ranks, shard=shard
        )
        planned = {"hours": hours, "update_seconds": seconds}
    kept = {name: "as in the run so far" for name in given.stored if name in fields}
    found = replace(found, given=frozenset(given.fields), reasons=kept | found.reasons)
    return ranks.first(Settled(found, planned))


def shared_out(config: TrainConfig, ranks: Ranks) -> dict[str, int]:
    """Micro-steps for about the same batch, of which every process has as many."""
    size = max(1, min(config.batch_size, config.sequences_per_update // ranks.size))
    rounds = max(1, round(config.sequences_per_update / (size * ranks.size)))
    return {"batch_size": size, "gradient_accumulation_steps": rounds * ranks.size}
