"""Expected loss from parameters and tokens: L(N, D) = E + A / N^alpha + B / D^beta, in nats per token.

A law holds for the text and the tokenizer that it was fitted on. What it claims are differences and rankings;
an absolute value is a mark on that text's scale, and every `LossEstimate` says so.

Left out on purpose: the rounded constants in the body text of Hoffmann et al. 2022 (E 1.69, alpha 0.34, beta
0.28). Rounding alone biases them: they want 26 tokens per parameter at 1e18 FLOPs and 93 at 5.76e23.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp, log
from types import MappingProxyType
from typing import Final

import numpy as np

from parambudget.arch.dims import Dims, Size
from parambudget.arch.tensors import tensors
from parambudget.errors import InputError, suggest
from parambudget.scaling.anchor import Anchor
from parambudget.scaling.law_fit import LawFit, LawSample
from parambudget.scaling.numbers import FittedRange, as_float, require_all_positive, require_positive
from parambudget.units import format_count, shorten

REPETITIONS: Final = 15.387756
"""R*: after so many repetitions a further one is worth 1/e of its tokens. However often it is read, text is
worth at most 1 + R* times its own length in fresh text."""
REPETITION_SOURCE: Final = "Muennighoff et al. 2023"
FREE_EPOCHS: Final = 4
"""Up to here, by the paper's abstract, repetition is hardly worse than fresh text."""
LAST_EPOCHS: Final = 16
"""From about R* repetitions on little is gained."""


def epochs(tokens: Size, unique_tokens: Size) -> Size:
    """How often the text is read; below 1 where there is more of it than is trained on."""
    return require_all_positive(tokens, "tokens") / require_all_positive(unique_tokens, "unique_tokens")


def effective_tokens(tokens: Size, unique_tokens: Size, repetitions: Size = REPETITIONS) -> Size:
    """Fresh tokens that would teach as much: D' = U + U R* (1 - exp(-(D / U - 1) / R*)), R* being
    `repetitions`; D itself up to one epoch."""
    trained, unique = (
        require_all_positive(tokens, "tokens"),
        require_all_positive(unique_tokens, "unique_tokens"),
    )
    read = np.minimum(unique, trained)
    worth = read - read * repetitions * np.expm1(-(trained / read - 1) / repetitions)
    return as_float(np.minimum(worth, trained))  # rounding alone may be above


def worth_of_next_token(tokens: Size, unique_tokens: Size, repetitions: Size = REPETITIONS) -> Size:
    """The share of a fresh token that the next one read is worth: exp(-(D / U - 1) / R*), 1 up to one
    epoch."""
    return as_float(np.exp(-np.maximum(epochs(tokens, unique_tokens) - 1, 0) / repetitions))


def repetition_warning(tokens: float, unique_tokens: float, law: "LossLaw | None" = None) -> str | None:
    """The line that every run of more than 4 epochs gets, in plans, reports and training; None up to 4. What
    repeated text is worth is the law's; without a law, that of Muennighoff et al."""
    trained, unique = require_positive(tokens, "tokens"), require_positive(unique_tokens, "unique_tokens")
    times = trained / unique
    if times <= FREE_EPOCHS:
        return None
    few = f"{FREE_EPOCHS}, repeated text is worth less"
    rule = few if times <= LAST_EPOCHS else f"{LAST_EPOCHS}, little is gained"
    worth, source = REPETITIONS, REPETITION_SOURCE
    if law is not None and law.repetitions != REPETITIONS:
        worth, source = law.repetitions, f"R* = {law.repetitions:.3g} of {law.name}"
    return (
        f"{format_count(times)} epochs: the run reads {format_count(trained)} tokens from a text of "
        f"{format_count(unique)}; above {rule}: all of it teaches as much as "
        f"{format_count(effective_tokens(trained, unique, worth))} fresh tokens, and the next token is worth "
        f"{worth_of_next_token(trained, unique, worth):.0%} of a fresh one ({source})"
    )


FEWEST_PARAMETERS: Final = 50e6
"""Below it the embeddings dominate, and the laws count them like any other parameter."""
TOKENS_PER_PARAMETER_RANGE: Final = FittedRange(1, 500)
"""A cautious bound of this project, not of a paper."""


