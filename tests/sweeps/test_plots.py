"""The figure of a sweep."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.sweeps import write_job
from matplotlib.figure import Figure

from lenet_pl.sweeps import plots
from lenet_pl.sweeps.results import SweepResults, read_sweep


def test_plot_depends_on_what_varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(**values: str) -> tuple[str, int]:
        """The function that draws the figure, and its number of axes."""
        calls = []

        def spy(name: str) -> Callable:
            draw = getattr(plots, name)

            def call(sweep: SweepResults) -> Figure:
                calls.append((name, draw(sweep)))
                return calls[-1][1]

            return call

        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for number, row in enumerate(zip(*values.values(), strict=True)):
            overrides = [f"{key}={value}" for key, value in zip(values, row, strict=True)]
            write_job(folder, f"{number}", overrides)
        with monkeypatch.context() as patch:
            for name in ("draw_panels", "draw_heat_map"):
                patch.setattr(plots, name, spy(name))
            assert plots.save_figure(read_sweep(folder))
        assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
        [(name, figure)] = calls
        return name, len(figure.axes)

    assert drawn(lr="123", seed="111") == ("draw_panels", 1)
    assert drawn(lr="112", seed="121") == ("draw_panels", 1)
    assert drawn(seed="123") == ("draw_panels", 1)
    assert drawn(a="112", b="122", seed="123") == ("draw_heat_map", 2)  # with its colour bar
    assert drawn(a="123", b="123") == ("draw_panels", 2)  # the heat map would be mostly empty
    assert drawn(a="12", b="12", c="xy") == ("draw_panels", 3)


def test_nothing_is_drawn_without_a_comparison(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["seed=0"])
    assert not plots.save_figure(read_sweep(tmp_path))
    assert not (tmp_path / "sweep.png").exists()


def test_heat_map_and_panels_show_the_accuracies(grid: Path) -> None:
    sweep = read_sweep(grid)
    axes = plots.draw_heat_map(sweep).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "91.00%", (1, 0): "–", (0, 1): "95.00%", (1, 1): "95.00%"}
    for axes in plots.draw_panels(sweep).axes:
        assert sorted(axes.lines[0].get_ydata()) == [0.91, 0.95, 0.95]
        assert list(axes.lines[-2].get_ydata()) == [0.95]  # the best


def test_settings_that_fail_do_not_compress_the_others(tmp_path: Path) -> None:
    for number, acc in enumerate([0.97, 0.98, 0.99, 0.1]):
        write_job(tmp_path, f"{number}", [f"a={number}", f"b={number}"], acc=acc)
    axes = plots.draw_panels(read_sweep(tmp_path)).axes[0]
    low, high = axes.get_ylim()
    assert 0.9 < low < 0.97
    assert high > 0.99
    triangles = axes.lines[-1]
    assert list(triangles.get_xdata()) == [3]
    assert low < triangles.get_ydata()[0] < 0.97


def test_line_shows_the_means_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for number, (lr, acc) in enumerate([("0.1", 0.9), ("0.001", 0.7), ("0.001", 0.8)]):
        write_job(tmp_path, f"{number}", [f"lr={lr}", f"seed={number}"], acc=acc)
    [axes] = plots.draw_panels(read_sweep(tmp_path)).axes
    assert axes.get_xscale() == "log"
    x, y = axes.lines[0].get_data()
    assert list(x) == [0.001, 0.1]
    assert list(y) == pytest.approx([0.75, 0.9])
