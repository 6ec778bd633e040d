"""The figure of a sweep."""

import json
from pathlib import Path

from helpers.sweeps import write_job
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenet_pl.sweeps import plots
from lenet_pl.sweeps.results import Sweep


def write_curve(sweep: Path, overrides: list[str], status: str | None, *accuracies: float) -> None:
    """Write the next job, with the validation accuracy of each epoch."""
    name = f"{len(list(sweep.iterdir()))}"
    write_job(sweep, name, overrides, status, acc=max(accuracies))
    lines = [f"{epoch},{acc},0.3,1.0" for epoch, acc in enumerate(accuracies, 1)]
    text = "\n".join(["epoch,val/acc,val/loss,seconds", *lines])
    (sweep / name / "metrics.csv").write_text(text + "\n")
    if status:
        path = sweep / name / "result.json"
        result = json.loads(path.read_text()) | {"epochs": len(accuracies)}
        if status == "pruned":
            result["metrics"] = {"val/acc": max(accuracies), "val/loss": 0.3}
        path.write_text(json.dumps(result))


def draw_curves(sweep: Path) -> tuple[Axes, list[str]]:
    """The axes of the curves, and the texts of the legend, title first."""
    axes = Figure().subplots()
    plots.draw_curves(axes, Sweep(sweep))
    legend = axes.get_legend()
    texts = legend and [legend.get_title(), *legend.get_texts()]
    return axes, [text.get_text() for text in texts or []]


def lines(axes: Axes) -> dict[str, list[list[tuple[float, float]]]]:
    """The points of the lines and markers by colour."""
    result: dict[str, list[list[tuple[float, float]]]] = {}
    for line in axes.lines:  # two for each curve, of which the second marks its end
        points = [(float(x), float(y)) for x, y in line.get_xydata()]
        result.setdefault(str(line.get_color()), []).append(points)
    return result


def draw_table(sweep: Sweep, down: str, across: str) -> Axes:
    axes = Figure().subplots()
    plots.draw_table(axes, sweep, sweep.settings, list(down), list(across))
    return axes


def labels(axes: Axes) -> tuple[list[str], list[str]]:
    """The labels of the rows and columns of a table."""
    ticks = axes.get_yticklabels(), axes.get_xticklabels()
    return [text.get_text() for text in ticks[0]], [text.get_text() for text in ticks[1]]


def test_the_table_depends_on_what_varied(tmp_path: Path) -> None:
    def drawn(**values: str) -> tuple[list[str], list[str]]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for number, row in enumerate(zip(*values.values(), strict=True)):
            overrides = [f"{key}={value}" for key, value in zip(values, row, strict=True)]
            write_job(folder, f"{number}", overrides)
        plots.save_figure(Sweep(folder))
        assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
        table, _ = plots.draw(Sweep(folder)).axes
        return labels(table)

    assert drawn(lr="123", seed="111") == (["1", "2", "3"], [""])
    assert drawn(lr="112", seed="121") == (["1", "2"], [""])
    assert drawn(seed="123") == (["1", "2", "3"], [""])
    assert drawn(a="1122", b="1xx1", seed="1234") == (["1", "2"], ["1", "x"])
    assert drawn(a="12", b="12", c="xy") == (["1", "2"], ["1, x", "2, y"])
    # a row for each setting, since most cells would be empty
    assert drawn(a="123", b="321") == (["1, 3", "2, 2", "3, 1"], [""])


def test_nothing_is_drawn_without_a_comparison(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["seed=0"])
    plots.save_figure(Sweep(tmp_path))
    assert not (tmp_path / "sweep.png").exists()


def test_the_table_shows_the_accuracies(grid: Path) -> None:
    sweep = Sweep(grid)
    axes = Figure().subplots()
    plots.draw_table(axes, sweep, sweep.settings, sweep.parameters[:1], sweep.parameters[1:])
    assert labels(axes) == (["0.01", "0.1"], ["32", "64"])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("lr", "batch_size")
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "91.00 %", (1, 0): "failed", (0, 1): "95.00 %", (1, 1): "95.00 %"}
    [frame] = axes.patches
    assert frame.get_xy() == (0.5, 0.5)  # job 10 has the smaller loss
    [mesh] = axes.collections
    assert mesh.get_array().tolist() == [[0.91, None], [0.95, 0.95]]


def test_the_table_distinguishes_pruned_and_finished_settings(tmp_path: Path) -> None:
    write_curve(tmp_path, ["a=1", "b=1"], "finished", 0.8, 0.9, 0.95)
    write_curve(tmp_path, ["a=1", "b=2", "seed=1"], "pruned", 0.96, 0.94)
    write_curve(tmp_path, ["a=1", "b=2", "seed=2"], "pruned", 0.8, 0.98)
    write_curve(tmp_path, ["a=1", "b=2", "seed=3"], None, 0.5)
    write_curve(tmp_path, ["a=2", "b=1"], None, 0.97)
    write_curve(tmp_path, ["a=2", "b=2"], "failed", 0.1)
    axes = draw_table(Sweep(tmp_path), "a", "b")
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (0, 0): "95.00 %",
        (1, 0): "97.00 %\nup to epoch 2",
        (0, 1): "97.00 %\nup to epoch 1",
        (1, 1): "failed",
    }
    assert [place for place, text in texts.items() if text.get_style() == "normal"] == [(0, 0)]
    [mesh] = axes.collections
    assert mesh.get_array().count() == 1  # only the finished one has a colour


