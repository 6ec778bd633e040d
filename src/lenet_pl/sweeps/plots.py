"""A sweep in one picture, whose form follows from how many parameters varied."""

from io import BytesIO

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from lenet_pl import files
from lenet_pl.sweeps.results import Sweep
from lenet_pl.sweeps.scales import logarithmic, numeric, places_of, sort_key
from lenet_pl.sweeps.tables import short_names

DPI = 130
FULL = 0.5  # of the cells of a table; an emptier one says little
COLOURS = "viridis"
BEST = "crimson"


def save_picture(sweep: Sweep) -> bool:
    """Draw ``sweep.png`` into the sweep's folder; False where there is nothing to compare.

    A heat map of two parameters, a line with a band over one, parallel coordinates of more, or
    of two whose table would be mostly empty. A point is a setting, the mean of its seeds.
    """
    keys = sweep.parameters
    if not sweep.settings or not keys:
        return False
    cells = int(np.prod([len(_choices(sweep, key)) for key in keys]))
    if keys == ("seed",):
        figure = _seeds(sweep)
    elif len(keys) == 1:
        figure = _line(sweep, keys[0])
    elif len(keys) == 2 and len(sweep.settings) >= FULL * cells:
        figure = _heat_map(sweep, *keys)
    else:
        figure = _parallel(sweep)
    png = BytesIO()
    figure.savefig(png, format="png")
    files.write_bytes(sweep.folder / "sweep.png", png.getvalue())
    return True


def _seeds(sweep: Sweep) -> Figure:
    """Seeds have no order; what they say is how far they lie apart."""
    setting = sweep.settings[0]
    mean, sd = setting.mean(), setting.sd() or 0.0
    jobs = sorted(setting.jobs, key=lambda job: sort_key(job.overrides.get("seed", "")))
    figure, axes = _axes("seed")
    axes.axhspan(mean - sd, mean + sd, alpha=0.15, lw=0)
    axes.axhline(mean, lw=1)
    seeds = [job.overrides.get("seed", "") for job in jobs]
    axes.plot(seeds, [job.metrics["val/acc"] for job in jobs], "o")
    axes.set_title(f"{mean:.2%} ± {sd:.2%}, n = {setting.n}", size=10)
    return figure


def _line(sweep: Sweep, key: str) -> Figure:
    figure, axes = _axes(key)
    choices = _choices(sweep, key)
    places, ticks = places_of(choices)
    means = {s.jobs[0].overrides.get(key, ""): s.mean() for s in sweep.settings}
    spread = {s.jobs[0].overrides.get(key, ""): s.sd() or 0.0 for s in sweep.settings}
    shown = [
        (place, choice) for place, choice in zip(places, choices, strict=True) if choice in means
    ]
    x = np.array([place for place, _ in shown])
    mean = np.array([means[choice] for _, choice in shown])
    sd = np.array([spread[choice] for _, choice in shown])
    if numeric(choices):
        axes.plot(x, mean, "o-")
        axes.fill_between(x, mean - sd, mean + sd, alpha=0.2, lw=0)
        if logarithmic(choices):
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.errorbar(x, mean, yerr=sd, fmt="o", capsize=4)
        axes.set_xlim(-0.5, len(choices) - 0.5)
    axes.set_xticks(*ticks)
    if sweep.seeds:
        axes.set_title(
            f"mean ± standard deviation of {max(s.n for s in sweep.settings)} seeds", size=10
        )
    return figure


