"""The scores of a model: multiple choice by log-likelihood, and the loss on a text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np

from parambudget.errors import InputError
from parambudget.text.held_out import HeldOutText
from parambudget.training.evaluation.questions import Question, QuestionFile
from parambudget.training.evaluation.results import ChoiceScore, TextScore
from parambudget.training.evaluation.scoring import ScoredTokens, log_likelihoods
from parambudget.training.generate import LoadedModel
from parambudget.units import count_phrase


@dataclass(frozen=True)
class EvaluationProgress:
    """How far an evaluation is."""

    part: Literal["choices", "text"]
    n_done: int
    n_total: int

    @property
    def share(self) -> float:
        """Of the part that is being done."""
        return self.n_done / max(1, self.n_total)

    @property
    def label(self) -> str:
        """The part in words."""
        return "endings scored" if self.part == "choices" else "windows of text scored"


def score_choices(
    loaded: LoadedModel, file: QuestionFile,
    on_progress: Callable[[EvaluationProgress], None] = lambda _: None,
) -> ChoiceScore:  # fmt: skip
    """How often the right ending has the highest log-likelihood given the context, in all and per character.

    A context that does not fit beside an ending loses its beginning.
    """
    encoded = [_encode_question(loaded, question, file.name) for question in file.questions]
    sequences = [sequence for question in encoded for sequence in question.sequences]
    totals = log_likelihoods(
        loaded, len(sequences), lambda i: len(sequences[i].tokens), sequences.__getitem__,
        lambda n: on_progress(EvaluationProgress("choices", n, len(sequences))),
    )  # fmt: skip
    right, right_norm, first = [], [], 0
    for question in file.questions:
        of_endings = np.array(totals[first : first + len(question.endings)])
        lengths = np.array([len(ending) for ending in question.endings])
        right.append(int(of_endings.argmax()) == question.label)
        right_norm.append(int((of_endings / lengths).argmax()) == question.label)
        first += len(question.endings)
    n = len(file.questions)
    return ChoiceScore(
        file.name, file.sha256, n, sum(right) / n, _standard_error(right), sum(right_norm) / n,
        _standard_error(right_norm), sum(1 / len(each.endings) for each in file.questions) / n,
        sum(question.is_truncated for question in encoded),
    )  # fmt: skip


def _standard_error(right: Sequence[bool]) -> float | None:
    """Of the mean of as many draws: from the sample's variance, which has one degree of freedom less."""
    n, mean = len(right), sum(right) / len(right)
    return math.sqrt(mean * (1 - mean) / (n - 1)) if n > 1 else None


@dataclass(frozen=True, eq=False)
class _EncodedQuestion:
    sequences: tuple[ScoredTokens, ...]
    """One for each ending."""
    is_truncated: bool


def _encode_question(loaded: LoadedModel, question: Question, file: str) -> _EncodedQuestion:
    """Context and endings as ids.

    Each is encoded as a whole, so that the words at the boundary get the ids that they have in a text. White
    space at the end of a context is scored with the ending, because ids of words begin with it. Where an
    ending changes ids of the context itself, all endings are scored from there on: they stay comparable.
    """
    end, most = loaded.tokenizer.end, loaded.module.model.context_length

    def encode(text: str) -> list[int]:
        return loaded.tokenizer.tokenizer.encode(text, add_special_tokens=loaded.add_special_tokens).ids

    context = encode(question.context.rstrip())
    wholes = [encode(question.context + text) for text in question.continuations]
    n_context = min(_common_length(context, whole) for whole in wholes)
    if not n_context:  # without a context, an ending begins where a document does
        n_context, wholes = 1, [[end, *whole] for whole in wholes]
    sequences = []
    for number, whole in enumerate(wholes, 1):
        n_scored = len(whole) - n_context
        if not 1 <= n_scored <= most:
            allowed = f"more than context_length={most:,}" if n_scored else "as its tokenizer reads them"
            raise InputError(
                f"{file}, line {question.line}: ending {number} has {count_phrase(n_scored, 'token')}, "
                f"{allowed}; leave the question out"
            )
        # Of n tokens, n - 1 are inputs.
        sequences.append(ScoredTokens(np.array(whole[-(most + 1) :]), n_scored))
    return _EncodedQuestion(tuple(sequences), max(map(len, wholes)) > most + 1)


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at the beginning are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def score_text(
    loaded: LoadedModel, text: HeldOutText, on_progress: Callable[[EvaluationProgress], None] = lambda _: None
) -> TextScore:
    """The loss on a text, in windows of context_length that do not overlap, as a run evaluates itself.

    Each token is predicted once: the first one after an end of text alone, and the others in their windows.
    """
    tokens, context_length = text.tokens, loaded.module.model.context_length
    n_targets = len(tokens) - 1
    n_windows = -(-n_targets // context_length)

    def length_of(i: int) -> int:
        return 2 if i == 0 else min(context_length, n_targets - (i - 1) * context_length) + 1

    def sequence(i: int) -> ScoredTokens:
        if i == 0:
            return ScoredTokens(np.array([loaded.tokenizer.end, int(tokens[0:1][0])]), 1)
        start = (i - 1) * context_length
        return ScoredTokens(tokens[start : start + length_of(i)], length_of(i) - 1)

    totals = log_likelihoods(
        loaded, 1 + n_windows, length_of, sequence,
        lambda n: on_progress(EvaluationProgress("text", n, 1 + n_windows)),
    )  # fmt: skip
    nats = -math.fsum(totals)
    bits_per_byte = None if not text.n_bytes else nats / math.log(2) / text.n_bytes
    return TextScore(
        text.name, text.n_documents, len(tokens), text.n_bytes, nats / len(tokens), bits_per_byte,
        text.lost_share,
    )  # fmt: skip
