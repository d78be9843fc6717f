from dataclasses import replace

import pytest

import parambudget as pb
from parambudget.cost.hardware import find_accelerator
from parambudget.cost.own_gpus import own_gpus_file
from parambudget.errors import InputError
from parambudget.planning import machine as machine_module
from parambudget.planning.machine import machine_for, machine_keywords
from parambudget.render.plan import train_command


def test_a_named_gpu_comes_with_its_memory_its_speed_and_a_dated_price():
    h100 = machine_for("h100")
    assert (h100.name, h100.world_size) == ("h100-sxm", 1)
    assert h100.memory_bytes == 81_559 * 2**20  # what the driver reports, not the label
    assert h100.profile.peak_flops == 989.4e12
    assert h100.price is not None
    assert h100.price.read_on is not None
    assert h100.backend.compiled


def test_several_gpus_are_one_machine():
    assert machine_for("a100", gpus=8).name == "8 x a100-80-sxm"


def test_beyond_a_node_the_network_is_the_slowest_link():
    one, two = machine_for("h100", gpus=8), machine_for("h100", gpus=16)
    wide = machine_for("h100", gpus=16, gpus_per_node=16)
    assert [m.n_nodes for m in (one, two, wide)] == [1, 2, 1]
    assert two.name == "16 x h100-sxm in 2 nodes"
    assert two.profile.ring_bytes(16) < one.profile.ring_bytes(8) == wide.profile.ring_bytes(16)
    # Eight ports of 400 Gb/s, of which three quarters are reached; within a node its link is.
    assert two.profile.ring_bytes(16) == 0.75 * 8 * 50e9
    assert two.profile.ring_bytes(8) == one.profile.link_bytes
    assert machine_for("a100", gpus=16).profile.ring_bytes(16) == 0.75 * 8 * 25e9
    # A PCIe link is slower than the network: it stays the bottleneck.
    assert machine_for("4090", gpus=16).profile.ring_bytes(16) == machine_for("4090").profile.link_bytes
    assert two.with_gpus(8).profile == one.profile


def test_bits_and_bytes_of_a_network_are_told_apart():
    bits, the_same = (machine_for("h100", gpus=16, network=text) for text in ("400Gb/s", "50GB/s"))
    assert bits == the_same == machine_for("h100", gpus=16)
    assert machine_for("h100", gpus=16, network="100Gbps").network_bytes == 12.5e9


def test_with_whole_copies_tokens_per_second_and_gpu_never_rise_with_more_nodes():
    def rate(gpus: int) -> float:
        machine = pb.machine("h100", gpus=gpus)
        plan = pb.plan("llama-3.2-1b", machine, batch_size=4, gradient_accumulation_steps=gpus, shard=False)
        return plan.speed.tokens_per_second.expected / gpus

    rates = [rate(gpus) for gpus in (8, 16, 64, 512)]
    assert rates == sorted(rates, reverse=True)


def test_a_plan_over_nodes_says_what_it_assumes_and_starts_on_every_node():
    plan = pb.plan("gpt2", pb.machine("h100", gpus=16))
    assert "between them gradients go over a network of 400 Gb/s per GPU" in plan.warnings[0]
    assert "`" not in plan.warnings[0]  # it is printed as it is, by commands too
    assert "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500 --nproc-per-node 8 " in (
        train_command(plan)
    )


def test_a_given_price_takes_the_place_of_the_range():
    price = machine_for("h100", dollars_per_hour=2.5).price
    assert price is not None
    assert (price.low, price.high, price.read_on) == (2.5, 2.5, None)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpu": "h1000"}, "no GPU is known as 'h1000'.*h100"),
        ({"gpu": "h100", "gpus": 0}, "number of GPUs is 0; use a whole number from 1"),
        (
            {"gpu": "h100", "dollars_per_hour": -1.0},
            "price -1 is not a price; use US dollars per hour, 0 or more",
        ),
        ({"gpu": "cpu", "gpus": 2}, "gpus=2`, but no GPU was found on this machine"),
        ({"gpu": "h100", "gpus": 12}, "whole number of nodes of 8; use 8 or 16, or other `gpus_per_node`"),
        ({"gpu": "cpu", "gpus_per_node": 4}, "`gpus_per_node=4` has no effect: the machine is a processor"),
        ({"gpu": "h100", "gpus_per_node": True}, "`gpus_per_node` is True; use a whole number from 1"),
        ({"gpu": "cpu"}, r"the speed of 'CPU' is unknown; measure it with `pb\.calibrate\(\)`, or"),
    ],
)
def test_a_machine_that_cannot_be_is_one_line(asked, says):
    with pytest.raises(InputError, match=says):
        machine_for(**asked)


def test_without_a_name_and_without_a_gpu_one_is_asked_for(monkeypatch):
    monkeypatch.setenv("PATH", "")  # no driver to ask
    with pytest.raises(
        InputError, match="no GPU was found to plan for; name one with `machine`, such as h100"
    ):
        machine_for()


