"""The complete settings of a run: as requested, and the rest from the model, the text, the device and the
time there is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from parambudget.arch.config import ModelConfig
from parambudget.cost.memory.peak import peak_bytes
from parambudget.cost.step import (
    NEVER_CHOSEN,
    SHARDING_FIELDS,
    STEP_FIELDS,
    Sharding,
    StepConfig,
    StepFields,
    accumulation_steps,
    micro_batch_size,
    read_step_fields,
)
from parambudget.planning.machine import Machine
from parambudget.planning.step_search import WORTH_MEMORY, fastest_step
from parambudget.planning.update import choose_step
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
    sharding: Sharding | None = None, states: ReusableState | None = None,
    on_status: Callable[[str], None] = lambda _: None,
) -> ResolvedSettings:  # fmt: skip
    """The settings requested and those of the run that is resumed; the rest from model, text and device.

    Trials take their state from `states`, and `on_status` is told of them.
    """
    states = states or ReusableState()
    asked = requested.merged_fields
    if tokens is not None or hours is not None:
        asked.pop("steps", None)
    on_cpu = compute.device.type != "cuda"  # MPS computes as a CPU does, and shares its memory
    group.require_possible(sharding)

    def resolve(length: int | None) -> tuple[ResolvedTrainConfig, dict[str, object], dict[str, str]]:
        fields, why = dict(asked), dict[str, str]()

        def with_defaults() -> ResolvedTrainConfig:
            return with_train_defaults(fields, model, data.n_unique_tokens, on_cpu=on_cpu, tokens=length)

        resolved = with_defaults()
        search = _StepSearch(
            resolved.config, fields, model, machine_of(compute, group.world_size),
            None if requested.stored else hours, length, data.n_unique_tokens,
        )  # fmt: skip
        divided = search.chosen_sharding() if sharding is None else sharding
        if not requested.stored:
            chosen, why = search.fields(group, divided)
            fields.update(chosen)
            resolved = with_defaults()
        executed = group.executed_config(resolved.config, compute, sharding=divided)
        return replace(resolved, config=executed), fields, why

    def fit(resolved: ResolvedTrainConfig) -> ResolvedTrainConfig:
        step = resolved.config.step
        require_room(model, step, compute)
        if on_cpu or requested.stored or has_ample_room(model, step, compute):
            return resolved
        return settings_that_fit(resolved, model, data, compute, group, states=states, on_status=on_status)

    resolved, fields, why = resolve(tokens)
    resolved = fit(resolved)
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

        def measure(first: ResolvedTrainConfig) -> tuple[ResolvedTrainConfig, float]:
            return settings_for_hours(
                first, fields, model, data, compute, hours, timed, group, requested.require_length,
                states=states,
            )  # fmt: skip

        resolved, seconds = measure(resolved)
        if timed is None and not requested.stored and machine_of(compute, group.world_size) is None:
            # Nobody could say before how many tokens the hours are, and updates follow from those.
            trained = resolved.config.steps * resolved.config.step.tokens_per_update(model.context_length)
            again, fields, why = resolve(trained)
            if again.config.step != resolved.config.step:
                resolved, seconds = measure(fit(again))
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


@dataclass(frozen=True)
class _StepSearch:
    """What decides how updates are executed, as far as it is open: the planner's choice where the device is
    known, else micro-steps that can be divided evenly."""

    config: TrainConfig
    given: Mapping[str, object]
    model: ModelConfig
    machine: Machine | None
    hours: float | None
    tokens: int | None
    unique_tokens: int

    def chosen_sharding(self) -> Sharding:
        """How the fastest step divides the model among the processes."""
        machine = self.machine
        if machine is None or machine.world_size == 1:
            return Sharding(False)
        return self._step(machine, _step_fields(self.config, self.given)).sharding

    def fields(self, group: ProcessGroup, sharding: Sharding) -> tuple[StepFields, dict[str, str]]:
        """The fields that are open, and why they are so."""
        given = _step_fields(self.config, self.given)
        if self.machine is None:
            is_open = (
                group.world_size > 1 and not {"batch_size", "gradient_accumulation_steps"} & given.keys()
            )
            return (_divided_evenly(self.config, group) if is_open else {}), {}
        given_with = read_step_fields({**given, **vars(sharding)}, world_size=self.machine.world_size)
        step = self._step(self.machine, given_with)
        decided = {*given, *SHARDING_FIELDS}
        chosen = {name: value for name, value in step.step_fields.items() if name not in decided}
        peak = format_bytes(peak_bytes(self.model, step))
        reason = (
            f"as planned for {self.machine.name}: of what fits and is at most {WORTH_MEMORY:.0%} slower than "
            f"the fastest, the least memory, {peak} at the peak"
        )
        return cast(StepFields, chosen), dict.fromkeys(chosen, reason)

    def _step(self, machine: Machine, given: StepFields) -> StepConfig:
        """The step of a plan of this run; with given `steps`, as many sequences as they are for. Raises
        `InputError` where none fits."""
        sequences = self.config.step.sequences_per_update
        if "steps" not in self.given:
            step, *_ = choose_step(
                self.model, machine, given, hours=self.hours, tokens=self.tokens,
                unique_tokens=self.unique_tokens,
            )  # fmt: skip
            if machine.fits(int(peak_bytes(self.model, step))):
                return step
            sequences = step.sequences_per_update
        return fastest_step(self.model, sequences, machine, given)


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
