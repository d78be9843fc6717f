"""What a run trains: the planned module, its optimizer and its loss, on one device."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from parambudget._files import read_inside, sha256_of_file
from parambudget.arch.config import ModelConfig
from parambudget.arch.defaults import with_defaults
from parambudget.errors import InputError
from parambudget.formats.equivalence import differences
from parambudget.formats.hf.weights import (
    fill_from_pretrained,
    is_pretrained,
    require_pretrained,
    weight_files,
)
from parambudget.formats.unread import require_readable
from parambudget.nn.linear import JoinedLinear
from parambudget.nn.transformer import Transformer
from parambudget.nn.verify import verify_module
from parambudget.text.token_cache import TokenData
from parambudget.text.tokenizer import has_tokenizer, read_pretrained_tokenizer
from parambudget.training.bf16_weights import BFloat16Weights, RefreshedLoss, matmuls
from parambudget.training.checkpoint import files
from parambudget.training.config import TrainConfig
from parambudget.training.device import Compute
from parambudget.training.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded
from parambudget.training.loss import NO_EXPERTS, ExpertLoadBalancer, build_loss, head_multiple
from parambudget.training.metrics import RunConfigDocument
from parambudget.training.optimization.optimizer import CombinedOptimizer, build_optimizer


@dataclass(frozen=True, eq=False)
class TrainState:
    """The module in training, with its optimizer, its loss and where they are computed."""

    module: Transformer
    optimizer: CombinedOptimizer
    loss_fn: Callable[[Tensor], Tensor]
    """From token windows (B, T + 1) to their mean loss."""
    compute: Compute
    group: ProcessGroup = SINGLE_PROCESS
    balancer: ExpertLoadBalancer = NO_EXPERTS


def init_train_state(
    model: ModelConfig, config: TrainConfig, compute: Compute, group: ProcessGroup = SINGLE_PROCESS, *,
    end_of_text: int | None = None,
) -> TrainState:  # fmt: skip
    """The planned model, initialized from the seed, with its optimizer and its loss. `end_of_text` is needed
    where documents are masked.

    If the step is sharded, every process holds a part of the model, and never more than that and one layer.
    """
    loss_fn: Callable[[Tensor], Tensor]
    if config.step.shard:
        from parambudget.training.fsdp import shard_module  # FSDP2: not needed by other runs

        module = Transformer(model, device="meta", dtype=torch.float32)
        require_planned_tensors(module, model)
        balancer = ExpertLoadBalancer.of(module)
        loss_fn = build_loss(module, config, compute, balancer, layer_by_layer=True, end_of_text=end_of_text)
        loss_fn = shard_module(module, loss_fn, config.seed, compute, group, config.step.n_shards)
    else:
        module = init_module(model, config.seed, compute)
        require_planned_tensors(module, model)
        balancer = ExpertLoadBalancer.of(module)
        own_loss = build_loss(module, config, compute, balancer, end_of_text=end_of_text)
        loss_fn = group.data_parallel(module, own_loss)
    balancer.reset_load()
    if compute.bf16 and not config.step.shard:
        loss_fn = with_bf16_weights(module, loss_fn, compute, group)
    return TrainState(
        module, build_optimizer(module, model, config, group), loss_fn, compute, group, balancer
    )


def with_bf16_weights(
    module: Transformer, loss_fn: Callable[[Tensor], Tensor], compute: Compute,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Callable[[Tensor], Tensor]:  # fmt: skip
    """Join the matmuls of one input; where a process is alone, cast their weights once an update.

    DistributedDataParallel needs the gradients of the parameters themselves.
    """
    if group.world_size > 1:
        for matmul in matmuls(module):
            if isinstance(matmul, JoinedLinear):
                matmul.joins_parameters = True
        return loss_fn
    return RefreshedLoss(loss_fn, BFloat16Weights.attach(module, head_multiple=head_multiple(compute)))


def reset_train_state(state: TrainState, model: ModelConfig, config: TrainConfig) -> TrainState:
    """A state that has been trained, as `init_train_state` makes it; module and compiled loss are the same.

    Whatever training changes is set here: weights, gradients, counts of tokens, and the optimizer is new.
    """
    state.module.zero_grad(set_to_none=True)
    if config.step.shard:
        from parambudget.training.fsdp import init_shards

        init_shards(state.module, config.seed, state.compute)
    else:
        init_weights(state.module, config.seed, state.compute)
    state.balancer.reset_load()
    return replace(state, optimizer=build_optimizer(state.module, model, config, state.group))


def init_module(model: ModelConfig, seed: int, compute: Compute) -> Transformer:
    """The model on the device, in float32, with weights initialized from `seed`."""
    module = Transformer(model, device=compute.device, dtype=torch.float32)
    init_weights(module, seed, compute)
    return module


def init_weights(module: Transformer, seed: int, compute: Compute) -> None:
    """Initialize the weights from `seed`."""
    module.init_weights(torch.Generator(compute.device).manual_seed(seed))


def require_planned_tensors(module: Transformer, model: ModelConfig) -> None:
    """Raise `CheckFailed` unless the module has exactly the tensors that were counted."""
    verify_module(module, model).require_agreement()


def load_initial_weights(
    init: Path, state: TrainState, data: TokenData, on_notice: Callable[[str], None]
) -> dict[str, str]:
    """Load the weights of a checkpoint or of a Hugging Face folder; returns their provenance."""
    if is_pretrained(init):
        digest, tokenizer_json = _load_pretrained(init, state, on_notice)
    else:
        # The main process checks the files before the others open a damaged one.
        saved = state.group.main_process_first(lambda: files.read_state(init, check=state.group.is_main))
        files.load_weights(init, state.module)
        digest = saved.sha256["model.safetensors"]
        tokenizer_json = read_inside(init / "tokenizer.json").decode()
    if not data.tokenizer_json:
        on_notice(
            f"the tokens' tokenizer is not known: they may be others than those that {init} has learned"
        )
    elif tokenizer_json != data.tokenizer_json:
        on_notice(f"{init} was trained with another tokenizer: its weights are for other tokens")
    return {"init": str(init.absolute()), "init_sha256": digest}


def initial_weights_of(stored: RunConfigDocument) -> dict[str, str]:
    """What the config file of a run says about the weights that it started from."""
    return {name: str(stored["provenance"].get(name)) for name in ("init", "init_sha256")}


def require_initial_weights(init: Path) -> None:
    """Refuse what is neither a checkpoint nor a folder of a Hugging Face model."""
    if is_pretrained(init):
        require_pretrained(init)
    else:
        require_readable(str(init))
        files.require_checkpoint(init)


def _load_pretrained(init: Path, state: TrainState, on_notice: Callable[[str], None]) -> tuple[str, str]:
    """Load the weights of a Hugging Face folder; returns the hash of its files, and its tokenizer."""
    if any(map(is_sharded, state.module.parameters())):
        raise InputError(
            f"{init} is a Hugging Face folder, whose weights cannot be loaded into a sharded model; "
            "start in one process with `shard=False`, and continue from its checkpoint with `init`"
        )
    trained = with_defaults(require_pretrained(init).fields).model
    others = [one for one in differences(trained, state.module.model) if one.field != "context_length"]
    if others:
        learned = ", ".join(f"{one.field}={one.wanted} (here {one.got})" for one in others[:3])
        on_notice(f"the weights of {init} have learned with {learned}: this model computes something else")
    fill_from_pretrained(state.module, init)
    digest = hashlib.sha256()
    for path in weight_files(init):
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest(), read_pretrained_tokenizer(init).json if has_tokenizer(init) else ""
