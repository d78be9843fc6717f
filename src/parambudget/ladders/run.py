"""Train the rungs of a ladder that are not finished: any number of processes, killed and started again."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from parambudget._files import only_writer
from parambudget.errors import InputError, ParambudgetError
from parambudget.ladders.ladder_file import LadderDocument, RungEntry, config_path, read_ladder, run_path
from parambudget.training.device import Environment, select_device
from parambudget.training.metrics import TrainResult
from parambudget.training.run.orchestration import run
from parambudget.training.run.request import RunOptions, TrainEvents, build_request
from parambudget.training.run.run_folder import read_result
from parambudget.training.run.signals import StopRequest

State = Literal["finished", "failed", "stopped", "busy"]


class RungOutcomeDocument(TypedDict):
    """What has become of a rung."""

    name: str
    """Of its folder."""
    state: State
    """busy: another process trains it."""
    problem: str | None
    """Why it failed; null where it did not."""
    val_loss: float | None
    """At its end, in nats per token; null where it has not finished."""


@dataclass(frozen=True)
class RungOutcome:
    """What has become of a rung."""

    entry: RungEntry
    state: State
    result: TrainResult | None = None
    problem: str | None = None
    """Why it failed."""

    def as_dict(self) -> RungOutcomeDocument:
        """Plain JSON values."""
        return {
            "name": self.entry.name, "state": self.state, "problem": self.problem,
            "val_loss": None if self.result is None else self.result.val_loss,
        }  # fmt: skip


@dataclass(frozen=True)
class LadderEvents:
    """What is called while the rungs are trained. Every callback is optional."""

    on_rung: Callable[[int, RungEntry], TrainEvents] = field(default=lambda _, __: TrainEvents())
    """Before a rung is trained, with its number from 1; what it returns is called as its run goes on."""
    on_outcome: Callable[[int, RungOutcome], None] = lambda _, __: None
    """After each rung, also one that needed no training."""
    on_notice: Callable[[str], None] = lambda _: None
    """Something that the caller should know."""


def run_rungs(
    folder: Path, only: Sequence[int] | None = None, *, device: str = "auto",
    events: LadderEvents | None = None, stop: StopRequest | None = None,
) -> list[RungOutcome]:  # fmt: skip
    """Train what is not finished, of `only` those numbers (from 1) where they are given; one outcome each.

    A rung that another process is training is left to it. One that fails does not stop the others. After a
    request to stop, the current one is saved and no other begins; it goes on the next time.
    """
    document = read_ladder(folder)
    numbers = _numbers(document, only)
    events = events or LadderEvents()
    outcomes = []
    is_shared = False
    for number in numbers:
        entry = document.rungs[number - 1]
        outcome = _run_rung(folder, document, number, entry, device, events, stop)
        if outcome.state == "busy" and not is_shared:
            is_shared = True
            _advise_threads(device, events.on_notice)
        outcomes.append(outcome)
        events.on_outcome(number, outcome)
        if outcome.state == "stopped":
            break
    return outcomes


def _advise_threads(device: str, on_notice: Callable[[str], None]) -> None:
    """Where several processes share a processor, threads of one wait for those of the others."""
    compute = select_device(device)
    if compute.device.type == "cpu" and (n := Environment(compute.name).threads) > 1:
        on_notice(
            f"another process is training a run of this ladder, and this one has {n} threads; threads of "
            "several processes wait for each other: start as many processes as there are cores, each with "
            "OMP_NUM_THREADS=1"
        )


def _numbers(document: LadderDocument, only: Sequence[int] | None) -> list[int]:
    n = len(document.rungs)
    if only is None:
        return list(range(1, n + 1))
    if wrong := [number for number in only if not 1 <= number <= n]:
        raise InputError(f"`only={wrong[0]}` is not a rung of this ladder; its rungs are 1 to {n}")
    if not only:
        raise InputError(f"`only` names no rung; give numbers from 1 to {n}, such as 3,5")
    return sorted(set(only))


def _run_rung(
    folder: Path, document: LadderDocument, number: int, entry: RungEntry, device: str, events: LadderEvents,
    stop: StopRequest | None,
) -> RungOutcome:  # fmt: skip
    out = run_path(folder, entry.name)
    if (done := read_result(out)) is not None and done.finished:
        return RungOutcome(entry, "finished", done)
    out.parent.mkdir(exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(only_writer(out.with_name(f".{entry.name}.lock"), "busy"))
        except InputError:
            return RungOutcome(entry, "busy")
        if (done := read_result(out)) is not None and done.finished:
            return RungOutcome(entry, "finished", done)  # by another process, in the meantime
        options = RunOptions(out=out, data=Path(document.data), resume=True)
        source = config_path(folder, entry.name)
        try:
            result = run(
                lambda: build_request(source, {}, {}, options), device=device,
                events=events.on_rung(number, entry), stop=stop,
            )  # fmt: skip
        except ParambudgetError as error:
            return RungOutcome(entry, "failed", problem=str(error))
    return RungOutcome(entry, "finished" if result.finished else "stopped", result)
