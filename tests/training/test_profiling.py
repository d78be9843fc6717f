"""Where the time of an update goes: from names of kernels to a table that adds up."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.training_data import small_model, write_text

import parambudget as pb
from parambudget.cli.main import main
from parambudget.errors import InputError
from parambudget.render.runs import update_profile_screen
from parambudget.training.device import select_device
from parambudget.training.metrics import StepMetrics
from parambudget.training.profiling.kernels import CLIP, DATA, UPDATE, part_of_kernel, part_of_operator
from parambudget.training.profiling.profiler import UpdateProfiler
from parambudget.training.profiling.trace import Event, measure_parts, read_events
from parambudget.training.profiling.update_profile import KernelTime, UpdateProfile

pytestmark = pytest.mark.usefixtures("one_thread")

MULTI_TENSOR = (
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
)
KERNELS = {
    # From the trace of an update on an H200, torch 2.11.0+cu130.
    "nvjet_sm90_tst_320x128_64x3_1x2_h_bz_coopB_NNT": "matmuls",
    "nvjet_sm90_tst_128x128_64x6_1x2_h_bz_splitK_NTT": "matmuls",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1_cga1x1x1_kernel0_0":
        "attention",
    "void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*, void const*, void*, void*)":
        "attention",
    "void cudnn::fusion::convert_dq_to_16bits<true>(void const*, void*, unsigned int)": "attention",
    "triton_per_fused__fused_rms_norm__fused_rms_norm_backward_add_0": "elementwise",
    "triton_red_fused__log_softmax__to_copy_prepare_softmax_online_slice_1": "loss",
    # As other versions and libraries name theirs.
    "nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT": "matmuls",
    "nvjet_hsh_192x192_64x3_1x2_h_bz_coopB_NTN": "matmuls",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__"
    "5x_cublas": "matmuls",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>"
    "(cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8::Params)": "matmuls",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, float, true, false, false>("
    "cublasLt::cublasSplitKParams<float>)": "matmuls",
    "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, false>": "matmuls",
    "triton_tem_fused_mm_0": "matmuls",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_128x128x64_4x1x1_kernel0_0":
        "attention",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_128x64x64_1x1x1_kernel0_0":
        "attention",
    "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, "
    "cutlass::bfloat16_t, ...>>(pytorch_flash::Flash_fwd_params)": "attention",
    "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90"
    "<2, ...>>>>(flash::Params)": "attention",
    "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>::Params)":
        "attention",
    "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3": "elementwise",
    "triton_poi_fused_mul_silu_silu_backward_17": "elementwise",
    "triton_per_fused__to_copy_add_div_mul_pow_sum_12": "elementwise",
    "triton_poi_fused__to_copy_add_5": "elementwise",
    "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, "
    "std::array<char*, 1ul>>(int, at::native::FillFunctor<float>, std::array<char*, 1ul>)": "elementwise",
    "triton_per_fused__fused_rms_norm_backward__to_copy_add_view_7": "elementwise",
    "triton_poi_fused__scaled_dot_product_flash_attention__to_copy__unsafe_view_add_cat_mul_split_with_sizes_sub_"
    "transpose_view_2": "elementwise",
    "triton_poi_fused__grouped_mm__to_copy_cat_transpose_11": "elementwise",
    "triton_per_fused__softmax_add_prepare_softmax_online_4": "elementwise",
    "triton_per_fused__log_softmax__to_copy__unsafe_view_clone_div_nll_loss_forward_slice_23": "loss",
    "triton_per_fused__to_copy_prepare_softmax_online_slice_9": "loss",
    "triton_red_fused__log_softmax_backward_data__unsafe_view_arange_clone_div_eq_expand_nll_loss_backward_scalar"
    "_tensor_slice_view_2": "loss",
    "triton_poi_fused__to_copy_0": "weights",
    "triton_poi_fused__to_copy_t_31": "weights",
    "triton_poi_fused__to_copy_constant_pad_nd_t_9": "weights",
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, "
    "std::array<char*, 3ul>>(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)": "weights",
    MULTI_TENSOR + "TensorListMetadata<2>, at::native::(anonymous namespace)::CopyFunctor<float, "
    "c10::BFloat16, 2, 1, 1>, at::native::Copy<float, c10::BFloat16>>": "weights",
    MULTI_TENSOR + "FusedOptimizerTensorListMetadata<4>, at::native::(anonymous namespace)::"
    "FusedAdamMathFunctor<float, 4, (at::native::(anonymous namespace)::ADAM_MODE)1, false>>": "optimizer",
    MULTI_TENSOR + "TensorListMetadata<1>, at::native::(anonymous namespace)::LpNormFunctor<float, "
    "(at::native::NormType)1, float, 1, 1, 0>, float*, int>": "clip",
    MULTI_TENSOR + "TensorListMetadata<1>, at::native::(anonymous namespace)::BinaryOpScalarTensorFunctor<"
    "float, 1, 1, 0>, std::multiplies<float>, float*, float>": "clip",
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "Memcpy HtoD (Pinned -> Device)": "copies",
    "Memcpy DtoD (Device -> Device)": "copies",
    "Memset (Device)": "copies",
}  # fmt: skip
OPERATORS = {
    "aten::mm": "matmuls", "aten::addmm": "matmuls", "aten::bmm": "matmuls", "aten::_grouped_mm": "matmuls",
    "aten::mul": "elementwise", "aten::mean": "elementwise", "aten::copy_": "elementwise",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
    "aten::_log_softmax": "loss", "aten::nll_loss_backward": "loss",
    "c10d::allreduce_": "communication", "gloo:all_reduce": "idle",
    "autograd::engine::evaluate_function: MmBackward0": "idle", "MmBackward0": "idle",
    "torch::autograd::AccumulateGrad": "idle", "Optimizer.step#AdamW.step": "idle",
}  # fmt: skip


@pytest.mark.parametrize(("name", "part"), KERNELS.items(), ids=range(len(KERNELS)))
def test_kernels_are_told_apart_by_name(name, part):
    assert part_of_kernel(name) == part


@pytest.mark.parametrize(("name", "part"), OPERATORS.items(), ids=OPERATORS)
def test_operators_are_told_apart_by_name(name, part):
    assert part_of_operator(name) == part


def event(
    name: str, category: str, start: float, end: float, correlation: int | None = None, thread: str = "1/1"
):
    return Event(name, category, thread, start, end, correlation)


def launched(
    name: str, at: float, start: float, end: float, correlation: int, thread: str = "1/1"
) -> list[Event]:
    return [
        event("cudaLaunchKernel", "cuda_runtime", at, at + 0.1, correlation, thread),
        event(name, "kernel", start, end, correlation, "0/7"),
    ]


def shown(seconds: dict[str, float]) -> dict[str, float]:
    return {part: pytest.approx(time) for part, time in seconds.items() if time}


def test_an_update_on_a_gpu_is_cut_into_parts_that_add_up():
    gemm, add = (
        "nvjet_tst_128x128",
        "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>",
    )
    norm = "triton_red_fused_mean_mul_pow_0"
    events = [
        event(UPDATE, "user_annotation", 10.0, 30.0),
        event(DATA, "user_annotation", 10.0, 11.5),
        *launched(gemm, 10.5, 11.0, 15.0, 1),
        *launched("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 11.0, 14.0, 17.0, 2),  # 1 s of it is hidden
        *launched(norm, 12.0, 17.0, 18.0, 3),
        event("torch::autograd::AccumulateGrad", "cpu_op", 12.5, 13.0, thread="1/2"),
        *launched(norm, 12.6, 18.0, 19.0, 4, thread="1/2"),
        event(CLIP, "user_annotation", 13.0, 14.0),
        *launched(norm, 13.5, 19.0, 19.5, 5),
        event("Optimizer.step#CombinedOptimizer.step", "user_annotation", 14.0, 20.0),
        event("Optimizer.step#Muon.step", "user_annotation", 14.0, 16.0),
        *launched(gemm, 15.0, 20.0, 23.0, 6),
        *launched(add, 17.0, 23.0, 24.0, 7),
        *launched(gemm, 31.0, 31.0, 40.0, 8),  # of an evaluation, after the update
    ]
    figures = measure_parts(events, on_gpu=True)
    assert shown(figures.seconds) == {
        "matmuls": 4.0, "communication": 2.0, "elementwise": 1.0, "weights": 1.0, "clip": 0.5,
        "optimizer": 4.0, "data": 1.0, "idle": 6.5,
    }  # fmt: skip
    assert sum(figures.seconds.values()) == pytest.approx(figures.update_seconds) == 20.0
    assert figures.kernels[:2] == (
        KernelTime(gemm, "matmuls", 4.0, 1.0),
        KernelTime("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "communication", 3.0, 1.0),
    )


def test_an_update_on_a_cpu_belongs_to_the_innermost_operators():
    backward = "autograd::engine::evaluate_function: MmBackward0"
    one = [
        event(UPDATE, "user_annotation", 0.0, 10.0),
        event("aten::linear", "cpu_op", 0.5, 3.0),
        event("aten::mm", "cpu_op", 1.0, 3.0),
        event(backward, "cpu_op", 4.0, 6.0),
        event("aten::mm", "cpu_op", 4.5, 5.5),
        event("Optimizer.step#AdamW.step", "user_annotation", 7.0, 9.0),
        event("aten::_fused_adamw_", "cpu_op", 7.5, 8.0),
        event("aten::mm", "cpu_op", 0.0, 10.0, thread="1/9"),  # of another thread
    ]
    later = [one_event._replace(start=one_event.start + 20, end=one_event.end + 20) for one_event in one]
    figures = measure_parts([*one, *later], on_gpu=False)
    assert (figures.n_updates, figures.update_seconds) == (2, 10.0)
    assert shown(figures.seconds) == {"matmuls": 3.5, "optimizer": 2.0, "idle": 4.5}
    assert KernelTime("aten::mm", "matmuls", 3.0, 2.0) in figures.kernels


def test_a_gpu_that_reports_no_kernel_is_no_idle_gpu():
    with pytest.raises(InputError, match="the driver reported no kernel of the GPU"):
        measure_parts([event(UPDATE, "user_annotation", 0.0, 1.0)], on_gpu=True)


ANSI = re.compile(r"\x1b\[\d+m")
PROFILE = UpdateProfile(
    device="a GPU", first_step=3, last_step=5, update_seconds=1.0,
    seconds={"matmuls": 0.5, "copies": 0.0, "data": 0.0, "idle": 0.49}, planned={"matmuls": 0.4, "idle": 0.1},
    kernels=(KernelTime("nvjet_tst_128x128", "matmuls", 0.5, 100.0),),
)  # fmt: skip


def test_the_table_has_the_plan_beside_every_part_and_says_whether_they_add_up(tmp_path):
    lines = update_profile_screen(PROFILE, tmp_path)
    cells = {line.split()[0]: line.split() for line in lines if line}
    assert cells["matmuls"][1:7] == ["500.0", "ms", "50.5", "%", "400.0", "ms"]
    assert cells["idle"][1:7] == ["490.0", "ms", "49.5", "%", "100.0", "ms"]
    assert cells["sum"][1:9] == ["990.0", "ms", "100.0", "%", "500.0", "ms", "99.0", "%"]
    assert "copies" not in cells
    assert "updates 3 to 5" in lines[1]
    assert any(line.split() == ["500.0", "ms", "100", "x", "matmuls", "nvjet_tst_128x128"] for line in lines)


def test_the_table_says_where_the_recording_counts_as_memory_of_the_run(tmp_path):
    says = "The peak memory of this session has the profiler's recording in it."
    on_cpu = update_profile_screen(replace(PROFILE, device="CPU"), tmp_path)
    assert sum(says in line for line in on_cpu) == 1
    assert not any(says in line for line in update_profile_screen(PROFILE, tmp_path))


def test_without_a_plan_the_table_says_why(tmp_path):
    lines = update_profile_screen(replace(PROFILE, planned=None), tmp_path)
    assert any("the speed of this device is not known" in line for line in lines)
    assert not any("planned" in line for line in lines if line.startswith("part"))


def test_a_profile_is_read_back_and_damage_is_one_line(tmp_path):
    PROFILE.write(tmp_path)
    assert UpdateProfile.read(tmp_path) == PROFILE
    path = tmp_path / "profile.json"
    path.write_text(path.read_text().replace("0.49", "0.48"))
    with pytest.raises(InputError, match=r"profile\.json is damaged"):
        UpdateProfile.read(tmp_path)


def test_a_session_that_ends_early_says_that_there_is_no_profile(tmp_path):
    notices: list[str] = []
    profiler = UpdateProfiler(3, tmp_path, select_device("cpu"), None, pytest.fail, notices.append)
    with profiler:
        pass
    profiler.observe(StepMetrics(1, 1.0, 0.1, 1.0, False, 10, 1.0, None))
    profiler.close()
    assert notices == ["no profile: this session made 1 updates, and profiling 3 takes 5"]


# On the command line

SMALL_STEP = ["--batch-size", "2", "--gradient-accumulation-steps", "1"]


@pytest.fixture
def train(tmp_path, monkeypatch, capfd):
    write_text(tmp_path / "text")
    (tmp_path / "config.json").write_text(json.dumps({"model": small_model().model_dump()}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        fixed = ["config.json", "--data", "text", "--device", "cpu", *SMALL_STEP, "--eval-every", "9"]
        monkeypatch.setattr(sys, "argv", ["parambudget", "train", *fixed, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capfd.readouterr())  # the profiler's own log too

    return run


def losses(folder: str) -> list[float]:
    return [json.loads(line)["loss"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_profiled_updates_are_ordinary_ones(train, tmp_path):
    code, out, err = train("--steps", "5", "--out", "profiled", "--profile", "2")
    assert (code, err) == (0, "")
    assert "where the time of an update goes: updates 3 to 4" in out
    assert train("--steps", "5", "--out", "plain")[0] == 0
    assert losses("profiled") == losses("plain")
    profile = UpdateProfile.read(tmp_path / "profiled")
    assert (profile.first_step, profile.last_step, profile.planned) == (3, 4, None)
    assert all(profile.seconds[part] > 0 for part in ("matmuls", "attention", "loss", "clip", "optimizer"))
    assert profile.sum_seconds == pytest.approx(profile.update_seconds, rel=0.3)
    figures = measure_parts(read_events(tmp_path / "profiled/trace.json.gz"), on_gpu=False)
    assert figures.seconds == pytest.approx(profile.seconds)
    screen = update_profile_screen(profile, Path("profiled"))
    assert all(ANSI.sub("", line) in out for line in screen)
    assert re.search(r"peak memory .*, the profiler's recording in it", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "5", "--profile", "0"), "--profile 0 is not a number of updates to profile; use 1 to"),
        (("--steps", "5", "--profile", "21"), "--profile 21 is not a number"),
        (("--steps", "4", "--profile", "3"), "the first 2 as a warm-up, and there are 4; use --profile 2"),
        (("--steps", "2", "--profile", "1"), "use at least 3 steps"),
    ],
    ids=["none", "many", "short", "shorter"],
)  # fmt: skip
def test_what_cannot_be_profiled_is_refused_before_anything_is_written(train, tmp_path, arguments, message):
    code, _, err = train(*arguments, "--out", "run")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_is_profiled_as_well_or_says_why_not(train, tmp_path):
    assert train("--steps", "3", "--out", "run")[0] == 0
    code, _, err = train("--steps", "5", "--out", "run", "--resume", "--profile", "1")
    assert code == 0
    assert err == "parambudget: no profile: this session made 2 updates, and profiling 1 takes 3\n"
    assert not (tmp_path / "run/profile.json").exists()
    code, _, err = train("--steps", "8", "--out", "run", "--resume", "--profile", "1")
    assert (code, err) == (0, "")
    assert UpdateProfile.read(tmp_path / "run").first_step == 8


def test_runs_show_has_the_profile(train, capfd, monkeypatch):
    assert train("--steps", "3", "--out", "run", "--profile", "1")[0] == 0
    for damage in (False, True):
        if damage:
            Path("run/profile.json").write_text("{}")
        monkeypatch.setattr(sys, "argv", ["parambudget", "runs", "show", "run"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == 0
        assert ("where the time of an update goes: update 3" in out) == (not damage)
        assert ("no profile is shown: run/profile.json has no seal" in err) == damage


def test_the_plan_of_the_parts_is_the_plan_of_the_update(monkeypatch):
    from parambudget.training.run import forecast

    monkeypatch.setattr(forecast, "machine_of", lambda *_: pb.machine("h100"))
    config = pb.TrainConfig.read(
        {"steps": 10, "batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
         "final_learning_rate": 0.0, "warmup_steps": 0, "eval_every": 10, "eval_tokens": 10, "save_every": 10}
    )  # fmt: skip
    compute, model = select_device("cpu"), small_model()
    parts = forecast.predict_parts(model, config, compute)
    assert parts is not None
    assert sum(parts.values()) == pytest.approx(forecast.predict_run(model, config, compute).update_seconds)
    assert min(parts["clip"], parts["optimizer"]) > 0
