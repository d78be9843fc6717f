"""Stand-ins for the packages with fused kernels: their signatures and what they refuse, computed on a CPU by
the loop over tokens that each documents.

Signatures, layouts and refusals are those of flash-linear-attention 0.6.0 (fla/ops/*/chunk.py), mamba-ssm
2.3.2 (ops/selective_scan_interface.py, ops/triton/ssd_combined.py, csrc/selective_scan/selective_scan.cpp)
and causal-conv1d 1.7.0 (causal_conv1d_interface.py, csrc/causal_conv1d.cpp). Where a kernel would read
memory that is not there, a stand-in refuses.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parambudget.nn.mixers import kernels

_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
CALLS: Final[list[str]] = []
"""Which were called, since the last `install`."""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in place of the packages, and let mixers take them on a CPU."""
    for name, contents in _MODULES.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(kernels, "DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(kernels, "DTYPES", frozenset(_FLOATS))
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    CALLS.clear()
    forget_choices()


def forget_choices() -> None:
    """Let mixers look for the packages again."""
    kernels.choice.cache_clear()
    kernels._find_function.cache_clear()


class _Kernel(torch.autograd.Function):
    """A function that no compiler sees into, with a gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any, reference: Callable[..., tuple[Tensor, Tensor]], keeps_state_gradient: bool,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        assert not torch.compiler.is_compiling(), "a kernel needs tensors with memory"
        assert not any(_is_fake(x) for x in inputs), "a kernel needs tensors with memory"
        ctx.reference, ctx.keeps_state_gradient = reference, keeps_state_gradient
        ctx.save_for_backward(*inputs)
        return reference(*inputs)

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor, state_grad: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            y, state = ctx.reference(*leaves)
        outputs, gradients = [y], [y_grad]
        if ctx.keeps_state_gradient and state.requires_grad:
            outputs, gradients = [y, state], [y_grad, state_grad]
        wanted = [x for x in leaves if x is not None]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, allow_unused=True))
        return None, None, *(None if x is None else next(found) for x in leaves)


def _is_fake(x: Tensor | None) -> bool:
    return isinstance(x, torch._subclasses.FakeTensor)


def _delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, state: Tensor | None, *,
    normalize: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Token by token in float32: decay, correct, write, read. g is (B, T, H) or (B, T, H, K)."""
    dtype, group = q.dtype, v.shape[2] // q.shape[2]
    q, k, v, g, beta = (x.float() for x in (q, k, v, g, beta))
    if normalize:
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(group, dim=2) for x in (q * scale, k))
    g = g if g.dim() == 4 else g.unsqueeze(-1)
    state = q.new_zeros(*v.shape[::2], k.shape[-1], v.shape[-1]) if state is None else state
    read = []
    for i in range(q.shape[1]):
        state = state * g[:, i].exp().unsqueeze(-1)
        correction = v[:, i] - torch.einsum("bhk,bhkv->bhv", k[:, i], state)
        state = state + torch.einsum("bhk,bhv->bhkv", beta[:, i, :, None] * k[:, i], correction)
        read.append(torch.einsum("bhk,bhkv->bhv", q[:, i], state))
    return torch.stack(read, 1).to(dtype), state


