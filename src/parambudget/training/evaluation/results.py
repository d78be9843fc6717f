"""What a trained model reaches on questions and on a text: plain values, as in eval.json of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from parambudget._documents import CLOSED, Count, Sha256, parse_document
from parambudget._files import read_json, require_inside, write_json
from parambudget._json_types import SchemaOf
from parambudget._tabular import Tabular
from parambudget.errors import InputError

EVALUATIONS: Final = "eval.json"
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ChoiceScore:
    """How often the right ending of a question has the highest log-likelihood."""

    __pydantic_config__ = CLOSED

    file: str
    """The questions."""
    sha256: Sha256
    """Of the file's content, unpacked."""
    n_questions: Count
    """How many there are."""
    acc: Share
    """By the log-likelihood of the ending given the context."""
    acc_stderr: float | None
    """Standard error of the mean over the questions; None for a single one."""
    acc_norm: Share
    """By the log-likelihood per character of the ending, as lm-evaluation-harness has it."""
    acc_norm_stderr: float | None
    """Standard error of the mean over the questions; None for a single one."""
    chance: Share
    """The share that guessing gets."""
    n_truncated: Count
    """Questions of which the beginning of the context was cut off: an ending would not have fit beside it."""


@dataclass(frozen=True)
class TextScore:
    """The loss on a text, each of its tokens predicted once."""

    __pydantic_config__ = CLOSED

    file: str
    """The text."""
    n_documents: Count | None
    """None where it is not known."""
    n_tokens: Count
    """End-of-text tokens included."""
    n_bytes: Count | None
    """Of UTF-8; None where bits per byte have no meaning."""
    loss: float
    """Mean nats per token."""
    bits_per_byte: float | None
    """End-of-text tokens count as bits but not as bytes. None where the ids do not give back the text."""
    lost_share: float | None
    """Share of the text's bytes that the ids do not give back; None if they give back the text."""


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """What a checkpoint reaches."""

    __pydantic_config__ = CLOSED

    checkpoint: str
    """Its folder; in eval.json of a run, its name."""
    device: str
    """What it was evaluated on."""
    context_length: Count
    """Tokens of the windows that the text is read in, and the most that a context and its ending have."""
    choices: ChoiceScore | None
    """Multiple choice; None where no questions were given."""
    text: TextScore | None
    """The loss on a text; None where none was read."""

    def as_dict(self) -> "EvaluationDocument":
        """Plain JSON values."""
        return asdict(self)

    def rows(self) -> list[dict[str, object]]:
        """One dict per figure."""
        rows: list[dict[str, object]] = []
        if (choices := self.choices) is not None:
            rows = [
                _row("acc", choices.acc, choices.acc_stderr, choices.file),
                _row("acc_norm", choices.acc_norm, choices.acc_norm_stderr, choices.file),
            ]
        if (text := self.text) is not None:
            rows.append(_row("loss", text.loss, None, text.file))
            if text.bits_per_byte is not None:
                rows.append(_row("bits_per_byte", text.bits_per_byte, None, text.file))
        return rows


EvaluationDocument = Annotated[dict[str, Any], SchemaOf(Evaluation)]


def _row(figure: str, value: float, stderr: float | None, file: str) -> dict[str, object]:
    return {"figure": figure, "value": value, "stderr": "" if stderr is None else stderr, "file": file}


def read_evaluations(run: Path) -> list[Evaluation]:
    """What is in eval.json of a run, in the order in which it was measured; nothing if there is none."""
    path = run / EVALUATIONS
    if not path.exists():
        return []
    try:
        require_inside(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; replace it by the file itself") from None
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path} is damaged: it is not a list of evaluations; remove it")
    return [parse_document(each, Evaluation, f"{path}, evaluation {n},") for n, each in enumerate(content, 1)]


def add_evaluation(run: Path, new: Evaluation) -> None:
    """Add an evaluation to eval.json of a run, in place of those of the same checkpoint and files."""
    others = [each for each in read_evaluations(run) if _subject(each) != _subject(new)]
    write_json(run / EVALUATIONS, [each.as_dict() for each in (*others, new)])


def _subject(evaluation: Evaluation) -> Mapping[str, object]:
    choices, text = evaluation.choices, evaluation.text
    return {
        "checkpoint": evaluation.checkpoint,
        "choices": None if choices is None else choices.file,
        "text": None if text is None else text.file,
    }
