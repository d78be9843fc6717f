"""An axis is read from what people write, and its text reads back to the same values."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parambudget.errors import ConfigError
from parambudget.search.axis import Axis, parse_ratio


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (896, (896,)),
        ("896", (896,)),
        ("64,128", (64, 128)),
        (" 64 , 128 ", (64, 128)),
        ("4:8", (4, 5, 6, 7, 8)),
        ("256:512:64", (256, 320, 384, 448, 512)),
        ("256:500:64", (256, 320, 384, 448)),
        ("1_024", (1024,)),
        ([128, 64, 128], (64, 128)),
        ({64, 128}, (64, 128)),
        (range(4, 8), (4, 5, 6, 7)),
        (np.int64(896), (896,)),
        (np.arange(2, 5), (2, 3, 4)),
        (iter([4, 5]), (4, 5)),
    ],
)
def test_a_value_a_list_and_a_range_name_their_values(given: Any, values: tuple[int, ...]):
    assert Axis.parse(given, "dim").values == values


def test_values_are_pythons_own_ints():
    assert {type(value) for value in Axis.parse(np.arange(2, 5), "dim").values} == {int}


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("200:400", (256, 320, 384)),
        ("256:384", (256, 320, 384)),
        ("200:400:100", (200, 300, 400)),
        ("100,200", (100, 200)),
        ("100", (100,)),
    ],
)
def test_a_step_makes_a_bare_range_run_over_its_multiples_and_changes_nothing_else(
    given: str, values: tuple[int, ...]
):
    assert Axis.parse(given, "dim", 64).values == values


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([7], "7"),
        ([4, 5], "4,5"),
        ([4, 5, 6], "4:6"),
        ([64, 128, 192], "64:192:64"),
        ([1, 2, 4], "1,2,4"),
    ],
)
def test_the_text_is_the_shortest_form(given: list[int], text: str):
    assert Axis.parse(given, "n_layers").text == text


def test_consecutive_values_say_their_step_where_a_bare_range_would_mean_multiples():
    assert Axis.parse([64, 65, 66], "dim", 64).text == "64:66:1"


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.sampled_from([None, 1, 2, 64]))
def test_the_text_of_any_values_reads_back_to_them(values: list[int], step: int | None):
    axis = Axis.parse(values, "dim", step)
    assert axis.values == tuple(sorted(set(values)))
    assert Axis.parse(axis.text, "dim", step) == axis


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 90), st.sampled_from([None, 1, 2, 64]))
def test_the_text_of_any_range_reads_back_to_it(low: int, span: int, by: int, step: int | None):
    axis = Axis.parse(f"{low}:{low + span}:{by}", "dim", step)
    assert axis.values == tuple(range(low, low + span + 1, by))
    assert Axis.parse(axis.text, "dim", step) == axis


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("x", "dim 'x' is not a whole number; write it in full, such as 896 or 50_257"),
        ("4,096", "dim '4,096' could be a list or one number; write 4096 if it is one"),
        ("", "dim '' is not a whole number"),
        ("32K", "dim '32K' is not a whole number; write it in full"),
        ("64.5", "dim '64.5' is not a whole number"),
        ("1e3", "dim '1e3' is not a whole number"),
        ("-3", "dim is -3; sizes start at 1"),
        ("-3:9", "dim is -3; sizes start at 1"),
        ("1:9:-2", "dim '1:9:-2' has a step of -2; use 1 or more"),
        ("0", "dim is 0; sizes start at 1"),
        ("0:4", "dim is 0; sizes start at 1"),
        ([-1, 4], "dim is -1; sizes start at 1"),
        ("4:", "dim '4:' is not a range; use lo:hi or lo:hi:step, such as 256:4096:64"),
        ("1:2:3:4", "dim '1:2:3:4' is not a range"),
        ("9:4", "dim '9:4' runs from high to low; write 4:9"),
        ("4:9:0", "dim '4:9:0' has a step of 0; use 1 or more"),
        ("10:20", "dim '10:20' contains no multiple of 64; widen the range or change multiple"),
        ("1:9000000:1", "dim has 9,000,000 values; at most 1,000,000 are searched, use a larger step"),
        ([], "dim has no values; use a size such as 896, 64,128 or 256:4096:64"),
        (range(0), "dim has no values"),
        (True, "dim is True; use whole sizes, such as 896, 64,128 or 256:4096:64"),
        ([2, True], "dim is 2, True; use whole sizes"),
        (64.0, "dim is 64.0; use whole sizes"),
        ([64, "128"], "dim is 64, '128'; use whole sizes"),
        (None, "dim is None; use whole sizes"),
    ],
)
def test_what_is_no_axis_is_refused_in_one_line(given: Any, says: str):
    with pytest.raises(ConfigError) as caught:
        Axis.parse(given, "dim", 64)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ("1:6", (1, 6)),
        ("4", (4, 4)),
        (4, (4, 4)),
        (2.5, (Fraction(5, 2), Fraction(5, 2))),
        ("8/3:4", (Fraction(8, 3), 4)),
        ("2.6:2.7", (Fraction(13, 5), Fraction(27, 10))),
        ((1, Fraction(7, 2)), (1, Fraction(7, 2))),
    ],
)
def test_a_ratio_is_read_exactly(given: Any, bounds: tuple[Fraction, Fraction]):
    assert parse_ratio(given) == bounds


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("x", "ffn_ratio 'x' is not a pair of ratios; use a:b with numbers above 0, such as 1:6 or 8/3:4"),
        ("1:2:3", "ffn_ratio '1:2:3' is not a pair of ratios"),
        ("0:4", "ffn_ratio '0:4' is not a pair of ratios"),
        ("-1:4", "ffn_ratio '-1:4' is not a pair of ratios"),
        ("1/0:4", "ffn_ratio '1/0:4' is not a pair of ratios"),
        ("1:2000", "ffn_ratio '1:2000' is not a pair of ratios"),
        ("", "ffn_ratio '' is not a pair of ratios"),
        ("1:nan", "ffn_ratio '1:nan' is not a pair of ratios"),
        ((), "ffn_ratio () is not a pair of ratios"),
        ("6:1", "ffn_ratio '6:1' runs from high to low; write 1:6"),
    ],
)
def test_what_is_no_ratio_is_refused_in_one_line(given: Any, says: str):
    with pytest.raises(ConfigError) as caught:
        parse_ratio(given)
    assert str(caught.value).startswith(says)