@dataclass(frozen=True)
class LossLaw:
    """One fit of L(N, D) = E + A / N^alpha + B / D^beta; where it is anchored, at another level."""

    name: str
    E: float
    """Loss of an unlimited model on unlimited text, nats per token."""
    A: float
    B: float
    alpha: float
    beta: float
    excess_parameters: float | None
    """R_N*, where the law lets parameters beyond those that the text supports decay; None where it does
    not."""
    fitted_on: str
    """Text and tokenizer."""
    parameters: FittedRange
    tokens: FittedRange
    source: str
    evidence: str
    """Where the constants were read, and what was only recalled."""
    anchor: Anchor | None = None
    """The measured run that E, A and B have their level from; None for that of the law's own text."""
    repetitions: float = REPETITIONS
    """R*, of repeated text."""
    fit: LawFit | None = None
    """The runs of one's own that the law was fitted to: its losses are claims; None for a published law."""

    @property
    def is_measured(self) -> bool:
        """Whether its losses are of a text that was measured, by an anchor or by a fit."""
        return self.anchor is not None or self.fit is not None

    @property
    def beside_in_words(self) -> str:
        """What `laws_beside` gives, as it is said of a range over them."""
        if self.fit is not None:
            return "nine of ten laws that fit as well"
        return "the published laws" if self.anchor is None else "the laws through that run"

    @property
    def balance(self) -> float:
        """G = (alpha A / (beta B))^(1 / (alpha + beta)), which divides compute between model and text."""
        return float((self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta)))

    def gain(self, loss: float, share: float) -> float:
        """Nats that this share more compute buys where it is best divided between model and text: the loss
        above E falls with compute to the power of alpha beta / (alpha + beta)."""
        power = self.alpha * self.beta / (self.alpha + self.beta)
        return max(loss - self.E, 0.0) * -float(np.expm1(-power * log(1 + share)))

    def parameters_for(self, tokens: Size) -> Size:
        """The N for which `tokens` are compute-optimal: G (G D)^(beta / alpha)."""
        fresh = require_all_positive(tokens, "tokens")
        return self.balance * (self.balance * fresh) ** (self.beta / self.alpha)


_MASSIVE_TEXT: Final = "MassiveText, a SentencePiece vocabulary of 32,000"
# 500 billion from the abstract; 875 million is the least that was seen among their runs, which others have
# read off the figures (the data set open-athena/isoflop-experiments).
_CHINCHILLA_TOKENS: Final = FittedRange(875e6, 500e9)

BESIROGLU_2024: Final = LossLaw(
    name="besiroglu-2024", E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658,
    excess_parameters=None, fitted_on=_MASSIVE_TEXT,
    parameters=FittedRange(FEWEST_PARAMETERS, 16e9), tokens=_CHINCHILLA_TOKENS,
    source="Besiroglu et al. 2024, arXiv 2404.10102: refit of 240 runs of Hoffmann et al., read off a figure",
    evidence="constants seen in several public copies; standard errors E 0.03, A 125, B 1293, alpha 0.02, "
    "beta 0.02; the range is that of Hoffmann et al., from 50M",
)  # fmt: skip
HOFFMANN_2022: Final = LossLaw(
    name="hoffmann-2022", E=1.6934, A=406.4, B=410.7, alpha=0.3392, beta=0.2849,
    excess_parameters=None, fitted_on=_MASSIVE_TEXT,
    parameters=FittedRange(FEWEST_PARAMETERS, 16e9), tokens=_CHINCHILLA_TOKENS,
    source="Hoffmann et al. 2022, arXiv 2203.15556, approach 3, unrounded as in its TeX source",
    evidence="through Besiroglu et al. 2024, who quote the TeX source and show that this fit stopped early",
)  # fmt: skip
MUENNIGHOFF_2023: Final = LossLaw(
    name="muennighoff-2023", E=exp(0.6254804), A=exp(6.255414), B=exp(7.3049974),
    alpha=0.3526596, beta=0.3526596, excess_parameters=5.309743,
    fitted_on="C4, GPT-2's vocabulary of 50,257",
    parameters=FittedRange(FEWEST_PARAMETERS, 9e9), tokens=FittedRange(100e6, 900e9),
    source=f"{REPETITION_SOURCE}, arXiv 2305.16264, equations 5, 6 and 17",
    evidence="constants and formula read in the authors' repository, huggingface/datablations, and the TeX "
    "source; 182 runs from 7M parameters on, of which those below 50M are mostly embeddings",
)  # fmt: skip

