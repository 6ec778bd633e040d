"""The figure of a sweep, ``sweep.png``."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lenet_pl.console import percent
from lenet_pl.files import replacing
from lenet_pl.sweeps.results import Setting, Sweep, readable, setting_key, typed

DPI = 180
MIN_FILLED = 0.5  # fraction of a heat map's cells; below it, a panel per parameter shows more
MAX_TICKS = 8  # values of a parameter; more are drawn to scale
BEST, BLUE, GREY = "crimson", "#0072b2", "#8a8f98"
COLOURS = (BEST, BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # of the best settings
# marker at the end of a curve; ">" for all other statuses, whose jobs may continue
ENDS = {"finished": ".", "pruned": "o", "failed": "X", "below range": "v"}


@style.context("lenet_pl.plots")
def save_figure(sweep: Sweep) -> bool:
    """Draw ``sweep.png`` into the sweep's folder; False if there is nothing to compare."""
    if not sweep.winner or not sweep.varied:
        return False
    with replacing(sweep.folder / "sweep.png") as part:
        draw(sweep).savefig(part, format="png", dpi=DPI)
    return True


def draw(sweep: Sweep) -> Figure:
    """Draw a heat map, or a panel for each parameter, and the curves beside it."""
    values = {key: _values(sweep, key) for key in sweep.parameters or ("seed",)}
    sizes = [*map(len, values.values())]
    width, height = max(3.4, 2.4 * len(sizes)), 3.6
    heat_map = len(sizes) == 2 and len(sweep.settings) >= MIN_FILLED * np.prod(sizes)
    if heat_map:
        width, height = 1.2 + 0.85 * sizes[1], max(height, 1 + 0.45 * sizes[0])
    figure = Figure(figsize=(width + 5.4, height), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(width, 5.4))
    left, right = parts
    if heat_map:
        draw_heat_map(left.subplots(), sweep, values)
    else:
        draw_panels(left.subplots(1, len(sizes), squeeze=False)[0], sweep, values)
    draw_curves(right.subplots(), sweep)
    title = f"{sweep.accuracy} of the epoch with the best {sweep.monitor}"
    title = "best validation accuracy" if sweep.monitor == "val/acc" else title
    if sweep.has_seeds and sweep.parameters:
        title += ", mean and standard deviation over seeds"
    left.suptitle(title)
    return figure


def _values(sweep: Sweep, key: str) -> list[str]:
    """The values of a parameter, numbers first and ascending, including those of failed jobs."""
    values = {job.values.get(key, "") for job in sweep.jobs}
    return sorted(values, key=lambda value: (isinstance(typed(value), str), typed(value)))


def _short(value: str) -> str:
    """A value for a tick or a legend; a class is shown without its module."""
    text = value.rpartition(".")[2] if value.replace(".", "_").isidentifier() else readable(value)
    return text if len(text) <= 20 else f"{text[:19]}…"


def draw_panels(panels: Sequence[Axes], sweep: Sweep, values: dict[str, list[str]]) -> None:
    """Plot accuracy against each parameter, or the seed if nothing else varies; the best is red.

    Points and error bars are the mean and standard deviation over the finished seeds of a setting.
    Triangles mark settings below the visible range.
    """
    settings = sweep.ranked
    if not sweep.parameters:
        settings = [Setting([job]) for job in settings[0].jobs]
    means = np.array([setting.mean(sweep.accuracy) for setting in settings])
    sds = np.array([setting.sd(sweep.accuracy) or 0 for setting in settings])
    low, _ = _shown(means.tolist())
    shown = np.where(means < low, np.nan, means)
    for axes, (key, texts) in zip(panels, values.items(), strict=True):
        places: dict[str, Any] = {text: typed(text) for text in texts}
        if len(texts) <= MAX_TICKS or any(isinstance(x, str) for x in places.values()):
            places = {text: place for place, text in enumerate(texts)}
            axes.set_xticks(range(len(texts)), list(map(_short, texts)), rotation=30)
        elif 0 < 10 * places[texts[0]] <= places[texts[-1]]:
            axes.set_xscale("log")
        x = np.array([places[setting.values.get(key, "")] for setting in settings])
        axes.errorbar(x, shown, sds, fmt="o", capsize=3, color=BLUE, alpha=0.7)
        axes.plot(x[0], means[0], "o", color=BEST, zorder=3)
        for place in x[means < low]:
            axes.plot(place, 0.03, "v", color=GREY, transform=axes.get_xaxis_transform())
        axes.set_xlabel(sweep.short[key])
        _scale_accuracy(axes, min(low, np.nanmin(shown - sds)), max(means + sds))
        axes.tick_params("y", labelleft=axes is panels[0])
        axes.grid()


