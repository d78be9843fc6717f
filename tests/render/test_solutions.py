"""The answers of the solver on screen."""

from parambudget import solve
from parambudget.render.solutions import next_commands, solutions_screen


def test_an_empty_slice_of_the_answers_has_a_screen():
    none = solve("350M")[0:0]
    assert solutions_screen(none, 100) == ["no models"]
    assert next_commands(none, {}, None) == []
    assert (repr(none), none._repr_html_()) == ("", "")
