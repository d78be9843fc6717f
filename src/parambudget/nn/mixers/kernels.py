"""Fused kernels of other packages for the scans and convolutions of mixers, used where they are installed.

    name              function, and its inputs in this order
    gated_delta_rule  chunk_gated_delta_rule of flash-linear-attention: q k (B, T, G, K), v (B, T, H, V), log
                      decay and beta (B, T, H)
    kda               chunk_kda of flash-linear-attention: the same, log decay (B, T, H, K)
    simple_gla        chunk_simple_gla of flash-linear-attention: q k v (B, T, H, K), log decay (H)
    selective_scan    selective_scan_fn of mamba-ssm: x dt (B, I, T), A (I, N), B C (B, N, T), D (I),
                      z (B, I, T), bias of dt (I)
    chunk_scan        mamba_chunk_scan_combined of mamba-ssm: x (B, T, H, P), dt (B, T, H), A (H),
                      B C (B, T, G, N)
    causal_conv1d     causal_conv1d_fn of causal-conv1d: x (B, T, C), which it gets transposed, kernel (C, W),
                      bias (C) if there is one

They are called for sequences from their first token on: continuing from a cached state uses the plain path,
as does everything that is neither on a CUDA device nor in half precision, and sizes that a package refuses.
Decays are logarithms, at most 0; A is minus the rate. Decays, beta, A, D, biases, the steps of chunk_scan and
the weights of a convolution are float32, the rest is in one half precision, and so are the outputs, which the
plain path has in float32 but for the convolution's. The states of scans are float32, (B, H, K, V), (B, I, N)
and (B, H, P, N); no gradient goes through them.

A call is one operator to torch.compile. The packages' functions are not traceable: those of
flash-linear-attention switch the compiler off, and the graph of a step, which is compiled whole, would break
in every layer. The price is that the backward pass runs the forward kernel once more: the operator keeps its
inputs and nothing that only a package understands.

Written after the sources of flash-linear-attention 0.6.0, mamba-ssm 2.3.2 and causal-conv1d 1.6.1 and 1.7.0,
and held against functions with their signatures on a CPU. No GPU has run these calls (docs/hybrids.md).
"""

import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
from torch import Tensor

KernelName = Literal["gated_delta_rule", "kda", "simple_gla", "selective_scan", "chunk_scan", "causal_conv1d"]
SWITCH: Final = "PARAMBUDGET_PLAIN_MIXERS"
"""The environment variable that keeps every mixer on the plain path."""
PLAIN: Final = "plain torch"
DEVICES: Final = frozenset({"cuda"})
DTYPES: Final = frozenset({torch.bfloat16, torch.float16})
_MAMBA2_CHUNK: Final = 256
"""Tokens of a chunk, as in mamba-ssm's own Mamba-2."""


@dataclass(frozen=True)
class Package:
    """A package with kernels."""

    name: str
    """As pip knows it."""
    module: str
    oldest: tuple[int, ...]
    """The version whose source was read; what came before may compute something else."""


@dataclass(frozen=True)
class Choice:
    """How a scan or a convolution is computed."""

    version: str | None
    """The package with its version, None for plain torch."""
    reason: str = ""
    """Why it is plain torch."""

    def __str__(self) -> str:
        if self.version is not None:
            return self.version
        return f"{PLAIN} ({self.reason})" if self.reason else PLAIN


@dataclass(frozen=True)
class _Kernel:
    package: Package
    place: str
    """The module with the function."""
    function: str
    keywords: frozenset[str]
    """Parameters that are passed by name."""
    run: Callable[[Callable[..., Any], Sequence[Tensor]], tuple[Tensor, Tensor]]
    """Calls the function; returns the output and the state."""
    shapes: Callable[[Sequence[Tensor]], tuple[Sequence[int], Sequence[int]]]
    """Of the output and of the state, from the inputs; the output has the dtype of the first one."""
    needs: str | None = None
    """What of the module is None where it was built without a kernel of its own."""


def is_usable(name: KernelName | None, x: Tensor) -> bool:
    """Whether the kernel is installed and takes such tensors; `name` is None where no kernel supports the
    sizes."""
    return name is not None and x.device.type in DEVICES and x.dtype in DTYPES and is_installed(name)


