"""Plain lines and tables: aligned, wrapped between words, styled only on a terminal."""

import pytest

from parambudget.render import terminal
from parambudget.render.terminal import bold, dim, table, terminal_width, without_style, wrap_text

ROWS = [["name", "formula", "n"], ["head", "2 × 768 + 3072 + 768", "12"], ["a", "b", "3"]]


def test_numbers_stand_right_and_words_left():
    assert table(ROWS, left=(0, 1)) == [
        "name  formula                n",
        "head  2 × 768 + 3072 + 768  12",
        "a     b                      3",
    ]


def test_the_gap_between_columns_can_be_narrow():
    assert table([["a", "b"], ["10", "20"]], gap=1) == [" a  b", "10 20"]


def test_the_fluid_column_is_wrapped_between_words_where_there_is_no_room():
    lines = table([["name", "x " * 20, "n"]], left=(0, 1), fluid=1, width=34)
    assert lines == ["name  x x x x x x x x x x x x x  n", "      x x x x x x x"]


def test_the_fluid_column_keeps_20_letters_on_any_terminal():
    assert len(table([["name", "x " * 20, "n"]], fluid=1, width=5)[0]) == 4 + 2 + 20 + 2 + 1


def test_text_is_wrapped_between_words_and_no_word_is_cut():
    assert wrap_text("one two-three four", 7) == ["one", "two-three", "four"]


@pytest.mark.parametrize(("style", "code"), [(bold, "\033[1m"), (dim, "\033[2m")])
def test_a_style_ends_where_its_line_does(style, code):
    assert style("text") == f"{code}text\033[0m"
    assert style("") == ""
    assert without_style(f"a {style('text')} b") == "a text b"


def test_piped_output_has_room_for_any_table(monkeypatch):
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: False)
    assert terminal_width() == 240


def test_on_a_terminal_lines_are_as_wide_as_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: True)
    assert terminal_width() == 77
