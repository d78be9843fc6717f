"""The complete settings of a run: as requested, and the rest from the model, the text, the device and the
time there is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from parambudget.arch.config import ModelConfig
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.step import NEVER_CHOSEN, STEP_FIELDS, StepFields, accumulation_steps, micro_batch_size
from parambudget.planning.step_search import WORTH_MEMORY, fastest_step
from parambudget.text.token_cache import TokenData
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup
from parambudget.training.run.autotune import settings_for_hours, settings_that_fit
from parambudget.training.run.defaults import ResolvedTrainConfig, law_warnings, with_train_defaults
from parambudget.training.run.forecast import has_ample_room, machine_of, require_room
from parambudget.training.run.requested import GIVEN, RequestedSettings
from parambudget.training.run.state_reuse import ReusableState
from parambudget.units import format_bytes

_PLANNED: Final = ("hours", "update_seconds")
"""The keys of the provenance for the time that a run was planned for."""


@dataclass(frozen=True)
class ResolvedSettings:
    """Complete settings, and what the run's provenance should say of them."""

    resolved: ResolvedTrainConfig
    """The step in it is the one that is executed here."""
    provenance: dict[str, Any]


def resolve_settings(
    requested: RequestedSettings, model: ModelConfig, data: TokenData, compute: Compute,
    tokens: int | None, hours: float | None, group: ProcessGroup = SINGLE_PROCESS, *,
    shard: bool | None = None, states: ReusableState | None = None,
    on_status: Callable[[str], None] = lambda _: None,
) -> ResolvedSettings:  # fmt: skip
    """The settings requested and those of the run that is resumed; the rest from model, text and device.

    Trials take their state from `states`, and `on_status` is told of them.
    """
    states = states or ReusableState()
    fields = requested.merged_fields
    if tokens is not None or hours is not None:
        fields.pop("steps", None)
    on_cpu = compute.device.type != "cuda"  # MPS computes as a CPU does, and shares its memory

    def resolve() -> ResolvedTrainConfig:
        return with_train_defaults(fields, model, data.n_unique_tokens, on_cpu=on_cpu, tokens=tokens)

    if shard:
        group.require_several()
    why: dict[str, str] = {}
    resolved = resolve()
    shard = _choose_shard(resolved.config, fields, model, compute, group) if shard is None else shard
    if not requested.stored:
        chosen, why = _choose_step_fields(resolved.config, fields, model, compute, group, shard=shard)
        fields.update(chosen)
        resolved = resolve()
    resolved = replace(resolved, config=group.executed_config(resolved.config, compute, shard=shard))
    step = resolved.config.step
    require_room(model, step, compute)
    if not on_cpu and not requested.stored and not has_ample_room(model, step, compute):
        resolved = settings_that_fit(
            resolved, model, data, compute, group, states=states, on_status=on_status
        )
    planned: dict[str, Any] = {
        name: requested.provenance[name] for name in _PLANNED if name in requested.provenance
    }
    if hours is not None:
        timed = planned.get("update_seconds")
        if timed is None:
            ready = states.is_ready_for(
                model, resolved.config, compute, group, end_of_text=data.end_of_text_id
            )
            compiling = "compiling the model and " if compute.compiled and not ready else ""
            on_status(f"{compiling}timing updates: how many are {hours:g} h?")
        resolved, seconds = settings_for_hours(
            resolved, fields, model, data, compute, hours, timed, group, requested.require_length,
            states=states,
        )  # fmt: skip
        planned = {"hours": hours, "update_seconds": seconds}
    resolved = replace(
        resolved, given=requested.given, reasons=_reasons(requested, why, resolved),
        warnings=tuple(law_warnings(resolved.config, model, requested.merged_fields)),
    )  # fmt: skip
    given = requested.given | frozenset(requested.provenance.get(GIVEN, requested.stored))
    return group.broadcast(ResolvedSettings(resolved, {**planned, GIVEN: sorted(given)}))


def _reasons(
    requested: RequestedSettings, why: Mapping[str, str], resolved: ResolvedTrainConfig
) -> dict[str, str]:
    reasons = {name: "as in the run so far" for name in requested.stored.keys() - requested.fields.keys()}
    reasons |= {name: "as in the config file" for name in requested.fields.keys() - requested.given}
    return {**reasons, **why, **resolved.reasons}


def _choose_step_fields(
    config: TrainConfig, fields: Mapping[str, object], model: ModelConfig, compute: Compute,
    group: ProcessGroup, *, shard: bool,
) -> tuple[StepFields, dict[str, str]]:  # fmt: skip
    """How to execute the update, as far as it is open, and why: the planner's choice where the device is
    known, else micro-steps that can be divided evenly."""
    machine, given = machine_of(compute, group.world_size), _step_fields(config, fields)
    if machine is None:
        is_open = group.world_size > 1 and not {"batch_size", "gradient_accumulation_steps"} & given.keys()
        return (_divided_evenly(config, group) if is_open else {}), {}
    step = fastest_step(model, config.step.sequences_per_update, machine, {**given, "shard": shard})
    chosen = {name: value for name, value in step.step_fields.items() if name not in {*given, "shard"}}
    peak = format_bytes(peak_bytes(model, step))
    reason = (
        f"as planned for {machine.name}: of what fits and is at most {WORTH_MEMORY:.0%} slower than the "
        f"fastest, the least memory, {peak} at the peak"
    )
    return cast(StepFields, chosen), dict.fromkeys(chosen, reason)


def _choose_shard(
    config: TrainConfig,
    fields: Mapping[str, object],
    model: ModelConfig,
    compute: Compute,
    group: ProcessGroup,
) -> bool:
    """Whether to divide the model among the processes, where nobody has said: as the fastest step does."""
    machine = machine_of(compute, group.world_size)
    if machine is None or group.world_size == 1:
        return False
    return fastest_step(model, config.step.sequences_per_update, machine, _step_fields(config, fields)).shard


def _step_fields(config: TrainConfig, fields: Mapping[str, object]) -> StepFields:
    """What is decided of a step: the fields that are given, and those that do not depend on the device."""
    given = {name: fields[name] for name in STEP_FIELDS if name in fields}
    decided = {name: getattr(config.step, name) for name in ("optimizer", *NEVER_CHOSEN)}
    return cast(StepFields, given | decided)


def _divided_evenly(config: TrainConfig, group: ProcessGroup) -> StepFields:
    """Micro-steps for about the same batch, the same number of them on every process."""
    sequences = config.step.sequences_per_update
    size = micro_batch_size(sequences, group.world_size, at_most=config.step.batch_size)
    return {
        "batch_size": size,
        "gradient_accumulation_steps": accumulation_steps(sequences, size, group.world_size),
    }
