"""The trainer's claims, each on a model that trains in a second."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.training_data import small_config, small_model

from parambudget.cost.params import total
from parambudget.errors import CheckFailed, InputError
from parambudget.nn.transformer import Transformer
from parambudget.training import loop, train_state
from parambudget.training.calibrate import calibrate
from parambudget.training.checkpoint import files
from parambudget.training.dataloader import TokenWindows
from parambudget.training.device import Environment, mps_notice, select_device
from parambudget.training.loop import evaluate, validation_windows
from parambudget.training.loss import build_loss
from parambudget.training.optimization.optimizer import build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = select_device("cpu")


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_one_batch_is_learned_by_heart(data):
    model, config = small_model(), small_config(learning_rate=2e-2, optimizer="adamw")
    module = train_state.init_module(model, 0, CPU)
    optimizer = build_optimizer(module, model, config)
    loss_of = build_loss(module, config, CPU)
    batch = torch.from_numpy(TokenWindows(data.train, 16, seed=0).batch(0, 4))
    for _ in range(100):
        loss = loop.accumulate_gradients(loss_of, [batch], config, CPU)
        loop.optimizer_step(optimizer, loss, torch.tensor(1.0))
    assert loss < 0.1, f"loss is still {loss:.3f}"


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(data, batch_size, parts):
    def gradients(batch_size: int, parts: int) -> dict[str, torch.Tensor]:
        config = small_config(batch_size=batch_size, gradient_accumulation_steps=parts)
        module = train_state.init_module(small_model(), 0, CPU)
        text = TokenWindows(data.train, 16, seed=0)
        loop.accumulate_gradients(
            build_loss(module, config, CPU), loop.micro_batches(text, 3, config, CPU), config, CPU
        )
        return {name: parameter.grad for name, parameter in module.named_parameters()}

    # float32 sums in another order: 24 bits, some hundred terms.
    torch.testing.assert_close(gradients(batch_size, parts), gradients(8, 1), rtol=1e-4, atol=1e-6)


def test_recomputing_blocks_changes_no_gradient(data):
    def gradients(recompute: bool) -> dict[str, torch.Tensor]:
        config = small_config(gradient_checkpointing=recompute)
        module = train_state.init_module(small_model(), 0, CPU)
        loop.accumulate_gradients(
            build_loss(module, config, CPU),
            loop.micro_batches(TokenWindows(data.train, 16, 0), 0, config, CPU), config, CPU,
        )  # fmt: skip
        return {name: parameter.grad for name, parameter in module.named_parameters()}

    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"loss_chunks": 3}, {"loss_chunks": 3, "z_loss": 1e-2}])
def test_a_loss_in_chunks_is_the_loss_with_the_gradients_of_the_whole(data, changes):
    def learned(**changes: object) -> tuple[float, dict[str, torch.Tensor]]:
        config = small_config(**changes)
        module = train_state.init_module(small_model(head_bias=True, tied=False), 0, CPU)
        batches = loop.micro_batches(TokenWindows(data.train, 16, 0), 0, config, CPU)
        loss = loop.accumulate_gradients(build_loss(module, config, CPU), batches, config, CPU)
        return loss.item(), {name: parameter.grad for name, parameter in module.named_parameters()}

    chunked, whole = learned(**changes), learned(**changes | {"loss_chunks": 1})
    assert chunked[0] == pytest.approx(whole[0], rel=1e-6)
    # float32 sums in another order: 24 bits, some hundred terms.
    torch.testing.assert_close(chunked[1], whole[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"tied": True}, {"tied": False, "head_bias": True, "logit_softcap": 5.0}]
)
def test_a_padded_head_gives_the_same_logits_and_gradients(changes):
    """300 entries are multiplied as 320."""

    def learned(multiple: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        module = train_state.init_module(small_model(**changes), 0, CPU)
        logits = module.logits(module.hidden_states(torch.arange(32).view(2, 16)), multiple=multiple)
        logits.square().mean().backward()
        return logits, {name: parameter.grad for name, parameter in module.named_parameters()}

    assert learned(64)[0].shape == (2, 16, 300)
    torch.testing.assert_close(learned(64), learned(1), rtol=1e-5, atol=1e-8)


def test_the_same_seed_gives_the_same_losses_and_weights(data, tmp_path):
    for name in ("one", "two"):
        loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / name), device="cpu")
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    timed = {"tokens_per_second": 0}
    assert [row | timed for row in one] == [row | timed for row in two]
    weights = [load_file(tmp_path / name / "checkpoints/step-6/model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_losses(data, tmp_path):
    for seed in (0, 1):
        loop.train(
            loop.TrainJob(small_model(), small_config(seed=seed, steps=2), data, tmp_path / str(seed)),
            device="cpu",
        )
    assert rows_of(tmp_path / "0")[0]["loss"] != rows_of(tmp_path / "1")[0]["loss"]


def test_training_lowers_the_validation_loss(data, tmp_path):
    model = small_model()
    result = loop.train(
        loop.TrainJob(model, small_config(steps=40, eval_every=40, save_every=40), data, tmp_path / "run"),
        device="cpu",
    )
    untrained = evaluate(
        build_loss(train_state.init_module(model, 0, CPU), small_config(), CPU),
        validation_windows(data, 16, 256),
        data,
        4,
        CPU,
    )
    assert untrained.loss == pytest.approx(math.log(300), abs=0.2)
    assert result.val_loss < untrained.loss - 1


def test_a_run_leaves_its_metrics_summary_and_checkpoints(data, tmp_path):
    out = tmp_path / "run"
    seen = []
    result = loop.train(
        loop.TrainJob(small_model(), small_config(), data, out), device="cpu", on_step=seen.append
    )
    rows = rows_of(out)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["tokens"] for row in rows] == [64 * step for step in range(1, 7)]
    assert [row["step"] for row in rows if "val_loss" in row] == [3, 6]
    assert rows == [step.as_row() for step in seen]
    assert json.loads((out / "summary.json").read_text()) == result.as_dict()
    assert result.finished
    assert result.parameters == total(small_model())
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-3", "step-6"]
    assert sorted(path.name for path in result.checkpoint.iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors", "optimizer.safetensors", "state.json",
        "tokenizer.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_checkpoint_loads_back_to_the_same_weights_and_optimizer(data, tmp_path, name):
    model, config = small_model(), small_config(optimizer=name)
    result = loop.train(loop.TrainJob(model, config, data, tmp_path / "run"), device="cpu")
    module = Transformer(model, device="cpu")
    optimizer = build_optimizer(module, model, config)
    state = files.read_state(result.checkpoint)
    files.restore(result.checkpoint, state, module, optimizer)
    assert (state.step, state.val_loss) == (6, result.val_loss)
    saved = load_file(result.checkpoint / "model.safetensors")
    assert all(torch.equal(parameter, saved[name]) for name, parameter in module.named_parameters())
    held = load_file(result.checkpoint / "optimizer.safetensors")
    of_adamw = {p for group in optimizer.param_groups if "betas" in group for p in group["params"]}
    for name, parameter in module.named_parameters():
        kinds = {"step", "exp_avg", "exp_avg_sq"} if parameter in of_adamw else {"momentum_buffer"}
        assert optimizer.state[parameter].keys() == kinds
        assert all(
            torch.equal(value, held[f"{kind}/{name}"]) for kind, value in optimizer.state[parameter].items()
        )


def test_what_is_trained_on_after_a_snapshot_is_not_in_its_checkpoint(data, tmp_path):
    model, config = small_model(), small_config()
    learned = train_state.init_train_state(model, config, CPU)
    steps = loop.train_steps(learned, model, config, data, 0, loop.Clock(64, 1, None))
    step = next(steps)
    before = {name: parameter.clone() for name, parameter in learned.module.named_parameters()}
    moments = {p: learned.optimizer.state[p]["exp_avg"].clone() for p in learned.module.parameters()}
    held = files.take_snapshot(
        step, learned.module, learned.optimizer, files.RunMetadata({}, "{}", Environment("CPU"))
    )
    next(steps)
    folder = files.write_checkpoint(tmp_path, held)
    saved = load_file(folder / "model.safetensors")
    state = load_file(folder / "optimizer.safetensors")
    for name, parameter in learned.module.named_parameters():
        assert torch.equal(saved[name], before[name])
        assert not torch.equal(saved[name], parameter)
        assert torch.equal(state[f"exp_avg/{name}"], moments[parameter])


def test_only_the_newest_checkpoints_stay(data, tmp_path):
    loop.train(
        loop.TrainJob(small_model(), small_config(save_every=1, keep=3), data, tmp_path / "run"), device="cpu"
    )
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [
        "step-4",
        "step-5",
        "step-6",
    ]


def test_a_damaged_checkpoint_names_the_file(data, tmp_path):
    result = loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / "run"), device="cpu")
    with (result.checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(InputError, match=r"model\.safetensors does not match its hash"):
        files.read_state(result.checkpoint)


def test_a_checkpoint_of_another_model_is_refused(data, tmp_path):
    result = loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / "run"), device="cpu")
    with pytest.raises(InputError, match=r"of another model: .* is \(48, 32\) there and \(64, 32\) here"):
        files.load_weights(result.checkpoint, Transformer(small_model(intermediate_size=64), device="cpu"))


def test_a_module_that_is_not_the_planned_one_is_refused():
    with pytest.raises(CheckFailed, match="the built model differs from the count"):
        train_state.require_planned_tensors(Transformer(small_model(n_layers=3), device="cpu"), small_model())


def test_an_update_that_is_not_finite_leaves_the_weights(data):
    model, config = small_model(), small_config()
    module = train_state.init_module(model, 0, CPU)
    optimizer = build_optimizer(module, model, config)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    loop.accumulate_gradients(
        build_loss(module, config, CPU),
        loop.micro_batches(TokenWindows(data.train, 16, 0), 0, config, CPU),
        config,
        CPU,
    )
    assert loop.optimizer_step(optimizer, torch.tensor(torch.nan), torch.tensor(1.0)) == 1
    assert loop.optimizer_step(optimizer, torch.tensor(1.0), torch.tensor(torch.inf)) == 1
    assert all(torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


def test_only_matrices_are_decayed():
    model = small_model(
        norm="layernorm", qkv_bias=True, ffn_bias=True, position="learned", tied=False, head_bias=True
    )
    module = Transformer(model, device="cpu")
    optimizer = build_optimizer(module, model, small_config(optimizer="adamw"))
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    others = [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    names = {parameter: name for name, parameter in module.named_parameters()}
    assert {name.split(".")[-1] for name in (names[p] for p in decayed)} == {"weight"}
    assert all(parameter.dim() == 2 for parameter in decayed)
    assert "lm_head.weight" in {names[parameter] for parameter in decayed}
    assert {"embed.weight", "position.weight", "norm.weight", "lm_head.bias"} <= {
        names[parameter] for parameter in others
    }


def test_a_folder_of_another_run_is_refused_and_left_alone(data, tmp_path):
    loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / "run"), device="cpu")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="contains another run"):
        loop.train(loop.TrainJob(small_model(), small_config(seed=1), data, tmp_path / "run"), device="cpu")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_data_shorter_than_the_context_is_refused_before_anything_is_written(data, tmp_path):
    with pytest.raises(InputError, match=r"part of .* has [\d,]+ tokens, fewer than one window of 100001"):
        loop.train(
            loop.TrainJob(small_model(context_length=100_000), small_config(), data, tmp_path / "run"),
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot create .*file is not a writable folder"):
        loop.train(loop.TrainJob(small_model(), small_config(), data, tmp_path / "file/run"), device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_cuda_where_there_is_none_is_one_line():
    with pytest.raises(InputError, match="sees no CUDA GPU; use cpu or auto"):
        select_device("cuda")


@pytest.mark.parametrize(("capability", "name"), [((7, 0), "Tesla V100-SXM2-16GB"), ((7, 5), "Tesla T4")])
def test_a_gpu_without_bfloat16_is_refused_in_one_line(monkeypatch, capability, name):
    there = {
        "is_available": True, "device_count": 1, "get_device_name": name, "get_device_capability": capability
    }  # fmt: skip
    for function, answer in there.items():
        monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)
    for asked in ("cuda", "auto", "cuda:0"):
        with pytest.raises(
            InputError, match=f"the {name} has compute capability .* no bfloat16, .* another GPU"
        ):
            select_device(asked)


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "meta", ""])
def test_a_device_that_is_none_is_one_line(asked):
    with pytest.raises(InputError, match="use auto, cpu, cuda, cuda:N or mps"):
        select_device(asked)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="asks for a device that is not there")
@pytest.mark.parametrize("asked", ["mps", "mps:0"])
def test_mps_where_there_is_none_is_one_line(asked):
    with pytest.raises(InputError, match="sees no Apple GPU; use cpu or auto"):
        select_device(asked)


def test_mps_is_there_by_the_plain_path_and_said_to_be_untried(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = select_device("mps")
    assert (compute.name, compute.device.type) == ("Apple GPU (MPS)", "mps")
    assert (compute.bf16, compute.compiled, compute.peak_memory_bytes()) == (False, False, None)
    assert str(mps_notice("mps", compute)).startswith("MPS is untried")
    with pytest.raises(InputError, match="use auto, cpu, cuda, cuda:N or mps"):
        select_device("mps:1")
    with pytest.raises(InputError, match="cannot be measured: nothing is predicted for it"):
        calibrate(compute)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is CUDA here")
def test_auto_is_the_cpu_beside_an_apple_gpu_and_says_that_it_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = select_device("auto")
    assert compute == CPU
    assert "`device=mps` computes on it, which is untried" in str(mps_notice("auto", compute))
    assert mps_notice("cpu", compute) is None


def test_auto_says_nothing_of_mps_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert mps_notice("auto", CPU) is None


def test_bits_per_byte_are_the_loss_in_bits_over_the_bytes_of_its_targets(data):
    windows = validation_windows(data, 16, 256)
    found = evaluate(lambda _: torch.tensor(2.0), windows, data, 4, CPU)
    n_bytes = sum(int(data.bytes_of_token[target]) for window in windows for target in window[1:])
    assert found.loss == 2
    assert found.bits_per_byte == pytest.approx(2 / math.log(2) * windows[:, 1:].size / n_bytes, rel=1e-12)


def test_evaluation_reads_no_more_tokens_than_it_may(data):
    assert validation_windows(data, 16, 64).shape == (4, 17)
    assert validation_windows(data, 16, 1).shape == (1, 17)
    assert len(validation_windows(data, 16, 10**9)) == (len(data.validation) - 1) // 16 // 8 * 8
    assert np.array_equal(validation_windows(data, 16, 16 * 4)[0], data.validation[:17])
