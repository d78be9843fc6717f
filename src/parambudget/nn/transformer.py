"""The decoder-only transformer in torch: everything that a `ModelConfig` can say.

Written by hand and never generated from the table of tensors, but with the same tensor names, so that
`nn.verify` can compare the two.

    B batch   T tokens   D dim   V vocabulary
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parambudget.arch.blocks import BranchMultipliers
from parambudget.arch.config import ModelConfig, require_module
from parambudget.errors import InputError
from parambudget.nn.attention import (
    Attention,
    AttentionMask,
    CachedKV,
    DifferentialAttention,
    LatentAttention,
    SharedKeysAttention,
    attention_mask,
)
from parambudget.nn.document_mask import document_mask
from parambudget.nn.indexer import Indexer
from parambudget.nn.linear import Linear
from parambudget.nn.mixers.build import build_mixer
from parambudget.nn.mixers.mamba import StateNorm
from parambudget.nn.mixers.mamba2 import GroupedGate
from parambudget.nn.mixers.mixer import CausalConvolution, GatedNorm, Mixer
from parambudget.nn.mixers.rwkv import ChannelMix
from parambudget.nn.mlp import (
    ACTIVATIONS,
    XIELU,
    ExpertsBesideFFN,
    FeedForward,
    MixtureOfExperts,
    Routing,
    StackedLinear,
)
from parambudget.nn.norms import Norm, cast_for_matmul
from parambudget.nn.rotary import Rotary, Rotation, ScaledQueries, SinusoidalPositions, query_factors

_NORMAL_INIT: Final = (nn.Embedding, nn.Linear, StackedLinear)
Device = torch.device | str | None
Dtype = torch.dtype | None


class Transformer(nn.Module):
    """Token ids to logits.

    Call `init_weights` before training: until then the weights are torch's own defaults. For mixed precision
    keep them in float32 and run under `torch.autocast`: the residual stream is then in autocast's dtype from
    the embedding on, and norms compute in float32. Rotary tables and the tie of the head survive
    `to_empty`, so a model may be built on the meta device and filled later. Raises `ConfigError` for a model
    with parts that are counted only.
    """

    def __init__(self, model: ModelConfig, *, device: Device = None, dtype: Dtype = None) -> None:
        super().__init__()
        require_module(model)
        self.model = model
        with torch.device(device or torch.get_default_device()):
            dim, width = model.dim, model.embedding_width
            self.embed = nn.Embedding(model.vocab_size, width)
            projected = model.embedding_dim is not None
            self.project_in = Linear(width, dim, bias=False) if projected else nn.Identity()
            self.embed_norm = Norm(model, dim) if model.embedding_norm else nn.Identity()
            self.position = position_table(model)
            own_width = model.per_layer_embedding_dim
            self.per_layer = None if own_width is None else PerLayerEmbeddings(model, own_width)
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
        embedded_BTD = self._embed_tokens(tokens_BT, start)
        x_BTD = self._add_positions(embedded_BTD, start)
        inputs = self._layer_inputs(tokens_BT.shape[1], start, x_BTD, documents_BT)
        own = [None] * len(self.layers) if self.per_layer is None else self.per_layer(tokens_BT, embedded_BTD)
        lent: dict[bool, CachedKV] = {}
        chosen: AttentionMask = None
        for i, (layer, (rotation, mask)) in enumerate(zip(self.layers, inputs, strict=True)):
            earlier_kv = lent[self.model.is_local(i)] if self.model.shares_keys(i) else None
            if self.model.indexer is not None and not layer.has_indexer:
                mask = chosen  # by the last layer that has an indexer
            arguments = (x_BTD, rotation, mask, own[i], earlier_kv)
            if gradient_checkpointing:
                x_BTD, routing, (kv, chosen) = checkpoint(
                    layer, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BTD, routing, (kv, chosen) = layer(*arguments)
            if routing is not None:
                cast(Block, layer).experts.count(routing)
            if kv is not None:
                lent[self.model.is_local(i)] = kv
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
        for name, module in self.named_modules():
            if isinstance(module, Norm | XIELU | nn.LayerNorm | GatedNorm | GroupedGate | StateNorm):
                module.reset_parameters()
            elif isinstance(module, Mixer | CausalConvolution):
                module.reset_parameters(generator)
            elif isinstance(module, _NORMAL_INIT) and not (m.tied and module is self.lm_head):
                std = (
                    m.out_init_std if name.endswith((".attention.out", ".mixer.out", ".down")) else m.init_std
                )
                weight = torch.empty(module.weight.shape, dtype=torch.float32, device=generator.device)
                module.weight.copy_(weight.normal_(0.0, std, generator=generator))
        for name, parameter in self.named_parameters():
            if name.endswith((".bias", ".sinks")):
                parameter.zero_()
            elif name.endswith("_scale"):
                parameter.fill_(1.0)
            elif ".lambda_" in name:
                drawn = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
                parameter.copy_(drawn.normal_(0.0, 0.1, generator=generator))
        for name, buffer in self.named_buffers():
            if name.endswith(".correction"):
                buffer.zero_()
            elif name.endswith(".layer_scale"):
                buffer.fill_(1.0)

    def _embed_tokens(self, tokens_BT: Tensor, start: int) -> Tensor:
        m, end = self.model, start + tokens_BT.shape[1]
        if m.position in ("rotary", "learned", "sinusoidal") and end > m.context_length and not m.stretches:
            raise InputError(
                f"{end} tokens exceed context_length={m.context_length}; "
                "shorten the sequence or build the model with a longer context"
            )
        x_BTD = self.embed(tokens_BT)
        if m.embedding_multiplier != 1:
            x_BTD = x_BTD * m.embedding_multiplier
        return self.embed_norm(self.project_in(x_BTD))

    def _add_positions(self, x_BTD: Tensor, start: int) -> Tensor:
        if self.position is not None:
            first = self.model.position_offset + start
            x_BTD = x_BTD + self.position.weight[first : first + x_BTD.shape[1]].to(x_BTD.dtype)
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
        factors = None if m.query_scale == "none" else query_factors(m, n_new, start, x_BTD.device)

        def rotation_of(layer: int) -> Rotation:
            own = (local_angles if local[layer] else angles) if m.rotates(layer) else None
            return ScaledQueries(own, factors) if factors is not None and m.scales_queries(layer) else own

        return [(rotation_of(layer), masks[is_local]) for layer, is_local in enumerate(local)]

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
    differ = m.rope_theta_local is not None or m.rotary_width(local=True) != m.rotary_width(local=False)
    return Rotary(m), Rotary(m, local=True) if differ else None


def position_table(m: ModelConfig) -> nn.Embedding | SinusoidalPositions | None:
    """What is added to the embeddings, if the model has such positions."""
    if m.position == "sinusoidal":
        return SinusoidalPositions(m)
    n_positions = m.context_length + m.position_offset
    return nn.Embedding(n_positions, m.dim) if m.position == "learned" else None


class PerLayerEmbeddings(nn.Module):
    """A narrow embedding of each token for every layer, and what a projection of its usual embedding adds.

    P width of the embedding
    """

    def __init__(self, m: ModelConfig, width: int) -> None:
        super().__init__()
        self.width, self.scale = width, m.dim**-0.5
        self.embed = nn.Embedding(m.per_layer_vocab_size or m.vocab_size, m.n_layers * width)
        self.project = Linear(m.dim, m.n_layers * width, bias=False)
        self.norm = Norm(m, width)

    def forward(self, tokens_BT: Tensor, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """What each layer gets, (B, T, P); `x_BTD` are the embeddings without positions. A token without a
        row has the first one's."""
        known_BT = tokens_BT.masked_fill(tokens_BT >= self.embed.num_embeddings, 0)
        own_BTLP = (self.embed(known_BT) * self.width**0.5).unflatten(-1, (-1, self.width))
        projected = self.project(cast_for_matmul(x_BTD)) * self.scale
        projected_BTLP = self.norm(projected.unflatten(-1, (-1, self.width)))
        return ((projected_BTLP + own_BTLP) * 2**-0.5).unbind(2)