def call_kernel(name: KernelName, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a kernel, and its state after the last token, (0,) of the convolution."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        y, state = torch.ops.parambudget.mixer_kernel(name, [x.contiguous() for x in inputs])
    return y, state.detach()


@torch.compiler.assume_constant_result
def is_installed(name: KernelName) -> bool:
    """Whether the kernel can be called: its package is there, new enough, and not switched off."""
    return choice(name).version is not None


@cache
def choice(name: KernelName) -> Choice:
    """What computes on a CUDA device what this kernel is for. Imports its package."""
    package = _KERNELS[name].package
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return Choice(None, f"{SWITCH} is set")
    try:
        if find_spec(package.module) is None:
            return Choice(None, f"{package.name} is not installed")
        version = str(importlib.import_module(package.module).__version__)
        _find_function(name)
    except Exception as error:  # whatever goes wrong in it, there is another path
        return Choice(None, f"{package.name} cannot be used: {_first_line(error)}")
    if _numbers(version) < package.oldest:
        oldest = ".".join(map(str, package.oldest))
        return Choice(None, f"{package.name} {version} is older than {oldest}")
    return Choice(f"{package.name} {version}")


@cache
def _find_function(name: KernelName) -> Callable[..., Any]:
    """Raises ImportError where it is not as expected."""
    kernel = _KERNELS[name]
    module = importlib.import_module(kernel.place)
    function: Callable[..., Any] = getattr(module, kernel.function)
    if missing := kernel.keywords - inspect.signature(function).parameters.keys():
        raise ImportError(f"{kernel.function} has no {', '.join(sorted(missing))}")
    if kernel.needs is not None and getattr(module, kernel.needs) is None:
        raise ImportError(f"it was built without {kernel.needs}")
    return function


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 3, 2) of 2.3.2.post1+cu12."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit())