def _check_heads(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[int, int, int, int, int]:
    """Layout [B, T, H, D], with more heads of values than of keys if they divide."""
    assert q.dim() == v.dim() == 4
    assert q.shape == k.shape
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in _FLOATS
    (n_batch, n_tokens, n_keys, key_dim), n_values = q.shape, v.shape[2]
    assert v.shape[:2] == (n_batch, n_tokens)
    if n_values % n_keys:
        raise ValueError("num_v_heads must be evenly divisible by num_heads")
    assert 16 <= key_dim <= 256, "head dimension"
    assert state is None or state.dtype == torch.float32, "initial_state must be in float32."
    return n_batch, n_tokens, n_values, key_dim, v.shape[-1]


def chunk_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False, state_v_first: bool = False, cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None, chunk_indices: Tensor | None = None,
    cp_context: object = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """fla.ops.gated_delta_rule: one decay for a head."""
    CALLS.append("gated_delta_rule")
    _refuse(use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, cu_seqlens, cu_seqlens_cpu)
    _refuse(chunk_indices, cp_context, kwargs)
    n_batch, n_tokens, n_heads, _, _ = _check_heads(q, k, v, initial_state)
    assert g.shape == beta.shape == (n_batch, n_tokens, n_heads)
    scale = k.shape[-1] ** -0.5 if scale is None else scale

    def reference(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return _delta_rule(*inputs[:5], scale, inputs[5], normalize=use_qk_l2norm_in_kernel)

    y, state = _Kernel.apply(reference, True, q, k, v, g, beta, initial_state)
    return y, state if output_final_state else None


def chunk_kda(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False, allow_neg_eigval: bool = False, safe_gate: bool = False,
    lower_bound: float | None = None, disable_recompute: bool = False,
    return_intermediate_states: bool = False, state_v_first: bool = False,
    cu_seqlens: Tensor | None = None, cu_seqlens_cpu: Tensor | None = None, cp_context: object = None,
    use_graph: bool = False, max_num_seqs: int | None = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """fla.ops.kda: a decay for each channel of a key."""
    CALLS.append("kda")
    _refuse(use_gate_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, safe_gate, lower_bound)
    _refuse(disable_recompute, return_intermediate_states, state_v_first, cu_seqlens, cu_seqlens_cpu)
    _refuse(cp_context, use_graph, max_num_seqs, kwargs)
    n_batch, n_tokens, n_heads, key_dim, _ = _check_heads(q, k, v, initial_state)
    assert g.shape == (n_batch, n_tokens, n_heads, key_dim)
    assert beta.shape == (n_batch, n_tokens, n_heads)
    scale = key_dim**-0.5 if scale is None else scale

    def reference(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return _delta_rule(*inputs[:5], scale, inputs[5], normalize=use_qk_l2norm_in_kernel)

    y, state = _Kernel.apply(reference, True, q, k, v, g, beta, initial_state)
    return y, state if output_final_state else None


def chunk_simple_gla(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, g_gamma: Tensor | None = None,
    scale: float | None = None, initial_state: Tensor | None = None, output_final_state: bool = False,
    state_v_first: bool = False, cu_seqlens: Tensor | None = None, cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """fla.ops.simple_gla, of which only constant decays are needed here."""
    CALLS.append("simple_gla")
    _refuse(g, state_v_first, cu_seqlens, cu_seqlens_cpu, kwargs)
    _, _, n_heads, _, _ = _check_heads(q, k, v, initial_state)
    assert q.shape[2] == n_heads
    assert g_gamma is not None
    assert g_gamma.shape == (n_heads,)
    assert g_gamma.dtype == torch.float32
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    decay = g_gamma.detach().exp()[:, None, None]  # it gets no gradient

    def reference(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        dtype = q.dtype
        q, k, v = (x.float() for x in (q * scale, k, v))
        state = q.new_zeros(*v.shape[::2], k.shape[-1], v.shape[-1]) if state is None else state
        read = []
        for i in range(q.shape[1]):
            state = state * decay + torch.einsum("bhk,bhv->bhkv", k[:, i], v[:, i])
            read.append(torch.einsum("bhk,bhkv->bhv", q[:, i], state))
        return torch.stack(read, 1).to(dtype), state

    y, state = _Kernel.apply(reference, True, q, k, v, initial_state)
    return y, state if output_final_state else None


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:  # fmt: skip
    """mamba_ssm: u, delta, z (B, I, T); A (I, N); B, C (B, N, T); D, delta_bias (I)."""
    CALLS.append("selective_scan")
    n_batch, channels, n_tokens = u.shape
    n_elements = A.shape[1]
    assert u.dtype in _FLOATS
    assert A.dtype == torch.float32
    assert n_elements <= 256, "selective_scan only supports state dimension <= 256"
    assert A.shape == (channels, n_elements)
    assert delta.shape == u.shape
    assert B.shape == C.shape == (n_batch, n_elements, n_tokens)
    assert delta.dtype == B.dtype == C.dtype == u.dtype
    assert z is None or (z.shape, z.dtype) == (u.shape, u.dtype)
    for vector in (D, delta_bias):
        assert vector is None or (vector.shape, vector.dtype) == ((channels,), torch.float32)

    def reference(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        dtype = u.dtype
        u, delta, B, C = (x.float() for x in (u, delta, B, C))
        delta = delta if delta_bias is None else delta + delta_bias[:, None]
        delta = F.softplus(delta) if delta_softplus else delta
        state, read = torch.zeros(n_batch, channels, n_elements), []
        for i in range(n_tokens):
            dt = delta[:, :, i, None]
            state = state * (dt * A).exp() + dt * u[:, :, i, None] * B[:, None, :, i]
            read.append(torch.einsum("bin,bn->bi", state, C[:, :, i]))
        y = torch.stack(read, -1)
        y = y if D is None else y + u * D[:, None]
        return (y if z is None else y * F.silu(z.float())).to(dtype), state

    y, state = _Kernel.apply(reference, False, u, delta, A, B, C, D, z, delta_bias)
    return (y, state) if return_last_state else y


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")), return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:  # fmt: skip
    """mamba_ssm: x (B, T, H, P); dt (B, T, H); A (H); B, C (B, T, G, N); state (B, H, P, N)."""
    CALLS.append("chunk_scan")
    _refuse(D, z, dt_bias, initial_states, seq_idx, cu_seqlens, dt_softplus, return_varlen_states)
    (n_batch, n_tokens, n_heads, head_dim), (_, _, n_groups, n_elements) = x.shape, B.shape
    assert n_heads % n_groups == 0
    assert x.dtype == B.dtype == C.dtype
    assert dt.dtype == torch.float32
    assert x.dtype in _FLOATS
    assert A.dtype == torch.float32
    assert dt.shape == (n_batch, n_tokens, n_heads)
    assert A.shape == (n_heads,)
    assert B.shape == C.shape == (n_batch, n_tokens, n_groups, n_elements)
    assert chunk_size & (chunk_size - 1) == 0, "a power of 2"

    def reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        dtype = x.dtype
        x, dt, B, C = (part.float() for part in (x, dt, B, C))
        dt = dt.clamp(*dt_limit)
        B, C = (part.repeat_interleave(n_heads // n_groups, dim=2) for part in (B, C))
        state, read = torch.zeros(n_batch, n_heads, head_dim, n_elements), []
        for i in range(n_tokens):
            step = dt[:, i, :, None, None]
            written = torch.einsum("bhp,bhn->bhpn", x[:, i], B[:, i])
            state = state * (step * A[:, None, None]).exp() + step * written
            read.append(torch.einsum("bhpn,bhn->bhp", state, C[:, i]))
        return torch.stack(read, 1).to(dtype), state

    y, state = _Kernel.apply(reference, True, x, dt, A, B, C)
    return (y, state) if return_final_states else y


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None, return_final_states: bool = False,
    final_states_out: Tensor | None = None, activation: str | None = None,
) -> Tensor:  # fmt: skip
    """causal_conv1d: x (B, C, T), kernel (C, W), bias (C)."""
    CALLS.append("causal_conv1d")
    _refuse(seq_idx, initial_states, return_final_states, final_states_out, activation)
    n_batch, channels, n_tokens = x.shape
    assert x.dtype in _FLOATS
    assert weight.dtype in _FLOATS
    assert weight.shape[0] == channels
    assert 2 <= weight.shape[1] <= 4, "causal_conv1d only supports width between 2 and 4"
    assert x.stride(2) == 1 or x.stride(1) == 1
    if x.stride(1) == 1 and x.stride(2) > 1:
        assert channels % 8 == 0, "causal_conv1d only supports channel dimension divisible by 8 for now"
        assert x.stride(2) % 8 == 0
        assert x.stride(0) % 8 == 0
    assert bias is None or (bias.shape, bias.dtype, bias.stride(-1)) == ((channels,), weight.dtype, 1)

    def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        padded = F.pad(x.float(), (weight.shape[1] - 1, 0))
        y = sum(padded[:, :, i : i + n_tokens] * weight[:, i, None].float() for i in range(weight.shape[1]))
        assert isinstance(y, Tensor)
        y = y if bias is None else y + bias[:, None]
        return y.to(x.dtype), x.new_empty(n_batch, 0)

    return _Kernel.apply(reference, False, x, weight, bias)[0]


def _refuse(*arguments: object) -> None:
    """What a stand-in does not compute, given another value than its default."""
    for argument in arguments:
        assert argument is None or (not isinstance(argument, Tensor) and not argument)


_MODULES: Final[dict[str, dict[str, object]]] = {
    "fla": {"__version__": "0.6.0"},
    "fla.ops": {},
    "fla.ops.gated_delta_rule": {"chunk_gated_delta_rule": chunk_gated_delta_rule},
    "fla.ops.kda": {"chunk_kda": chunk_kda},
    "fla.ops.simple_gla": {"chunk_simple_gla": chunk_simple_gla},
    "mamba_ssm": {"__version__": "2.3.2.post1"},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {
        "selective_scan_fn": selective_scan_fn, "selective_scan_cuda": object(),
    },
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.ssd_combined": {"mamba_chunk_scan_combined": mamba_chunk_scan_combined},
    "causal_conv1d": {"__version__": "1.7.0", "causal_conv1d_fn": causal_conv1d_fn},
}  # fmt: skip
