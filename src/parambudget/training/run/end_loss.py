"""The loss that a run should end at: by the law that it was planned with, and by its own curve while it goes
on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from parambudget._files import sha256_of_text
from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError, without_advice
from parambudget.scaling.law_file import read_law, write_law
from parambudget.scaling.loss import LossLaw, law_parameters, range_warnings, require_comparable
from parambudget.scaling.loss_curve import FEWEST_UPDATES, Array, LossCurve, forecast_end, is_long_enough
from parambudget.scaling.loss_interval import LossInterval, predict_loss
from parambudget.training.config import TrainConfig
from parambudget.training.metrics import LossForecast, StepMetrics
from parambudget.training.optimization.schedule import learning_rate

if TYPE_CHECKING:
    from parambudget.text.token_cache import TokenData

FORECAST: Final = "forecast"
"""The key of the provenance of a run whose end is forecast: the name of its law, null for the curve alone."""
LAW_COPY: Final = "forecast_law.json"
"""The law in the folder of such a run, which is enough to resume it."""
RENEWALS: Final = 100
"""Forecasts in a run, beside those after evaluations."""


@dataclass(frozen=True)
class ForecastRequest:
    """That the end of a run is to be forecast."""

    law: LossLaw | None = None
    """Fitted to a ladder, which says what the run was planned to reach; None for its own curve alone."""
    problem: str | None = None
    """Why a run that is resumed goes on without its law."""


def request_forecast(
    asked: ForecastRequest | None, model: ModelConfig, provenance: Mapping[str, object], resumed: Path | None
) -> ForecastRequest | None:
    """What is asked for, else what the run to resume has; None for neither.

    Raises `InputError` for a law that is not of one's own runs, or of another vocabulary or context.
    """
    if asked is None and resumed is not None and FORECAST in provenance:
        asked = _stored_request(resumed, provenance[FORECAST])
    if asked is not None and asked.law is not None:
        if asked.law.fit is None:
            raise InputError(
                f"`forecast={asked.law.name}` is a published law, whose losses are of another text; give the "
                "law.json of a ladder on yours, or no law"
            )
        require_comparable(asked.law, model.vocab_size, model.context_length, argument="forecast")
    return asked


def _stored_request(folder: Path, name: object) -> ForecastRequest:
    if name is None:
        return ForecastRequest()
    try:
        return ForecastRequest(replace(read_law(folder / LAW_COPY), name=str(name)))
    except InputError as error:
        return ForecastRequest(problem=f"no plan to compare with: {without_advice(error)}")


class RunForecast:
    """Follows a run, and says what it should end at."""

    def __init__(
        self, config: TrainConfig, law: LossLaw | None = None, planned: LossInterval | None = None
    ) -> None:
        self.law, self._planned, self._config = law, planned, config
        self._rates = _learning_rates(config)
        self._losses: list[float] = []
        self._evaluations: list[tuple[float, float]] = []
        self._ends_at: LossInterval | None = None
        self._halfway: LossInterval | None = None

    @property
    def newest(self) -> LossForecast:
        """As far as the run has come. After its last update there is no end to forecast."""
        return LossForecast(
            None if self.law is None else self.law.name, self._planned, self._ends_at, self._halfway
        )

    def add(self, step: StepMetrics) -> None:
        """Follow the next update."""
        self._losses.append(math.nan if step.loss is None else step.loss)
        self._rates[step.step - 1] = step.lr  # of a run with other `steps` before it was resumed
        if step.val_loss is not None:
            self._evaluations.append((step.step, step.val_loss))
        steps = self._config.steps
        is_halfway = step.step == (steps + 1) // 2
        if step.step == steps:
            self._ends_at = None
        elif is_halfway or step.evaluated or step.step % max(1, steps // RENEWALS) == 0:
            self._ends_at = self._forecast()
        if is_halfway:
            self._halfway = self._ends_at

    def _forecast(self) -> LossInterval | None:
        return forecast_end(
            LossCurve(
                np.array(self._losses), self._rates / self._config.learning_rate,
                np.array(self._evaluations, dtype=np.float64).reshape(-1, 2),
            )
        )  # fmt: skip

    def write_law(self, folder: Path) -> None:
        """Put the law into the folder of the run."""
        if self.law is not None:
            write_law(folder / LAW_COPY, self.law)


def plan_forecast(
    request: ForecastRequest, model: ModelConfig, config: TrainConfig, data: "TokenData"
) -> RunForecast:
    """The forecast of a run before its first update."""
    planned = None
    if request.law is not None:
        planned = predict_loss(
            request.law, float(law_parameters(model)), _tokens(model, config), data.n_unique_tokens
        )
    return RunForecast(config, request.law, planned)


def _tokens(model: ModelConfig, config: TrainConfig) -> int:
    return config.steps * config.step.tokens_per_update(model.context_length)


def forecast_notices(
    request: ForecastRequest, model: ModelConfig, config: TrainConfig, data: "TokenData", init: Path | None
) -> Iterator[str]:
    """What is to be said against a forecast before the run begins, a line each."""
    if request.problem is not None:
        yield request.problem
    if (law := request.law) is not None:
        if (difference := text_difference(law, data)) is not None:
            yield difference
        if init is not None:
            yield f"{law.name} is of runs from the beginning, and this one starts from the weights in {init}"
        for warning in range_warnings(law, float(law_parameters(model)), _tokens(model, config)):
            yield f"{law.name}: {warning}"
    if config.eval_every >= config.steps or not is_long_enough(_learning_rates(config)):
        yield (
            f"the end is not forecast from the curve: that takes {FEWEST_UPDATES} updates after the warm-up "
            "and an evaluation before the end, and this run has "
            f"`steps={config.steps}, warmup_steps={config.warmup_steps}, eval_every={config.eval_every}`"
        )


def _learning_rates(config: TrainConfig) -> Array:
    return np.array([learning_rate(step, config) for step in range(config.steps)])


def text_difference(law: LossLaw, data: "TokenData") -> str | None:
    """The line about a fitted law that is of another text or tokenizer than the data; None where it is of the
    same, or published."""
    if law.fit is None:
        return None
    pairs = {
        "text": (law.fit.corpus_sha256, data.sha256),
        "tokenizer": (law.fit.tokenizer_sha256, sha256_of_text(data.tokenizer_json)),
    }
    different = [what for what, (there, here) in pairs.items() if there != here]
    if not different:
        return None
    return (
        f"{law.name} was fitted to runs with another {' and '.join(different)} ({law.fit.corpus}) than this "
        "run's: its losses are of those"
    )
