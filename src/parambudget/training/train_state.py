"""What is trained: the planned module, its optimizer and its loss, on one device."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.formats.hf.weights import fill_from_pretrained, is_pretrained, weight_files
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import verify_module
from parambudget.text.token_cache import TokenData
from parambudget.text.tokenizer import read_pretrained_tokenizer
from parambudget.training.checkpoint import files
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import ALONE, Ranks, is_piece
from parambudget.training.loss import NO_EXPERTS, Balance, mean_loss
from parambudget.training.optimizer import optimizer_for


@dataclass(frozen=True, eq=False)
class Learner:
    """What is trained, and what it takes."""

    module: Transformer
    optimizer: torch.optim.Optimizer
    loss_of: Callable[[Tensor], Tensor]
    compute: Compute
    ranks: Ranks = ALONE
    balance: Balance = NO_EXPERTS


def prepared(
    model: ModelConfig, config: TrainConfig, compute: Compute, ranks: Ranks = ALONE, *, shard: bool = False
) -> Learner:
    """The planned model with the weights that the seed draws, its optimizer and its loss.

    With `shard`, every process holds a part of it, and never more than that and a layer.
    """
    loss_of: Callable[[Tensor], Tensor]
    if shard:
        from parambudget.training.fsdp import sharded  # FSDP2: two seconds that no other run needs

        module = planned(Transformer(model, device="meta", dtype=torch.float32), model)
        balance = Balance.of(module)
        loss_of = mean_loss(module, config, compute, balance, layer_by_layer=True)
        loss_of = sharded(module, loss_of, config.seed, compute, ranks)
    else:
        module = planned(initialised(model, config.seed, compute), model)
        balance = Balance.of(module)
        loss_of = ranks.averaging(module, mean_loss(module, config, compute, balance))
    balance.count_anew()
    return Learner(module, optimizer_for(module, model, config), loss_of, compute, ranks, balance)


def initialised(model: ModelConfig, seed: int, compute: Compute) -> Transformer:
    """The model with the weights that `seed` draws, in float32 on the device."""
    module = Transformer(model, device=compute.device, dtype=torch.float32)
    module.init_weights(torch.Generator(compute.device).manual_seed(seed))
    return module


def planned(module: Transformer, model: ModelConfig) -> Transformer:
    """The module, if it has exactly the tensors that were counted; otherwise `CheckFailed`."""
    verify_module(module, model).require_agreement()
    return module


def started_from(
    init: Path, learner: Learner, data: TokenData, on_notice: Callable[[str], None]
) -> dict[str, Any]:
    """Put the weights of a checkpoint, or of a Hugging Face folder, in place; returns which ones they are."""
    if is_pretrained(init):
        digest, tokenizer_json = _filled(init, learner)
    else:
        # The leading process checks the files, before the others open one that is damaged.
        learner.ranks.leader_first(lambda: files.read_state(init, check=learner.ranks.leads))
        state = files.load_weights(init, learner.module, check=False)
        digest = state["sha256"]["model.safetensors"]
        tokenizer_json = (init / "tokenizer.json").read_text(encoding="utf-8")
    if tokenizer_json != data.tokenizer_json:
        on_notice(f"{init} was trained with another tokenizer: its weights know other tokens")
    return {"init": str(init), "init_sha256": digest}


def require_init(init: Path) -> None:
    """Refuse what is neither a checkpoint nor a folder of a Hugging Face model."""
    if not is_pretrained(init):
        files.require_checkpoint(init)


def _filled(init: Path, learner: Learner) -> tuple[str, str]:
    """Put the weights of a Hugging Face folder in place; the hash of its files, and its tokenizer."""
    if any(map(is_piece, learner.module.parameters())):
        raise InputError(
            f"{init} is a folder of Hugging Face, whose weights are not shared out among processes; "
            "start in one process with --no-shard, and go on from its checkpoint with --init"
        )
    fill_from_pretrained(learner.module, init)
    digest = hashlib.sha256()
    for path in weight_files(init):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    known = (init / "tokenizer.json").is_file()
    return digest.hexdigest(), read_pretrained_tokenizer(init).json if known else ""
