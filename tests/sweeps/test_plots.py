"""The figure of a sweep."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.sweeps import write_job

from lenet_pl.sweeps import plots
from lenet_pl.sweeps.results import read_sweep


def test_the_plot_follows_from_what_varied(tmp_path: Path) -> None:
    def plot_for(**values: str) -> Callable | None:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for number, row in enumerate(zip(*values.values(), strict=True)):
            overrides = [f"{key}={value}" for key, value in zip(values, row, strict=True)]
            write_job(folder, f"{number}", overrides)
        sweep = read_sweep(folder)
        assert plots.save_figure(sweep)
        assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
        return plots.plot_for(sweep)

    assert plot_for(lr="123", seed="111") == plots.draw_line
    assert plot_for(lr="112", seed="121") == plots.draw_line
    assert plot_for(seed="123") == plots.draw_seeds
    assert plot_for(a="112", b="122", seed="123") == plots.draw_heat_map
    assert plot_for(a="123", b="123") == plots.draw_parallel  # the heat map would be mostly empty
    assert plot_for(a="12", b="12", c="xy") == plots.draw_parallel


def test_nothing_is_drawn_without_a_comparison(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["seed=0"])
    assert plots.plot_for(read_sweep(tmp_path)) is None
    assert not plots.save_figure(read_sweep(tmp_path))
    assert not (tmp_path / "sweep.png").exists()


def test_heat_map_and_parallel_coordinates_show_the_accuracies(grid: Path) -> None:
    sweep = read_sweep(grid)
    axes = plots.draw_heat_map(sweep).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "91.00%", (1, 0): "–", (0, 1): "95.00%", (1, 1): "95.00%"}
    axes = plots.draw_parallel(sweep).axes[0]
    best = axes.lines[2].get_ydata()  # drawn last, on top
    assert list(best) == [1.0, 1.0, 1.0]


def test_line_shows_the_means_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for number, (lr, acc) in enumerate([("0.1", 0.9), ("0.001", 0.7), ("0.001", 0.8)]):
        write_job(tmp_path, f"{number}", [f"lr={lr}", f"seed={number}"], acc=acc)
    axes = plots.draw_line(read_sweep(tmp_path)).axes[0]
    assert axes.get_xscale() == "log"
    x, y = axes.lines[0].get_data()
    assert list(x) == [0.001, 0.1]
    assert list(y) == pytest.approx([0.75, 0.9])
