"""Figures that training and reports share."""

import numpy as np
import pytest
import torch

from lenet_pl import plots
from lenet_pl.metrics import calibration


@pytest.mark.parametrize("metric", ["loss", "acc"])
def test_curves_show_every_point_and_the_legend_covers_nothing(metric):
    values = [0.1, 0.9, 0.98, 0.99, 0.992, 0.993]
    names = ("train/loss", "val/loss", "train/acc", "val/acc")
    rows = [{"epoch": n, **dict.fromkeys(names, value)} for n, value in enumerate(values, 1)]
    six = {f"lr {n}, batch_size 64, hidden 128-64": (rows, 6) for n in range(6)}
    for runs in ({"run": (rows, 6)}, {"run": (rows[:1], 1)}, {"A": (rows, 6), "B": (rows, 5)}, six):
        figure = plots.curves(runs, metric)
        figure.canvas.draw()
        [axes] = figure.axes
        low, high = axes.get_ylim()
        assert low <= 0.1
        assert high >= max(values[: len(next(iter(runs.values()))[0])])
        assert len([y for y in axes.get_yticks() if low <= y <= high]) >= 2
        legend = axes.get_legend()
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
        assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_curves_mark_the_best_epoch():
    rows = [
        {"epoch": n, "train/acc": 0.5, "val/acc": value}
        for n, value in ((1, 0.6), (2, 0.8), (3, 0.7))
    ]
    figure = plots.curves({"run": (rows, 2)}, "acc")
    [axes] = figure.axes
    drawn = [tuple(map(tuple, line.get_xydata())) for line in axes.lines]
    assert ((2, 0.8),) in drawn
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training", "validation", "best, epoch 2"]


def test_curves_of_several_runs_are_named_in_distinct_colours():
    rows = [{"epoch": n, "train/loss": 0.5, "val/loss": 0.1 * n} for n in (1, 2)]
    [axes] = plots.curves({f"lr {n}": (rows, 1) for n in range(6)}, "loss").axes
    handles, labels = axes.get_legend_handles_labels()
    assert labels == [f"lr {n}" for n in range(6)]
    assert len({handle.get_color() for handle in handles}) == 6


def test_confusion_matrix_shows_counts():
    [axes] = plots.confusion_matrix(torch.tensor([[3, 1], [0, 2]]), ["a", "b"]).axes
    assert [text.get_text() for text in axes.texts] == ["3", "1", "2"]


def test_image_grid_inverts_greyscale_bytes_only():
    grey = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    colour = torch.tensor([[[0, 255]]] * 3, dtype=torch.uint8)
    [axes] = plots.image_grid([grey, colour, grey / 255], ["one", "two", "three"]).axes
    first, second, third = (image.get_array() for image in axes.images)
    assert first.tolist() == [[1, 0]]
    assert second.tolist() == [[[0, 0, 0], [1, 1, 1]]]
    assert third.tolist() == [[0, 1]]
    assert [text.get_text() for text in axes.texts][:3] == ["one", "two", "three"]


def test_signed_colours_are_white_at_zero():
    maps = torch.tensor([[[[-2.0, 0.0, 1.0]]], [[[0.0, 0.0, 0.0]]]])
    purple, white, orange = plots.signed_colours(maps)[0, :, 0].T
    assert torch.allclose(white, torch.ones(3), atol=0.05)
    assert purple[2] > purple[0]
    assert orange[0] > orange[2]
    assert torch.equal(plots.signed_colours(maps)[1, :, 0, 0], white)


def test_reliability_has_a_bar_per_used_bin():
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.double).log()
    upper, lower = plots.reliability(calibration(logits, torch.tensor([0, 1, 0]))).axes
    assert [bar.get_height() for bar in upper.patches] == pytest.approx([1.0, 0.5])
    assert [bar.get_height() for bar in lower.patches] == [1, 2]


def test_captions_that_are_longer_than_an_image_have_two_lines():
    images = torch.zeros(2, 1, 2, 2)
    for size, caption, drawn in [
        (7, "truck → ship 98%", "truck → ship 98%"),
        (7, "truck → airplane 98%", "truck →\nairplane 98%"),
        (11, "8 → 5 100%", "8 → 5 100%"),
        (11, "truck → ship 98%", "truck →\nship 98%"),
    ]:
        [axes] = plots.image_grid(images, [caption] * 2, size=size).axes
        text = axes.texts[0]
        assert (text.get_text(), text.get_size()) == (drawn, size)


def test_figures_become_arrays_and_files():
    figure = plots.image_grid(torch.rand(4, 1, 5, 5), title="dollars in $names$ 手")
    array = plots.rgb_array(figure)
    assert array.dtype == np.uint8
    png = plots.png(figure)
    assert png.startswith(b"\x89PNG")
    height, width = (int.from_bytes(png[start : start + 4]) for start in (20, 16))
    assert array.shape == (height, width, 3)
    assert width == pytest.approx(figure.get_figwidth() * plots.FILE_DPI, abs=1)