def test_without_a_name_the_gpu_that_is_here_is_meant(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H200\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert machine_for().accelerator == find_accelerator("NVIDIA H200")
    driver.write_text("#!/bin/sh\necho NVIDIA H20\n")
    with pytest.raises(
        InputError,
        match=r"this machine has an NVIDIA H20, which is not in the table of GPUs .*; describe it with "
        r"`gpu_memory=24GB, gpu_tflops=82, gpu_bandwidth=1008GB/s` and its own figures",
    ):
        machine_for()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own_gpus_file().parent.mkdir()
    own_gpus_file().write_text(
        '["NVIDIA H20"]\nmemory = "96GB"\ntflops = 148\nbandwidth = "4TB/s"\nlink = "450GB/s"\n'
    )
    found = machine_for(gpus=8)
    assert (found.name, found.memory_bytes, found.price) == ("8 x NVIDIA H20", 96 * 10**9, None)
    assert found.profile.link_bytes == 0.75 * 450e9


def test_the_processors_memory_is_that_of_the_machine():
    assert machine_module.main_memory_bytes() > 2**30


FIGURES = {"gpu_memory": "24GB", "gpu_tflops": 165.2, "gpu_bandwidth": "1008GB/s"}


def test_figures_win_over_the_table_and_the_name_is_only_shown():
    given, listed = machine_for("4090", **FIGURES), machine_for("4090")
    assert (given.name, given.memory_bytes, given.price) == ("4090", 24 * 10**9, None)
    assert given.profile.peak_flops == listed.profile.peak_flops
    assert given.profile.source.startswith("peak and bandwidth given")
    assert machine_for(**FIGURES).name == "own GPU"
    assert machine_for("my card", gpus=4, dollars_per_hour=1.0, **FIGURES).price.low == 1


def test_a_plan_for_described_gpus_says_what_their_link_is_taken_to_be():
    link = (
        "the link from one of these GPUs to another carries 32 GB/s in each direction (PCIe 4.0 x16, assumed)"
    )
    assert link in pb.plan("gpt2", pb.machine(gpus=2, **FIGURES)).warnings
    assert link not in pb.plan("gpt2", pb.machine(**FIGURES)).warnings


@pytest.mark.parametrize("gpu", ["v100", "t4"])
def test_a_gpu_without_bfloat16_is_planned_with_its_float16_peak_and_a_warning(gpu):
    plan = pb.plan("gpt2", gpu)
    assert plan.machine.profile.dtype == "float16"
    assert any(
        f"{plan.machine.name} has no bfloat16: planned with its float16 peak" in line
        for line in plan.warnings
    )
    assert all("no bfloat16" not in line for line in pb.plan("gpt2", "l4").warnings)


@pytest.mark.parametrize("gpu", ["m1", "M4 Max", "Apple M3 Ultra", "apple-m2-pro", "mps", "Apple GPU (MPS)"])
def test_apples_gpus_are_refused_with_what_to_do(gpu):
    for figures in ({}, FIGURES):
        with pytest.raises(
            InputError, match=r"nothing is predicted for Apple's GPUs: .*parambudget train MODEL"
        ):
            machine_for(gpu, **figures)


def test_a_processor_is_not_described_by_a_gpus_figures():
    with pytest.raises(InputError, match="'CPU' is a processor, which figures of a GPU do not describe"):
        machine_for("CPU", **FIGURES)


def test_nothing_that_the_trainer_refuses_is_suggested():
    plan = pb.plan("llama-3.2-1b", "rtx-3060", batch_size=2, shard=False)
    assert not plan.fits
    assert not any("v100" in line or "t4" in line for line in plan.suggestions)


@pytest.mark.parametrize(
    "asked",
    [
        {"gpu": "h100"},
        {"gpu": "a100", "gpus": 16},
        {"gpu": "h100", "gpus": 64, "network": "200Gb/s", "stack": "torchtitan"},
        {"gpu": "h100", "gpus": 8, "gpus_per_node": 4, "grid_intensity": 30, "dollars_per_hour": 2.5},
        {"gpu": "4090", "mfu": 0.35},
        {"gpu": "my card", "gpu_memory": "24GiB", "gpu_tflops": 82.6, "gpu_bandwidth": "1008GB/s"},
        {"gpu_memory": "24GB", "gpu_tflops": 82, "gpu_bandwidth": "1Tb/s", "stack": "eager", "gpus": 2},
    ],
)
def test_the_arguments_of_a_machine_make_it_again(asked):
    machine = machine_for(**asked)
    assert machine_for(**machine_keywords(machine)) == machine
    assert machine_keywords(machine.with_memory(10**9)) == machine_keywords(machine)


def test_a_machine_at_other_speeds_has_no_arguments():
    h100 = machine_for("h100")
    slower = replace(h100, profile=replace(h100.profile, matmul_flops=1e14))
    assert machine_keywords(slower) is None
