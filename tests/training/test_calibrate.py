"""Calibration: measured for a moment on this processor, kept, preferred, shown and cleared."""

import json
from dataclasses import asdict, replace

import pytest
from support.steps import step_of

import parambudget as pb
from parambudget.cost.hardware import parse_accelerator
from parambudget.cost.speed import profile
from parambudget.cost.speed.profile import preset_profile
from parambudget.cost.speed.throughput import throughput
from parambudget.cost.step import StepConfig
from parambudget.errors import InputError
from parambudget.training import calibrate as measuring
from parambudget.training.device import select_device

H100 = preset_profile(parse_accelerator("h100"))
MEASURED = replace(H100, device="NVIDIA H100 80GB HBM3", source="measured", measured_on="2026-11-25")
CPU = replace(
    H100, device="CPU", name="eager, 1 thread", dtype="float32", peak_flops=None, link_bytes=0.0,
    attention_flops=3.5e10, bandwidth_bytes=2.5e10,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "parambudget" / "calibration.json"


@pytest.fixture(scope="module")
def measured():
    """This processor, in a moment."""
    stages = []
    stack = measuring.calibrate(select_device("cpu"), seconds=0.05, on_stage=stages.append)
    return stack, stages


class TestMeasuring:
    def test_this_processor_gets_constants_that_can_be_kept(self, measured, own_folder):
        stack, _ = measured
        assert profile.save_profile(stack) == own_folder
        assert profile.profile_for("cpu") == stack
        assert (stack.device, stack.dtype, stack.peak_flops) == ("CPU", "float32", None)
        assert min(stack.matmul_flops, stack.attention_flops, stack.bandwidth_bytes) > 1e8
        assert stack.newton_schulz_flops > 1e8
        assert stack.element_bytes + stack.logit_bytes + stack.layer_seconds > 0

    def test_its_stages_go_forward_and_say_what_is_measured(self, measured):
        _, stages = measured
        shares = [stage.share for stage in stages]
        assert shares == sorted(shares)
        assert 0 == shares[0] < shares[-1] < 1
        said = [stage.doing for stage in stages]
        assert said[:4] == ["copying memory", "matmuls", "attention", "Muon"]
        assert said[-1] == "training, 6 of 6 small models"

    @pytest.mark.alone
    def test_a_model_it_never_ran_is_predicted_within_a_factor_of_three(self, measured):
        """A moment on a busy machine; what a minute gives is in docs/throughput.md."""
        model, work = (
            pb.model(dim=128, n_layers=3, n_heads=2, vocab_size=2048, context_length=64),
            StepConfig(batch_size=4, gradient_accumulation_steps=2),
        )
        compute = select_device("cpu")
        seconds = measuring.timed_update_seconds(
            model, measuring.timing_config(work), measuring.random_text(model), compute, seconds=0.2
        )
        assert 1 / 3 < throughput(model, work, measured[0]).update_seconds / seconds < 3

    def test_times_that_follow_the_law_give_back_its_constants(self):
        """On updates whose time is known: within the 3 % of pull towards what is expected."""
        truth = replace(
            CPU, matmul_flops=9e10, matmul_traffic=2.0, element_bytes=30.0, logit_bytes=200.0,
            micro_seconds=2e-3, layer_seconds=1e-3,
        )  # fmt: skip
        runs = []
        for dim, layers, vocab, length, batch in (
            (64, 2, 512, 32, 1), (64, 8, 512, 32, 1), (64, 4, 512, 128, 8), (256, 2, 512, 128, 4),
            (64, 1, 8192, 64, 8), (256, 1, 8192, 128, 2),
        ):  # fmt: skip
            model = pb.model(dim=dim, n_layers=layers, vocab_size=vocab, context_length=length)
            work = step_of(batch, optimizer="adamw")
            runs.append((model, work, throughput(model, work, truth).update_seconds))
        start = replace(truth, matmul_flops=9.9e10, matmul_traffic=0.0, element_bytes=0.0)
        found = measuring.fit_constants(start, runs, (1.1, 1.5, 20.0, 100.0, 1e-3, 1e-3))
        for model, work, seconds in runs:
            assert throughput(model, work, found).update_seconds == pytest.approx(seconds, rel=0.01)
        assert found.matmul_flops == pytest.approx(truth.matmul_flops, rel=0.05)
        assert found.logit_bytes == pytest.approx(truth.logit_bytes, rel=0.1)
        assert found.layer_seconds == pytest.approx(truth.layer_seconds, rel=0.05)

    def test_no_constant_comes_out_negative(self):
        """Updates that take no time at all."""
        model = pb.model(dim=64, n_layers=2, vocab_size=512, context_length=32)
        runs = [(model, step_of(batch, optimizer="adamw"), 1e-9) for batch in (1, 2, 4, 8)]
        found = measuring.fit_constants(replace(CPU, matmul_traffic=0.0), runs, (1.0,) * 6)
        assert min(found.element_bytes, found.logit_bytes, found.micro_seconds, found.layer_seconds) >= 0
        assert found.matmul_flops > 0


class TestKeeping:
    def test_without_a_calibration_a_gpu_has_its_preset(self):
        assert profile.profile_for(parse_accelerator("h100")) == H100
        assert profile.profile_for("NVIDIA H100 80GB HBM3") == H100
        assert H100.measured_on is None

    def test_what_was_measured_is_preferred_by_row_and_by_name(self):
        profile.save_profile(MEASURED)
        assert (
            profile.profile_for(parse_accelerator("h100")) == MEASURED == profile.profile_for(MEASURED.device)
        )
        assert profile.profile_for(parse_accelerator("h200")).measured_on is None

    def test_a_new_measurement_takes_the_place_of_the_old_one_of_that_software(self):
        again, two_threads = replace(CPU, micro_seconds=0.5), replace(CPU, name="eager, 2 threads")
        for stack in (CPU, MEASURED, two_threads, again):
            profile.save_profile(stack)
        assert profile.calibrated_profiles() == [MEASURED, two_threads, again]
        assert profile.profile_for("CPU") == again

    def test_a_processor_that_was_not_measured_is_an_error_that_says_how(self):
        with pytest.raises(
            InputError, match=r"the speed of 'CPU' is unknown; measure it with `pb\.calibrate\(\)`"
        ):
            profile.profile_for("CPU")

    @pytest.mark.parametrize(
        "text",
        [
            "{", "[]", "{}", '{"layout": 1, "stacks": []}', '{"layout": 2, "stacks": [{"device": "CPU"}]}',
            json.dumps({"layout": 2, "stacks": [asdict(CPU) | {"micro_seconds": -1}]}),
            json.dumps({"layout": 2, "stacks": [asdict(CPU) | {"matmul_flops": "fast"}]}),
            json.dumps({"layout": 2, "stacks": [asdict(CPU) | {"name": None}]}),
        ],
    )  # fmt: skip
    def test_a_file_that_is_damaged_is_one_line_with_the_way_out(self, own_folder, text):
        own_folder.parent.mkdir(parents=True)
        own_folder.write_text(text)
        with pytest.raises(
            InputError, match=r"calibration\.json does not hold .*delete it, or measure again with `pb"
        ):
            profile.profile_for(parse_accelerator("h100"))
        profile.save_profile(CPU)
        assert profile.calibrated_profiles() == [CPU]

    def test_a_folder_that_cannot_be_made_is_an_error(self, own_folder):
        own_folder.parent.parent.write_text("a file in the way")
        with pytest.raises(InputError, match=r"cannot save constants in .*; set XDG_DATA_HOME"):
            profile.save_profile(CPU)


class TestTheCommand:
    def test_it_measures_keeps_and_shows(self, run, monkeypatch, own_folder, measured):
        """What was measured above, once more stage by stage: measuring itself takes most of a minute."""
        stack, stages = measured

        def again(compute, *, on_stage):
            assert compute.device.type == "cpu"
            for stage in stages:
                on_stage(stage)
            return stack

        monkeypatch.setattr(measuring, "calibrate", again)
        code, out, err = run("calibrate", "--device", "cpu")
        assert (code, err) == (0, "")
        assert "  0%  copying memory" in out
        assert "training, 6 of 6 small models" in out
        assert f"kept in {own_folder}" in out
        shown = run("calibrate", "--show")[1]
        assert out.endswith(shown)
        document = json.loads(run("calibrate", "--show", "--json")[1])
        assert document == {"file": str(own_folder), "stacks": [asdict(profile.profile_for("cpu"))]}

    def test_what_was_measured_is_cleared(self, run, own_folder):
        profile.save_profile(CPU)
        assert run("calibrate", "--clear") == (0, f"removed {own_folder}\n", "")
        assert run("calibrate", "--clear") == (0, f"nothing to remove: {own_folder} does not exist\n", "")
        assert json.loads(run("calibrate", "--clear", "--json")[1]) == {"cleared": False}

    def test_nothing_to_show_says_what_to_run(self, run):
        assert run("calibrate", "--show") == (
            0,
            "nothing has been measured yet: run parambudget calibrate\n",
            "",
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--show", "--clear"], "use one of them"),
            (["--device", "tpu"], "'tpu' is not a device"),
            (["--device", "cuda:99"], "device 'cuda:99' was not found"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, run, arguments, message):
        code, out, err = run("calibrate", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
