from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.image import imread
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

import parambudget as pb
from parambudget.arch.config import flat_fields
from parambudget.arch.mixers.proportions import mixer_sizes_at
from parambudget.errors import InputError
from parambudget.render.figures import landscape, loss_differences, save_png
from parambudget.search.landscape import equal_count_curve, proportional_counts

CURRENT = pb.model(dim=1024, n_layers=24, n_heads=16, intermediate_size=4096)


def test_the_landscape_is_the_count_at_the_current_models_proportions():
    counts = proportional_counts(CURRENT, np.array([[12.0, 24.0]]), np.array([[512.0], [1024.0]]))
    half = {"dim": 512, "n_heads": 8, "n_kv_heads": 8, "intermediate_size": 2048}
    assert counts.tolist() == [
        [pb.count(CURRENT, n_layers=layers, **sizes).total for layers in (12, 24)] for sizes in (half, {})
    ]


def test_experts_grow_with_the_model_in_the_landscape():
    model = pb.model(
        dim=512, n_layers=8, n_heads=8, n_experts=8, n_experts_per_token=2, expert_intermediate_size=640
    )
    half = {"dim": 256, "n_heads": 4, "n_kv_heads": 4, "intermediate_size": model.intermediate_size // 2}
    assert proportional_counts(model, 8, 256) == pb.count(model, expert_intermediate_size=320, **half).total


@pytest.mark.parametrize("name", ["mamba-130m", "rwkv-4-169m", "qwen3-next-80b-a3b"])
def test_mixers_grow_with_the_model_in_the_landscape(name):
    model = pb.preset(name)
    assert proportional_counts(model, model.n_layers, model.dim) == pb.count(model).total
    half = mixer_sizes_at(model, model.dim // 2)
    sizes = {
        size: value // 2
        for size, value in flat_fields(model).items()
        if size in ("dim", "n_kv_heads", "n_heads", "intermediate_size", "expert_intermediate_size",
                    "shared_intermediate_size") and value and value > 1
    }  # fmt: skip
    assert proportional_counts(model, model.n_layers, model.dim // 2) == pb.count(model, **sizes | half).total


@pytest.mark.parametrize("target", [999_999_999, 6 * 10**9])
def test_the_title_of_the_landscape_is_inside_the_picture(target):
    figure = landscape({"one": CURRENT}, CURRENT, target)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    titles = [
        each
        for each in figure.axes[0].get_children()
        if isinstance(each, Text) and "target" in each.get_text()
    ]
    assert [0 < each.get_window_extent().x1 < figure.bbox.width for each in titles] == [True]


def test_the_landscape_is_drawn_whole_and_opaque(tmp_path):
    found = pb.resize(CURRENT, "350M")
    save_png(landscape({s.label: s.model for s in found}, CURRENT, 350_000_000), tmp_path / "sizes.png")
    pixels = imread(tmp_path / "sizes.png")
    assert pixels.shape[:2] == (750, 1200)
    assert (pixels[..., -1] == 1).all()  # legible on any page
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["sizes.png"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match="No such file or directory; nothing was written, choose"):
        save_png(landscape({}, CURRENT, 350_000_000), tmp_path / "nowhere" / "sizes.png")


def test_the_legend_of_the_memory_lies_below_the_axis_label():
    figure = pb.plot(pb.plan(CURRENT, "h100", hours=1.5))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_legend().get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0


SHAPES = {
    "narrower": (896, 24, 3520), "shallower": (1024, 18, 4032), "thinner": (1024, 24, 2688),
    "balanced": (896, 22, 3968), "fatter": (1024, 24, 5000), "small": (768, 10, 2816),
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return {
        name: pb.model(dim=dim, n_layers=n_layers, n_heads=dim // 64, intermediate_size=ffn)
        for name, (dim, n_layers, ffn) in SHAPES.items()
    }


@pytest.fixture(scope="module")
def plans(models):
    asked = {"hours": 1.5, "batch_size": 16, "gradient_accumulation_steps": 8}
    return {name: pb.plan(m, "h100", **asked) for name, m in {"current": CURRENT, **models}.items()}


def overlaps(boxes):
    return [(i, j) for i, one in enumerate(boxes) for j, other in enumerate(boxes[:i]) if one.overlaps(other)]


def text_boxes(figure):
    """Where the labels beside the axes stand, once the figure is laid out."""
    figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in figure.axes[0].texts if isinstance(text, Annotation)]


def test_models_of_one_depth_and_width_stand_apart_and_no_label_covers_another(models):
    figure = landscape(models, CURRENT, 350_000_000)
    boxes = text_boxes(figure)
    assert len(boxes) == 7
    assert overlaps(boxes) == []
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    axes = figure.axes[0]
    points = [
        each.get_offset_transform().transform(each.get_offsets())[0]
        for each in axes.collections
        if isinstance(each, PathCollection) and len(each.get_offsets()) == 1
    ]
    assert len(points) == 7
    apart = [np.hypot(*(a - b)) for i, a in enumerate(points) for b in points[:i]]
    assert min(apart) > 20  # pixels of a figure of 1,200


def test_the_check_of_labels_can_fail():
    one, other = Bbox([[0, 0], [2, 2]]), Bbox([[1, 1], [3, 3]])
    assert overlaps([one, other]) == [(1, 0)]


def test_the_curves_are_the_differences_and_each_has_its_own_looks(plans):
    figure = loss_differences(plans, 0.02)
    axes = figure.axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    for line, plan in zip(curves, list(plans.values())[1:], strict=True):
        hours = line.get_xdata()
        assert line.get_ydata() == pytest.approx(plan.loss_after(hours) - plans["current"].loss_after(hours))
    for looks in ("get_color", "get_marker"):
        assert len({str(getattr(line, looks)()) for line in curves[:5]}) == 5, looks
    assert overlaps(text_boxes(figure)) == []
    assert {text.get_text() for text in axes.texts} == {*plans}


def test_the_interval_of_the_speed_is_a_range_of_hours(plans):
    first = plans["current"]
    axes = loss_differences(plans, 0.02).axes[0]
    span = next(each for each in axes.patches if "worth" in each.get_label())
    rates = first.speed.tokens_per_second
    ends = span.get_x(), span.get_x() + span.get_width()
    assert ends == pytest.approx((1.5 * rates.low / rates.expected, 1.5 * rates.high / rates.expected))
    # So long at the expected speed is as good as the planned hours at the slow one.
    assert first.loss_after(ends[0]) == pytest.approx(first.loss_after(1.5, rates.low))


def test_a_model_that_does_not_fit_is_labelled_so(plans):
    small = replace(plans["small"], machine=plans["small"].machine.with_memory(10**9))
    axes = loss_differences({"current": plans["current"], "small": small}, 0.02).axes[0]
    assert "small (does not fit)" in [text.get_text() for text in axes.texts]


def test_a_curve_of_equal_count_has_models_of_that_count():
    curve = equal_count_curve(CURRENT, 350e6, 60, (512.0, 2048.0))
    assert len(curve) > 40
    assert [width for _, width in curve] == sorted((width for _, width in curve), reverse=True)
    for layers, width in curve:
        assert abs(proportional_counts(CURRENT, layers, width) / 350e6 - 1) < 1e-6


def test_no_curve_is_drawn_where_no_depth_has_the_count():
    assert equal_count_curve(CURRENT, 1e12, 60, (512.0, 2048.0)) == []


def test_dollar_signs_in_names_are_no_formula(plans):
    odd, machine = "a$b_$c^", plans["small"].machine
    machine = replace(machine, accelerator=replace(machine.accelerator, name="my$gpu_$^"))
    named = {"current": replace(plans["current"], machine=machine), odd: plans["small"]}
    figures = [
        loss_differences(named, 0.02),
        landscape({odd: plans["small"].model}, CURRENT, 10**8),
        pb.plot(named["current"]),
    ]
    for figure in figures:
        figure.draw_without_rendering()  # matplotlib raises for what is no formula
    texts = [text for text in figures[0].axes[0].texts if "a" in text.get_text()]
    assert r"a\$b_\$c^" in [text.get_text() for text in texts]
