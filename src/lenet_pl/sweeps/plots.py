"""The figure of a sweep, ``sweep.png``."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from lenet_pl.console import percent
from lenet_pl.files import replacing
from lenet_pl.records import read_metrics
from lenet_pl.sweeps.results import (
    Job,
    SeedGroup,
    SweepResults,
    is_number,
    readable,
    short_names,
    typed,
)

DPI = 180
MIN_FILLED = 0.5  # fraction of a heat map's cells; below it, a panel per parameter shows more
BEST, BLUE, GREY = "crimson", "#0072b2", "#8a8f98"
COLOURS = (BEST, BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # of the best settings
# marker at the end of a curve; ">" for all other statuses, whose jobs may continue
ENDS = {"finished": ".", "pruned": "o", "failed": "X", "below range": "v"}


@style.context("lenet_pl.plots")
def save_figure(sweep: SweepResults) -> bool:
    """Draw ``sweep.png`` into the sweep's folder; False if there is nothing to compare."""
    if not sweep.groups or not sweep.varied:
        return False
    with replacing(sweep.folder / "sweep.png") as part:
        draw(sweep).savefig(part, format="png", dpi=DPI)
    return True


def draw(sweep: SweepResults) -> Figure:
    """Draw a heat map, or a panel for each parameter, with the curves beside or below it."""
    scales = [Scale(sweep, key) for key in sweep.parameters or ("seed",)]
    sizes = [len(scale.positions) for scale in scales]
    heat_map = len(sizes) == 2 and len(_settings(sweep)) >= MIN_FILLED * np.prod(sizes)
    width = 1.2 + 0.85 * sizes[-1] if heat_map else max(3.4, 2.4 * len(sizes))
    height = max(3.6, 1 + 0.45 * sizes[0]) if heat_map else 3.6
    below = len(sizes) > 2
    size = (width, 2 * height) if below else (width + 5.4, height)
    figure = Figure(figsize=size, layout="constrained")
    ratios: Any = {} if below else {"ncols": 2, "width_ratios": (width, 5.4)}
    first, second = figure.subfigures(1 + below, **ratios)
    if heat_map:
        draw_heat_map(first.subplots(), sweep, scales)
    else:
        draw_panels(first.subplots(1, len(sizes), squeeze=False)[0], sweep, scales)
    draw_curves(second.subplots(), sweep)
    if sweep.has_seeds:
        n = ", ".join(map(str, sorted({len(group.jobs) for group in sweep.groups})))
        title = f"mean and standard deviation over seeds, n = {n}"
        if not sweep.parameters:
            mean, sd = _mean_sd(sweep)
            title += f": {percent(mean)} ± {percent(sd)}"
        figure.suptitle(title, size=10)
    return figure


def _mean_sd(sweep: SweepResults) -> tuple[float, float]:
    """Mean and standard deviation of the winner's accuracy."""
    winner = sweep.groups[0]
    return winner.mean(sweep.accuracy), winner.sd(sweep.accuracy) or 0


def _title(sweep: SweepResults) -> str:
    if sweep.monitor == "val/acc":
        return "best validation accuracy"
    return f"{sweep.accuracy} of the epoch with the best {sweep.monitor}"


def _settings(sweep: SweepResults) -> dict[tuple[str, ...], list[Job]]:
    """The jobs of each setting, by its values except the seed; the best setting first."""
    settings = defaultdict(list)
    ranks = {job: rank for rank, group in enumerate(sweep.groups) for job in group.names}
    for job in sorted(sweep.jobs, key=lambda job: (ranks.get(job.name, len(ranks)), -job.epochs)):
        settings[tuple(job.values.get(key, "") for key in sweep.parameters)].append(job)
    return settings


