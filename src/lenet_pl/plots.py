"""Figures, as matplotlib objects without global state."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from torch import Tensor

from lenet_pl.metrics import Calibration

DPI = 110
FINE = 180  # for files: sharp on the screens of telephones too
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"
INK, FAINT = "#30343b", "#d9dce1"
SIGNED = "PuOr_r"  # orange above zero, purple below, white at zero
STYLE: Any = {
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
styled = rc_context(STYLE)
LONG = 17  # characters above an image an inch wide
CROWDED = 25  # classes, from which on the numbers in a table cannot be read


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, at 100 of a page's pixels an inch."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


@styled
def confusion(
    matrix: Tensor, classes: Sequence[str], title: str = "", shares: bool = False
) -> Figure:
    """A table ``[classes, classes]`` of labels and predictions; colour shows the mistakes.

    Args:
        matrix: counts.
        classes: their names.
        title: above the table.
        shares: whether the table says which share of each label's images it is, in percent.
    """
    margin = 0.06 * min(20, max(map(len, classes)))  # for their names
    side = min(1.9 + 0.36 * len(classes), 9.0) + margin
    figure = new_figure(side, side)
    axes = figure.subplots()
    values = matrix.double()
    if shares:
        values = 100 * values / matrix.sum(1, keepdim=True).clamp_min(1)
    mistakes = np.ma.masked_equal(values.clone().fill_diagonal_(0).numpy(), 0)
    # up to a middling orange, on which dark numbers can be read
    top = max(0.1 if shares else 1.0, values.clone().fill_diagonal_(0).max().item() * 1.6)
    axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=top)
    own = np.ma.masked_equal(np.eye(len(classes)), 0)
    axes.imshow(own, cmap="Greys", vmin=0, vmax=12)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor")
    for row, counts in enumerate(values.tolist() if len(classes) < CROWDED else ()):
        for column, value in enumerate(counts):
            if value:
                weight = "bold" if row == column else "normal"
                text = f"{value:.1f}" if shares else f"{value:.0f}"
                axes.text(column, row, text, ha="center", va="center", weight=weight, size=8)
    long = max(map(len, classes)) > 3
    turned: Any = {"rotation": 45, "ha": "right"} if long else {}
    axes.set_xticks(range(len(classes)), classes, **turned)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    return figure


@styled
def gallery(images: Tensor, captions: Sequence[str], title: str = "", columns: int = 8) -> Figure:
    """Images ``uint8 [N, C, H, W]`` in a grid, a caption above each; grey ones in black ink."""
    ink = 255 - images if images.shape[1] == 1 else images
    return tiles(ink.float() / 255, title, columns, captions=captions)


@styled
def filters(weight: Tensor, title: str = "") -> Figure:
    """Kernels ``[out, in, H, W]`` of a convolution, those of the first input channel."""
    return tiles(signed(weight[:64, :1]), title, columns=8)


def signed(values: Tensor) -> Tensor:
    """Colours ``[N, 3, H, W]`` of maps ``[N, 1, H, W]``: white where an image's map is zero."""
    from matplotlib import colormaps

    limit = values.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    shares = ((values / limit + 1) / 2).squeeze(1).numpy()
    return values.new_tensor(colormaps[SIGNED](shares)[..., :3]).permute(0, 3, 1, 2)


@styled
def tiles(
    images: Tensor | Sequence[Tensor],
    title: str = "",
    columns: int = 8,
    captions: Sequence[str] = (),
) -> Figure:
    """Images in a grid on one pair of axes, which takes a tenth of the time of an axes each.

    Args:
        images: ``[C, H, W]`` each, in [0, 1], grey or in colours.
        title: above the grid.
        columns: in the grid; fewer where there are fewer images.
        captions: one above each image, in two lines where it is long.
    """
    columns = max(1, min(columns, len(images)))
    lines = max(1, -(-len(images) // columns))
    if any(len(caption) > LONG for caption in captions):
        captions = [caption.replace(" → ", " →\n") for caption in captions]
    text = 1 + max((caption.count("\n") for caption in captions), default=-1)  # lines of it
    step, rise = 1.07, 1.07 + 0.06 * bool(text) + 0.13 * text  # inches from an image to the next
    width, height = columns * step, lines * rise + (0.3 if title else 0)
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        x, y = column * step, (lines - 1 - row) * rise + 0.03
        extent = (x, x + 1, y, y + 1)
        pixel = image.permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixel, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        if captions:
            axes.text(x + 0.5, y + 1.05, captions[number], size=7, ha="center", va="bottom")
    # imshow fitted the axes to its image
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    axes.text(width / 2, height - 0.06, title, size=10, ha="center", va="top")
    return figure


@styled
def pixels(figure: Figure) -> np.ndarray:
    """The drawn figure as ``uint8 [H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in other scripts
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


@styled
def png(figure: Figure) -> bytes:
    """The drawn figure as a PNG file, transparent where nothing is drawn."""
    file = BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in other scripts
        figure.savefig(file, format="png", dpi=FINE, transparent=True)
    return file.getvalue()


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
