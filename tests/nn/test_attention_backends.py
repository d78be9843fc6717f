import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from parambudget.errors import InputError
from parambudget.nn.attention import attention_backends
from parambudget.training.device import explain_missing_kernel

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
def test_a_gpu_never_takes_the_math_path_in_half_precision(dtype):
    allowed = attention_backends("cuda", dtype)
    assert SDPBackend.MATH not in allowed
    assert allowed[0] == SDPBackend.CUDNN_ATTENTION
    assert SDPBackend.FLASH_ATTENTION in allowed


@pytest.mark.parametrize(("device_type", "dtype"), [("cpu", torch.bfloat16), ("cuda", torch.float32)])
def test_elsewhere_torch_chooses(device_type, dtype):
    assert attention_backends(device_type, dtype) == []


def test_the_choice_of_kernels_can_be_compiled_whole():
    """The GPU's own kernels are not here: the CPU's fused one stands for them in the same kind of block."""

    def attention(query):
        allowed = [SDPBackend.FLASH_ATTENTION] if attention_backends("cuda", torch.bfloat16) else []
        with sdpa_kernel(allowed, set_priority=True):
            return F.scaled_dot_product_attention(query, query, query, is_causal=True)

    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query), attention(query))


def test_heads_that_no_fused_kernel_takes_are_one_line():
    query = torch.randn(1, 2, 8, 16)
    with (
        pytest.raises(InputError, match=r"no fused attention kernel .* head_dim of 64 or 128"),
        explain_missing_kernel(),
        sdpa_kernel([SDPBackend.CUDNN_ATTENTION]),  # which no CPU has
    ):
        F.scaled_dot_product_attention(query, query, query)


def test_other_failures_are_not_taken_for_a_missing_kernel():
    with pytest.raises(RuntimeError, match="size"), explain_missing_kernel():
        torch.ones(2) + torch.ones(3)
