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
from lenet_pl.naming import readable, typed
from lenet_pl.sweeps.results import Setting, Sweep, setting_key

DPI = 180
MAX_INCHES = 40  # height or width of the table
BEST, GREY = "crimson", "#8a8f98"
COLOURS = (BEST, "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # of the best settings
# marker at the end of a curve; ">" for all other statuses, whose jobs may continue
ENDS = {"finished": ".", "pruned": "o", "failed": "X", "below range": "v"}


@style.context("lenet_pl.plots")
def save_figure(sweep: Sweep) -> None:
    """Draw ``sweep.png`` into the sweep's folder if there is anything to compare."""
    if sweep.winner and sweep.varied:
        with replacing(sweep.folder / "sweep.png") as part:
            draw(sweep).savefig(part, format="png", dpi=DPI)


def draw(sweep: Sweep) -> Figure:
    """Draw a table of the settings, and the curves of the jobs beside it."""
    settings = sweep.settings if sweep.parameters else [Setting([job]) for job in sweep.jobs]
    keys = sweep.parameters or ["seed"]
    down, across = keys[:1], keys[1:]
    rows, columns = len(_axis(settings, down)), len(_axis(settings, across))
    if 2 * len(settings) < rows * columns:  # most cells would be empty: a row for each setting
        down, across, rows, columns = keys, [], len(settings), 1
    width = min(MAX_INCHES, max(3.2, 1.2 + 0.85 * columns))
    height = min(MAX_INCHES, max(3.6, 1 + 0.45 * rows))
    figure = Figure(figsize=(width + 5.4, height), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(width, 5.4))
    draw_table(parts[0].subplots(), sweep, settings, down, across)
    draw_curves(parts[1].subplots(), sweep)
    return figure


def draw_table(
    axes: Axes, sweep: Sweep, settings: Sequence[Setting], down: list[str], across: list[str]
) -> None:
    """Draw a table of accuracies, with the values of some keys down, and of the others across.

    The best setting has a frame. Settings that cannot win are grey, with their last epoch.
    """
    rows, columns, metric = _axis(settings, down), _axis(settings, across), sweep.accuracy
    table = np.full((len(rows), len(columns)), np.nan)
    norm = Normalize(*_shown([x.mean(metric) for x in settings if x.can_win]), clip=True)
    for setting in reversed(settings):  # the best last: the frame is drawn there
        row, column = rows.index(_values(setting, down)), columns.index(_values(setting, across))
        text, look = setting.jobs[0].status, dict[str, Any](color=GREY, size=7, style="italic")
        if setting.can_win:
            table[row, column], sd = setting.mean(metric), setting.sd(metric)
            text = percent(table[row, column]) + ("" if sd is None else f"\n± {percent(sd)}")
            look = {"color": "white" if norm(table[row, column]) <= 0.6 else "black", "size": 9}
        elif setting.jobs[0].validated:
            text = f"{percent(setting.mean(metric))}\nup to epoch {setting.jobs[0].epochs}"
        axes.text(column, row, text, ha="center", va="center", **look)
    edges = (np.arange(len(labels) + 1) - 0.5 for labels in (columns, rows))
    axes.pcolormesh(*edges, table, norm=norm, cmap="viridis", edgecolors="white", lw=2)
    best = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, lw=2.5)
    axes.add_patch(best).set_clip_on(False)
    axes.invert_yaxis()
    axes.set_facecolor("#f1f2f4")
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(columns)), list(map(_label, columns)))
    axes.set_yticks(range(len(rows)), list(map(_label, rows)))
    axes.set_xlabel(", ".join(sweep.short[key] for key in across))
    axes.set_ylabel(", ".join(sweep.short[key] for key in down))
    title = f"{metric} of the epoch with the best {sweep.monitor}"
    axes.set_title("best validation accuracy" if sweep.monitor == "val/acc" else title, loc="left")


def _values(setting: Setting, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(setting.values.get(key, "") for key in keys)


def _axis(settings: Sequence[Setting], keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of some keys, without duplicates: numbers first and ascending, then text."""
    return sorted(
        {_values(setting, keys) for setting in settings},
        key=lambda values: [(isinstance(typed(value), str), typed(value)) for value in values],
    )


def _label(values: Sequence[str]) -> str:
    """The values for a tick or the legend; a class is shown without its module."""
    short = (x.rpartition(".")[2] if x.replace(".", "_").isidentifier() else x for x in values)
    return ", ".join(x if len(x) <= 20 else f"{x[:19]}…" for x in map(readable, short))


def draw_curves(axes: Axes, sweep: Sweep) -> None:
    """Plot accuracy per epoch, a line for each job; the best settings are coloured."""
    metric, keys = sweep.accuracy, sweep.parameters
    curves = [(job, [row for row in job.rows if metric in row]) for job in reversed(sweep.jobs)]
    curves = [(job, rows) for job, rows in curves if rows]  # the best last, on top
    if not curves:  # metrics.csv is missing
        axes.set_axis_off()
        return
    low, high = _shown([row[metric] for _, rows in curves for row in rows])
    best = list(zip(COLOURS, sweep.settings, strict=False))
    colours = {setting_key(setting.jobs[0].overrides): colour for colour, setting in best}
    ends: dict[str, Any] = {}
    for job, rows in curves:
        epochs, accuracies = ([row[key] for row in rows] for key in ("epoch", metric))
        colour = colours.get(setting_key(job.overrides))
        look: Any = {"color": colour or GREY, "lw": 1.6 if colour else 0.8}
        axes.plot(epochs, accuracies, **look)
        end = "below range" if accuracies[-1] < low else job.status
        ends[end] = mark = {"marker": ENDS.get(end, ">"), "ms": 4.5, "mfc": "white"}
        axes.plot(epochs[-1], max(accuracies[-1], low), **look | mark)
    margin = 0.05 * (high - low) or 0.005
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    axes.set_title("validation accuracy" if metric == "val/acc" else metric, loc="left")
    named = [(colour, _label(_values(setting, keys))) for colour, setting in best if keys]
    handles = [Line2D([], [], color=colour, label=label) for colour, label in named]
    if (others := len(sweep.settings) - len(best)) > 0:
        handles.append(Line2D([], [], color=GREY, lw=0.8, label=f"{others} more"))
    ends.pop("finished", None)
    handles += [Line2D([], [], color=GREY, lw=0, label=end, **mark) for end, mark in ends.items()]
    if handles:
        title = ", ".join(sweep.short[key] for key in keys)
        beside: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1), "alignment": "left"}
        axes.legend(handles=handles, title=title, **beside)


def _shown(values: Sequence[float]) -> tuple[float, float]:
    """The range to show, chosen so that settings that failed to learn do not compress the rest."""
    high, low, middle = max(values), min(values), median(values)
    return (max(low, high - 4 * (high - middle)) if middle < high else low), high