class Scale:
    """The positions of a parameter's values on an axis: numbers to scale, text evenly spaced."""

    def __init__(self, sweep: SweepResults, key: str) -> None:
        self.key, self.name = key, short_names(sweep.varied)[key]
        values = {job.values.get(key, "") for job in sweep.jobs}  # including failed jobs
        ordered = sorted(values, key=lambda value: (_number(value), value))
        self.labels = [_short(value) for value in ordered]
        numbers = [_number(value) for value in ordered]
        self.numeric = bool(np.isfinite(numbers).all())
        self.log = self.numeric and 0 < 10 * numbers[0] <= numbers[-1]
        places = numbers if self.numeric else map(float, range(len(ordered)))
        self.positions = dict(zip(ordered, places, strict=True))

    def position(self, job: Job) -> float:
        return self.positions[job.values.get(self.key, "")]

    def label(self, axes: Axes) -> None:
        """Set up the x-axis, with a tick at each value unless some are too close together."""
        ticks = list(self.positions.values())
        x = np.log(ticks) if self.log else np.array(ticks)
        margin = 0.08 * np.ptp(x) if self.numeric else 0.5
        limits = np.array([x[0] - margin, x[-1] + margin])
        if self.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.minorticks_off()
        axes.set(xlim=np.exp(limits) if self.log else limits, xlabel=self.name)
        if not self.numeric or np.diff(x).min() > 0.12 * np.ptp(x):
            rotated: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(ticks, self.labels, **rotated if len("".join(self.labels)) > 24 else {})


def _number(value: str) -> float:
    """The text as a finite number; infinity if it is not one."""
    return float(number) if is_number(number := typed(value)) else np.inf


def _short(value: str) -> str:
    """A value for a tick or a legend; a class is shown without its module."""
    text = value.rpartition(".")[2] if value.replace(".", "_").isidentifier() else readable(value)
    return text if len(text) <= 20 else f"{text[:19]}…"


def draw_panels(panels: Sequence[Axes], sweep: SweepResults, scales: list[Scale]) -> None:
    """Plot accuracy against each parameter, or the seed if nothing else varies; the best is red.

    Points and error bars are the mean and standard deviation over the finished seeds of a setting.
    Triangles mark settings below the visible range.
    """
    groups = sweep.groups if sweep.parameters else [SeedGroup((j,)) for j in sweep.groups[0].jobs]
    means = np.array([group.mean(sweep.accuracy) for group in groups])
    sds = np.array([group.sd(sweep.accuracy) or np.nan for group in groups])
    low = _shown(list(means))[0] if sweep.parameters else 0
    shown = np.where(means < low, np.nan, means)
    line = "o-" if len(sweep.parameters) == 1 and scales[0].numeric else "o"
    for axes, scale in zip(panels, scales, strict=True):
        x = np.array([scale.position(group.jobs[0]) for group in groups])
        order = np.argsort(x)
        look: Any = {"fmt": line, "capsize": 3, "color": BLUE, "alpha": 0.7}
        axes.errorbar(x[order], shown[order], sds[order], **look)
        axes.plot(x[0], means[0], "o", color=BEST, zorder=3)
        for position in x[means < low]:
            axes.plot(position, 0.03, "v", color=GREY, transform=axes.get_xaxis_transform())
        scale.label(axes)
        bars = np.nan_to_num(sds)
        _scale_accuracy(axes, np.nanmin(shown - bars), np.nanmax(shown + bars))
        axes.tick_params("y", labelleft=scale is scales[0])
        axes.grid()
        if not sweep.parameters:
            mean, sd = _mean_sd(sweep)
            axes.axhspan(mean - sd, mean + sd, color=BEST, alpha=0.15, lw=0)
    panels[0].set_title(_title(sweep), loc="left")


def draw_heat_map(axes: Axes, sweep: SweepResults, scales: list[Scale]) -> None:
    """Draw a table of two parameters, coloured by accuracy, with a frame around the best setting.

    Settings without finished jobs are grey, with the last epoch that they have reached.
    """
    down, across = scales
    rows, columns = range(len(down.positions)), range(len(across.positions))
    table = np.full((len(rows), len(columns)), np.nan)
    norm = Normalize(*_shown([group.mean(sweep.accuracy) for group in sweep.groups]), clip=True)
    for jobs in reversed(_settings(sweep).values()):  # the best last: the frame is drawn there
        row, column = (list(s.positions).index(jobs[0].values.get(s.key, "")) for s in scales)
        last = [job for job in jobs if job.validated and job.epochs == jobs[0].epochs]
        text, look = jobs[0].status, dict[str, Any](color=GREY, size=7, style="italic")
        if scored := [job for job in jobs if job.scored]:
            accuracy = table[row, column] = SeedGroup(tuple(scored)).mean(sweep.accuracy)
            text = percent(accuracy)
            look = {"color": "white" if norm(accuracy) <= 0.6 else "black", "size": 9}
        elif last and text != "failed":
            accuracy = SeedGroup(tuple(last)).mean(sweep.accuracy)
            text = f"{percent(accuracy)}\nup to epoch {last[0].epochs}"
        axes.text(column, row, text, ha="center", va="center", **look)
    axes.pcolormesh(columns, rows, table, norm=norm, cmap="viridis", edgecolors="white", lw=2)
    best = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, lw=2.5)
    axes.add_patch(best).set_clip_on(False)
    axes.invert_yaxis()
    axes.set_facecolor("#f1f2f4")
    axes.spines[:].set_visible(False)
    axes.set_xticks(columns, across.labels)
    axes.set_yticks(rows, down.labels)
    axes.set(xlabel=across.name, ylabel=down.name)
    axes.set_title(_title(sweep), loc="left")


