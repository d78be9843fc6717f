"""The table of accelerators, finding a device in it, and what an hour of one is rented for."""

import math
from dataclasses import replace

import pytest

from parambudget.cost.hardware import (
    ACCELERATORS,
    detect_accelerator,
    find_accelerator,
    fixed_price,
    gpu_name,
    known_price,
    parse_accelerator,
    price_of,
)
from parambudget.errors import InputError


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
        ("AMD Instinct MI325X", "mi325x", 1307),
        ("NVIDIA GH200 480GB", "gh200", 989),
        ("NVIDIA B300 SXM6 AC", "b300", 2250),
        ("NVIDIA L4", "l4", 121),
        ("NVIDIA L40", "l40", 181),
        ("NVIDIA RTX A6000", "rtx-a6000", 154),
        ("NVIDIA GeForce RTX 3060", "rtx-3060", 25),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti", 80),
        ("NVIDIA GeForce RTX 4080", "rtx-4080", 97),
        ("NVIDIA GeForce RTX 5070 Ti", "rtx-5070-ti", 87),
        ("NVIDIA GeForce RTX 5080", "rtx-5080", 112),
        ("Tesla V100-SXM2-16GB", "v100-16-sxm", 125),
        ("Tesla T4", "t4", 65),
    ],
)
def test_a_device_is_found_by_the_name_that_torch_gives_it(device_name, name, teraflops):
    found = find_accelerator(device_name)
    assert found is not None
    assert (found.name, int(found.peak_flops / 1e12)) == (name, teraflops)


@pytest.mark.parametrize(
    "device_name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 2080 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla V100-SXM3-32GB", "H100", "CPU", "",
    ],
)  # fmt: skip
def test_what_is_only_similar_is_not_guessed(device_name):
    assert find_accelerator(device_name) is None


def test_every_row_has_a_source_and_names_of_its_own():
    rows = ACCELERATORS.values()
    names = [*(row.name for row in rows), *{name for row in rows for name in row.device_names}]
    assert len(names) == len(set(names))
    assert all(row.source and row.read_on and row.device_names for row in rows)
    assert all(row.board_watts and row.board_watts_source for row in rows)


def test_rows_that_share_a_devices_name_differ_in_memory_and_power_alone():
    rows = [row for row in ACCELERATORS.values() if row.device_names == ("NVIDIA GeForce RTX 4060 Ti",)]
    assert [row.name for row in rows] == ["rtx-4060-ti", "rtx-4060-ti-16"]
    first, second = (replace(row, name="", memory_bytes=0, board_watts=0) for row in rows)
    assert replace(first, board_watts_source="") == replace(second, board_watts_source="")


def test_cards_of_one_name_are_told_apart_by_their_memory():
    name = "NVIDIA GeForce RTX 4060 Ti"
    assert find_accelerator(name) is ACCELERATORS["rtx-4060-ti"]
    assert find_accelerator(name, 8_188 * 2**20) is ACCELERATORS["rtx-4060-ti"]
    assert find_accelerator(name, 16_000 * 2**20) is ACCELERATORS["rtx-4060-ti-16"]


def test_geforce_peaks_are_those_with_32_bit_accumulation():
    """Two FLOPs, two per tensor-core lane: four times cores times clock, as their float32 rate is two."""
    cores_and_clock = {
        "rtx-3080": (8_704, 1.710e9),
        "rtx-4070": (5_888, 2.475e9),
        "rtx-5080": (10_752, 2.617e9),
    }
    for name, (cores, clock) in cores_and_clock.items():
        assert ACCELERATORS[name].peak_flops == pytest.approx(4 * cores * clock, rel=0.005), name


def test_what_is_older_than_bfloat16_has_its_float16_peak_and_says_so():
    older = {row.name: row.peak_dtype for row in ACCELERATORS.values() if not row.has_bfloat16}
    assert older == dict.fromkeys(
        ("t4", "v100-16-sxm", "v100-32-sxm", "v100-16-pcie", "v100-32-pcie"), "float16"
    )


def test_the_h100_has_the_bytes_that_its_driver_reports():
    assert find_accelerator("NVIDIA H100 80GB HBM3").memory_bytes == 81_559 * 2**20


