"""Plans of inference: what fits, how much of it, and what is said where it does not."""

from dataclasses import replace

import pytest

import parambudget as pb
from parambudget.errors import InputError
from parambudget.planning.inference import plan_inference, require_effect
from parambudget.planning.machine import CPU

H100, GPU_24 = pb.machine("h100"), pb.machine("4090")
LLAMA = pb.preset("llama-3-8b")


def test_weights_and_cache_are_those_of_the_memory_of_inference():
    plan = plan_inference(LLAMA, H100, batch_size=4, context=2048)
    assert plan.memory == pb.memory(LLAMA, mode="inference", batch_size=4, context=2048)
    assert plan.memory.weights_bytes == 2 * 8_030_261_248
    assert plan.memory.cache_bytes == 4 * 2048 * 32 * 2 * 8 * 128 * 2
    assert plan.needed_bytes == plan.memory.total_bytes + 800 * 2**20
    assert [row["bytes"] for row in plan.rows()][-1] == plan.needed_bytes
    assert plan.fits


def test_the_largest_batch_fits_and_one_more_does_not():
    for machine, context in ((H100, 2048), (GPU_24, 8192), (GPU_24, 1)):
        most = plan_inference(LLAMA, machine, context=context).largest_batch_size
        assert plan_inference(LLAMA, machine, batch_size=most, context=context).fits
        assert not plan_inference(LLAMA, machine, batch_size=most + 1, context=context).fits


def test_what_is_suggested_fits_and_a_token_more_does_not():
    plan = plan_inference(LLAMA, GPU_24, batch_size=32)
    assert plan.suggestions == (
        "would fit: `batch_size=6`", "would fit: `context_length=1743`",
        "would fit: `machine=h100-sxm` (79.6 GiB)",
    )  # fmt: skip
    assert plan_inference(LLAMA, GPU_24, batch_size=32, context=1743).fits
    assert not plan_inference(LLAMA, GPU_24, batch_size=32, context=1744).fits
    assert plan_inference(LLAMA, H100, batch_size=32).fits


def test_a_model_larger_than_any_gpu_says_what_is_not_done():
    plan = plan_inference(pb.preset("kimi-k2"), H100)
    assert (plan.fits, plan.largest_batch_size) == (False, 0)
    (line,) = plan.suggestions
    assert "are more than any GPU of the table holds: such models are split over several by tensor" in line


def test_a_processor_has_no_context_of_a_gpu():
    here = replace(H100, accelerator=None, profile=replace(H100.profile, device=CPU), memory_bytes=2**34)
    plan = plan_inference(pb.preset("gpt2"), here)
    assert (plan.overhead_bytes, plan.needed_bytes) == (0, plan.memory.total_bytes)


def test_a_gpu_without_bfloat16_generates_nothing_here():
    assert plan_inference(LLAMA, H100).warnings == ()
    (line,) = plan_inference(LLAMA, pb.machine("v100-32gb")).warnings
    assert line.startswith("v100-32-sxm has no bfloat16, and this package generates no text there")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"batch_size": 0}, "`batch_size` is 0; use a whole number above 0"),
        ({"batch_size": True}, "`batch_size` is True"),
        ({"context": 0}, "`context` is 0; use a whole number above 0"),
        (
            {"context": 1025},
            "`context` is 1025; use a whole number above 0, at most 1,024: the model learned",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, says):
    with pytest.raises(InputError, match=says):
        plan_inference(pb.preset("gpt2"), H100, **sizes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hours": 3.0}, "`hours=3` has no effect: nothing is trained; leave it out, or plan the training"),
        ({"tokens": "1B", "law": "x"}, "`tokens=1B` and `law=x` have no effect: nothing is trained"),
        ({"dollars_per_hour": 2.0}, "`dollars_per_hour=2` has no effect: how long it runs is not planned"),
        ({"gpus": 8}, "`gpus=8` has no effect: a model generates on one GPU"),
        ({"compare": "gpt2"}, "`compare=gpt2` has no effect: one model is planned at a time"),
        (
            {"optimizer": "muon"},
            "`optimizer=muon` has no effect: it is how an update of training is executed",
        ),
        ({"shard": True}, "`shard=True` has no effect"),
    ],
)
def test_settings_of_training_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        require_effect({"batch_size": 4, **given})
    require_effect({"batch_size": 4})
