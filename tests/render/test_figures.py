import numpy as np
import pytest
from matplotlib.image import imread

import parambudget as pb
from parambudget.errors import InputError
from parambudget.render.figures import landscape, proportional_counts, save_png

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
