"""Choosing what to show: the order, the difference between any two shown, the labels."""

from fractions import Fraction
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parambudget.search.lattice import Candidates, Floats
from parambudget.search.score import (
    FFN_CLASSES,
    LABELS,
    ffn_class,
    pick_diverse,
    rank_candidates,
    shape_labels,
)

COLUMNS = ("n_layers", "dim", "head_dim", "n_heads", "n_kv_heads", "intermediate_size", "counted")


def points(rows: list[tuple[int, ...]]) -> Candidates:
    return Candidates(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def row(**changes: int) -> tuple[int, ...]:
    usual = {"n_layers": 24, "dim": 1024, "head_dim": 64, "n_heads": 16, "n_kv_heads": 4,
             "intermediate_size": 3584, "counted": 1000}  # fmt: skip
    return tuple((usual | changes).values())


some_points = st.lists(
    st.tuples(
        st.sampled_from((12, 24, 36)), st.sampled_from((768, 1024)), st.sampled_from((64, 128)),
        st.just(16), st.sampled_from((4, 8)), st.sampled_from((2048, 3072, 4096, 6144)),
        st.integers(990, 1010),
    ),
    min_size=1, max_size=40, unique_by=lambda sizes_and_count: sizes_and_count[:6],
)  # fmt: skip


def test_the_score_decides_and_then_the_error():
    shown = points([row(counted=1009), row(counted=1001), row(counted=1005)])
    assert rank_candidates(shown, np.array([1.0, 2.0, 1.0]), 1000, closest=False).tolist() == [2, 0, 1]


def test_closest_puts_the_error_first_and_then_the_score():
    shown = points([row(counted=1009), row(counted=999), row(counted=1001)])
    assert rank_candidates(shown, np.array([0.0, 3.0, 2.0]), 1000, closest=True).tolist() == [2, 1, 0]


def test_scores_that_differ_in_the_last_bit_are_equal():
    shown = points([row(counted=1009), row(counted=1001)])
    score = np.array([0.3, 0.1 + 0.2])
    assert rank_candidates(shown, score, 1000, closest=False).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"n_layers": 12}, {"dim": 768}),
        ({"dim": 768}, {"head_dim": 32}),
        ({"head_dim": 32}, {"n_heads": 8}),
        ({"n_heads": 8}, {"n_kv_heads": 16}),
        ({"n_kv_heads": 16}, {"n_kv_heads": 8}),
        ({"n_kv_heads": 8}, {}),
        ({"intermediate_size": 2048}, {}),
    ],
)
def test_ties_go_to_fewer_layers_smaller_dim_smaller_heads_more_kv_heads_smaller_ffn(
    first: dict[str, int], second: dict[str, int]
):
    shown = points([row(**second), row(**first)])
    assert rank_candidates(shown, np.zeros(2), 1000, closest=False).tolist() == [1, 0]


def scores(rows: list[tuple[int, ...]]) -> Floats:
    return np.array([row[5] % 3.0 for row in rows])


@given(some_points, st.randoms(use_true_random=False), st.booleans())
def test_the_order_does_not_depend_on_how_the_points_came(
    rows: list[tuple[int, ...]], random: Any, closest: bool
):
    shuffled = random.sample(rows, len(rows))
    ranked = [
        [
            given[i]
            for i in rank_candidates(
                points(given), np.array([r[5] % 3.0 for r in given]), 1000, closest=closest
            )
        ]
        for given in (rows, shuffled)
    ]
    assert ranked[0] == ranked[1]


def traits(shown: Candidates) -> list[tuple[int, ...]]:
    columns = (shown.n_layers, shown.dim, shown.n_kv_heads, ffn_class(shown))
    return [tuple(values) for values in zip(*(column.tolist() for column in columns), strict=True)]


@given(some_points, st.integers(1, 8))
def test_any_two_shown_differ_in_two_traits_where_two_are_free(rows: list[tuple[int, ...]], n: int):
    given = points(rows)
    free = sum(len(set(values)) > 1 for values in zip(*traits(given), strict=True))
    shown = traits(given.select(pick_diverse(given, np.arange(len(rows)), n)))
    for one, other in combinations(shown, 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= min(2, free)


@given(some_points, st.integers(1, 8))
def test_the_first_of_the_ranking_is_always_shown_and_the_ranking_kept(rows: list[tuple[int, ...]], n: int):
    given = points(rows)
    ranked = np.arange(len(rows))[::-1]
    for names in (None, shape_labels(np.linspace(-1, 1, len(rows)))):
        chosen = pick_diverse(given, ranked, n, names).tolist()
        assert chosen[0] == len(rows) - 1
        assert chosen == sorted(set(chosen), reverse=True)
        assert len(chosen) <= n


def test_shapes_that_share_layers_and_dim_are_not_shown_together():
    given = points([row(), row(n_kv_heads=8, intermediate_size=2048), row(n_layers=20, dim=1152)])
    assert pick_diverse(given, np.arange(3), 3).tolist() == [0, 2]


def test_where_only_one_trait_is_free_points_differ_in_it():
    given = points([row(), row(counted=1001), row(n_layers=20)])
    assert pick_diverse(given, np.arange(3), 3).tolist() == [0, 2]


def test_where_only_the_ffn_is_free_its_classes_differ():
    given = points([row(), row(intermediate_size=3648), row(intermediate_size=2048)])
    assert pick_diverse(given, np.arange(3), 3).tolist() == [0, 2]


def test_one_of_each_label_is_shown_before_a_second_of_any():
    given = points([row(n_layers=n, dim=64 * n) for n in range(10, 22)])
    names = np.array(["balanced"] * 10 + ["deep", "wide"])
    assert pick_diverse(given, np.arange(12), 3, names).tolist() == [0, 10, 11]
    assert pick_diverse(given, np.arange(12), 2, names).tolist() == [0, 10]
    assert pick_diverse(given, np.arange(12), 4, names).tolist() == [0, 1, 10, 11]


def test_a_label_that_does_not_differ_from_what_is_shown_is_left_out():
    given = points([row(), row(n_kv_heads=8), row(n_layers=20, dim=1152)])
    assert pick_diverse(given, np.arange(3), 3, np.array(["balanced", "wide", "balanced"])).tolist() == [0, 2]


def test_an_empty_ranking_shows_nothing():
    given = points([row()]).select(np.array([], dtype=np.int64))
    assert len(pick_diverse(given, np.array([], dtype=np.int64), 3)) == 0


def test_the_labels_are_the_thirds_of_a_normal_distribution():
    third = NormalDist().inv_cdf(2 / 3)
    deviations = np.array([-3, -third - 0.01, -third + 0.01, 0, third - 0.01, third + 0.01, 3])
    assert shape_labels(deviations).tolist() == ["deep"] * 2 + ["balanced"] * 3 + ["wide"] * 2
    assert set(LABELS) == {"deep", "balanced", "wide"}


@pytest.mark.parametrize(
    ("ratio", "which"), [("2", 0), ("8/3", 1), ("3.5", 2), ("4", 3), ("5", 4), ("6", 5), ("8", 6)]
)
def test_every_usual_ffn_ratio_is_the_middle_of_its_own_class(ratio: str, which: int):
    given = points([row(dim=768, intermediate_size=int(Fraction(ratio) * 768))])
    assert ffn_class(given).tolist() == [which]
    assert len(FFN_CLASSES) == 6
