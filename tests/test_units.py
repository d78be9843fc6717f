"""Numbers as people write them, exact on the way in and honest on the way out."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parambudget.errors import InputError
from parambudget.units import (
    count_phrase,
    format_amount,
    format_byte_rate,
    format_bytes,
    format_count,
    format_flop_rate,
    format_mfu,
    format_seconds,
    format_share,
    format_tolerance,
    parse_byte_rate,
    parse_count,
    parse_size,
    parse_tolerance,
    plural,
)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("350M", 350_000_000),
        ("1.3B", 1_300_000_000),
        ("0.35e9", 350_000_000),
        ("350_000_000", 350_000_000),
        ("350,000,000", 350_000_000),
        ("350m", 350_000_000),
        (" 7b ", 7_000_000_000),
        ("2T", 2 * 10**12),
        ("12K", 12_000),
        (".5K", 500),
        ("1e+6", 1_000_000),
        ("0.1B", 100_000_000),
        ("1000000T", 10**18),
        (896, 896),
    ],
)
def test_a_count_is_read_exactly(written: str | int, count: int):
    assert parse_count(written) == count


@given(st.integers(1, 10**18))
def test_any_count_reads_back_in_every_plain_form(count: int):
    assert parse_count(count) == parse_count(str(count)) == count
    assert parse_count(f"{count:,}") == parse_count(f"{count:_}") == count


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("350X", "target '350X' is not a count; use a positive number such as 350M, 1.3B, 0.35e9 or "
                 "350_000_000 (K, M, B, T are powers of 1000)"),
        ("", "target '' is not a count"),
        ("M", "target 'M' is not a count"),
        ("--350M", "target '--350M' is not a count"),
        ("-", "target '-' is not a count"),
        ("350 M B", "target '350 M B' is not a count"),
        ("3,50M", "target '3,50M' is not a count"),
        ("350_M", "target '350_M' is not a count"),
        ("nan", "target 'nan' is not a count"),
        ("1e999", "target '1e999' is not a count"),
        (True, "target 'True' is not a count"),
        (None, "target 'None' is not a count"),
        ("0.5", "target '0.5' is not a whole number"),
        ("1.2345K", "target '1.2345K' is not a whole number"),
        (0, "target '0' is out of range"),
        (-5, "target '-5' is out of range"),
        ("-1", "target '-1' is out of range; use a positive number such as 350M"),
        ("-350M", "target '-350M' is out of range; use a positive number such as 350M"),
        ("1e19", "target '1e19' is out of range; use a positive number such as 350M, 1.3B, 0.35e9 or "
                 "350_000_000 (K, M, B, T are powers of 1000), at most 10^18"),
    ],
)  # fmt: skip
def test_what_is_no_count_is_refused_in_one_line(written: Any, says: str):
    with pytest.raises(InputError) as caught:
        parse_count(written, "target")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "size"),
    [("896", 896), ("50_257", 50257), ("50,257", 50257), (" 7 ", 7), ("0", 0), ("-1", -1)],
)
def test_a_size_is_a_whole_number(written: str, size: int):
    assert parse_size(written, "dim") == size


@pytest.mark.parametrize(
    "written", ["32K", "1e3", "--1", "-", "-1.5", "8.0", ".5", "", "x", "1,2", "1__0", "4,0960"]
)
def test_what_is_no_size_is_refused_in_one_line(written: str):
    with pytest.raises(InputError) as caught:
        parse_size(written, "dim")
    assert str(caught.value) == (
        f"dim {written!r} is not a whole number; write it in full, such as 896 or 50_257"
    )


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("1%", Fraction(1, 100)),
        ("0.5 %", Fraction(1, 200)),
        ("0.01", Fraction(1, 100)),
        (0.01, Fraction(1, 100)),
        (1e-05, Fraction(1, 100_000)),
        (np.float64(1e-05), Fraction(1, 100_000)),
        (0, 0),
        ("0%", 0),
        (Fraction(1, 3), Fraction(1, 3)),
        ("99.9%", Fraction(999, 1000)),
    ],
)
def test_a_tolerance_is_read_exactly(written: Any, share: Fraction):
    assert parse_tolerance(written) == share


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("1", "tolerance '1' is ambiguous: 1 or more needs a percent sign; use 1% or 0.01"),
        (5, "tolerance '5' is ambiguous"),
        (Fraction(3, 2), "tolerance '3/2' is ambiguous"),
        ("100%", "tolerance '100%' is 100 % or more; use a share below it, such as 1%"),
        ("x", "tolerance 'x' is not a share; use 1% or 0.01"),
        ("-1%", "tolerance '-1%' is not a share"),
        (-0.01, "tolerance '-0.01' is not a share"),
        ("%", "tolerance '%' is not a share"),
        (float("nan"), "tolerance 'nan' is not a share"),
        (float("inf"), "tolerance 'inf' is not a share"),
    ],
)
def test_what_is_no_tolerance_is_refused_in_one_line(written: Any, says: str):
    with pytest.raises(InputError) as caught:
        parse_tolerance(written)
    assert str(caught.value).startswith(says)


@given(st.decimals(0, 99, places=4))
def test_the_text_of_a_tolerance_reads_back_exactly(percent: Any):
    share = Fraction(percent) / 100
    assert parse_tolerance(format_tolerance(share)) == share


def test_a_tolerance_without_a_short_percentage_is_written_as_a_share():
    assert format_tolerance(Fraction(1, 3)) == "0.3333333333333333"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (174_604_369_920, "174.6B"),
        (999_960_000, "1B"),
        (999_940_000, "999.9M"),
        (-3_147_264, "-3.147M"),
        (999, "999"),
        (1000, "1K"),
        (0.5, "0.5"),
        (0, "0"),
        (5 * 10**12, "5T"),
        (12_345 * 10**12, "12,345T"),
    ],
)
def test_a_count_is_printed_in_four_digits(count: float, text: str):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(81_559 * 2**20, "79.6 GiB"), (2**30, "1.0 GiB"), (2**30 - 1, "1024.0 MiB"), (512 * 2**20, "512.0 MiB")],
)
def test_memory_is_printed_in_powers_of_1024(size: int, text: str):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.00003, "+0.003 %"),
        (Fraction(-1, 100), "-1.000 %"),
        (0, "0 %"),
        (Fraction(0), "0 %"),
        (1e-9, "+0.000 %"),
        (Fraction(-1, 371_516_417), "-0.0000003 %"),
        (Fraction(4, 10**6), "+0.0004 %"),
    ],
)
def test_a_difference_is_printed_with_its_sign(share: Any, text: str):
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (738, "12.3 min"),
        (5400, "1.5 h"),
        (47 * 3600, "47.0 h"),
        (276_480, "3.2 days"),
    ],
)
def test_a_duration_is_printed_in_its_natural_unit(seconds: float, text: str):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (989.4e12, "989.4 TFLOP/s"),
        (2.25e15, "2.25 PFLOP/s"),
        (71e9, "71 GFLOP/s"),
        (5e6, "5 MFLOP/s"),
    ],
)
def test_arithmetic_per_second_is_written_in_powers_of_1000(rate, text):
    assert format_flop_rate(rate) == text


def test_utilisation_says_of_what_and_how_it_was_counted():
    assert format_mfu(0.451, 989.4e12) == "45.1% of 989.4 TFLOP/s dense, full convention"


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "file", "0 files"),
        (1, "update", "1 update"),
        (2_048, "entry", "2,048 entries"),
    ],
)
def test_a_number_of_things_has_the_noun_in_its_number(count: int, noun: str, text: str):
    assert count_phrase(count, noun) == text


def test_a_printed_number_has_the_noun_of_what_is_printed():
    assert [plural(text, "epoch") for text in ("1", "1.2", "1K")] == ["epoch", "epochs", "epochs"]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1008GB/s", 1008e9), ("1.008 TB/s", 1008e9), ("400Gb/s", 50e9), ("400Gbps", 50e9),
        ("400 Gbit/s", 50e9),
        ("64GiB/s", 64 * 2**30), ("900GBps", 900e9), ("0.5TB/s", 5e11), ("1,008GB/s", 1008e9),
    ],
)  # fmt: skip
def test_rates_are_in_bytes_and_a_small_b_is_a_bit(text, rate):
    assert parse_byte_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        "1008",
        "1008GB",
        "1008gb/s",
        "400gbps",
        "1008 GBit/s",
        "-1GB/s",
        "0GB/s",
        "GB/s",
        "1e99TB/s",
        1008,
        None,
    ],
)
def test_a_rate_whose_unit_is_not_clear_is_refused(text):
    with pytest.raises(InputError, match=r"use such as 1008GB/s \(bytes\) or 400Gb/s \(bits"):
        parse_byte_rate(text)


@pytest.mark.parametrize(
    ("rate", "text"), [(1.008e12, "1.01 TB/s"), (672e9, "672 GB/s"), (12.5e9, "12.5 GB/s")]
)
def test_rates_are_printed_in_powers_of_1000(rate, text):
    assert format_byte_rate(rate) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0295, "0.0295"), (3.926, "3.93"), (99.9, "99.9"), (12345.6, "12,346")]
)
def test_an_estimate_has_three_digits_and_no_exponent(amount, text):
    assert format_amount(amount) == text