LOSS_LAWS: Final[Mapping[str, LossLaw]] = MappingProxyType(
    {law.name: law for law in (BESIROGLU_2024, HOFFMANN_2022, MUENNIGHOFF_2023)}
)
"""By name, the default first."""
DEFAULT_LAW: Final = BESIROGLU_2024

SEED_NOISE: Final = 0.006
"""Five runs that differ in the seed alone end within this share of their mean (docs/recipe.md)."""


def loss_law(name: str) -> LossLaw:
    """The law of that name; an unknown one lists all, the nearest first."""
    if name in LOSS_LAWS:
        return LOSS_LAWS[name]
    near = suggest(str(name), LOSS_LAWS, most=len(LOSS_LAWS), cutoff=0)
    raise InputError(
        f"unknown loss law {shorten(repr(name))}; use {', '.join(near)}, or the law.json of a ladder"
    )


def law_parameters(m: Dims) -> Size:
    """N as all laws of the table count it: every parameter but those of an output head of its own; of routed
    experts those used per token.

    The published counts behind them fit one table of tokens (docs/laws.md). To count a second one would
    promise from a lookup what the fit found in layers. The laws are of dense models, and a model with experts
    ends lower than the dense one of its active parameters (Clark et al. 2022, arXiv 2202.01169): what they
    expect of it is an upper bound.
    """
    return sum(row.active for row in tensors(m) if row.component != "lm_head")


def expected_loss(
    law: LossLaw, n_parameters: Size, tokens: Size, unique_tokens: Size | None = None, *,
    vocab_size: Size | None = None,
) -> Size:  # fmt: skip
    """Nats per token on the text of the law after `tokens` tokens; arrays give an array.

    With `unique_tokens` fewer than `tokens`, text is repeated and D is replaced by the effective tokens of
    Muennighoff et al. Their law also replaces N where the model is larger than its text supports, with or
    without repetition. In other laws N stays: those were fitted on fresh text with such models among them,
    and have no term for it. So for repeated text and a too large model theirs is the one to ask.

    With `vocab_size` it is at most `uniform_loss` of that: a law knows of no vocabulary but its own.
    """
    size, trained = require_all_positive(n_parameters, "n_parameters"), require_all_positive(tokens, "tokens")
    fresh = trained
    if unique_tokens is not None:
        unique = require_all_positive(unique_tokens, "unique_tokens")
        fresh = np.minimum(unique, trained)
        trained = effective_tokens(trained, unique, law.repetitions)
    if law.excess_parameters is not None:
        size = _effective_parameters(size, law.parameters_for(fresh), law.excess_parameters)
    loss = law.E + law.A / size**law.alpha + law.B / trained**law.beta
    return as_float(loss if vocab_size is None else np.minimum(loss, uniform_loss(vocab_size)))


def anchor_law(law: LossLaw, anchor: Anchor) -> LossLaw:
    """The law with E, A and B times one factor, with which it passes through a measured run.

    A factor and no shift: nats per token are proportional to the bytes of a token, in which tokenizers
    differ, and a law that is shifted down would promise losses below 0. Exponents stay, and so does how
    compute is divided between model and text. Raises `InputError` for a fitted law, which has its level from
    its own runs.
    """
    if law.fit is not None:
        raise InputError(
            f"{law.name} was fitted to runs of its own, so it takes no level from {anchor.source}; leave out "
            "`anchor`, or use a published `law`"
        )
    unanchored = expected_loss(law, anchor.n_parameters, anchor.tokens, anchor.unique_tokens)
    level = anchor.loss / unanchored
    return replace(law, E=level * law.E, A=level * law.A, B=level * law.B, anchor=anchor)