def test_the_table_shows_the_spread_over_seeds(tmp_path: Path) -> None:
    for seed, acc in enumerate([0.94, 0.96]):
        write_job(tmp_path, f"{seed}", ["a=b.C", f"seed={seed}"], acc=acc)
    write_job(tmp_path, "2", ["a=10", "seed=0"], acc=0.9)
    write_job(tmp_path, "3", ["a=9", "seed=0"], acc=0.9)
    axes = draw_table(Sweep(tmp_path), "a", "")
    assert labels(axes) == (["9", "10", "C"], [""])
    texts = {text.get_position()[1]: text.get_text() for text in axes.texts}
    assert texts == {0: "90.00 %", 1: "90.00 %", 2: "95.00 %\n± 1.41 %"}


def test_curves_end_where_jobs_did(tmp_path: Path) -> None:
    write_curve(tmp_path, ["a=1", "seed=0"], "finished", 0.90, 0.94, 0.96)
    write_curve(tmp_path, ["a=1", "seed=1"], "finished", 0.92, 0.96)
    write_curve(tmp_path, ["a=2", "seed=0"], "finished", 0.97, 0.95, 0.98)
    write_curve(tmp_path, ["a=2", "seed=1"], "failed", 0.93)
    write_curve(tmp_path, ["a=3", "seed=0"], "pruned", 0.91, 0.92)
    write_curve(tmp_path, ["a=4", "seed=0"], None, 0.90)
    axes, legend = draw_curves(tmp_path)
    best, second, third, fourth, *_ = plots.COLOURS
    drawn = lines(axes)
    assert drawn.keys() == {best, second, third, fourth}
    curve = [(1, 0.97), (2, 0.95), (3, 0.98)]
    assert drawn[best] == [[(1, 0.93)], [(1, 0.93)], curve, curve[-1:]]
    seeds = [[(1, 0.92), (2, 0.96)], [(1, 0.90), (2, 0.94), (3, 0.96)]]
    assert drawn[second] == [seeds[0], seeds[0][-1:], seeds[1], seeds[1][-1:]]
    assert drawn[third] == [[(1, 0.91), (2, 0.92)], [(2, 0.92)]]
    assert drawn[fourth] == [[(1, 0.90)], [(1, 0.90)]]
    markers = [line.get_marker() for line in axes.lines]
    assert markers[0::2] == ["None"] * 6
    assert markers[1::2] == ["X", ">", "o", ".", ".", "."]
    assert legend == ["a", "2", "1", "3", "4", "failed", "unfinished", "pruned"]
    assert axes.lines[-1].get_color() == best


def test_figure_without_curves(tmp_path: Path) -> None:
    for name in "01":
        write_job(tmp_path, name, [f"a={name}"])
        (tmp_path / name / "metrics.csv").unlink()
    axes, legend = draw_curves(tmp_path)
    assert not axes.lines
    assert legend == []
    plots.save_figure(Sweep(tmp_path))
    assert (tmp_path / "sweep.png").exists()


def test_many_curves_leave_all_but_the_best_grey(tmp_path: Path) -> None:
    for number in range(30):
        acc = 0.98 - number / 10_000
        write_curve(tmp_path, [f"model.lr={number}", "b=a.B"], "finished", acc - 0.01, acc)
    write_curve(tmp_path, ["model.lr=30", "b=c"], "finished", 0.1, 0.1)
    axes, legend = draw_curves(tmp_path)
    assert legend == ["lr, b", *(f"{n}, B" for n in range(6)), "25 more", "below range"]
    drawn = lines(axes)
    assert list(drawn) == [plots.GREY, *reversed(plots.COLOURS)]
    assert drawn[plots.BEST] == [[(1, 0.97), (2, 0.98)], [(2, 0.98)]]
    low, high = axes.get_ylim()
    assert 0.9 < low < 0.96
    assert high > 0.98
    [(epoch, position)] = drawn[plots.GREY][1]
    assert epoch == 2
    assert low < position < 0.96


def test_curves_of_one_setting_need_no_legend(tmp_path: Path) -> None:
    for seed in range(3):
        write_curve(tmp_path, [f"seed={seed}"], "finished", 0.9 + seed / 100)
    axes, legend = draw_curves(tmp_path)
    assert legend == []
    points = [[(1, acc)] for acc in (0.90, 0.91, 0.92) for _ in range(2)]
    assert lines(axes) == {plots.BEST: points}
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_settings_that_fail_do_not_compress_the_others(tmp_path: Path) -> None:
    for number, acc in enumerate([0.97, 0.98, 0.99, 0.1]):
        write_job(tmp_path, f"{number}", [f"a={number}"], acc=acc)
    [mesh] = draw_table(Sweep(tmp_path), "a", "").collections
    low, high = mesh.get_clim()
    assert 0.9 < low < 0.97
    assert high == 0.99
