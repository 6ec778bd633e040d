"""The figure of a sweep, ``sweep.png``; each point is a mean over seeds."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, PercentFormatter

from lenet_pl.files import replacing
from lenet_pl.sweeps.results import SweepResults, short_names

DPI = 130
MIN_FILLED = 0.5  # of a heat map's cells; below, parallel coordinates show more
COLORMAP = "viridis"
BEST = "crimson"


def save_figure(sweep: SweepResults) -> bool:
    """Draw ``sweep.png`` into the sweep's folder; False if there is nothing to compare."""
    if (draw := plot_for(sweep)) is None:
        return False
    with replacing(sweep.folder / "sweep.png") as part:
        draw(sweep).savefig(part, format="png")
    return True


def plot_for(sweep: SweepResults) -> Callable[[SweepResults], Figure] | None:
    """The plot that suits the number of varied parameters; None if there is nothing to compare."""
    keys = sweep.parameters
    if not sweep.groups or not sweep.varied:
        return None
    if len(keys) < 2:
        return draw_line if keys else draw_seeds
    cells = np.prod([len(Scale(sweep, key).positions) for key in keys])
    filled = len(keys) == 2 and len(sweep.groups) >= MIN_FILLED * cells
    return draw_heat_map if filled else draw_parallel


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


def _number(value: str) -> float:
    """The finite number that a text stands for; infinity if it is none."""
    with suppress(ValueError):
        if np.isfinite(number := float(value)):
            return number
    return np.inf


def draw_seeds(sweep: SweepResults) -> Figure:
    """The accuracy of each seed, with their mean and standard deviation."""
    group = sweep.groups[0]
    mean, sd = group.mean(), group.sd() or 0.0
    jobs = sorted(group.jobs, key=lambda job: _number(job.values.get("seed", "")))
    figure, axes = _axes("seed")
    axes.axhspan(mean - sd, mean + sd, alpha=0.15, lw=0)
    axes.axhline(mean, lw=1)
    seeds = [job.values.get("seed", "") for job in jobs]
    axes.plot(seeds, [job.metrics["val/acc"] for job in jobs], "o")
    axes.set_title(f"{mean:.2%} ± {sd:.2%}, n = {len(jobs)}", size=10)
    return figure


def draw_line(sweep: SweepResults) -> Figure:
    """Accuracy over one parameter; a band or error bars show the standard deviation over seeds."""
    [key] = sweep.parameters
    scale = Scale(sweep, key)
    points = [
        (scale.positions[group.values.get(key, "")], group.mean(), group.sd() or 0.0)
        for group in sweep.groups
    ]
    x, mean, sd = np.array(sorted(points)).T
    figure, axes = _axes(key)
    labels, ticks = list(scale.positions), list(scale.positions.values())
    if scale.numeric:
        axes.plot(x, mean, "o-")
        axes.fill_between(x, mean - sd, mean + sd, alpha=0.2, lw=0)
        if scale.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        ticks = ticks[:: -(-len(ticks) // 8)]
        labels = [f"{tick:g}" for tick in ticks]
    else:
        axes.errorbar(x, mean, yerr=sd, fmt="o", capsize=4)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_xticks(ticks, labels)
    if sweep.has_seeds:
        n = max(len(group.jobs) for group in sweep.groups)
        axes.set_title(f"mean ± standard deviation of {n} seeds", size=10)
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
    figure, axes, norm = _coloured(sweep, 2.8 + len(columns), 1.4 + 0.6 * len(rows))
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


def draw_parallel(sweep: SweepResults) -> Figure:
    """A line per setting through one axis per parameter; the last axis is the accuracy."""
    keys = sweep.parameters
    figure, axes, norm = _coloured(sweep, 2.0 + 1.7 * len(keys), 4.2)
    heights = {key: _label_axis(axes, i, Scale(sweep, key)) for i, key in enumerate(keys)}
    alpha = max(0.25, 1 - len(sweep.groups) / 200)
    for group in reversed(sweep.groups):  # the best on top
        score = float(norm(group.mean()))
        y = [heights[key][group.values.get(key, "")] for key in keys]
        best = group is sweep.groups[0]
        colour = BEST if best else colormaps[COLORMAP](score, alpha)
        axes.plot([*y, score], color=colour, lw=2.5 if best else 1.2)
    for i in range(len(keys) + 1):
        axes.axvline(i, color="grey", lw=0.8, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [*short_names(keys).values(), "val/acc"])
    axes.set(yticks=[], xlim=(-0.35, len(keys) + 0.05))
    return figure


def _label_axis(axes: Axes, x: int, scale: Scale) -> dict[str, float]:
    """Label a vertical axis where there is room; returns the height of each value from 0 to 1."""
    positions = np.array(list(scale.positions.values()))
    positions = np.log(positions) if scale.log else positions
    positions = (positions - positions.min()) / (np.ptp(positions) or 1.0)
    heights = dict(zip(scale.positions, positions.tolist(), strict=True))
    background = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
    last = -1.0
    for value, height in heights.items():
        if height - last >= 0.08:
            text = f"{float(value):.3g}" if scale.numeric else value
            axes.text(x - 0.03, height, text, ha="right", va="center", size=8, bbox=background)
            last = height
    return heights


def _axes(key: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=key, ylabel="validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    return figure, axes


def _coloured(sweep: SweepResults, width: float, height: float) -> tuple[Figure, Axes, Normalize]:
    """Axes without a frame and a colour bar for the accuracies."""
    means = [group.mean() for group in sweep.groups]
    high, low, median = max(means), min(means), float(np.median(means))
    if median < high:  # a run that failed to learn must not wash out the others
        low = max(low, high - 4 * (high - median))
    norm = Normalize(low, high, clip=True)
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(ScalarMappable(norm, COLORMAP), ax=axes, extend="min")
    bar.formatter = PercentFormatter(1.0, decimals=1)
    bar.set_label("validation accuracy")
    return figure, axes, norm
