"""RMSNorm and LayerNorm, of the residual stream and of queries and keys."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parambudget.arch.config import ModelConfig


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last axis; a scale of two axes, (H, K), is one per head."""

    def __init__(
        self, m: ModelConfig, *shape: int, weight: bool | None = None, bias: bool | None = None,
        eps: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rms, self.width = m.norm == "rmsnorm", shape[-1]
        self.eps = m.norm_eps if eps is None else eps
        weight = m.norm_weight if weight is None else weight
        self.weight = nn.Parameter(torch.ones(shape)) if weight else None
        self.bias = nn.Parameter(torch.zeros(shape)) if (m.norm_bias if bias is None else bias) else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized in the precision of the scale (torch has no fused RMSNorm for mixed dtypes); returned in
        autocast's dtype if autocast is on."""
        return cast_for_matmul(self._normalize_and_scale(x))

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def _normalize_and_scale(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return self._normalize(x, None, None)
        x = x.to(self.weight.dtype)
        if self.weight.dim() == 1:
            return self._normalize(x, self.weight, self.bias)
        scaled = self._normalize(x, None, None) * self.weight
        return scaled if self.bias is None else scaled + self.bias

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.rms:
            return F.rms_norm(x, (self.width,), weight, self.eps)
        return F.layer_norm(x, (self.width,), weight, bias, self.eps)


def qk_norm(m: ModelConfig, n_heads: int, head_dim: int, *, rotates: bool = True) -> nn.Module:
    """The norm on queries or keys: one scale for all heads, one per head, or over the whole width; l2 has
    none, in layers that rotate."""
    if m.qk_norm == "none" or (m.qk_norm == "l2" and not rotates):
        return nn.Identity()
    if m.qk_norm == "l2":
        return Norm(m, head_dim, weight=False, bias=False)
    if m.qk_norm == "full":
        return Norm(m, n_heads * head_dim, bias=m.qk_norm_bias)
    shape = (n_heads, head_dim) if m.qk_norm == "per_head" else (head_dim,)
    return Norm(m, *shape, bias=m.qk_norm_bias)


def cast_for_matmul(x: Tensor) -> Tensor:
    """`x` in autocast's dtype if autocast is on.

    Cast once: every matmul would cast its input and keep its own copy.
    """
    kind = x.device.type
    # Not `is_autocast_available`, which torch 2.11 cannot compile; of the devices, meta alone has none.
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if autocast else x
