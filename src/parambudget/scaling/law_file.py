"""A fitted law as a file, law.json: written by `ladder fit`, read wherever the name of a law may stand."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from parambudget._documents import CLOSED, read_with_seal, write_with_seal
from parambudget._version import __version__
from parambudget.scaling.law_fit import Constant, LawFit
from parambudget.scaling.loss import DEFAULT_LAW, LOSS_LAWS, LossLaw, loss_law
from parambudget.scaling.numbers import FittedRange

LAW_FILE: Final = "law.json"
PARAMETERS: Final = "all but an untied output head"
"""N, as `loss.law_parameters` counts it."""
TOKENS: Final = "read in training, repeated ones by what they are worth"


@dataclass(frozen=True)
class _LawDocument:
    """law.json."""

    __pydantic_config__ = CLOSED

    form: Literal["L(N, D) = E + A / N^alpha + B / D^beta, nats per token"]
    parameters_are: Literal["all but an untied output head"]
    tokens_are: Literal["read in training, repeated ones by what they are worth"]
    version: str
    """Of this package, when the file was written."""
    E: Constant
    A: Constant
    B: Constant
    alpha: Constant
    beta: Constant
    repetitions: Constant
    parameters: tuple[Constant, Constant]
    tokens: tuple[Constant, Constant]
    fit: LawFit


def write_law(path: Path, law: LossLaw) -> None:
    """Write a fitted law, whole or not at all."""
    assert law.fit is not None
    write_with_seal(
        path,
        _LawDocument(
            form="L(N, D) = E + A / N^alpha + B / D^beta, nats per token", parameters_are=PARAMETERS,
            tokens_are=TOKENS, version=__version__, E=law.E, A=law.A, B=law.B, alpha=law.alpha,
            beta=law.beta, repetitions=law.repetitions, parameters=(law.parameters.low, law.parameters.high),
            tokens=(law.tokens.low, law.tokens.high), fit=law.fit,
        ),
    )  # fmt: skip


def read_law(path: Path) -> LossLaw:
    """The law in a file; the error of any other one is one line."""
    document = read_with_seal(path, _LawDocument)
    return fitted_law(
        str(path), document.E, document.A, document.B, document.alpha, document.beta, document.repetitions,
        FittedRange(*document.parameters), FittedRange(*document.tokens), document.fit,
    )  # fmt: skip


def fitted_law(
    name: str, E: float, A: float, B: float, alpha: float, beta: float, repetitions: float,
    parameters: FittedRange, tokens: FittedRange, fit: LawFit,
) -> LossLaw:  # fmt: skip
    """A law of one's own runs."""
    return LossLaw(
        name=name, E=E, A=A, B=B, alpha=alpha, beta=beta, excess_parameters=None,
        fitted_on=f"{fit.corpus}, a vocabulary of {fit.vocab_size:,}", parameters=parameters, tokens=tokens,
        source=f"fitted to {fit.n_runs} runs of a ladder", evidence="the runs themselves",
        repetitions=repetitions, fit=fit,
    )  # fmt: skip


def find_law(given: LossLaw | str | os.PathLike[str] | None) -> LossLaw:
    """The law of a name or in a file, the default one without, or a law itself; an unknown name lists all,
    the nearest first."""
    if given is None or isinstance(given, LossLaw):
        return given or DEFAULT_LAW
    source = os.fspath(given)
    is_path = source.endswith(".json") or os.sep in source or os.path.isfile(source)
    if source not in LOSS_LAWS and is_path:
        return read_law(Path(source))
    return loss_law(source)
