"""Evaluate a checkpoint on questions and on a text, and keep the result in the folder of its run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from parambudget.errors import InputError
from parambudget.formats.source import read_source
from parambudget.text.forms import TokenDtype, describe_left_out
from parambudget.text.held_out import HeldOutText, read_held_out, validation_part
from parambudget.training.device import Compute
from parambudget.training.evaluation.questions import read_questions
from parambudget.training.evaluation.results import Evaluation, add_evaluation
from parambudget.training.evaluation.scores import EvaluationProgress, score_choices, score_text
from parambudget.training.generate import LoadedModel, load_checkpoint
from parambudget.training.run.request import RunOptions
from parambudget.training.run.run_folder import choose_data, warn_about_changed_text


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate a model on; nothing means the held-out text of its own run."""

    choices: Path | None = None
    """Questions in JSON lines."""
    text: Path | None = None
    """A text in any form that training reads."""
    token_dtype: TokenDtype | None = None
    """Type of the ids in `text`, where its files do not name it."""


def evaluate(
    checkpoint: Path, compute: Compute, request: EvaluationRequest,
    on_progress: Callable[[EvaluationProgress], None] = lambda _: None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Evaluation:  # fmt: skip
    """Evaluate a checkpoint, the newest one of a run, or a Hugging Face folder.

    What is evaluated on is read before anything is computed. The result is added to eval.json of the run that
    the checkpoint belongs to. `on_notice` gets what the person who asked should know.
    """
    if request.token_dtype is not None and request.text is None:
        raise InputError("`token_dtype` is the type of the ids in `text`; give a `text`, or leave it out")
    file = None if request.choices is None else read_questions(request.choices)
    loaded = load_checkpoint(checkpoint, compute, on_notice)
    text = _text(loaded, request, on_notice)
    with compute.fixed_arithmetic():
        choices = None if file is None else score_choices(loaded, file, on_progress)
        scored = None if text is None else score_text(loaded, text, on_progress)
    context = loaded.module.model.context_length
    result = Evaluation(str(loaded.folder), compute.name, context, choices, scored)
    if (run := _run_of(loaded.folder)) is not None:
        try:
            add_evaluation(run, replace(result, checkpoint=loaded.folder.name))
        except InputError as error:
            on_notice(f"the result is not kept: {error}")
    return result


def _text(
    loaded: LoadedModel, request: EvaluationRequest, on_notice: Callable[[str], None]
) -> HeldOutText | None:
    if request.text is None and request.choices is not None:
        return None
    if request.text is None:
        return _own_text(loaded, on_notice)
    vocab_size = loaded.module.model.vocab_size
    text = read_held_out(request.text, loaded.tokenizer, vocab_size, request.token_dtype)
    if text.left_out:
        on_notice(f"left out of {text.name}: {describe_left_out(text.left_out)}")
    for note in text.notes:
        on_notice(note)
    return text


def _own_text(loaded: LoadedModel, on_notice: Callable[[str], None]) -> HeldOutText:
    """All that the run of the checkpoint holds out, which its own evaluations may read only a part of."""
    run = _run_of(loaded.folder)
    if run is None:
        raise InputError(
            f"{loaded.folder} does not belong to a run, so there is no held-out text; give questions with "
            "`choices`, or a `text`"
        )
    provenance = read_source(str(loaded.folder / "config.json")).provenance
    data = choose_data(RunOptions(), provenance, run).read(loaded.module.model.vocab_size)
    warn_about_changed_text(provenance, data, on_notice)
    return validation_part(data, data.name)


def _run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to."""
    checkpoints = checkpoint.absolute().parent
    belongs = checkpoints.name == "checkpoints" and (checkpoints.parent / "config.json").is_file()
    return checkpoint.parent.parent if belongs else None
