"""A ladder in its folder: planned before, trained and fitted here."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from parambudget._install import TRAINING, require_packages
from parambudget.ladders.ladder_file import LadderDocument, read_ladder
from parambudget.scaling.law_file import LAW_FILE

if TYPE_CHECKING:
    from parambudget.ladders.ladder_fit import LadderFit
    from parambudget.ladders.ladder_plan import LadderPlan
    from parambudget.ladders.run import LadderEvents, RungOutcome
    from parambudget.training.run.signals import StopRequest


@dataclass(frozen=True, init=False)
class Ladder:
    """Small runs in a folder, from which the loss of a large one is predicted."""

    folder: Path
    plan: "LadderPlan | None"
    """What it was planned to cost and tell; None for one that was planned before."""

    def __init__(self, folder: str | PathLike[str], plan: "LadderPlan | None" = None) -> None:
        object.__setattr__(self, "folder", Path(folder))
        object.__setattr__(self, "plan", plan)

    @property
    def document(self) -> LadderDocument:
        """ladder.json."""
        return read_ladder(self.folder)

    def run(
        self, only: Sequence[int] | None = None, *, device: str = "auto",
        events: "LadderEvents | None" = None, stop: "StopRequest | None" = None,
    ) -> "list[RungOutcome]":  # fmt: skip
        """Train the rungs that are not finished, or those of `only` (numbers from 1), and say what became of
        each. Several processes may do so at once, and a killed one is started again in the same way."""
        require_packages("ladder run", TRAINING, ["train"])
        from parambudget.ladders.run import run_rungs

        return run_rungs(self.folder, only, device=device, events=events, stop=stop)

    def fit(self) -> "LadderFit":
        """Fit a law to the finished rungs; `fit().law` goes wherever a law may be given."""
        require_packages("ladder fit", ["scipy"], ["ladder"])
        from parambudget.ladders.fit_runs import fit_ladder

        return fit_ladder(self.folder)

    @property
    def law_path(self) -> Path:
        """Where `parambudget ladder fit` writes the law."""
        return self.folder / LAW_FILE