def draw_heat_map(axes: Axes, sweep: Sweep, values: dict[str, list[str]]) -> None:
    """Draw a table of two parameters, coloured by accuracy, with a frame around the best setting.

    Settings without finished jobs are grey, with the last epoch that they have reached.
    """
    (down, rows), (across, columns) = values.items()
    table = np.full((len(rows), len(columns)), np.nan)
    norm = Normalize(*_shown([setting.mean(sweep.accuracy) for setting in sweep.ranked]), clip=True)
    for setting in reversed(sweep.settings):  # the best last: the frame is drawn there
        row = rows.index(setting.values.get(down, ""))
        column = columns.index(setting.values.get(across, ""))
        look: Any = {"color": GREY, "size": 7, "style": "italic"}
        job = setting.jobs[0]
        text = job.status
        if job.validated:
            accuracy = setting.mean(sweep.accuracy)
            text = f"{percent(accuracy)}\nup to epoch {job.epochs}"
            if setting.can_win:
                table[row, column], text = accuracy, percent(accuracy)
                look = {"color": "white" if norm(accuracy) <= 0.6 else "black", "size": 9}
        axes.text(column, row, text, ha="center", va="center", **look)
    grid = range(len(columns)), range(len(rows))
    axes.pcolormesh(*grid, table, norm=norm, cmap="viridis", edgecolors="white", lw=2)
    best = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, lw=2.5)
    axes.add_patch(best).set_clip_on(False)
    axes.invert_yaxis()
    axes.set_facecolor("#f1f2f4")
    axes.spines[:].set_visible(False)
    axes.set_xticks(grid[0], list(map(_short, columns)))
    axes.set_yticks(grid[1], list(map(_short, rows)))
    axes.set(xlabel=sweep.short[across], ylabel=sweep.short[down])


def draw_curves(axes: Axes, sweep: Sweep) -> None:
    """Plot accuracy per epoch, a line for each job; the best settings are coloured."""
    metric, curves = sweep.accuracy, []
    for job in reversed(sweep.jobs):  # the best on top
        rows = [row for row in job.rows if metric in row]
        if rows:
            curves.append((job, [row["epoch"] for row in rows], [row[metric] for row in rows]))
    if not curves:  # metrics.csv is missing
        axes.set_axis_off()
        return
    low, high = _shown([acc for _, _, accuracies in curves for acc in accuracies])
    best = list(zip(COLOURS, sweep.settings, strict=False))
    colours = {setting_key(setting.jobs[0].overrides): colour for colour, setting in best}
    ends: dict[str, Any] = {}
    for job, epochs, accuracies in curves:
        colour = colours.get(setting_key(job.overrides))
        look: Any = {"color": colour or GREY, "lw": 1.6 if colour else 0.8}
        axes.plot(epochs, accuracies, **look)
        end = "below range" if accuracies[-1] < low else job.status
        ends[end] = mark = {"marker": ENDS.get(end, ">"), "ms": 4.5, "mfc": "white"}
        axes.plot(epochs[-1], max(accuracies[-1], low), **look | mark)
    _scale_accuracy(axes, low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    axes.set_title("validation accuracy" if metric == "val/acc" else metric, loc="left")
    handles = []
    for colour, setting in best if sweep.parameters else ():
        label = ", ".join(_short(setting.values.get(key, "")) for key in sweep.parameters)
        handles.append(Line2D([], [], color=colour, label=label))
    if (others := len(sweep.settings) - len(best)) > 0:
        handles.append(Line2D([], [], color=GREY, lw=0.8, label=f"{others} more"))
    ends.pop("finished", None)
    handles += [Line2D([], [], color=GREY, lw=0, label=end, **mark) for end, mark in ends.items()]
    if handles:
        place: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1), "alignment": "left"}
        title = ", ".join(sweep.short[key] for key in sweep.parameters)
        axes.legend(handles=handles, title=title, **place)


def _scale_accuracy(axes: Axes, low: float, high: float) -> None:
    margin = 0.05 * (high - low) or 0.005
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _shown(values: Sequence[float]) -> tuple[float, float]:
    """The range to show, chosen so that settings that failed to learn do not compress the rest."""
    high, low, middle = max(values), min(values), median(values)
    return (max(low, high - 4 * (high - middle)) if middle < high else low), high
