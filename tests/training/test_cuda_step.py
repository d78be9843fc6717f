"""The update on a CUDA device, counted on one that is not there (support/fake_cuda): what it compiles,
launches, waits for and holds."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fake_cuda.build import build, environment, reason_not_to_build
from support.training_data import write_text

MISSING = reason_not_to_build()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=f"no device can be pretended: {MISSING}"),
]
TRACE = Path(__file__).parent.parent / "support" / "fake_cuda" / "trace.py"
MEMORY_TOLERANCE = 0.03
GIB = 2**30
SIZES = [
    "--layers", "2", "--dim", "256", "--heads", "4", "--ffn", "1024", "--vocab", "8192", "--ctx", "1024",
    "--batch", "64", "--accum", "2", "--updates", "4",
]  # fmt: skip
OPTIMIZER_OF_THE_NOTE = """
import ctypes
import parambudget as pb, torch
from parambudget.training.config import TrainConfig
from parambudget.training.device import select_device
from parambudget.training.train_state import init_train_state

model = pb.model(
    dim=896, n_layers=24, n_heads=14, intermediate_size=3584, vocab_size=50257, context_length=1024
)
config = TrainConfig(
    steps=9, batch_size=16, gradient_accumulation_steps=8, optimizer="muon", learning_rate=1e-3,
    final_learning_rate=0.0, warmup_steps=0, eval_every=9, eval_tokens=1, save_every=9,
)
state = init_train_state(model, config, select_device("cuda"))
device = ctypes.CDLL(None)
for _ in range(2):
    for parameter in state.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    device.fake_reset()
    state.optimizer.step()
device.fake_dump(b"/dev/stdout")
"""


COMMAND = """
from parambudget.cli.main import main
from parambudget.training.checkpoint import files

files.all_finite = lambda _: True  # a kernel that does nothing has not found it to be true
main()
"""


@dataclass(frozen=True)
class Setting:
    """A model and how it is trained, as flags of the trace, and the most launches of its update."""

    name: str
    flags: list[str]
    launches: int
    memory_tolerance: float = MEMORY_TOLERANCE


WINDOWS = {"window": 256, "window_pattern": ["local", "global"]}
EXPERTS = {"n_experts": 8, "n_experts_per_token": 2, "expert_intermediate_size": 256}
SETTINGS = [
    Setting("dense", [], 300),
    Setting("grouped heads", ["--model", '{"n_kv_heads": 2}'], 300),
    Setting("windows", ["--model", json.dumps(WINDOWS)], 300),
    Setting("experts", ["--model", json.dumps(EXPERTS)], 640),
    Setting("recomputed", ["--ac"], 420),
    Setting("80 % of the activations", ["--train", '{"activation_memory_budget": 0.8}'], 310),
    Setting("half of the activations", ["--train", '{"activation_memory_budget": 0.5}'], 330, 0.07),
    Setting("chunks, AdamW", ["--chunks", "4", "--optimizer", "adamw"], 260),
]


@pytest.fixture(scope="session")
def device(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that finds a CUDA device."""
    return os.environ | environment(build(tmp_path_factory.mktemp("fake_cuda")))


def traced(device: dict[str, str], flags: list[str]) -> dict:
    ran = subprocess.run(
        [sys.executable, TRACE, *SIZES, *flags], env=device, capture_output=True, text=True, timeout=1200
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_an_update_is_two_graphs_one_wait_and_the_planned_memory(device, setting):
    trace = traced(device, setting.flags)
    warm = trace["updates"][-1]
    waits = warm["sync"] + warm["event_sync"]
    peak, planned = warm["peak_bytes"], trace["planned_peak_bytes"]
    found = {
        "at most 2 graphs": trace["graphs"] <= 2,
        "no graph breaks": trace["graph_breaks"] == 0,
        "no recompilation": trace["recompiles"] == [],
        "1 wait": waits == 1,
        "the device is not idle meanwhile": warm["queued"] > 0,
        "no cudaMalloc": warm["malloc"] == 0,
        f"at most {setting.launches} launches": warm["launches"] <= setting.launches,
        "at least 1 GiB": peak >= GIB,
        "memory as planned": abs(planned / peak - 1) <= setting.memory_tolerance,
    }
    assert all(found.values()), (
        f"{[claim for claim, true in found.items() if not true]}: {trace['graphs']} graphs, "
        f"{trace['graph_breaks']} breaks, {trace['recompiles']}, {waits} waits with {warm['queued']} queued, "
        f"{warm['malloc']} mallocs, "
        f"{warm['launches']} launches {warm['by_kind']} ({warm['optimizer_launches']} of the optimizer), "
        f"peak {peak / GIB:.3f} GiB, planned {planned / GIB:.3f}"
    )


@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
def test_the_first_of_two_processes_waits_once_an_update(device, shard):
    # The other one does not exist: what NCCL would deliver from it is this one's own, or nothing.
    # DDP times its first ten updates, and waits for that.
    flags = ["--processes", "2", "--updates", "14", *["--shard"][:shard]]
    trace = traced(device, flags)
    warm = trace["updates"][-1]
    # Two pieces of code, forward and backward, for each part that the gradients are averaged in: DDP's two
    # buckets of them, which torch cuts the one graph of the step into; FSDP's layer, and head and loss.
    assert trace["dynamo"]["stats"]["unique_graphs"] == (2 if shard else 1)
    assert (trace["graphs"], trace["graph_breaks"], trace["recompiles"]) == (4, 0, [])
    assert (warm["sync"] + warm["event_sync"], warm["malloc"]) == (1, 0)
    gradients = 4 * trace["parameters"]
    assert warm["collective_bytes"] >= gradients / (2 if shard else 1)
    assert 0 < warm["collectives"] <= 200


def test_muon_takes_at_most_350_launches_for_24_layers(device):
    # The note's model; its gradients are zeros, and nothing but the optimizer is compiled.
    ran = subprocess.run(
        [sys.executable, "-c", OPTIMIZER_OF_THE_NOTE],
        env=device,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    kernels = [line.split("\t") for line in ran.stdout.splitlines() if line.startswith("kernel")]
    launches = sum(int(count) for _, count, _ in kernels)
    assert 0 < launches <= 350, f"{launches} launches"


def test_the_command_trains_saves_and_resumes_on_the_device(device, tmp_path):
    write_text(tmp_path / "text")
    model = [
        "--dim",
        "128",
        "--n-layers",
        "2",
        "--n-heads",
        "2",
        "--vocab-size",
        "300",
        "--context-length",
        "64",
    ]
    start = [
        sys.executable,
        "-c",
        COMMAND,
        "train",
        "--data",
        "text",
        "--device",
        "cuda",
        "--out",
        "run",
    ]
    settings = ["--batch-size", "4", "--gradient-accumulation-steps", "2"]

    def run(*flags: str) -> None:
        ran = subprocess.run(
            [*start, *flags], cwd=tmp_path, env=device | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]

    run(*model, *settings, "--steps", "4", "--save-every", "2")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["finished"], summary["steps"]) == (True, 4)
    assert summary["device"] == "NVIDIA H100 80GB HBM3"
    last = tmp_path / "run" / "checkpoints" / "step-4"
    shutil.rmtree(last)
    (tmp_path / "run" / "summary.json").unlink()
    run("--resume")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4
    assert (last / "model.safetensors").exists()