def _heat_map(sweep: Sweep, down: str, across: str) -> Figure:
    rows, columns = _choices(sweep, down), _choices(sweep, across)
    table = np.full((len(rows), len(columns)), np.nan)
    for setting in sweep.settings:
        table[_cell(setting.jobs[0].overrides, down, across, rows, columns)] = setting.mean()
    size = (2.8 + 1.0 * len(columns), 1.4 + 0.6 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    norm = _norm(sweep)
    axes.imshow(table, cmap=COLOURS, norm=norm, aspect="auto")
    for (row, column), share in np.ndenumerate(table):
        missing = bool(np.isnan(share))
        colour = "black" if missing or norm(share) > 0.6 else "white"
        text = "–" if missing else f"{share:.2%}"
        axes.text(column, row, text, ha="center", va="center", size=9, color=colour)
    row, column = _cell(sweep.settings[0].jobs[0].overrides, down, across, rows, columns)
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, lw=2.5)
    frame.set_clip_on(False)
    axes.add_patch(frame)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _colour_bar(figure, axes, norm)
    return figure


def _cell(
    overrides: dict[str, str], down: str, across: str, rows: list[str], columns: list[str]
) -> tuple[int, int]:
    return rows.index(overrides.get(down, "")), columns.index(overrides.get(across, ""))


def _parallel(sweep: Sweep) -> Figure:
    """A line for each setting through an axis for each parameter, the last is the score's."""
    keys = sweep.parameters
    names = short_names(keys)
    figure = Figure(figsize=(2.0 + 1.7 * len(keys), 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    norm, colours = _norm(sweep), colormaps[COLOURS]
    scores = np.array([setting.mean() for setting in sweep.settings])
    heights = [_heights(sweep, axes, i, key) for i, key in enumerate(keys)]
    low, high = _range(sweep)
    span = (high - low) or 1.0
    for setting, score in reversed(list(zip(sweep.settings, scores, strict=True))):
        best = setting is sweep.settings[0]
        values = setting.jobs[0].overrides
        y = [height[values.get(key, "")] for key, height in zip(keys, heights, strict=True)]
        y.append(float(np.clip((score - low) / span, 0, 1)))
        colour = BEST if best else colours(norm(score))
        width, alpha = (2.5, 1.0) if best else (1.2, max(0.25, 1 - len(scores) / 200))
        axes.plot(range(len(y)), y, color=colour, lw=width, alpha=alpha)
    for i in range(len(keys) + 1):
        axes.axvline(i, color="grey", lw=0.8, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [*names.values(), "val/acc"])
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(keys) + 0.05)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _colour_bar(figure, axes, norm)
    return figure


def _heights(sweep: Sweep, axes: Axes, place: int, key: str) -> dict[str, float]:
    """Where each choice of a key lies on its axis, from 0 to 1; labels those that have room."""
    choices = _choices(sweep, key)
    places = np.array(places_of(choices)[0], dtype=float)
    if logarithmic(choices):
        places = np.log(places)
    span = float(np.ptp(places)) or 1.0
    heights = dict(zip(choices, ((places - places.min()) / span).tolist(), strict=True))
    last = -1.0
    for choice, height in heights.items():
        if height - last >= 0.08:
            text = f"{float(choice):.3g}" if numeric(choices) else choice
            behind = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            axes.text(place - 0.03, height, text, ha="right", va="center", size=8, bbox=behind)
            last = height
    return heights


def _axes(key: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(key)
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    return figure, axes


def _norm(sweep: Sweep) -> Normalize:
    return Normalize(*_range(sweep))


def _range(sweep: Sweep) -> tuple[float, float]:
    """The scores to tell apart: one that learnt nothing must not wash out the others."""
    scores = np.array([setting.mean() for setting in sweep.settings])
    high, low, median = (float(f(scores)) for f in (np.max, np.min, np.median))
    return (max(low, high - 4 * (high - median)) if median < high else low), high


def _colour_bar(figure: Figure, axes: Axes, norm: Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, extend="min")
    bar.formatter = FuncFormatter(lambda share, _: f"{share:.1%}")
    bar.set_label("validation accuracy")


def _choices(sweep: Sweep, key: str) -> list[str]:
    """The values a key took, in order; that of a job that failed has its place too."""
    return sorted({job.overrides.get(key, "") for job in sweep.jobs}, key=sort_key)
