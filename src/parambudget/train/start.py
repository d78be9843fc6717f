"""The weights that a new run starts from: a checkpoint's, or those of a Hugging Face folder."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from parambudget.arch.export.meaning import differences
from parambudget.build.pretrained import described, fill, is_pretrained, weight_files
from parambudget.errors import InputError
from parambudget.text.tokens import TokenData
from parambudget.train import checkpoint
from parambudget.train.distributed import is_piece
from parambudget.train.learner import Learner

_OF_A_PROMPT: Final = ("post_processor", "truncation", "padding")
"""Parts of a tokenizer that do not decide which id a piece of text has."""


def require_start(folder: Path) -> None:
    """Refuse what holds no weights at all; whether they are whole is seen when they are read."""
    if is_pretrained(folder):
        weight_files(folder)
    else:
        checkpoint.require_checkpoint(folder)


def started_from(
    init: Path, learner: Learner, data: TokenData, on_notice: Callable[[str], None]
) -> dict[str, Any]:
    """Put the weights of a checkpoint or a Hugging Face folder in place; returns which ones they are."""
    if is_pretrained(init):
        digest = _fill(init, learner, on_notice)
    else:
        state = checkpoint.load_weights(init, learner.module, check=learner.ranks.leads)
        digest = state["sha256"]["model.safetensors"]
    if not _same_tokenizer(init / "tokenizer.json", data.tokenizer_json):
        on_notice(f"{init} was trained with another tokenizer: its weights know other tokens")
    return {"init": str(init), "init_sha256": digest}


def _fill(init: Path, learner: Learner, on_notice: Callable[[str], None]) -> str:
    """Put a Hugging Face folder's weights in place; returns the hash of its files of weights."""
    found = described(init)
    if any(map(is_piece, learner.module.parameters())):
        raise InputError(
            f"{init} cannot be read by a model that is shared out; start without --shard for one save, then "
            "start from that checkpoint"
        )
    wanted = differences(learner.module.model, found.model)
    if wanted:
        raise InputError(
            f"{init} is of another model: {wanted[0].field} is {wanted[0].got!r} there and "
            f"{wanted[0].wanted!r} here; leave the model out to take that of the weights"
        )
    unread = fill(learner.module, found)
    for note in found.notes:
        on_notice(f"{init}: {note}")
    if unread:
        on_notice(f"{init}: {len(unread)} tensors are no part of the model, such as {unread[0]}")
    digest = hashlib.sha256()
    for path in weight_files(init):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _same_tokenizer(path: Path, used: str) -> bool:
    """Whether a file gives every text the ids that the tokenizer in use gives it."""
    try:
        held = Tokenizer.from_file(str(path)).to_str()
    except Exception:  # tokenizers raises no narrower class; a folder without one has another
        return False
    ours, theirs = json.loads(used), json.loads(held)
    for part in _OF_A_PROMPT:
        ours.pop(part, None)
        theirs.pop(part, None)
    return bool(ours == theirs)