def laws_beside(law: LossLaw) -> tuple[LossLaw, ...]:
    """The law, and those that what was measured cannot tell from it.

    For a fitted law, the samples of its constants, each at the level of one run as far as runs lie from their
    law. For an anchored one, every other law of the table through the same run: how far they lie apart
    elsewhere is the error that no measurement of one run removes.
    """
    if law.fit is not None:
        return (law, *(_sampled_law(law, sample) for sample in law.fit.samples))
    if law.anchor is None:
        return (law,)
    return (law, *(anchor_law(other, law.anchor) for other in LOSS_LAWS.values() if other.name != law.name))


def _sampled_law(law: LossLaw, sample: LawSample) -> LossLaw:
    """The law with these constants, at the level of a run that lies so far from it."""
    level = exp(sample.scatter)
    return replace(
        law, E=level * sample.E, A=level * sample.A, B=level * sample.B, alpha=sample.alpha,
        beta=sample.beta, repetitions=sample.repetitions, fit=None,
    )  # fmt: skip


INTERVAL: Final = (5, 95)
"""Percentiles among the samples of a fitted law: nine of ten runs lie between."""


def range_over_laws(law: LossLaw, lows: list[float], highs: list[float]) -> tuple[float, float]:
    """The ends of an interval from what each of `laws_beside` says of its lower and of its upper end: of a
    fitted law the 5th and the 95th percentile of its samples, else the lowest and the highest."""
    if law.fit is None:
        return min(lows), max(highs)
    # Of samples, not of what lies between two: some losses are never reached, at infinitely many tokens.
    low = np.percentile(lows[1:], INTERVAL[0], method="inverted_cdf")
    high = np.percentile(highs[1:], INTERVAL[1], method="inverted_cdf")
    return float(low), float(high)


def require_comparable(law: LossLaw, vocab_size: int, context_length: int, *, argument: str = "law") -> None:
    """Raise `InputError` where the law is of runs with another vocabulary or context: its nats per token are
    of another tokenizer, or of tokens with more or less before them. It was given as that `argument`."""
    fit = law.fit
    if fit is not None and (fit.vocab_size, fit.context_length) != (vocab_size, context_length):
        raise InputError(
            f"{law.name} was fitted to runs with a vocabulary of {fit.vocab_size:,} and a context of "
            f"{fit.context_length:,}, and the model has {vocab_size:,} and {context_length:,}: their losses "
            f"do not compare; use a model with `vocab_size={fit.vocab_size}, "
            f"context_length={fit.context_length}`, or another `{argument}`"
        )
    if law.anchor is not None and law.anchor.vocab_size != vocab_size:
        raise InputError(
            f"the anchor {law.anchor.source} has a vocabulary of {law.anchor.vocab_size:,} and the model one "
            f"of {vocab_size:,}: losses per token of another tokenizer; use a model with "
            f"`vocab_size={law.anchor.vocab_size}`, or another `anchor`"
        )


def uniform_loss(vocab_size: Size) -> Size:
    """Nats per token of guessing uniformly among the entries of a vocabulary: ln(vocab_size)."""
    return as_float(np.log(require_all_positive(vocab_size, "vocab_size")))


def bound_in_words(vocab_size: int) -> str:
    """The line that names the bound where a law expects more than it."""
    return (
        f"the law expects more than ln {vocab_size:,} = {uniform_loss(vocab_size):.3f} nats, the loss of "
        f"guessing uniformly among {vocab_size:,} tokens; that bound stands in place of its figure"
    )


def _effective_parameters(size: Size, supported: Size, decay: float) -> Size:
    """N' = U_N + U_N R_N* (1 - exp(-(N / U_N - 1) / R_N*)), U_N the parameters that the unique text
    supports."""
    useful = np.minimum(supported, size)
    return useful - useful * decay * np.expm1(-(size / useful - 1) / decay)


