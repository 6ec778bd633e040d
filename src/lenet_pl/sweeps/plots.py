"""The figure of a sweep, ``sweep.png``; a point is the mean over the seeds of a setting."""

from collections.abc import Callable

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

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
    if not sweep.groups or not keys:
        return None
    if keys == ("seed",):
        return draw_seeds
    if len(keys) == 1:
        return draw_line
    cells = np.prod([len(Scale(sweep, key).positions) for key in keys])
    filled = len(keys) == 2 and len(sweep.groups) >= MIN_FILLED * cells
    return draw_heat_map if filled else draw_parallel


class Scale:
    """An axis for the values of a parameter, which are text.

    Args:
        sweep: the results.
        key: the parameter.

    Attributes:
        numeric: whether all values are finite numbers.
        log: whether they are positive and span a factor of ten or more.
        positions: the position of each value, in order; values of failed jobs are included.
    """

    def __init__(self, sweep: SweepResults, key: str) -> None:
        values = {job.values.get(key, "") for job in sweep.jobs}
        numbers = {value: _number(value) for value in values}
        self.numeric = bool(np.isfinite(list(numbers.values())).all())
        ordered = sorted(values, key=lambda value: (numbers[value], value))
        self.positions = {
            v: numbers[v] if self.numeric else float(i) for i, v in enumerate(ordered)
        }
        low, high = min(self.positions.values()), max(self.positions.values())
        self.log = self.numeric and low > 0 and high >= 10 * low

    def heights(self) -> dict[str, float]:
        """The values on an axis from 0 to 1."""
        at = np.array(list(self.positions.values()))
        at = np.log(at) if self.log else at
        span = float(np.ptp(at)) or 1.0
        return dict(zip(self.positions, ((at - at.min()) / span).tolist(), strict=True))


def _number(value: str) -> float:
    """The finite number that a text stands for; infinity if it is none."""
    try:
        return float(value) if np.isfinite(float(value)) else np.inf
    except ValueError:
        return np.inf


def draw_seeds(sweep: SweepResults) -> Figure:
    """The accuracy of each seed, with their mean and standard deviation."""
    group = sweep.groups[0]
    mean, sd = group.mean(), group.sd() or 0.0
    figure, axes = _axes("seed")
    axes.axhspan(mean - sd, mean + sd, alpha=0.15, lw=0)
    axes.axhline(mean, lw=1)
    jobs = sorted(group.jobs, key=lambda job: _number(job.values.get("seed", "")))
    axes.plot(
        [job.values.get("seed", "") for job in jobs], [job.metrics["val/acc"] for job in jobs], "o"
    )
    axes.set_title(f"{mean:.2%} ± {sd:.2%}, n = {group.n}", size=10)
    return figure


def draw_line(sweep: SweepResults) -> Figure:
    """Accuracy over one parameter; a band or error bars show the standard deviation over seeds."""
    [key] = sweep.parameters
    scale = Scale(sweep, key)
    figure, axes = _axes(key)
    points = [
        (scale.positions[g.values.get(key, "")], g.mean(), g.sd() or 0.0) for g in sweep.groups
    ]
    x, mean, sd = np.array(sorted(points)).T
    ticks, labels = list(scale.positions.values()), list(scale.positions)
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
        n = max(group.n for group in sweep.groups)
        axes.set_title(f"mean ± standard deviation of {n} seeds", size=10)
    return figure


def draw_heat_map(sweep: SweepResults) -> Figure:
    """A table of two parameters, coloured by accuracy; the best cell is framed."""
    down, across = sweep.parameters
    rows, columns = (list(Scale(sweep, key).positions) for key in (down, across))
    cells = [
        (rows.index(group.values.get(down, "")), columns.index(group.values.get(across, "")))
        for group in sweep.groups
    ]
    table = np.full((len(rows), len(columns)), np.nan)
    for cell, group in zip(cells, sweep.groups, strict=True):
        table[cell] = group.mean()
    size = (2.8 + len(columns), 1.4 + 0.6 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    norm = _norm(sweep)
    axes.imshow(table, cmap=COLORMAP, norm=norm, aspect="auto")
    for (row, column), accuracy in np.ndenumerate(table):
        missing = np.isnan(accuracy)
        colour = "black" if missing or norm(accuracy) > 0.6 else "white"
        text = "–" if missing else f"{accuracy:.2%}"
        axes.text(column, row, text, ha="center", va="center", size=9, color=colour)
    best = (cells[0][1] - 0.5, cells[0][0] - 0.5)
    axes.add_patch(Rectangle(best, 1, 1, fill=False, edgecolor=BEST, lw=2.5, clip_on=False))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=across, ylabel=down)
    _finish(figure, axes, norm)
    return figure


def draw_parallel(sweep: SweepResults) -> Figure:
    """A line per setting through one axis per parameter; the last axis is the accuracy."""
    keys = sweep.parameters
    figure = Figure(figsize=(2.0 + 1.7 * len(keys), 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    norm = _norm(sweep)
    heights = [_label_axis(axes, i, Scale(sweep, key)) for i, key in enumerate(keys)]
    for group in reversed(sweep.groups):  # the best on top
        score = float(norm(group.mean()))
        y = [height[group.values.get(key, "")] for key, height in zip(keys, heights, strict=True)]
        best = group is sweep.groups[0]
        axes.plot(
            range(len(keys) + 1),
            [*y, score],
            color=BEST if best else colormaps[COLORMAP](score),
            lw=2.5 if best else 1.2,
            alpha=1.0 if best else max(0.25, 1 - len(sweep.groups) / 200),
        )
    for i in range(len(keys) + 1):
        axes.axvline(i, color="grey", lw=0.8, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [*short_names(keys).values(), "val/acc"])
    axes.set(yticks=[], xlim=(-0.35, len(keys) + 0.05))
    _finish(figure, axes, norm)
    return figure


def _label_axis(axes: Axes, x: int, scale: Scale) -> dict[str, float]:
    """Label the values for which there is room; returns the heights of all."""
    heights, last = scale.heights(), -1.0
    for value, height in heights.items():
        if height - last >= 0.08:
            text = f"{float(value):.3g}" if scale.numeric else value
            background = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
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


def _norm(sweep: SweepResults) -> Normalize:
    """Colours for the accuracies; a run that failed to learn must not wash out the others."""
    means = [group.mean() for group in sweep.groups]
    high, low, median = max(means), min(means), float(np.median(means))
    return Normalize(
        max(low, high - 4 * (high - median)) if median < high else low, high, clip=True
    )


def _finish(figure: Figure, axes: Axes, norm: Normalize) -> None:
    """Remove the frame and add the colour bar."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(ScalarMappable(norm, COLORMAP), ax=axes, extend="min")
    bar.formatter = FuncFormatter(lambda accuracy, _: f"{accuracy:.1%}")
    bar.set_label("validation accuracy")