def _run_delta_rule(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    q, k, v, decay, beta = inputs
    y, state = function(
        q, k, v, g=decay, beta=beta, scale=q.shape[-1] ** -0.5, output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    return y, state


def _run_simple_gla(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    q, k, v, decay = inputs
    y, state = function(q, k, v, g_gamma=decay, scale=1.0, output_final_state=True)
    return y, state


def _run_selective_scan(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    x, dt, a, b, c, skip, gate, bias = inputs
    y, state = function(
        x, dt, a, b, c, D=skip, z=gate, delta_bias=bias, delta_softplus=True, return_last_state=True
    )
    return y, state


def _run_chunk_scan(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    x, dt, a, b, c = inputs
    y, state = function(x, dt, a, b, c, chunk_size=_MAMBA2_CHUNK, return_final_states=True)
    return y, state


def _run_convolution(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    x_BTC, weight, *bias = inputs
    # Channels last: the strides of a transposed view say so.
    y_BCT = function(x_BTC.transpose(1, 2), weight, bias=bias[0] if bias else None, activation=None)
    return y_BCT.transpose(1, 2), x_BTC.new_empty(0, dtype=torch.float32)


def _delta_rule_shapes(inputs: Sequence[Tensor]) -> tuple[Sequence[int], Sequence[int]]:
    (n_batch, _, _, key_dim), (_, _, n_heads, value_dim) = inputs[0].shape, inputs[2].shape
    return inputs[2].shape, (n_batch, n_heads, key_dim, value_dim)


def _selective_scan_shapes(inputs: Sequence[Tensor]) -> tuple[Sequence[int], Sequence[int]]:
    return inputs[0].shape, (inputs[0].shape[0], *inputs[2].shape)


def _chunk_scan_shapes(inputs: Sequence[Tensor]) -> tuple[Sequence[int], Sequence[int]]:
    n_batch, _, n_heads, head_dim = inputs[0].shape
    return inputs[0].shape, (n_batch, n_heads, head_dim, inputs[3].shape[-1])


def _convolution_shapes(inputs: Sequence[Tensor]) -> tuple[Sequence[int], Sequence[int]]:
    return inputs[0].shape, (0,)


FLA: Final = Package("flash-linear-attention", "fla", (0, 6))
MAMBA: Final = Package("mamba-ssm", "mamba_ssm", (2, 3, 2))
CAUSAL_CONV1D: Final = Package("causal-conv1d", "causal_conv1d", (1, 6, 1))
_DELTA_RULE: Final = frozenset({"g", "beta", "scale", "output_final_state", "use_qk_l2norm_in_kernel"})
_KERNELS: Final[dict[str, _Kernel]] = {
    "gated_delta_rule": _Kernel(
        FLA, "fla.ops.gated_delta_rule", "chunk_gated_delta_rule", _DELTA_RULE, _run_delta_rule,
        _delta_rule_shapes,
    ),
    "kda": _Kernel(
        FLA, "fla.ops.kda", "chunk_kda", _DELTA_RULE, _run_delta_rule, _delta_rule_shapes
    ),
    "simple_gla": _Kernel(
        FLA, "fla.ops.simple_gla", "chunk_simple_gla",
        frozenset({"g_gamma", "scale", "output_final_state"}), _run_simple_gla, _delta_rule_shapes,
    ),
    "selective_scan": _Kernel(
        MAMBA, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn",
        frozenset({"D", "z", "delta_bias", "delta_softplus", "return_last_state"}), _run_selective_scan,
        _selective_scan_shapes, needs="selective_scan_cuda",
    ),
    "chunk_scan": _Kernel(
        MAMBA, "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined",
        frozenset({"chunk_size", "return_final_states"}), _run_chunk_scan, _chunk_scan_shapes,
    ),
    "causal_conv1d": _Kernel(
        CAUSAL_CONV1D, "causal_conv1d", "causal_conv1d_fn", frozenset({"bias", "activation"}),
        _run_convolution, _convolution_shapes,
    ),
}  # fmt: skip


def _forward(name: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        y, state = _KERNELS[name].run(_find_function(name), inputs)
    return y.contiguous(), state.contiguous()


def _forward_shapes(name: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    output, state = _KERNELS[name].shapes(inputs)
    return inputs[0].new_empty(output), inputs[0].new_empty(state, dtype=torch.float32)


def _backward(name: str, inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        y, _ = _KERNELS[name].run(_find_function(name), leaves)
    found = torch.autograd.grad(y, leaves, gradient, allow_unused=True)
    # What a kernel takes for a constant has no gradient.
    return [
        torch.zeros_like(x) if grad is None else grad.contiguous()
        for x, grad in zip(inputs, found, strict=True)
    ]


def _backward_shapes(name: str, inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:  # noqa: ARG001
    return [x.new_empty(x.shape) for x in inputs]


def _keep_inputs(ctx: Any, inputs: tuple[str, Sequence[Tensor]], output: object) -> None:  # noqa: ARG001
    ctx.set_materialize_grads(False)  # no gradient comes to the state
    ctx.name, tensors = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(
    ctx: Any, gradient: Tensor | None, _: Tensor | None
) -> tuple[None, Sequence[Tensor | None]]:
    inputs = list(ctx.saved_tensors)
    if gradient is None:
        return None, [None] * len(inputs)
    return None, torch.ops.parambudget.mixer_kernel_backward(ctx.name, inputs, gradient.contiguous())


# The backward operator has no formula of its own, so that autograd works within it.
torch.library.define("parambudget::mixer_kernel", "(str name, Tensor[] inputs) -> (Tensor, Tensor)")
torch.library.define(
    "parambudget::mixer_kernel_backward", "(str name, Tensor[] inputs, Tensor gradient) -> Tensor[]"
)
torch.library.impl("parambudget::mixer_kernel", "CompositeExplicitAutograd", _forward)
torch.library.impl("parambudget::mixer_kernel_backward", "CompositeExplicitAutograd", _backward)
torch.library.register_fake("parambudget::mixer_kernel", _forward_shapes)
torch.library.register_fake("parambudget::mixer_kernel_backward", _backward_shapes)
torch.library.register_autograd("parambudget::mixer_kernel", _differentiate, setup_context=_keep_inputs)
