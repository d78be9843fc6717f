"""The decoder-only transformer in torch: everything that a `ModelConfig` can say.

Written by hand and never generated from the table of tensors, but with the same tensor names, so that
`nn.verify` can compare the two.

    B batch   T tokens   D dim   V vocabulary
"""

import math
from collections.abc import Callable
from typing import Final, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parambudget.arch.config import ModelConfig
from parambudget.errors import InputError
from parambudget.nn.attention import Attention, AttentionMask, LatentAttention, attention_mask
from parambudget.nn.document_mask import document_mask
from parambudget.nn.linear import Linear
from parambudget.nn.mlp import FeedForward, MixtureOfExperts, Routing, StackedLinear
from parambudget.nn.norms import Norm, cast_for_matmul
from parambudget.nn.rotary import Rotary, Rotation

_NORMAL_INIT: Final = (nn.Embedding, nn.Linear, StackedLinear)
Device = torch.device | str | None
Dtype = torch.dtype | None


class Transformer(nn.Module):
    """Token ids to logits.

    Call `init_weights` before training: until then the weights are torch's own defaults. For mixed precision
    keep them in float32 and run under `torch.autocast`: the residual stream is then in autocast's dtype from
    the embedding on, and norms compute in float32. Rotary tables and the tie of the head survive
    `to_empty`, so a model may be built on the meta device and filled later.
    """

    def __init__(self, model: ModelConfig, *, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__()
        self.model = model
        with torch.device(device or torch.get_default_device()):
            dim, width = model.dim, model.embedding_width
            self.embed = nn.Embedding(model.vocab_size, width)
            projected = model.embedding_dim is not None
            self.project_in = Linear(width, dim, bias=False) if projected else nn.Identity()
            self.embed_norm = Norm(model, dim) if model.embedding_norm else nn.Identity()
            n_positions = model.context_length + model.position_offset
            self.position = nn.Embedding(n_positions, dim) if model.position == "learned" else None
            self.rotary, self.rotary_local = rotary_modules(model)
            self.layers = nn.ModuleList(Block(model, i) for i in range(model.n_layers))
            self.norm = Norm(model, dim) if model.final_norm else nn.Identity()
            self.project_out = Linear(dim, width, bias=False) if projected else nn.Identity()
            self.lm_head = Linear(width, model.vocab_size, bias=model.head_bias)
        self._tie_head()
        if dtype is not None:
            self.to(dtype)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at every position, (B, T, V)."""
        return self.logits(self.hidden_states(tokens_BT))

    def hidden_states(
        self, tokens_BT: Tensor, *, start: int = 0, gradient_checkpointing: bool = False,
        documents_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The residual stream after the final norm and projection, (B, T, D), in the dtype in which the
        output head multiplies.

        The first token is at position `start`. With `gradient_checkpointing`, each block keeps only its input
        and is recomputed in the backward pass. With `documents_BT`, the number of each token's document, a
        token sees those of its own alone; positions are still counted from the start of the window.
        """
        x_BTD = self._embed(tokens_BT, start)
        inputs = self._layer_inputs(tokens_BT.shape[1], start, x_BTD, documents_BT)
        for layer, (rotation, mask) in zip(self.layers, inputs, strict=True):
            if gradient_checkpointing:
                x_BTD, routing = checkpoint(
                    layer, x_BTD, rotation, mask, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BTD, routing = layer(x_BTD, rotation, mask)
            if routing is not None:
                cast(MixtureOfExperts, layer.ffn).count(routing)
        return self.project_out(self.norm(x_BTD))

    def logits(self, x_BTD: Tensor, *, multiple: int = 1) -> Tensor:
        """The output head applied to what `hidden_states` returned, soft-capped if the model has a soft cap.

        The head's rows are padded to a `multiple` for the matmul: GPUs are slow at 50,257. No logit changes.
        """
        n_padding = -self.model.vocab_size % multiple
        if n_padding:
            weight, bias = self.lm_head.compute_weight, self.lm_head.bias
            if weight is None:
                weight = F.pad(self.lm_head.weight, (0, 0, 0, n_padding))
            padded_BTV = F.linear(x_BTD, weight, None if bias is None else F.pad(bias, (0, n_padding)))
            logits_BTV = padded_BTV[..., : self.model.vocab_size]
        else:
            logits_BTV = self.lm_head(x_BTD)
        if self.model.logit_multiplier != 1:
            logits_BTV = logits_BTV * self.model.logit_multiplier
        cap = self.model.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialize every weight: normal with `init_std`, smaller for output projections; biases and sinks
        0, norms 1.

        Drawn in float32 on the generator's device: a CPU generator gives the same model on every device.
        """
        m = self.model
        out_std = 0.0 if m.zero_init_out else m.init_std / math.sqrt(2 * m.n_layers)
        for name, module in self.named_modules():
            if isinstance(module, Norm):
                module.reset_parameters()
            elif isinstance(module, _NORMAL_INIT) and not (m.tied and module is self.lm_head):
                std = out_std if name.endswith((".attention.out", ".down")) else m.init_std
                weight = torch.empty(module.weight.shape, dtype=torch.float32, device=generator.device)
                module.weight.copy_(weight.normal_(0.0, std, generator=generator))
        for name, parameter in self.named_parameters():
            if name.endswith((".bias", ".sinks")):
                parameter.zero_()
        for name, buffer in self.named_buffers():
            if name.endswith(".correction"):
                buffer.zero_()

    def _embed(self, tokens_BT: Tensor, start: int) -> Tensor:
        m, end = self.model, start + tokens_BT.shape[1]
        if m.position in ("rotary", "learned") and end > m.context_length and not m.stretches:
            raise InputError(
                f"{end} tokens exceed context_length={m.context_length}; "
                "shorten the sequence or build the model with a longer context"
            )
        x_BTD = self.embed(tokens_BT)
        if m.embedding_multiplier != 1:
            x_BTD = x_BTD * m.embedding_multiplier
        x_BTD = self.embed_norm(self.project_in(x_BTD))
        if self.position is not None:
            first = m.position_offset
            x_BTD = x_BTD + self.position.weight[first + start : first + end]
        return cast_for_matmul(x_BTD)

    def _layer_inputs(
        self, n_new: int, start: int, x_BTD: Tensor, documents_BT: Tensor | None
    ) -> list[tuple[Rotation, AttentionMask]]:
        """The rotary angles and the mask of each layer, computed once per kind of layer."""
        m = self.model
        local = [m.is_local(layer) for layer in range(m.n_layers)]

        def mask_of(*, local: bool) -> AttentionMask:
            if documents_BT is None:
                return attention_mask(m, n_new, start, local=local, like=x_BTD)
            return document_mask(m, documents_BT, local=local, like=x_BTD)

        masks = {kind: mask_of(local=kind) for kind in set(local)}
        angles = None if self.rotary is None else self.rotary(n_new, start)
        local_angles = angles if self.rotary_local is None else self.rotary_local(n_new, start)
        return [
            ((local_angles if is_local else angles) if m.rotates(layer) else None, masks[is_local])
            for layer, is_local in enumerate(local)
        ]

    def _tie_head(self) -> None:
        if self.model.tied:
            self.lm_head.weight = self.embed.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._tie_head()  # `to_empty` gives each name a parameter of its own when it leaves the meta device
        return self


def rotary_modules(m: ModelConfig) -> tuple[Rotary | None, Rotary | None]:
    """The rotary module, and the one of local layers if they have angles of their own."""
    if m.position != "rotary":
        return None, None
    return Rotary(m), None if m.rope_theta_local is None else Rotary(m, m.rope_theta_local)


class Block(nn.Module):
    """One layer: attention and FFN, with norms before or after them, in sequence or in parallel."""

    def __init__(self, m: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.is_post_norm, self.block = m.norm_placement == "post", m.block
        self.residual_multiplier = m.residual_multiplier
        before, after = m.norm_placement != "reordered", m.norm_placement in ("reordered", "sandwich")
        self.attention_norm = Norm(m, m.dim) if before else nn.Identity()
        self.attention = Attention(m) if m.mla is None else LatentAttention(m, m.mla)
        self.attention_out_norm = Norm(m, m.dim) if after else nn.Identity()
        self.ffn_norm = Norm(m, m.dim) if before and m.block != "parallel_shared_norm" else nn.Identity()
        self.ffn: nn.Module
        if m.moe is not None and m.has_experts(layer):
            self.ffn = MixtureOfExperts(m, m.moe)
        else:
            self.ffn = FeedForward(m, m.intermediate_size, bias=m.ffn_bias)
        self.ffn_out_norm = Norm(m, m.dim) if after else nn.Identity()

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None
    ) -> tuple[Tensor, Routing | None]:
        """The residual stream after this layer, (B, T, D), and where its experts' tokens were sent, if they
        are to be counted."""
        if self.is_post_norm:
            x_BTD = self.attention_norm(x_BTD + self._attention_branch(x_BTD, rotation, mask))
            ffn_BTD, routing = self._ffn_branch(x_BTD)
            return self.ffn_norm(x_BTD + ffn_BTD), routing
        normed_BTD = self.attention_norm(x_BTD)
        attention_BTD = self._attention_branch(normed_BTD, rotation, mask)
        if self.block == "parallel_shared_norm":
            ffn_BTD, routing = self._ffn_branch(normed_BTD)
            return x_BTD + attention_BTD + ffn_BTD, routing
        if self.block == "parallel":
            ffn_BTD, routing = self._ffn_branch(self.ffn_norm(x_BTD))
            return x_BTD + attention_BTD + ffn_BTD, routing
        x_BTD = x_BTD + attention_BTD
        ffn_BTD, routing = self._ffn_branch(self.ffn_norm(x_BTD))
        return x_BTD + ffn_BTD, routing

    def _attention_branch(self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        return self._scale_branch(self.attention_out_norm(self.attention(x_BTD, rotation, mask)))

    def _ffn_branch(self, x_BTD: Tensor) -> tuple[Tensor, Routing | None]:
        if isinstance(self.ffn, MixtureOfExperts):
            ffn_BTD, routing = self.ffn(x_BTD)
        else:
            ffn_BTD, routing = self.ffn(x_BTD), None
        return self._scale_branch(self.ffn_out_norm(ffn_BTD)), routing

    def _scale_branch(self, branch_BTD: Tensor) -> Tensor:
        if self.residual_multiplier != 1:
            branch_BTD = branch_BTD * self.residual_multiplier
        # On some devices autocast sums experts in float32, and with them the residual stream.
        return cast_for_matmul(branch_BTD)
