"""The settings of a run: from flags, the config file, the run that it goes on with, and the time there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parambudget.arch.config import ModelConfig
from parambudget.formats.source import Source
from parambudget.planning.step_search import quickest
from parambudget.text.token_cache import TokenData
from parambudget.training.autotune import settings_for_hours, settings_that_fit
from parambudget.training.config import TrainConfig
from parambudget.training.defaults import Completed, complete
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.forecast import machine_of, require_room, surely_fits
from parambudget.training.metrics import read_run_config
from parambudget.training.resume import require_same_model, require_same_settings
from parambudget.units import format_bytes

WAYS = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "loss_chunks")
"""Settings that change how an update is computed and hardly what it computes."""
GIVEN = "given"
"""Where the provenance of a run lists the settings that a person gave."""
_PLANNED = ("hours", "update_seconds")
"""What the provenance of a run holds of the time it was planned for."""


@dataclass(frozen=True)
class Given:
    """What is said about the settings before any of them is filled in."""

    fields: dict[str, Any]
    by_hand: frozenset[str]
    """Those of `fields` that a person has chosen; the rest was filled in for an earlier run."""
    stored: dict[str, Any] = field(default_factory=dict)
    """Settings of the run that is gone on with."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Of that run."""


@dataclass(frozen=True)
class Settled:
    """Complete settings, and what the run's provenance should say of them."""

    completed: Completed
    provenance: dict[str, Any]
    shard: bool
    """Whether the model is shared out among the processes."""


def said(source: Source, flags: Mapping[str, Any], *, longer: bool) -> Given:
    """What a config file and flags say, the flags before the file.

    A run's own file says which of its settings a person gave. Where the length is another one (`longer`: in
    tokens or hours, or other `steps`), only these stay and the rest is chosen anew. A file that does not tell
    them apart was written by a person: all of it stays.
    """
    by_hand = frozenset(source.provenance.get(GIVEN, source.train)) & source.train.keys()
    in_file = source.train
    if longer or flags.get("steps", in_file.get("steps")) != in_file.get("steps"):
        in_file = {name: value for name, value in in_file.items() if name in by_hand}
    return Given({**in_file, **flags}, by_hand | flags.keys())


def require_possible(model: ModelConfig, given: Given, resumed: Path | None) -> Given:
    """The same and what is stored of the run, if nothing in it is wrong and `resumed` has this model."""
    stored = read_run_config(resumed) if resumed is not None else None
    if resumed is not None and stored is not None:
        require_same_model(resumed, stored, model.model_dump())
        given = replace(given, stored=stored["train"], provenance=stored["provenance"])
    fields = complete({**given.stored, **given.fields}, model, data_tokens=1, on_cpu=True).config.model_dump()
    if resumed is not None and stored is not None:
        require_same_settings(resumed, stored, fields)
    return given


def settled(
    given: Given, model: ModelConfig, data: TokenData, compute: Compute,
    train_tokens: int | None, hours: float | None, ranks: ProcessGroup = SINGLE_PROCESS, *,
    shard: bool | None = False,
) -> Settled:  # fmt: skip
    """The settings given and those of the run that is gone on with; the rest from model, text and device."""
    fields = {**given.stored, **given.fields}
    planned = {name: given.provenance[name] for name in _PLANNED if name in given.provenance}
    if train_tokens is not None or hours is not None:
        fields.pop("steps", None)
    on_cpu = compute.device.type == "cpu"

    def completed() -> Completed:
        return complete(fields, model, len(data.train), on_cpu=on_cpu, train_tokens=train_tokens)

    if shard:
        ranks.require_several()
    why: dict[str, str] = {}
    found = completed()
    shard = chosen_sharing(found.config, fields, model, compute, ranks) if shard is None else shard
    if not given.stored:
        chosen, why = chosen_ways(found.config, fields, model, compute, ranks, shard=shard)
        fields |= chosen
        found = completed()
    ranks.require_even_split(found.config)
    require_room(model, found.config, compute, ranks, shard=shard)
    if not on_cpu and not given.stored and not surely_fits(model, found.config, compute, ranks, shard=shard):
        found = settings_that_fit(found, model, data, compute, ranks, shard=shard)
    if hours is not None:
        timed = planned.get("update_seconds")
        found, seconds = settings_for_hours(
            found, fields, model, data, compute, hours, timed, ranks, shard=shard
        )
        planned = {"hours": hours, "update_seconds": seconds}
    kept = {name: "as in the run so far" for name in given.stored.keys() - given.fields.keys()}
    kept |= {name: "as in the config file" for name in given.fields.keys() - given.by_hand}
    found = replace(found, given=given.by_hand, reasons=kept | why | found.reasons)
    by_hand = given.by_hand | frozenset(given.provenance.get(GIVEN, given.stored))
    return ranks.broadcast(Settled(found, {**planned, GIVEN: sorted(by_hand)}, shard))


def chosen_ways(
    config: TrainConfig, fields: Mapping[str, Any], model: ModelConfig, compute: Compute,
    ranks: ProcessGroup, *, shard: bool,
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """How to compute the update, as far as it is open: the planner's choice where the device is known, else
    micro-steps that can be shared out; and why."""
    machine = machine_of(compute, ranks)
    if machine is None:
        open_ = ranks.world_size > 1 and not {"batch_size", "gradient_accumulation_steps"} & fields.keys()
        return (shared_out(config, ranks) if open_ else {}), {}
    work = quickest(model, config.sequences_per_update, machine, _fixed(config, fields) | {"sharded": shard})
    chosen = {name: getattr(work, name) for name in WAYS if name not in fields}
    peak = format_bytes(machine.peak_bytes(model, work))
    reason = f"the quickest that fits, as planned for {machine.name}: {peak} at the peak"
    return chosen, dict.fromkeys(chosen, reason)


def chosen_sharing(
    config: TrainConfig, fields: Mapping[str, Any], model: ModelConfig, compute: Compute, ranks: ProcessGroup
) -> bool:
    """Whether to share the model out, where nobody has said: as the quickest way that fits does."""
    machine = machine_of(compute, ranks)
    if machine is None or ranks.world_size == 1:
        return False
    return quickest(model, config.sequences_per_update, machine, _fixed(config, fields)).sharded


def _fixed(config: TrainConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in WAYS if name in fields} | {"optimizer": config.optimizer}


def shared_out(config: TrainConfig, ranks: ProcessGroup) -> dict[str, int]:
    """Micro-steps for about the same batch, of which every process has as many."""
    size = max(1, min(config.batch_size, config.sequences_per_update // ranks.world_size))
    rounds = max(1, round(config.sequences_per_update / (size * ranks.world_size)))
    return {"batch_size": size, "gradient_accumulation_steps": rounds * ranks.world_size}
