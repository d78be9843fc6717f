"""Figures as HTML."""

from parambudget.web.markup import BarMark, BarPart, bar_legend, html_table, stacked_bar


def test_a_part_keeps_the_colour_of_its_legend_where_another_is_empty():
    parts = [BarPart("weights", 2, "2 GiB"), BarPart("logits", 0, "0"), BarPart("inputs", 1, "1 GiB")]
    bar = stacked_bar(parts, 4, "Memory", BarMark(3, "what there is"))
    assert "pb-c1" not in bar
    assert 'pb-c2" style="width:25.000%"' in bar
    assert '<i class="pb-c2"></i>inputs' in bar_legend(part.name for part in parts)
    assert 'style="left:75.000%" title="what there is"' in bar


def test_no_text_becomes_markup():
    table = html_table([["a<b", "c&d"], ['"e"', "<script>"]], "<i>caption</i>")
    assert "<script>" not in table
    assert "<i>" not in table
    assert "a&lt;b" in table
    assert "c&amp;d" in table
