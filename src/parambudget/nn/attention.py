"""Causal self-attention: each key/value head serves a group of query heads.

B batch   T tokens   S tokens so far   D dim   H query heads   G key/value heads   K head_dim
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel

from parambudget.arch.blocks import MLAConfig
from parambudget.arch.config import ModelConfig
from parambudget.arch.layers import uses_eager_attention
from parambudget.nn.linear import JoinedLinear, Linear
from parambudget.nn.norms import Norm, qk_norm
from parambudget.nn.rotary import Rotation, apply_rotary, scale_queries

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def attention_mask(m: ModelConfig, n_new: int, start: int, *, local: bool, like: Tensor) -> Tensor | None:
    """The bias added to the scores of windowed (`local`) or of global layers: minus infinity where a query
    must not see a key. On the device and with the dtype of `like`.

    None where a kernel's causal flag says the same, and for a single query that sees every key. Keys that no
    window reaches have no column. A bias and not a boolean mask: torch's kernels would convert a boolean one
    in every layer again, and keep each result for the backward pass.
    """
    window = m.window if local else None
    if window is not None and m.window_kind == "chunked":
        visible = visible_keys_of_chunk(n_new, start, window, like.device)
        start = min(start, window - 1)
    else:
        start = start if window is None else min(start, window - 1)
        visible = visible_keys(n_new, start, window, like.device)
    if visible is None and m.position != "alibi" and not (uses_eager_attention(m) and n_new > 1):
        return None
    if visible is None:
        visible = torch.ones(n_new, start + n_new, dtype=torch.bool, device=like.device).tril(start)
    if m.position == "alibi":
        bias = alibi_bias(m.n_heads, n_new, start, like.device)
    else:
        bias = torch.zeros(visible.shape, device=like.device)
    return bias.masked_fill(~visible, -torch.inf).to(like.dtype)


def visible_keys(n_new: int, start: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a query sees a key, (T, S).

    None where no mask is needed: at the start of a sequence, and for a single query that sees every key.
    """
    narrow = window is not None and window < start + n_new
    if not narrow and (start == 0 or n_new == 1):
        return None
    visible = torch.ones(n_new, start + n_new, dtype=torch.bool, device=device).tril(start)
    return visible.triu(start - window + 1) if window is not None and narrow else visible


