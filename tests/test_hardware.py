"""The table of accelerators, and finding a device in it."""

import pytest

from parambudget.cost.hardware import ACCELERATORS, find


@pytest.mark.parametrize(
    ("device_name", "name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm", 989),
        ("NVIDIA H100 PCIe", "h100-pcie", 756),
        ("NVIDIA H100 NVL", "h100-nvl", 835),
        ("NVIDIA H200", "h200-sxm", 989),
        ("NVIDIA A100-SXM4-40GB", "a100-40-sxm", 312),
        ("NVIDIA A100-SXM4-80GB", "a100-80-sxm", 312),
        ("NVIDIA GeForce RTX 4090", "rtx-4090", 165),
        ("AMD Instinct MI300X", "mi300x", 1307),
    ],
)
def test_a_device_is_found_by_the_name_that_torch_gives_it(device_name, name, teraflops):
    found = find(device_name)
    assert found is not None
    assert (found.name, int(found.bf16_flops / 1e12)) == (name, teraflops)


@pytest.mark.parametrize(
    "device_name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla V100-SXM2-16GB", "H100", "CPU", "",
    ],
)  # fmt: skip
def test_what_is_only_similar_is_not_guessed(device_name):
    assert find(device_name) is None


def test_every_row_has_a_source_and_names_of_its_own():
    names = [name for row in ACCELERATORS for name in (row.name, *row.device_names)]
    assert len(names) == len(set(names))
    assert all(row.source and row.device_names for row in ACCELERATORS)


def test_the_h100_has_the_bytes_that_its_driver_reports():
    assert find("NVIDIA H100 80GB HBM3").memory_bytes == 81_559 * 2**20


def test_no_row_has_the_sparse_figure():
    """A byte of bandwidth goes with 70 to 420 dense FLOPs on all of these; sparse ones are twice that."""
    for row in ACCELERATORS:
        assert 70 < row.bf16_flops / row.bandwidth_bytes < 420, row.name
