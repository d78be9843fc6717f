"""GPUs that a person describes, by three figures or in a file: what is read, and what a mistake is told."""

import pytest

from parambudget.cost.own_gpus import (
    ASSUMED_LINK_BYTES,
    describe_gpu,
    find_own_gpu,
    own_gpus_file,
    read_own_gpus,
)
from parambudget.cost.speed.profile import preset_profile
from parambudget.errors import InputError


@pytest.fixture
def gpus_toml(tmp_path, monkeypatch):
    """Writes the file of the config folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(text):
        own_gpus_file().parent.mkdir(exist_ok=True)
        own_gpus_file().write_text(text)

    return write


def test_three_figures_are_a_gpu():
    gpu = describe_gpu("my card", "24GB", 82, "1008GB/s")
    assert (gpu.name, gpu.memory_bytes, gpu.peak_flops) == ("my card", 24 * 10**9, 82e12)
    assert (gpu.bandwidth_bytes, gpu.link_bytes, gpu.source) == (1008e9, ASSUMED_LINK_BYTES, "given")
    assert (gpu.read_on, gpu.board_watts) == (None, None)


def test_bits_are_an_eighth_of_bytes():
    assert describe_gpu(None, "24GB", 82, "8064Gb/s").bandwidth_bytes == 1008e9


def test_its_speeds_say_that_the_figures_were_given():
    profile = preset_profile(describe_gpu("h100-sxm", "80GB", 989.4, "3.35TB/s"))
    assert profile.source.startswith("peak and bandwidth given, scaled from the constants of Hopper; 82% of")


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ((None, "24GB", None, None), "`gpu_memory` does not describe a GPU without `gpu_tflops` and `gpu_"),
        ((None, "24GB", 82, None), "`gpu_memory` and `gpu_tflops` do not describe a GPU without `gpu_band"),
        ((None, "24", 82, "1008GB/s"), "gpu_memory '24' is not a size"),
        ((None, 0, 82, "1008GB/s"), "gpu_memory is 0; use a size such as"),
        ((None, "24GB", 82e12, "1008GB/s"), "gpu_tflops is 8.2e.13; use a number above 0, at most 100,000"),
        ((None, "24GB", -1, "1008GB/s"), "gpu_tflops is -1; use a number above 0"),
        ((None, "24GB", float("nan"), "1008GB/s"), "gpu_tflops is nan; use a number"),
        ((None, "24GB", 82, "1008gb/s"), r"gpu_bandwidth '1008gb/s' is not a rate; use such as 1008GB/s"),
        ((None, "24GB", 82, "1008"), "gpu_bandwidth '1008' is not a rate"),
        (("", "24GB", 82, "1008GB/s"), "machine '' is not a name to show"),
        (("x" * 61, "24GB", 82, "1008GB/s"), "is not a name to show; use 1 to 60 printable"),
    ],
)  # fmt: skip
def test_figures_that_cannot_be_are_one_line(figures, says):
    with pytest.raises(InputError, match=says):
        describe_gpu(*figures)


@pytest.mark.usefixtures("gpus_toml")
def test_without_a_file_there_are_no_rows():
    assert (read_own_gpus().rows, find_own_gpu("mine")) == ({}, None)


def test_a_row_is_a_gpu_with_link_and_power_where_they_are_given(gpus_toml):
    gpus_toml(
        '[Frankenstein-4]\nmemory = "48GiB"\ntflops = 91.5\nbandwidth = "936GB/s"\n'
        'link = "100Gb/s"\nwatts = 350\n'
        '["NVIDIA H20"]\nmemory = "96GB"\ntflops = 148\nbandwidth = "4TB/s"\n'
    )
    mine, h20 = find_own_gpu("frankenstein 4"), find_own_gpu("h20")
    assert (mine.name, mine.memory_bytes, mine.peak_flops) == ("Frankenstein-4", 48 * 2**30, 91.5e12)
    assert (mine.link_bytes, mine.board_watts, mine.board_watts_source) == (12.5e9, 350, "given")
    assert (h20.device_names, h20.link_bytes, h20.board_watts) == (("NVIDIA H20",), ASSUMED_LINK_BYTES, None)
    assert read_own_gpus().problems == {}


GOOD = 'memory = "24GB"\ntflops = 82\nbandwidth = "1TB/s"\n'


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("mine = 3", "it is 3; write it as a table, [mine] with its figures"),
        ("[mine]\nmemory = '24GB'", "tflops and bandwidth are missing"),
        ("[mine]\nmemory = '24GB'\ntflops = 82", "bandwidth is missing"),
        (f"[mine]\n{GOOD}tdp = 3", "'tdp' is not a figure of a GPU; use memory, tflops, bandwidth, li"),
        (f"[mine]\n{GOOD}watts = 'many'", "watts is 'many'; use a number above 0"),
        (f"[mine]\n{GOOD}watts = true", "watts is True; use a number above 0"),
        (f"[mine]\n{GOOD}link = '32'", "link '32' is not a rate; use such as"),
        ("[mine]\nmemory = 1.5\ntflops = 82\nbandwidth = '1TB/s'", "memory is 1.5; use a size such as '24"),
        ("[mine]\nmemory = '24GB'\ntflops = 82\nbandwidth = 1008", "bandwidth 1008 has no unit; use such as"),
        (f"[H100]\n{GOOD}", "the name is taken by 'h100-sxm'; choose another one"),
        (f"[good-1]\n{GOOD}", "the name is taken by 'good_1'; choose another one"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_file_and_leaves_the_others(gpus_toml, row, says):
    plain, table = ("", row) if row.startswith("[") else (row, "")
    gpus_toml(f"{plain}\n[good_1]\n{GOOD}{table}\n[good_2]\n{GOOD}")
    own = read_own_gpus()
    ((name, line),) = own.problems.items()
    assert line.startswith(f"{own_gpus_file()}: row {name!r}: {says}")
    assert [*own.rows] == ["good_1", "good_2"]
    if name == "mine":
        with pytest.raises(InputError, match=r"gpus\.toml: row 'mine': "):
            find_own_gpu("Mine")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[mine", r"gpus.toml is not valid TOML \(.*; correct or remove it"),
        ("x" * 1_000_001, r"gpus.toml is not valid TOML \(larger than 1,000,000 bytes\)"),
        ("[mine]\n" * 2, "gpus.toml is not valid TOML"),
        ("a = " + "[" * 20_000, r"gpus.toml is not valid TOML \(nested too deeply\)"),
    ],
    ids=["cut off", "large", "twice", "deep"],
)
def test_a_file_that_is_not_toml_is_one_line(gpus_toml, content, says):
    gpus_toml(content)
    with pytest.raises(InputError, match=says):
        read_own_gpus()


@pytest.mark.usefixtures("gpus_toml")
def test_a_file_that_is_a_folder_is_one_line():
    own_gpus_file().mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot read .*gpus.toml: it is a directory"):
        read_own_gpus()