def test_no_row_has_the_sparse_figure():
    """A byte of bandwidth goes with 70 to 420 dense FLOPs on all of these; sparse ones are twice that."""
    for row in ACCELERATORS.values():
        assert 70 < row.peak_flops / row.bandwidth_bytes < 420, row.name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("h100", "h100-sxm"), ("H100", "h100-sxm"), ("a100", "a100-80-sxm"), ("A100-40GB", "a100-40-sxm"),
        ("4090", "rtx-4090"), ("RTX_4090", "rtx-4090"), ("geforce rtx 3090", "rtx-3090"),
        ("h100_pcie", "h100-pcie"), ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("b200", "b200"),
        ("MI300", "mi300x"), ("gb200", "gb200"), ("h200", "h200-sxm"), ("V100", "v100-16-sxm"),
        ("v100-32GB", "v100-32-sxm"), ("Tesla T4", "t4"), ("A6000", "rtx-a6000"), ("3060", "rtx-3060"),
        ("4060 Ti", "rtx-4060-ti"), ("4070-ti-super", "rtx-4070-ti-super"), ("rtx 5080", "rtx-5080"),
    ],
)  # fmt: skip
def test_a_gpu_is_found_by_what_people_type(typed, name):
    assert parse_accelerator(typed).name == name


def test_every_row_is_found_by_its_own_name():
    assert [parse_accelerator(row.name) for row in ACCELERATORS.values()] == list(ACCELERATORS.values())


def test_an_unknown_gpu_lists_the_nearest_ones():
    with pytest.raises(InputError, match=r"'h300'; the nearest are .*h100-sxm"):
        parse_accelerator("h300")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("!", ""), ("v200", "the nearest are "), ("l20", "the nearest are l40")],
)
def test_an_unknown_gpu_says_where_all_are_listed_and_how_it_is_measured(name, nearest):
    with pytest.raises(InputError) as error:
        parse_accelerator(name)
    assert str(error.value).startswith(f"no GPU is known as {name!r}; {nearest}")
    assert "`pb.ACCELERATORS` lists all" in str(error.value)
    assert "`pb.calibrate()` measures it" in str(error.value)


def test_a_link_is_given_in_one_direction():
    """NVLink 4 is sold as 900 GB/s and PCIe 4 x16 as 64: both directions together."""
    assert (parse_accelerator("h100").link_bytes, parse_accelerator("4090").link_bytes) == (450e9, 32e9)


def test_every_price_that_is_known_is_dated_and_has_a_source():
    prices = {row.name: known_price(row) for row in ACCELERATORS.values()}
    known = {name: price for name, price in prices.items() if price is not None}
    assert {"a100-80-sxm", "h100-sxm", "rtx-4090", "mi300x"} <= known.keys() < prices.keys()
    for price in known.values():
        assert 0 < price.low < price.middle < price.high
        assert price.source
        assert price.read_on is not None


def test_a_gpu_that_a_person_described_has_no_price_whatever_its_name():
    assert known_price(replace(parse_accelerator("h100"), source="given")) is None


def test_the_middle_price_of_an_h100_is_near_the_published_median():
    assert price_of(parse_accelerator("h100")).middle == pytest.approx(2.95, rel=0.1)


def test_an_accelerator_without_a_price_is_an_error_that_asks_for_one():
    with pytest.raises(InputError, match="no price is known for mine; give one"):
        price_of(replace(parse_accelerator("h100"), name="mine"))


def test_a_given_price_has_no_range_and_no_date():
    price = fixed_price(2.5)
    assert (price.low, price.middle, price.high, price.read_on) == (2.5, 2.5, 2.5, None)
    assert fixed_price(0).middle == 0


@pytest.mark.parametrize("price", [-0.01, math.nan, math.inf])
def test_a_price_below_zero_or_without_a_value_is_refused(price):
    with pytest.raises(InputError, match="use US dollars per hour, 0 or more"):
        fixed_price(price)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the path that answers with these lines and this code."""

    def install(lines, code=0):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{lines}'\nexit {code}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_the_own_gpu_is_the_first_that_the_driver_names(driver):
    driver("NVIDIA H100 80GB HBM3\\nNVIDIA A100-SXM4-80GB\\n")
    assert detect_accelerator() is parse_accelerator("h100")


def test_a_gpu_that_is_not_in_the_table_has_a_name_and_no_row(driver):
    driver("Tesla V100-SXM3-32GB\\n")
    assert (gpu_name(), detect_accelerator()) == ("Tesla V100-SXM3-32GB", None)


def test_the_driver_is_asked_which_of_two_cards_of_one_name_is_there(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *memory*) echo 16380 MiB;; *) echo NVIDIA GeForce RTX 4060 Ti;; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_accelerator() is ACCELERATORS["rtx-4060-ti-16"]


@pytest.mark.parametrize(("lines", "code"), [("", 0), ("NVIDIA-SMI has failed\\n", 9)])
def test_a_driver_without_a_gpu_finds_none(driver, lines, code):
    driver(lines, code)
    assert (gpu_name(), detect_accelerator()) == (None, None)


def test_a_machine_without_a_driver_has_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (gpu_name(), detect_accelerator()) == (None, None)
