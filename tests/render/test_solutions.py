"""The answers of the solver on screen."""

import pytest

from parambudget import resize, solve
from parambudget.render.solutions import next_commands, solutions_screen


def test_an_empty_slice_of_the_answers_has_a_screen():
    none = solve("350M")[0:0]
    assert solutions_screen(none, 100) == ["no models"]
    assert next_commands(none, {}, None) == []
    assert (repr(none), none._repr_html_()) == ("", "")


@pytest.mark.parametrize("width", [80, 200])
def test_every_column_of_the_score_is_explained_below_it(width):
    found = solve("350M")
    lines = solutions_screen(found, width)
    (start,) = [i for i, line in enumerate(lines) if "score: how unusual the shape is" in line]
    legend = " ".join(lines[start:]).replace("\033[0m \033[2m", " ")
    assert [f"{name} (" in legend for name in found[0].score] == [True] * 6
    assert "aspect (dim / layers)" in legend
    assert "experts (number, width)" in " ".join(solutions_screen(solve("8B", active="1B"), 240))


def test_the_directions_of_a_resized_model_are_explained():
    screen = " ".join(solutions_screen(resize("gpt2", "100M"), 240))
    assert "thinner (smaller FFN, same layers and dim)" in screen
    larger = " ".join(solutions_screen(resize("gpt2", "200M"), 240))
    assert "fatter (larger FFN, same layers and dim)" in larger


def test_the_score_is_explained_where_its_terms_are_not_shown():
    lines = solutions_screen(solve("350M", machine="h100"), 240)
    assert any("0 is the most usual" in line for line in lines)
    assert not any("aspect" in line for line in lines)