def draw_curves(axes: Axes, sweep: SweepResults) -> None:
    """Plot accuracy per epoch; a line is the mean over jobs that differ only in seed.

    The best settings are coloured, with the winner on top. Jobs of a setting that differ in status
    are drawn as separate lines.
    """
    curves: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for setting, jobs in _settings(sweep).items():
        for job in jobs:
            for row in read_metrics(job.folder):
                if sweep.accuracy in row:
                    curves[setting][job.status][row["epoch"]].append(row[sweep.accuracy])
    lines = [(rank, x) for rank, setting in enumerate(curves) for x in curves[setting].items()]
    if not lines:  # metrics.csv is missing
        axes.set_axis_off()
        return
    low, high = _shown([acc for _, (_, curve) in lines for accs in curve.values() for acc in accs])
    ends: dict[str, Any] = {}
    for rank, (status, curve) in lines:
        look: Any = {"color": GREY, "lw": 0.8, "alpha": 0.6, "zorder": 2}
        if rank < len(COLOURS):
            look = {"color": COLOURS[rank], "zorder": 3 - rank / 10}
        x = sorted(curve)
        mean = np.array([statistics.fmean(curve[epoch]) for epoch in x])
        sd = [statistics.stdev(curve[e]) if len(curve[e]) > 1 else np.nan for e in x]
        axes.fill_between(x, mean - sd, mean + sd, **look | {"alpha": 0.15, "lw": 0})
        axes.plot(x, mean, **look)
        end = "below range" if mean[-1] < low else status
        ends[end] = mark = {"marker": ENDS.get(end, ">"), "ms": 4.5, "mfc": "white"}
        axes.plot(x[-1], max(mean[-1], low), **look | mark | {"zorder": look["zorder"] + 0.3})
    _scale_accuracy(axes, low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    accuracy = "validation accuracy" if sweep.accuracy == "val/acc" else sweep.accuracy
    axes.set_title(accuracy, loc="left")
    colours = dict(zip(filter(None, curves), COLOURS, strict=False))  # no label if only seeds vary
    handles = [Line2D([], [], color=c, label=", ".join(map(_short, s))) for s, c in colours.items()]
    if (others := len(curves) - len(COLOURS)) > 0:
        handles.append(Line2D([], [], color=GREY, lw=0.8, label=f"{others} more"))
    ends.pop("finished", None)
    handles += [Line2D([], [], color=GREY, lw=0, label=end, **mark) for end, mark in ends.items()]
    if handles:
        names = short_names(sweep.varied)
        title = ", ".join(names[key] for key in sweep.parameters)
        place: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1), "alignment": "left"}
        axes.legend(handles=handles, title=title, **place)


def _scale_accuracy(axes: Axes, low: float, high: float) -> None:
    margin = 0.05 * (high - low) or 0.005
    axes.set_ylim(low - margin, high + margin)
    locator = MaxNLocator(8, steps=[1, 2, 5, 10])
    ticks = locator.tick_values(low - margin, high + margin)
    decimals = max(len(f"{100 * tick:.6g}".partition(".")[2]) for tick in ticks)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals, symbol=" %"))


def _shown(values: Sequence[float]) -> tuple[float, float]:
    """The range to show, chosen so that settings that failed to learn do not compress the rest."""
    high, low, median = max(values), min(values), statistics.median(values)
    return (max(low, high - 4 * (high - median)) if median < high else low), high