class PerLayerInput(nn.Module):
    """The way of such an embedding into the residual stream of its layer."""

    def __init__(self, m: ModelConfig, width: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[m.activation]
        self.gate = Linear(m.dim, width, bias=False)
        self.out = Linear(width, m.dim, bias=False)
        self.norm = Norm(m, m.dim)

    def forward(self, x_BTD: Tensor, own_BTP: Tensor) -> Tensor:
        """What is added to the stream, (B, T, D)."""
        return self.norm(self.out(self.activation(self.gate(x_BTD)) * own_BTP.to(x_BTD.dtype)))


class Lent(NamedTuple):
    """What later layers may use of a layer's attention."""

    kv: CachedKV | None
    """Its keys and values, if they are shared."""
    mask: AttentionMask
    """Its mask, with the keys that an indexer left out."""


class BlockOutput(NamedTuple):
    """What a layer returns."""

    x_BTD: Tensor
    """The residual stream after it."""
    routing: Routing | None
    """Where its experts' tokens were sent, if they are to be counted."""
    lent: Lent


class Block(nn.Module):
    """One layer: attention or another mixer, and FFN, with norms before or after them, in sequence or in
    parallel; either may be missing."""

    layer_scale: Tensor | None

    def __init__(self, m: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        is_pre_norm = m.mixer_pre_norm and m.mixer_kind(layer) is not None
        placement = "pre" if is_pre_norm else m.norm_placement
        self.placement, self.block = placement, m.block
        self.residual_multiplier, self.stream_multiplier = m.residual_multiplier, m.stream_multiplier
        self.multipliers = BranchMultipliers() if m.multipliers is None else m.multipliers
        before, after = placement != "reordered", placement in ("reordered", "sandwich")
        mixes, has_ffn, kind = m.has_mixing(layer), m.has_ffn(layer), m.mixer_kind(layer)
        self.attention_norm = Norm(m, m.dim) if before and mixes else nn.Identity()
        self.attention: nn.Module | None = _attention(m, layer) if m.has_attention(layer) else None
        self.lends_keys, self.has_indexer = m.lends_keys(layer), m.has_indexer(layer)
        if m.indexer is not None and self.has_indexer:
            self.indexer: nn.Module = Indexer(m, m.indexer)
        self.mixer: nn.Module | None = None if kind is None else build_mixer(m, kind, layer)
        self.attention_out_norm = Norm(m, m.dim) if after and mixes else nn.Identity()
        normed = before and has_ffn and m.block != "parallel_shared_norm"
        self.ffn_norm = Norm(m, m.dim) if normed else nn.Identity()
        self.ffn: nn.Module | None = None
        self.has_experts_beside_ffn = m.moe is not None and m.moe.experts_beside_ffn
        if m.moe is not None and m.has_experts(layer) and not self.has_experts_beside_ffn:
            self.ffn = MixtureOfExperts(m, m.moe)
        elif has_ffn:
            factor = m.kv_shared_ffn_factor if m.shares_keys(layer) else 1
            width = factor * m.intermediate_size
            self.ffn = (
                ChannelMix(m, width, layer) if m.channel_mix else FeedForward(m, width, bias=m.ffn_bias)
            )
        if m.moe is not None and self.has_experts_beside_ffn:
            self.experts_ffn = ExpertsBesideFFN(m, m.moe)
            self.ffn_branch_norm, self.experts_norm = Norm(m, m.dim), Norm(m, m.dim)
            self.experts_branch_norm = Norm(m, m.dim)
        self.ffn_out_norm = Norm(m, m.dim) if after and has_ffn else nn.Identity()
        own_width = m.per_layer_embedding_dim
        self.per_layer_input = None if own_width is None else PerLayerInput(m, own_width)
        # A buffer, as in the Hugging Face classes: no gradient reaches it.
        self.register_buffer("layer_scale", torch.ones(1) if m.layer_scale else None)

    @property
    def experts(self) -> MixtureOfExperts:
        """The experts of a layer that has some."""
        experts = getattr(self, "experts_ffn", self.ffn)
        assert isinstance(experts, MixtureOfExperts)
        return experts

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None, own_BTP: Tensor | None = None,
        earlier_kv: CachedKV | None = None,
    ) -> BlockOutput:  # fmt: skip
        """The residual stream after this layer, (B, T, D).

        `own_BTP` is the layer's own embedding of the tokens, and `earlier_kv` are the keys and values of an
        earlier layer, in models that have them.
        """
        x_BTD, routing, lent = self._branches(x_BTD, rotation, mask, earlier_kv)
        if self.per_layer_input is not None and own_BTP is not None:
            x_BTD = x_BTD + self.per_layer_input(x_BTD, own_BTP)
        if self.layer_scale is not None:
            x_BTD = x_BTD * self.layer_scale.to(x_BTD.dtype)
        return BlockOutput(x_BTD, routing, lent)

    def _branches(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask, earlier_kv: CachedKV | None
    ) -> BlockOutput:
        """The stream with both branches added."""
        if self.placement == "post":
            attention_BTD, lent = self._attention_branch(x_BTD, rotation, mask, earlier_kv)
            x_BTD = self.attention_norm(self._scale_stream(x_BTD) + attention_BTD)
            ffn_BTD, routing = self._ffn_branch(x_BTD)
            return BlockOutput(self.ffn_norm(self._scale_stream(x_BTD) + ffn_BTD), routing, lent)
        if self.attention is None and self.mixer is None:
            return self._add_ffn(x_BTD, Lent(None, None))
        normed_BTD = self.attention_norm(x_BTD)
        attention_BTD, lent = self._attention_branch(normed_BTD, rotation, mask, earlier_kv)
        if self.block != "sequential":
            shares_norm = self.block == "parallel_shared_norm"
            ffn_BTD, routing = self._ffn_branch(normed_BTD if shares_norm else self.ffn_norm(x_BTD))
            return BlockOutput(self._scale_stream(x_BTD) + attention_BTD + ffn_BTD, routing, lent)
        stream_BTD = normed_BTD if self.placement == "stream" else x_BTD
        return self._add_ffn(self._scale_stream(stream_BTD) + attention_BTD, lent)

    def _add_ffn(self, x_BTD: Tensor, lent: Lent) -> BlockOutput:
        if self.ffn is None:
            return BlockOutput(x_BTD, None, lent)
        if self.has_experts_beside_ffn:
            ffn_BTD, routing = self._ffn_and_experts_branch(x_BTD)
        else:
            normed_BTD = self.ffn_norm(x_BTD)
            ffn_BTD, routing = self._ffn_branch(normed_BTD)
            x_BTD = normed_BTD if self.placement == "stream" else x_BTD
        return BlockOutput(self._scale_stream(x_BTD) + ffn_BTD, routing, lent)

    def _attention_branch(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask, earlier_kv: CachedKV | None
    ) -> tuple[Tensor, Lent]:
        """The output of attention, of the mixer in its place, or of both, and what later layers use."""
        factors, lent, branches = self.multipliers, Lent(None, mask), []
        if self.attention is not None:
            into_BTD = _times(x_BTD, factors.attention_in_multiplier)
            attended_BTD, lent = self._attend(into_BTD, rotation, mask, earlier_kv)
            branches.append(_times(attended_BTD, factors.attention_out_multiplier))
        if self.mixer is not None:
            mixed_BTD = self.mixer(_times(x_BTD, factors.mixer_in_multiplier))
            branches.append(_times(mixed_BTD, factors.mixer_out_multiplier))
        out_BTD = branches[0] if len(branches) == 1 else branches[0] + branches[1]
        return self._scale_branch(self.attention_out_norm(out_BTD)), lent

    def _attend(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask, earlier_kv: CachedKV | None
    ) -> tuple[Tensor, Lent]:
        """The output of attention, and what later layers use."""
        assert self.attention is not None
        kv = None
        if self.has_indexer:
            latent_BTL = cast(LatentAttention, self.attention).query_latent(x_BTD)
            mask = self.indexer(x_BTD, latent_BTL, rotation, mask)
            out_BTD = self.attention(x_BTD, rotation, mask, latent_BTL)
        elif earlier_kv is not None:
            out_BTD = self.attention(x_BTD, rotation, mask, earlier_kv)
        elif self.lends_keys:
            out_BTD, kv = cast(Attention, self.attention).forward_with_kv(x_BTD, rotation, mask)
        else:
            out_BTD = self.attention(x_BTD, rotation, mask)
        return out_BTD, Lent(kv, mask)

    def _ffn_branch(self, x_BTD: Tensor) -> tuple[Tensor, Routing | None]:
        if isinstance(self.ffn, MixtureOfExperts):
            ffn_BTD, routing = self.ffn(x_BTD)
        else:
            assert self.ffn is not None
            ffn_BTD, routing = self.ffn(x_BTD), None
        ffn_BTD = _times(ffn_BTD, self.multipliers.ffn_out_multiplier)
        return self._scale_branch(self.ffn_out_norm(ffn_BTD)), routing

    def _ffn_and_experts_branch(self, x_BTD: Tensor) -> tuple[Tensor, Routing | None]:
        """Both of the stream, each between norms of its own."""
        assert self.ffn is not None
        ffn_BTD = self.ffn_branch_norm(self.ffn(self.ffn_norm(x_BTD)))
        experts_BTD, routing = self.experts_ffn(self.experts_norm(x_BTD), x_BTD)
        both_BTD = ffn_BTD + self.experts_branch_norm(experts_BTD)
        return self._scale_branch(self.ffn_out_norm(both_BTD)), routing

    def _scale_stream(self, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.stream_multiplier == 1 else x_BTD * self.stream_multiplier

    def _scale_branch(self, branch_BTD: Tensor) -> Tensor:
        # On some devices autocast sums experts in float32, and with them the residual stream.
        return cast_for_matmul(_times(branch_BTD, self.residual_multiplier))


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def _attention(m: ModelConfig, layer: int) -> nn.Module:
    """The attention of that layer."""
    if m.mla is not None:
        return LatentAttention(m, m.mla)
    if m.differential_attention:
        return DifferentialAttention(m, layer)
    return SharedKeysAttention(m, layer) if m.shares_keys(layer) else Attention(m, layer)
