"""The folder of a ladder: ladder.json, a config file per rung, and the runs.

ladder/ladder.json          what is predicted, on which text, from which runs
ladder/configs/NAME.json    model and settings of each, as `train` takes them
ladder/runs/NAME/           the runs, each an ordinary run folder
ladder/law.json             what `fit` found
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from parambudget._documents import CLOSED, Count, Sha256, read_with_seal, write_with_seal
from parambudget._files import require_place, write_errors, write_json
from parambudget._version import __version__
from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.formats.source import config_document
from parambudget.ladders.design import Rung, Target
from parambudget.scaling.law_fit import Constant, Size

LADDER_FILE: Final = "ladder.json"


@dataclass(frozen=True)
class RungEntry:
    """A rung in ladder.json."""

    __pydantic_config__ = CLOSED

    name: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,60}$")]
    n_parameters: Constant
    """N, as laws count it."""
    tokens: Count
    seed: Count
    flops: Constant
    hours: Constant | None
    """Expected on the machine that was planned for."""


@dataclass(frozen=True)
class LadderDocument:
    """ladder.json."""

    __pydantic_config__ = CLOSED

    version: str
    data: str
    """`builtin`, or the absolute path of the text or tokens."""
    corpus: str
    corpus_sha256: Sha256
    tokens_sha256: Sha256
    """Of the training ids: which also tells the tokenizer."""
    tokenizer_sha256: Sha256
    unique_tokens: Count
    vocab_size: Size
    context_length: Size
    target: dict[str, Any]
    """The model."""
    target_tokens: Count
    machine: str | None
    expected_loss: Constant
    """Nats per token that the plan assumes of the target."""
    expected_width: Constant
    """Of the 90 % interval of its loss, by simulation."""
    rungs: Annotated[tuple[RungEntry, ...], Field(min_length=1, max_length=500)]

    @property
    def target_run(self) -> Target:
        """What is predicted."""
        return Target(ModelConfig.read(self.target), self.target_tokens, self.unique_tokens)


def config_path(folder: Path, name: str) -> Path:
    """The config file of a rung."""
    return folder / "configs" / f"{name}.json"


def run_path(folder: Path, name: str) -> Path:
    """The folder of a rung's run."""
    return folder / "runs" / name


def require_free_ladder_folder(folder: Path) -> None:
    """Refuse a folder that holds a ladder already, or other things."""
    require_place(folder, "`out`")
    if (folder / LADDER_FILE).exists():
        raise InputError(f"{folder} holds a ladder already; run it, or choose another folder with `out`")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; choose another folder with `out`")


def write_ladder(folder: Path, document: LadderDocument, rungs: dict[str, Rung]) -> None:
    """Write the config files, and ladder.json last: a folder without that is no ladder."""
    with write_errors(folder, "choose a folder that is writable"):
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        for name, rung in rungs.items():
            origin = {"ladder": "one rung of it", "version": __version__}
            document_of_rung = config_document(rung.model, origin, rung.config.model_dump())
            write_json(config_path(folder, name), document_of_rung)
        write_with_seal(folder / LADDER_FILE, document)


def read_ladder(folder: Path) -> LadderDocument:
    """The ladder in a folder; the error of any other one is one line."""
    if not (folder / LADDER_FILE).is_file():
        raise InputError(
            f"{folder} holds no ladder ({LADDER_FILE} is missing); give the folder that `ladder plan` wrote"
        )
    return read_with_seal(folder / LADDER_FILE, LadderDocument)
