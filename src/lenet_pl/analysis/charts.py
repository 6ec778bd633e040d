"""The charts of a report: curves over epochs, and what confidence is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from lenet_pl.analysis.evaluate import Calibration
from lenet_pl.analysis.plots import BLUE, FAINT, GREEN, GREY, INK, ORANGE, new_figure, styled

Rows = Sequence[Mapping[str, float]]
TRAIN, VAL = {"color": ORANGE, "linestyle": (0, (4, 2))}, {"color": BLUE}


@styled
def curves(runs: Mapping[str, tuple[Rows, int | None]], metric: str) -> Figure:
    """A metric of training (dashed) and validation over the epochs, the best epoch marked.

    Args:
        runs: by name, the rows of ``metrics.csv`` and the best epoch; a second run is compared.
        metric: ``loss`` or ``acc``.
    """
    figure = new_figure(5.2, 3.3)
    axes = figure.subplots()
    pairs = zip(runs.items(), (BLUE, ORANGE), strict=False)
    for (name, (rows, best)), colour in pairs:
        alone = len(runs) == 1
        styles = {
            "train": TRAIN if alone else {"color": colour, "linestyle": (0, (4, 2)), "alpha": 0.6},
            "val": VAL if alone else {"color": colour},
        }
        for stage, meaning in (("train", "training"), ("val", "validation")):
            points = [(row["epoch"], row[f"{stage}/{metric}"]) for row in rows]
            label = meaning if alone else f"{name}, {meaning}"
            mark = "o" if len(points) < 3 else ""
            axes.plot(*zip(*points, strict=True), label=label, marker=mark, ms=4, **styles[stage])
        for row in rows:
            if row["epoch"] == best:
                _mark_best(axes, row["epoch"], row[f"val/{metric}"], colour, alone)
    _scale(axes, metric, [row for rows, _ in runs.values() for row in rows])
    axes.set_xlabel("epoch")
    axes.grid(axis="y", which="both")
    axes.spines["left"].set_visible(False)
    pad = 1.8 if len(runs) == 1 else 0.3  # above the axes, and above the mark of the best epoch
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=pad, ncols=2)
    return figure


def _mark_best(axes: Axes, epoch: float, value: float, colour: str, alone: bool) -> None:
    axes.plot([epoch], [value], "o", ms=8, mfc="white", mec=colour, mew=2, zorder=5)
    if alone:
        axes.axvline(epoch, color=GREY, lw=0.8, ls=":", zorder=0)
        axes.annotate(
            f"best, epoch {epoch:.0f}", (epoch, 1), (0, 3), size=8, color=GREY, ha="center",
            va="bottom", xycoords=("data", "axes fraction"), textcoords="offset points",
        )  # fmt: skip


def _scale(axes: Axes, metric: str, rows: Rows) -> None:
    """An axis that holds every point; of the loss, the late epochs can be told apart too."""
    if metric == "acc":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    else:
        values = [row[f"{stage}/loss"] for row in rows for stage in ("train", "val")]
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            few = max(values) < 30 * min(values)  # otherwise the powers of ten are enough
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if few else (1,)))
            axes.yaxis.set_minor_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len({row["epoch"] for row in rows}) == 1:
        axes.set_xlim(0, 2)


@styled
def learning_rate(rows: Rows) -> Figure:
    """The learning rate at the end of each epoch."""
    figure = new_figure(5.2, 2.0)
    axes = figure.subplots()
    axes.plot([row["epoch"] for row in rows], [row["lr"] for row in rows], color=GREEN)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    return figure


@styled
def reliability(found: Calibration) -> Figure:
    """Accuracy over confidence in bins of equal width, and how many images are in each.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017, figure 1.
    """
    figure = new_figure(5.2, 4.6)
    above, below = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    edges, counts = found.edges.numpy(), found.counts.numpy()
    filled = counts > 0
    left, width = edges[:-1][filled], np.diff(edges)[filled]
    accuracy, confidence = found.accuracy.numpy()[filled], found.confidence.numpy()[filled]
    above.bar(
        left,
        accuracy,
        width * 0.92,
        align="edge",
        color=BLUE,
        alpha=0.85,
        label="share that is right",
    )
    above.hlines(
        confidence, left, left + width * 0.92, color=ORANGE, lw=2.2, label="mean confidence"
    )
    above.set(ylim=(0, 1), xlim=(0, 1), ylabel="right")
    above.legend(loc="upper left", fontsize=8.5)
    below.bar(left, counts[filled], width * 0.92, align="edge", color=GREY)
    below.set(yscale="log", xlabel="confidence", ylabel="images")
    below.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (above, below):
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    above.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    above.tick_params(labelcolor=INK, color=FAINT)
    return figure
