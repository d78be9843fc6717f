"""What autograd really keeps of a training step: storage by storage, with the module that keeps it first."""

import re
from collections import Counter
from dataclasses import replace

import torch
from support.tiny_model import built
from support.training_data import small_config
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from parambudget.arch.config import ModelConfig
from parambudget.nn.transformer import Transformer
from parambudget.training.activation_budget import within_budget
from parambudget.training.bf16_weights import BFloat16Weights
from parambudget.training.device import Compute, select_device
from parambudget.training.loss import build_loss

Kept = Counter[tuple[str, int]]
"""How often a module keeps a storage of so many bytes; layers have * for their number."""


def kept_by_autograd(model: ModelConfig, tokens_BT: torch.Tensor, *, bf16: bool, **settings: object) -> Kept:
    """The storages that a forward pass of the trainer's loss keeps. Not counted: parameters, buffers, the
    token windows, single numbers."""
    module, compute = built(model), replace(select_device("cpu"), bf16=bf16)
    loss_of, weights = build_loss(module, small_config(**settings), compute), bf16_weights_of(module, compute)
    names = {each: re.sub(r"\.\d+", ".*", name) for name, each in module.named_modules()}
    inside, kept, alive = [""], Counter(), []
    seen = {
        t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers(), *weights, tokens_BT)
    }

    def pack(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in seen and saved.dim():
            seen.add(storage._cdata)
            kept[inside[-1], storage.nbytes()] += 1
        alive.append(storage)  # else its address could be given to another one
        return saved

    hooks = [
        register_module_forward_pre_hook(lambda module, _: inside.append(names[module])),
        register_module_forward_hook(lambda *_: inside.pop() and None),
    ]
    with compute.autocast(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss_of(tokens_BT)
    for hook in hooks:
        hook.remove()
    return kept


def bf16_weights_of(module: Transformer, compute: Compute) -> tuple[torch.Tensor, ...]:
    """The leaves that the module multiplies with from now on, as in the trainer; none in float32."""
    if not compute.bf16:
        return ()
    weights = BFloat16Weights.attach(module)
    weights.refresh()
    return weights.copies


def kept_compiled(model: ModelConfig, tokens_BT: torch.Tensor, budget: float = 1) -> int:
    """Bytes that a forward pass in bfloat16 keeps when it is cut from its backward pass as inductor does."""
    module, compute = built(model), replace(select_device("cpu"), bf16=True)
    weights = bf16_weights_of(module, compute)
    loss_of = torch.compile(
        build_loss(module, small_config(), compute), dynamic=False, backend="aot_eager_decomp_partition"
    )
    with compute.autocast():
        loss = within_budget(loss_of, budget)(tokens_BT)
    outside = {
        t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers(), *weights, tokens_BT)
    }
    kept = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in loss.grad_fn.saved_tensors}
    return sum(size for storage, size in kept.items() if storage not in outside)
