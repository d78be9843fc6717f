"""The decoder-only transformer itself, in torch: everything a `ModelConfig` can say, built and run forward.

Written by hand and never generated from the table of tensors, but with the same tensor names, so that
`nn.verify` can hold one against the other.

    B batch   T tokens   D dim   V vocabulary
"""

import math
from collections.abc import Callable
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.nn.attention import Attention, LatentAttention, mask_for
from parambudget.nn.mlp import FeedForward, MixtureOfExperts, StackedLinear
from parambudget.nn.norms import Norm, for_matmul
from parambudget.nn.rotary import Rotary, Rotation

_DRAWN: Final = (nn.Embedding, nn.Linear, StackedLinear)
Device = torch.device | str | None
Dtype = torch.dtype | None


class Transformer(nn.Module):
    """Token ids to logits.

    Call `init_weights` before training: until then the weights are torch's own defaults. For mixed precision
    keep them in float32 and run under `torch.autocast`. Rotary tables and the tie of the head survive
    `to_empty`, so a model may be built on the meta device and filled later.
    """

    def __init__(self, model: ModelConfig, *, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__()
        self.model = model
        with torch.device(device or torch.get_default_device()):
            dim, width = model.dim, model.embedding_width
            self.embed = nn.Embedding(model.vocab_size, width)
            projected = model.embedding_dim is not None
            self.project_in = nn.Linear(width, dim, bias=False) if projected else nn.Identity()
            self.embed_norm = Norm(model, dim) if model.embedding_norm else nn.Identity()
            n_positions = model.context_length + model.position_offset
            self.position = nn.Embedding(n_positions, dim) if model.position == "learned" else None
            self.rotary, self.rotary_local = rotaries(model)
            self.layers = nn.ModuleList(Block(model, i) for i in range(model.n_layers))
            self.norm = Norm(model, dim) if model.final_norm else nn.Identity()
            self.project_out = nn.Linear(dim, width, bias=False) if projected else nn.Identity()
            self.lm_head = nn.Linear(width, model.vocab_size, bias=model.head_bias)
        self._tie()
        if dtype is not None:
            self.to(dtype)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at every position, (B, T, V)."""
        return self.logits(self.hidden(tokens_BT))

    def hidden(self, tokens_BT: Tensor, *, start: int = 0, checkpoint: bool = False) -> Tensor:
        """The residual stream behind the final norm and projection, (B, T, D), in the dtype in which the head
        multiplies.

        The first token stands at position `start`. With `checkpoint`, each block keeps only its input and is
        run again in the backward pass.
        """
        x_BTD = self._embedded(tokens_BT, start)
        for layer, told in zip(self.layers, self._told(tokens_BT.shape[1], start, x_BTD), strict=True):
            if checkpoint:
                x_BTD = recomputed(layer, x_BTD, *told, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = layer(x_BTD, *told)
        return self.project_out(for_matmul(self.norm(x_BTD)))

    def logits(self, x_BTD: Tensor, *, multiple: int = 1) -> Tensor:
        """The output head on what `hidden` returned, soft-capped if the model says so.

        The matrix is multiplied as if it had a `multiple` of rows: GPUs are slow at 50,257. No logit changes.
        """
        n_missing = -self.model.vocab_size % multiple
        if n_missing:
            weight: Tensor = self.lm_head.weight
            bias: Tensor | None = self.lm_head.bias
            bias = None if bias is None else F.pad(bias, (0, n_missing))
            padded_BTV = F.linear(x_BTD, F.pad(weight, (0, 0, 0, n_missing)), bias)
            logits_BTV = padded_BTV[..., : self.model.vocab_size]
        else:
            logits_BTV = self.lm_head(x_BTD)
        if self.model.logit_multiplier != 1:
            logits_BTV = logits_BTV * self.model.logit_multiplier
        cap = self.model.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every weight anew: normal of `init_std`, less for output projections; biases and sinks
        0, norms 1.

        Drawn in float32 on the generator's device: a CPU generator gives the same model everywhere.
        """
        m = self.model
        out_std = 0.0 if m.zero_init_out else m.init_std / math.sqrt(2 * m.n_layers)
        for name, module in self.named_modules():
            if isinstance(module, Norm):
                module.reset_parameters()
            elif isinstance(module, _DRAWN) and not (m.tied and module is self.lm_head):
                std = out_std if name.endswith((".attention.out", ".down")) else m.init_std
                drawn = torch.empty(module.weight.shape, dtype=torch.float32, device=generator.device)
                module.weight.copy_(drawn.normal_(0.0, std, generator=generator))
        for name, parameter in self.named_parameters():
            if name.endswith((".bias", ".sinks")):
                parameter.zero_()
        for name, buffer in self.named_buffers():
            if name.endswith(".correction"):
                buffer.zero_()

    def _embedded(self, tokens_BT: Tensor, start: int) -> Tensor:
        m, end = self.model, start + tokens_BT.shape[1]
        if m.position in ("rotary", "learned") and end > m.context_length:
            raise InputError(
                f"{end} tokens are longer than context_length={m.context_length}; "
                "cut the sequence or build the model with a longer context"
            )
        x_BTD = self.embed(tokens_BT)
        if m.embedding_multiplier != 1:
            x_BTD = x_BTD * m.embedding_multiplier
        # A projection comes out of autocast in bfloat16; the residual stream stays as exact as the table.
        x_BTD = self.embed_norm(self.project_in(x_BTD).to(x_BTD.dtype))
        if self.position is None:
            return x_BTD
        first = m.position_offset
        return x_BTD + self.position.weight[first + start : first + end]

    def _told(self, n_new: int, start: int, x_BTD: Tensor) -> list[tuple[Rotation, Tensor | None]]:
        """What each layer is told of positions: how to turn, and which keys to see. One of each per kind of
        layer, however many there are."""
        m, like = self.model, for_matmul(x_BTD)
        local = [m.is_local(layer) for layer in range(m.n_layers)]
        masks = {kind: mask_for(m, n_new, start, local=kind, like=like) for kind in set(local)}
        angles = None if self.rotary is None else self.rotary(n_new, start)
        near = angles if self.rotary_local is None else self.rotary_local(n_new, start)
        turns = [(near if kind else angles) if m.rotates(layer) else None for layer, kind in enumerate(local)]
        return [(turn, masks[kind]) for turn, kind in zip(turns, local, strict=True)]

    def _tie(self) -> None:
        if self.model.tied:
            self.lm_head.weight = self.embed.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._tie()  # torch gives each name its own new parameter when `to_empty` leaves the meta device
        return self


def rotaries(m: ModelConfig) -> tuple[Rotary | None, Rotary | None]:
    """The angles, and those of local layers where they have their own."""
    if m.position != "rotary":
        return None, None
    return Rotary(m), None if m.rope_theta_local is None else Rotary(m, m.rope_theta_local)


class Block(nn.Module):
    """One layer: attention and FFN, their norms before or behind them, in sequence or side by side."""

    def __init__(self, m: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.post, self.block, self.multiplier = m.norm_placement == "post", m.block, m.residual_multiplier
        before, behind = m.norm_placement != "reordered", m.norm_placement in ("reordered", "sandwich")
        self.attention_norm = Norm(m, m.dim) if before else nn.Identity()
        self.attention = Attention(m) if m.mla is None else LatentAttention(m, m.mla)
        self.attention_out_norm = Norm(m, m.dim) if behind else nn.Identity()
        self.ffn_norm = Norm(m, m.dim) if before and m.block != "parallel_shared_norm" else nn.Identity()
        self.ffn: nn.Module
        if m.moe is not None and m.has_experts(layer):
            self.ffn = MixtureOfExperts(m, m.moe)
        else:
            self.ffn = FeedForward(m, m.intermediate_size, bias=m.ffn_bias)
        self.ffn_out_norm = Norm(m, m.dim) if behind else nn.Identity()

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """The residual stream one layer on."""
        if self.post:
            x_BTD = self.attention_norm(x_BTD + self._attended(for_matmul(x_BTD), rotation, mask))
            return self.ffn_norm(x_BTD + self._fed(for_matmul(x_BTD)))
        normed_BTD = for_matmul(self.attention_norm(x_BTD))
        attended_BTD = self._attended(normed_BTD, rotation, mask)
        if self.block == "parallel_shared_norm":
            return x_BTD + attended_BTD + self._fed(normed_BTD)
        if self.block == "parallel":
            return x_BTD + attended_BTD + self._fed(for_matmul(self.ffn_norm(x_BTD)))
        x_BTD = x_BTD + attended_BTD
        return x_BTD + self._fed(for_matmul(self.ffn_norm(x_BTD)))

    def _attended(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        return self._scaled(self.attention_out_norm(self.attention(x_BTD, rotation, mask)))

    def _fed(self, x_BTD: Tensor) -> Tensor:
        return self._scaled(self.ffn_out_norm(self.ffn(x_BTD)))

    def _scaled(self, branch_BTD: Tensor) -> Tensor:
        return branch_BTD if self.multiplier == 1 else branch_BTD * self.multiplier