@dataclass(frozen=True)
class LossEstimate:
    """An expected loss with what it does and does not mean."""

    loss: float
    """Nats per token of the law's text, or of its anchor's."""
    law: LossLaw
    warnings: tuple[str, ...]
    """One line each; empty within the range of the law."""
    bytes_per_token: float | None = None
    is_bound: bool = False
    """The law expects more than `uniform_loss` of the vocabulary, and `loss` is that bound."""

    @property
    def bits_per_byte(self) -> float | None:
        """The same loss per byte of text, where the bytes per token were given."""
        return None if self.bytes_per_token is None else bits_per_byte(self.loss, self.bytes_per_token)

    @property
    def meaning(self) -> str:
        """The line that stands beside every absolute value."""
        if (fit := self.law.fit) is not None:
            return (
                f"{self.law.name}, fitted to {fit.n_runs} runs on {fit.corpus} (vocabulary "
                f"{fit.vocab_size:,}, context {fit.context_length:,}): losses are of that text and tokenizer"
            )
        if (at := self.law.anchor) is not None:
            return (
                f"{self.law.name} at the level of {at.source} ({at.loss:.4g} nats per token after "
                f"{format_count(at.tokens)} tokens): absolute losses are those of its text and tokenizer"
            )
        return (
            f"{self.law.name}, fitted on {self.law.fitted_on}: absolute losses depend on text and tokenizer; "
            "only differences are comparable"
        )


def estimate_loss(
    law: LossLaw, n_parameters: float, tokens: float, unique_tokens: float | None = None, *,
    bytes_per_token: float | None = None, vocab_size: int | None = None,
) -> LossEstimate:  # fmt: skip
    """The expected loss of one run, with a warning for every way in which it leaves the range of the law.

    With `vocab_size` it is at most that of guessing uniformly, ln(vocab_size) nats, and a warning names the
    bound where it was applied.
    """
    size, trained = require_positive(n_parameters, "n_parameters"), require_positive(tokens, "tokens")
    if bytes_per_token is not None:
        require_positive(bytes_per_token, "bytes_per_token")
    warnings = range_warnings(law, size, trained)
    if law.anchor is not None:
        warnings += tuple(_anchor_warnings(law, law.anchor, size))
    if unique_tokens is not None:
        warnings += _repetition_warnings(law, size, trained, require_positive(unique_tokens, "unique_tokens"))
    loss = expected_loss(law, size, trained, unique_tokens)
    is_bound = vocab_size is not None and loss > uniform_loss(vocab_size)
    if vocab_size is not None and is_bound:
        loss, warnings = uniform_loss(vocab_size), (*warnings, bound_in_words(vocab_size))
    return LossEstimate(loss, law, warnings, bytes_per_token, is_bound)


def range_warnings(law: LossLaw, n_parameters: float, tokens: float) -> tuple[str, ...]:
    """One line for each of N, D and D / N that lies outside the runs behind the law."""
    size = law.parameters.warning(n_parameters, "parameters")
    if size and law.fit is None and n_parameters < FEWEST_PARAMETERS:
        size += " (embeddings dominate)"
    found = (
        size,
        law.tokens.warning(tokens, "tokens"),
        TOKENS_PER_PARAMETER_RANGE.warning(tokens / n_parameters, "tokens per parameter"),
        None if law.fit is None else law.fit.far_warning(n_parameters, tokens),
    )
    return tuple(warning for warning in found if warning)


def _anchor_warnings(law: LossLaw, anchor: Anchor, n_parameters: float) -> Iterator[str]:
    """Where the run behind the level lies outside the law, if that is not said of the model itself."""
    if anchor.n_parameters != n_parameters and (
        size := law.parameters.warning(anchor.n_parameters, "parameters")
    ):
        yield f"{anchor.source}: {size}"
    if tokens := law.tokens.warning(anchor.tokens, "tokens"):
        yield f"{anchor.source}: {tokens}"


def _repetition_warnings(law: LossLaw, size: float, trained: float, unique: float) -> tuple[str, ...]:
    found = [repetition_warning(trained, unique, law)]
    supported = law.parameters_for(unique)
    if law.excess_parameters is None and unique < trained and size > supported:
        found.append(
            f"{format_count(unique)} unique tokens support {format_count(supported)} parameters: more gain "
            f"less than {law.name} says; {MUENNIGHOFF_2023.name} models this"
        )
    return tuple(warning for warning in found if warning)


def bits_per_byte(loss: Size, bytes_per_token: Size) -> Size:
    """Nats per token as bits per byte of text, which may be compared across tokenizers but not across
    texts.

    `bytes_per_token` is that of the text under the tokenizer that `loss` is measured with.
    """
    return require_all_positive(loss, "loss") / (
        require_all_positive(bytes_per_token, "bytes_per_token") * log(2)
    )
