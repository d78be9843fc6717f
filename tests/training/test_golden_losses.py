"""The numbers themselves: losses that a small run has always had, and that the compiled step has too."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training_data import small_config, small_model

from parambudget.text.token_cache import TokenData
from parambudget.training.dataloader import TokenWindows
from parambudget.training.device import select_device
from parambudget.training.loop import TrainJob, accumulate_gradients, micro_batches, train
from parambudget.training.loss import build_loss
from parambudget.training.train_state import init_module

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = {
    1: 5.672512531280518, 6: 5.154675006866455, 11: 4.691920757293701, 16: 4.340546131134033,
    21: 4.089241981506348, 26: 3.8894095420837402, 31: 3.826249122619629, 36: 3.8108646869659424,
    40: 3.6303622722625732,
}  # fmt: skip
GOLDEN_VALIDATION = 3.721766710281372
# Another machine rounds sums differently. Changing every initial weight in its last bit moves these losses by
# 1e-6 at most; a change in what is computed (decay, clipping, order of the text) moves them by far more.
TOLERANCE = 2e-5


def losses(data: TokenData, out: Path, **changes) -> tuple[dict[int, float], float]:
    found = {}
    config = small_config(steps=40, eval_every=40, save_every=40, **changes)
    result = train(
        TrainJob(small_model(), config, data, out),
        device="cpu",
        on_step=lambda step: found.update({step.step: step.loss}),
    )
    return {step: found[step] for step in GOLDEN}, result.val_loss


def test_a_small_run_has_the_losses_that_it_has_always_had(data, tmp_path):
    found, validation = losses(data, tmp_path / "run")
    assert found == pytest.approx(GOLDEN, abs=TOLERANCE)
    assert validation == pytest.approx(GOLDEN_VALIDATION, abs=TOLERANCE)


def test_the_golden_losses_notice_a_small_change_of_the_recipe(data, tmp_path):
    found, _ = losses(data, tmp_path / "run", beta2=0.94)
    assert found != pytest.approx(GOLDEN, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_step_has_the_loss_and_gradients_of_the_eager_one(data):
    def learned(compiled: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        compute = replace(select_device("cpu"), compiled=compiled)
        config = small_config(gradient_accumulation_steps=2)
        module = init_module(small_model(n_layers=1), 0, compute)
        batches = micro_batches(TokenWindows(data.train, 16, seed=0), 0, config, compute)
        loss = accumulate_gradients(build_loss(module, config, compute), batches, config, compute)
        return loss, {name: parameter.grad for name, parameter in module.named_parameters()}

    # Fused kernels add up in another order: 24 bits, some hundred terms.
    torch.testing.assert_close(learned(True), learned(False), rtol=1e-4, atol=1e-6)
