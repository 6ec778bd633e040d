"""The figure of a sweep, ``sweep.png``."""

import statistics
from contextlib import suppress
from math import prod

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, PercentFormatter

from lenet_pl.files import replacing
from lenet_pl.sweeps.results import SeedGroup, SweepResults

DPI = 130
MIN_FILLED = 0.5  # of a heat map's cells; below, a panel for each parameter shows more
COLORMAP = "viridis"
BEST = "crimson"


def save_figure(sweep: SweepResults) -> bool:
    """Draw ``sweep.png`` into the sweep's folder; False if there is nothing to compare."""
    if not sweep.groups or not sweep.varied:
        return False
    cells = prod(len(Scale(sweep, key).positions) for key in sweep.parameters)
    filled = len(sweep.parameters) == 2 and len(sweep.groups) >= MIN_FILLED * cells
    figure = draw_heat_map(sweep) if filled else draw_panels(sweep)
    with replacing(sweep.folder / "sweep.png") as part:
        figure.savefig(part, format="png")
    return True


class Scale:
    """The values of a parameter on an axis: numbers to scale, other text at equal distances."""

    def __init__(self, sweep: SweepResults, key: str) -> None:
        values = {job.values.get(key, "") for job in sweep.jobs}  # of failed jobs, too
        ordered = sorted(values, key=lambda value: (_number(value), value))
        numbers = [_number(value) for value in ordered]
        self.numeric = bool(np.isfinite(numbers).all())
        self.log = self.numeric and 0 < 10 * numbers[0] <= numbers[-1]
        equidistant = map(float, range(len(ordered)))
        self.positions = dict(zip(ordered, numbers if self.numeric else equidistant, strict=True))

    def label(self, axes: Axes) -> None:
        """Scale the x-axis, with a tick at each value unless there are many numbers."""
        if self.log:
            axes.set_xscale("log")
        if not self.numeric:
            axes.set_xlim(-0.5, len(self.positions) - 0.5)
        if not self.numeric or len(self.positions) <= 8:
            axes.set_xticks(list(self.positions.values()), list(self.positions))
            axes.xaxis.set_minor_locator(NullLocator())


def _number(value: str) -> float:
    """The finite number that a text stands for; infinity if it is none."""
    with suppress(ValueError):
        if np.isfinite(number := float(value)):
            return number
    return np.inf


def draw_panels(sweep: SweepResults) -> Figure:
    """Accuracy over each parameter, or over the seed if nothing else varies; the best is red.

    A point is the mean of a setting's seeds, and a bar their standard deviation. Triangles are
    settings that are too inaccurate for the range of several panels.
    """
    keys, groups = sweep.parameters or ("seed",), list(sweep.groups)
    if not sweep.parameters:
        groups = [SeedGroup((job,)) for job in groups[0].jobs]
    means, sds = [group.mean() for group in groups], [group.sd() or np.nan for group in groups]
    low, high = _shown(means) if len(keys) > 1 else (min(means), max(means))
    size = (6, 4) if len(keys) == 1 else (1.5 + 2.5 * len(keys), 4)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for key, axes in zip(keys, panels, strict=True):
        scale = Scale(sweep, key)
        x = [scale.positions[group.values.get(key, "")] for group in groups]
        joined = scale.numeric and len(sweep.parameters) == 1
        order = np.argsort(x)
        columns = (np.array(values)[order] for values in (x, means, sds))
        axes.errorbar(*columns, fmt="o-" if joined else "o", capsize=4, alpha=0.7)
        axes.plot(x[0], means[0], "o", color=BEST, zorder=3)
        worse = [value for value, mean in zip(x, means, strict=True) if mean < low]
        axes.plot(worse, [low] * len(worse), "v", color="grey")
        scale.label(axes)
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(keys) > 1:
        margin = 0.05 * (high - low) or 0.01
        panels[0].set_ylim(low - margin, high + margin)
    n = max(len(group.jobs) for group in sweep.groups)
    title = f"mean ± standard deviation of {n} seeds" if n > 1 else ""
    if not sweep.parameters and (sd := sweep.groups[0].sd()) is not None:
        mean = sweep.groups[0].mean()
        axes.axhspan(mean - sd, mean + sd, alpha=0.15, lw=0)
        axes.axhline(mean, lw=1)
        title = f"{mean:.2%} ± {sd:.2%}, n = {n}"
    figure.suptitle(title, size=10)
    return figure


def draw_heat_map(sweep: SweepResults) -> Figure:
    """A table of two parameters, coloured by accuracy; the best cell is framed."""
    down, across = sweep.parameters
    rows, columns = (list(Scale(sweep, key).positions) for key in (down, across))
    table = np.full((len(rows), len(columns)), np.nan)
    for group in reversed(sweep.groups):  # the best last
        row = rows.index(group.values.get(down, ""))
        column = columns.index(group.values.get(across, ""))
        table[row, column] = group.mean()
    size = (2.8 + len(columns), 1.4 + 0.6 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    norm = Normalize(*_shown([group.mean() for group in sweep.groups]), clip=True)
    bar = figure.colorbar(ScalarMappable(norm, COLORMAP), ax=axes, extend="min")
    bar.formatter = PercentFormatter(1.0, decimals=1)
    bar.set_label("validation accuracy")
    axes.imshow(table, cmap=COLORMAP, norm=norm, aspect="auto")
    best = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, lw=2.5)
    axes.add_patch(best).set_clip_on(False)
    for (row, column), accuracy in np.ndenumerate(table):
        colour = "white" if norm(accuracy) <= 0.6 else "black"
        text = "–" if np.isnan(accuracy) else f"{accuracy:.2%}"
        axes.text(column, row, text, ha="center", va="center", size=9, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=across, ylabel=down)
    return figure


def _shown(means: list[float]) -> tuple[float, float]:
    """The range to show: settings that failed to learn must not compress the others."""
    high, low, median = max(means), min(means), statistics.median(means)
    return (max(low, high - 4 * (high - median)) if median < high else low), high