def visible_keys_of_chunk(n_new: int, start: int, chunk: int, device: torch.device) -> Tensor | None:
    """The same where a query sees the tokens since the last multiple of `chunk`. The keys are those of the
    new tokens and of up to chunk - 1 before them."""
    n_before = min(start, chunk - 1)
    if start + n_new <= chunk:
        return visible_keys(n_new, start, None, device)
    keys = torch.arange(start - n_before, start + n_new, device=device)
    queries = keys[n_before:].unsqueeze(1)
    return (keys <= queries) & (keys // chunk == queries // chunk)


def alibi_bias(n_heads: int, n_new: int, start: int, device: torch.device) -> Tensor:
    """The bias on the scores, (1, H, T, S): minus the distance to the key, times the slope of the head.

    Slopes are 2**(-8 i / n) for i = 1..n where n is a power of 2; for other numbers of heads they are those
    of the next lower power, then every other one of twice that power. Source: Press et al. 2022, arXiv
    2108.12409, section 3, and the code published with it.
    """
    power = 2 ** math.floor(math.log2(n_heads))
    exponents = [i / power for i in range(1, power + 1)]
    exponents += [i / (2 * power) for i in range(1, 2 * (n_heads - power), 2)]
    slopes_H = torch.tensor([2 ** (-8 * exponent) for exponent in exponents], device=device)
    positions = torch.arange(start + n_new, device=device)
    return slopes_H.view(1, -1, 1, 1) * (positions - positions[start:].unsqueeze(1))


NO_KERNEL: Final = ("No available kernel", "No viable backend for scaled_dot_product_attention")
"""What torch says, on CUDA and elsewhere, where none of the allowed kernels can run."""
_HALF: Final = (torch.bfloat16, torch.float16)
_HOPPER: Final = (9, 0)
_FLEX_HEAD_DIM: Final = 16
"""FlexAttention takes no narrower heads."""
AttentionMask: TypeAlias = "Tensor | BlockMask | None"
"""What is added to the scores; or which blocks of them there are; or a causal mask."""


def fused_backends(query: Tensor) -> AbstractContextManager[None]:
    """A context in which scaled_dot_product_attention chooses among fused kernels only, the best first."""
    backends = attention_backends(query.device.type, query.dtype)
    return sdpa_kernel(backends, set_priority=True) if backends else nullcontext()


def attention_backends(device_type: str, dtype: torch.dtype) -> list[SDPBackend]:
    """The allowed kernels, the preferred one first; empty where the choice is left to torch.

    The CPU has one fused kernel; in float32 a GPU has none for grouped heads.
    """
    if device_type != "cuda" or dtype not in _HALF:
        return []
    fused = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    return [*(reversed(fused) if _is_flash_3_active() else fused), SDPBackend.EFFICIENT_ATTENTION]


def prefer_flash_3(device: torch.device) -> bool:
    """Let torch call FlashAttention 3 on a Hopper GPU if its package, flash_attn_interface, is installed."""
    if _is_flash_3_active():
        return True
    if find_spec("flash_attn_interface") is None or torch.cuda.get_device_capability(device) != _HOPPER:
        return False
    activate_flash_attention_impl("FA3")
    return True


def _is_flash_3_active() -> bool:
    return torch.nn.attention.current_flash_attention_impl() == "FA3"


@dataclass(frozen=True)
class ScoreOptions:
    """How attention scores are computed, the same at every call."""

    scale: float | None
    """Factor on the scores; None for 1 / sqrt(K)."""
    group: int
    """Query heads per key/value head."""
    softcap: float | None
    eager: bool
    """No kernel of torch's computes them, so all T * S are materialized."""


def attend(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    mask: AttentionMask,
    options: ScoreOptions,
    sinks_H: Tensor | None,
) -> Tensor:
    """The weighted values, (B, H, T, V).

    The mask is added to the scores, or says which of them there are; without one a query sees every key up to
    its own, and a single query sees all of them.
    """
    group = options.group
    if not (mask is None or isinstance(mask, Tensor)):
        return _flex_attention(q_BHTK, k_BGSK, v_BGSV, mask, options)
    # torch states grouped heads for CUDA (and has them on the CPU), not for MPS.
    grouped_by_torch = group == 1 or q_BHTK.device.type != "mps"
    if mask is None and not options.eager and grouped_by_torch:
        causal = q_BHTK.shape[2] > 1
        return _sdpa(q_BHTK, k_BGSK, v_BGSV, options, is_causal=causal, enable_gqa=group > 1)
    # Not every kernel that takes a mask also takes grouped heads.
    k_BHSK, v_BHSV = (x.repeat_interleave(group, dim=1) if group > 1 else x for x in (k_BGSK, v_BGSV))
    if options.eager:
        return _attention_weights(q_BHTK, k_BHSK, mask, options, sinks_H).to(v_BHSV.dtype) @ v_BHSV
    causal = mask is None and q_BHTK.shape[2] > 1
    return _sdpa(q_BHTK, k_BHSK, v_BHSV, options, mask=mask, is_causal=causal)


def _flex_attention(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSV: Tensor, mask: "BlockMask", options: ScoreOptions
) -> Tensor:
    """Attention that computes only the blocks of scores in which something is visible."""
    from torch.nn.attention.flex_attention import flex_attention  # 0.7 s that other runs need not wait

    n_values, scale = v_BGSV.shape[-1], _score_scale(q_BHTK, options)
    q_BHTK, k_BGSK, v_BGSV = (
        _pad_head_dim(x, max(x.shape[-1], _FLEX_HEAD_DIM)) for x in (q_BHTK, k_BGSK, v_BGSV)
    )
    y_BHTV = flex_attention(
        q_BHTK, k_BGSK, v_BGSV, block_mask=mask, scale=scale, enable_gqa=options.group > 1
    )
    assert isinstance(y_BHTV, Tensor)  # it returns more only where that is asked for
    return y_BHTV[..., :n_values]


def _sdpa(
    q_BHTK: Tensor, k: Tensor, v: Tensor, options: ScoreOptions, *, mask: Tensor | None = None,
    is_causal: bool = False, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention by one of torch's kernels, which materialize no scores.

    Most of them want queries, keys and values of one width. The narrower ones are padded with zeros, which
    add nothing to a score; what they add to the values is cut off again.
    """
    n_values, scale = v.shape[-1], _score_scale(q_BHTK, options)
    width = max(q_BHTK.shape[-1], n_values)
    q_BHTK, k, v = (_pad_head_dim(x, width) for x in (q_BHTK, k, v))
    with fused_backends(q_BHTK):
        y = F.scaled_dot_product_attention(
            q_BHTK, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if width == n_values:
        return y
    # Cut with the tokens first: then the gradient has the layout that the kernel wants and need not be
    # copied.
    return y.transpose(1, 2)[..., :n_values].transpose(1, 2)


def _pad_head_dim(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def _score_scale(q_BHTK: Tensor, options: ScoreOptions) -> float:
    return q_BHTK.shape[-1] ** -0.5 if options.scale is None else options.scale


def _attention_weights(
    q_BHTK: Tensor, k_BHSK: Tensor, mask: Tensor | None, options: ScoreOptions, sinks_H: Tensor | None
) -> Tensor:
    """The softmax of the scores, in float32 or better."""
    scores = q_BHTK @ k_BHSK.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * _score_scale(q_BHTK, options)
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if mask is not None:
        scores = scores + mask
    if sinks_H is None:
        return scores.softmax(-1)
    # Each head has one more key, which takes a share of the weights and adds nothing to the output.
    sinks = sinks_H.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]


CachedKV = tuple[Tensor, Tensor]
"""What attention needs of every earlier token, (B, heads, T, width) each: keys and values, or with latent
attention the latents and the rotary part of the keys."""


class AttentionOfHeads(nn.Module):
    """What every attention over heads has: queries, the norms and the projection behind the values."""

    q: Linear
    out: Linear

    def _init_queries(self, m: ModelConfig, layer: int) -> None:
        n_heads, n_kv_heads, self.head_dim = m.heads(layer)
        self.value_dim, self.qkv_clip = m.value_head_dim or self.head_dim, m.qkv_clip
        self.norm_before_split = m.qk_norm == "full"
        self.norm_after_rotation = m.qk_norm_after_rotation or m.qk_norm == "l2"
        self.q = Linear(m.dim, n_heads * self.head_dim, bias=m.qkv_bias)
        eager = uses_eager_attention(m)
        self.options = ScoreOptions(m.attention_multiplier, n_heads // n_kv_heads, m.attention_softcap, eager)

    def _init_output(self, m: ModelConfig, layer: int) -> None:
        n_heads, _, _ = m.heads(layer)
        width = n_heads * self.value_dim
        self.sub_norm = Norm(m, width) if m.sub_norms else nn.Identity()
        self.out = Linear(width, m.dim, bias=m.attention_out_bias)
        self.q_norm = qk_norm(m, n_heads, self.head_dim, rotates=m.rotates(layer))
        self.gate = AttentionGates.of(m, n_heads, width)

    def _init_sinks(self, m: ModelConfig, layer: int) -> None:
        n_heads, _, _ = m.heads(layer)
        has_sinks = m.attention_sinks or (m.local_sinks and m.is_local(layer))
        self.sinks = nn.Parameter(torch.zeros(n_heads)) if has_sinks else None

    def attend_to(
        self, q_BHTK: Tensor, kv: CachedKV, mask: AttentionMask, gates: Tensor | None = None
    ) -> Tensor:
        """The attention output of the queries over the keys and values of all tokens so far."""
        y_BTHV = attend(q_BHTK, *kv, mask, self.options, self.sinks).transpose(1, 2)
        y_BTHV = y_BTHV if gates is None else y_BTHV * gates
        return self.out(self.sub_norm(y_BTHV.flatten(2)))

    def gates(self, x_BTD: Tensor) -> Tensor | None:
        """What the heads' outputs are multiplied by, (B, T, H, 1) or (B, T, H, V), if anything."""
        return None if self.gate is None else self.gate(x_BTD)

    def _project_queries(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        flat = self._clip(self.q(x_BTD))
        return self._norm_and_rotate(flat, self.q_norm, rotation).transpose(1, 2)

    def _norm_and_rotate(self, flat: Tensor, norm: nn.Module, rotation: Rotation) -> Tensor:
        """The heads of a projection, (B, T, heads, K), in its dtype."""
        dtype = flat.dtype
        if self.norm_before_split:
            return apply_rotary(norm(flat).unflatten(-1, (-1, self.head_dim)), rotation).to(dtype)
        heads = flat.unflatten(-1, (-1, self.head_dim))
        if self.norm_after_rotation:
            return norm(apply_rotary(heads, rotation)).to(dtype)
        return apply_rotary(norm(heads), rotation).to(dtype)

    def _clip(self, flat: Tensor) -> Tensor:
        return flat if self.qkv_clip is None else flat.clamp(-self.qkv_clip, self.qkv_clip)


class AttentionGates(Linear):
    """What the outputs of heads are multiplied by: one number for each head, or for each element."""

    def __init__(self, m: ModelConfig, n_heads: int, n_gates: int) -> None:
        super().__init__(m.dim, n_gates, bias=m.attention_gate_biased)
        self.n_heads = n_heads
        self.activation = F.softplus if m.attention_gate_activation == "softplus" else torch.sigmoid

    @classmethod
    def of(cls, m: ModelConfig, n_heads: int, width: int) -> Self | None:
        """The gates of heads that are `width` wide together, if the model has some."""
        if m.attention_gate == "none":
            return None
        return cls(m, n_heads, width if m.attention_gate == "element" else n_heads)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, H, 1) or (B, T, H, V)."""
        logits = super().forward(x_BTD)
        # Autocast has softplus in float32 on a GPU.
        return self.activation(logits).to(logits.dtype).unflatten(-1, (self.n_heads, -1))


class Attention(AttentionOfHeads):
    """Causal self-attention; each key/value head serves H / G query heads."""

    def __init__(self, m: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        n_heads, n_kv_heads, head_dim = m.heads(layer)
        self._init_queries(m, layer)
        self.k = Linear(m.dim, n_kv_heads * head_dim, bias=m.qkv_bias)
        keys_as_values = m.global_keys_as_values and not m.is_local(layer)
        self.v = None if keys_as_values else Linear(m.dim, n_kv_heads * self.value_dim, bias=m.qkv_bias)
        self.n_heads_each = (n_heads, n_kv_heads)
        # Rotated together too, so that nothing is copied. Values would be copied out of a product with them,
        # and their gradients into its own; so would the gradients of two norms.
        joins = m.qk_norm == "none" and not keys_as_values
        self.qk = JoinedLinear(self.q, self.k) if joins else None
        self._init_output(m, layer)
        self.k_norm = qk_norm(m, n_kv_heads, head_dim, rotates=m.rotates(layer))
        self.v_norm = Norm(m, self.value_dim, weight=False, bias=False) if m.value_norm else nn.Identity()
        self.value_multiplier = m.value_multiplier
        self._init_sinks(m, layer)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None) -> Tensor:
        """The attention output of every token, (B, T, D)."""
        return self.forward_with_kv(x_BTD, rotation, mask)[0]

    def forward_with_kv(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask
    ) -> tuple[Tensor, CachedKV]:
        """The same, and the keys and values."""
        q_BHTK, kv = self.project_qkv(x_BTD, rotation)
        return self.attend_to(q_BHTK, kv, mask, self.gates(x_BTD)), kv

    def project_qkv(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, CachedKV]:
        """Queries, and keys and values, with norms and rotary positions applied."""
        values = None if self.v is None else self._clip(self.v(x_BTD))
        if self.qk is not None and self.qk.is_joined:
            heads = self._clip(self.qk.product(x_BTD))
            heads = apply_rotary(heads.unflatten(-1, (-1, self.head_dim)), rotation).to(heads.dtype)
            q_BTHK, k_BTGK = heads.split(self.n_heads_each, dim=2)
            q_BHTK = q_BTHK.transpose(1, 2)
        else:
            q_BHTK, keys = self._project_queries(x_BTD, rotation), self._clip(self.k(x_BTD))
            values = keys if values is None else values
            k_BTGK = self._norm_and_rotate(keys, self.k_norm, rotation)
        assert values is not None  # keys that are values too are not joined with the queries
        kv = k_BTGK.transpose(1, 2), self._split_values(values).transpose(1, 2)
        return scale_queries(q_BHTK, rotation), kv

    def _split_values(self, flat: Tensor) -> Tensor:
        v_BTGV = self.v_norm(flat.unflatten(-1, (-1, self.value_dim)))
        return v_BTGV if self.value_multiplier == 1 else v_BTGV * self.value_multiplier


class DifferentialAttention(Attention):
    """Attention in which each head of the first half has one of the second half subtracted from it.

    A pair of heads has the values of two key/value heads side by side. Source: Ye et al. 2024, arXiv
    2410.05258, as in the class DiffLlamaAttention of Hugging Face transformers.
    """

    def __init__(self, m: ModelConfig, layer: int) -> None:
        super().__init__(m, layer)
        self.lambda_q1, self.lambda_k1 = (nn.Parameter(torch.zeros(self.head_dim)) for _ in range(2))
        self.lambda_q2, self.lambda_k2 = (nn.Parameter(torch.zeros(self.head_dim)) for _ in range(2))
        self.lambda_start = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.pair_norm = Norm(m, 2 * self.value_dim, weight=False, bias=False)

    def attend_to(
        self, q_BHTK: Tensor, kv: CachedKV, mask: AttentionMask, gates: Tensor | None = None
    ) -> Tensor:
        """The attention output of the queries over the keys and values of all tokens so far."""
        k_BGSK, v_BGSV = kv
        halves = [
            attend(q_BHTK, k_BGSK, half.repeat(1, 2, 1, 1), mask, self.options, self.sinks)
            for half in v_BGSV.chunk(2, dim=1)
        ]
        first, second = torch.cat(halves, dim=-1).transpose(1, 2).chunk(2, dim=2)
        pairs = self.pair_norm(first - self._factor().to(first.dtype) * second) * (1 - self.lambda_start)
        y_BTHV = pairs.flatten(2).unflatten(-1, (-1, self.value_dim))
        return self.out(self.sub_norm((y_BTHV if gates is None else y_BTHV * gates).flatten(2)))

    def _factor(self) -> Tensor:
        one, other = (self.lambda_q1 * self.lambda_k1).sum(), (self.lambda_q2 * self.lambda_k2).sum()
        return one.exp() - other.exp() + self.lambda_start


class SharedKeysAttention(AttentionOfHeads):
    """Attention of a layer that has no keys and values of its own: they are those of an earlier layer."""

    def __init__(self, m: ModelConfig, layer: int) -> None:
        super().__init__()
        self._init_queries(m, layer)
        self._init_output(m, layer)
        self._init_sinks(m, layer)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask, kv: CachedKV) -> Tensor:
        """The attention output of every token, (B, T, D)."""
        q_BHTK = scale_queries(self._project_queries(x_BTD, rotation), rotation)
        return self.attend_to(q_BHTK, kv, mask, self.gates(x_BTD))


class LatentAttention(nn.Module):
    """Multi-head latent attention: caches a latent and one rotary key per token, not keys and values per
    head.

    nope and rope are the parts of a head without and with rotary positions, as in DeepSeek's own code.
    """

    def __init__(self, m: ModelConfig, mla: MLAConfig) -> None:
        super().__init__()
        self.mla = mla
        self.q_split = (mla.qk_nope_head_dim, mla.qk_rope_head_dim)
        self.kv_split = (mla.qk_nope_head_dim, mla.v_head_dim)
        queries = m.n_heads * sum(self.q_split)
        self.has_query_latent = mla.q_lora_rank is not None
        if mla.q_lora_rank is None:
            self.q = Linear(m.dim, queries, bias=False)
        else:
            self.q_down = Linear(m.dim, mla.q_lora_rank, bias=m.qkv_bias)
            self.q_latent_norm = Norm(m, mla.q_lora_rank, eps=mla.latent_norm_eps)
            self.q_up = Linear(mla.q_lora_rank, queries, bias=False)
        self.kv_down = Linear(m.dim, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=m.qkv_bias)
        self.kv_latent_norm = Norm(m, mla.kv_lora_rank, eps=mla.latent_norm_eps)
        self.kv_up = Linear(mla.kv_lora_rank, m.n_heads * sum(self.kv_split), bias=False)
        self.out = Linear(m.n_heads * mla.v_head_dim, m.dim, bias=m.attention_out_bias)
        self.sinks = nn.Parameter(torch.zeros(m.n_heads)) if m.attention_sinks else None
        self.gate = AttentionGates.of(m, m.n_heads, m.n_heads * mla.v_head_dim)
        self.options = ScoreOptions(m.attention_multiplier, 1, m.attention_softcap, uses_eager_attention(m))

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask: AttentionMask = None, latent: Tensor | None = None
    ) -> Tensor:
        """The attention output of every token, (B, T, D); `latent` is that of its queries, if it is there."""
        q_BHTK, kv = self.project_qkv(x_BTD, rotation, latent)
        return self.attend_to(q_BHTK, kv, mask, self.gates(x_BTD))

    def query_latent(self, x_BTD: Tensor) -> Tensor:
        """What queries are projected from."""
        return self.q_latent_norm(self.q_down(x_BTD)) if self.has_query_latent else x_BTD

    def project_qkv(
        self, x_BTD: Tensor, rotation: Rotation, latent: Tensor | None = None
    ) -> tuple[Tensor, CachedKV]:
        """Queries, and what is cached per token: the latents, and the rotary part of the keys."""
        down_BTL = self.kv_down(x_BTD)
        latent_BTL, key_BTR = down_BTL.split((self.mla.kv_lora_rank, self.mla.qk_rope_head_dim), dim=-1)
        key_BT1R = apply_rotary(key_BTR.unsqueeze(2), rotation).to(down_BTL.dtype)
        latent_BTL = self.kv_latent_norm(latent_BTL)
        latent = self.query_latent(x_BTD) if latent is None else latent
        flat = self.q_up(latent) if self.has_query_latent else self.q(latent)
        q_nope, q_rope = flat.unflatten(-1, (-1, sum(self.q_split))).split(self.q_split, dim=-1)
        q_BTHK = torch.cat((q_nope, apply_rotary(q_rope, rotation).to(q_nope.dtype)), dim=-1)
        return q_BTHK.transpose(1, 2), (latent_BTL.unsqueeze(1), key_BT1R.transpose(1, 2))

    def gates(self, x_BTD: Tensor) -> Tensor | None:
        """What the heads' outputs are multiplied by, (B, T, H, 1) or (B, T, H, V), if anything."""
        return None if self.gate is None else self.gate(x_BTD)

    def attend_to(
        self, q_BHTK: Tensor, kv: CachedKV, mask: AttentionMask, gates: Tensor | None = None
    ) -> Tensor:
        """The attention output of the queries over the keys and values that the latents are expanded to."""
        latent_B1SL, key_B1SR = kv
        expanded = self.kv_up(latent_B1SL.squeeze(1)).unflatten(-1, (-1, sum(self.kv_split)))
        k_nope, v_BHSV = expanded.transpose(1, 2).split(self.kv_split, dim=-1)
        k_BHSK = torch.cat((k_nope, key_B1SR.expand(-1, k_nope.shape[1], -1, -1)), dim=-1)
        y_BTHV = attend(q_BHTK, k_BHSK, v_BHSV, mask, self.options, self.sinks).transpose(1, 2)
        return self.out((y_BTHV if gates is None else y_BTHV * gates).flatten(2))
