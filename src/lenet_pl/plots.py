"""Matplotlib figures of training and evaluation, drawn without pyplot's global state."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenet_pl.metrics import Calibration

Rows = Sequence[Mapping[str, float]]  # of metrics.csv

FILE_DPI = 180  # stays sharp on high-resolution screens
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"
# of runs, distinct for the colour-blind: M. Okabe, K. Ito, "Color universal design" (2002)
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")
styled = style.context("lenet_pl.plots")  # plots.mplstyle
DASHED = (0, (4, 2))
# of a legend above the axes, where it covers nothing
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3}


@styled
def curves(runs: Mapping[str, tuple[Rows, int | None]], metric: str) -> Figure:
    """Plot training (dashed) and validation (solid) per epoch, with the best epoch marked.

    The metric is ``loss`` or ``acc``. Up to six runs, by name, have rows and a best epoch each.
    """
    figure, axes = _epoch_axes(3.3)
    for (name, (rows, best)), colour in zip(runs.items(), COLOURS, strict=False):
        alone = ("training", "validation", f"best, epoch {best}")
        labels = alone if len(runs) == 1 else ("", name, "")
        epochs = [row["epoch"] for row in rows]
        training, validation = ([row[f"{x}/{metric}"] for row in rows] for x in ("train", "val"))
        points: Any = {"color": colour, "marker": "o" * (len(rows) < 3), "ms": 4}
        axes.plot(epochs, training, ls=DASHED, alpha=0.6, label=labels[0], **points)
        axes.plot(epochs, validation, label=labels[1], **points)
        if best in epochs:
            circle: Any = {"ms": 8, "mfc": "white", "mec": colour, "mew": 2, "zorder": 5}
            axes.plot([best], [validation[epochs.index(best)]], "o", label=labels[2], **circle)
    axes.margins(y=0.1)
    low, high = axes.dataLim.intervaly
    if metric == "acc":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    elif 0 < 5 * low < high:  # a smaller range may have one tick only
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    columns = 1 if max(map(len, runs)) > 32 else 3 if len(runs) == 1 else 2
    axes.legend(ncols=columns, **ABOVE)
    return figure


def _epoch_axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", which="both")
    return figure, axes


@styled
def learning_rate(rows: Rows) -> Figure:
    """Plot the learning rate at the end of each epoch."""
    figure, axes = _epoch_axes(2.0)
    axes.plot([row["epoch"] for row in rows], [row["lr"] for row in rows], color=GREEN)
    axes.set_ylim(bottom=0)
    return figure


@styled
def learning_rate_search(rates: Sequence[float], losses: Sequence[float], lr: float) -> Figure:
    """Plot the training loss by learning rate, with the suggested one marked."""
    figure, axes = _epoch_axes(3.3)
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(lr, color=ORANGE, ls=DASHED, label=f"suggested: {lr:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.xaxis.set_major_formatter("{x:g}")
    fall = losses[0] - min(losses)
    axes.set_ylim(min(losses) - 0.1 * fall, losses[0] + 0.5 * fall)  # it may rise without limit
    axes.legend(**ABOVE)
    return figure


@styled
def confusion_matrix(
    matrix: Tensor, classes: Sequence[str], title: str = "", cell: float = 0.36
) -> Figure:
    """Draw a confusion matrix of counts ``[classes, classes]``.

    Rows are labels and columns predictions. Colour shows the errors only. The figure grows by
    ``cell`` inches per class.
    """
    longest, count = max(map(len, classes)), len(classes)
    side = min(1.9 + cell * count, 9.0) + 0.06 * min(20, longest)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    errors = matrix.clone().fill_diagonal_(0)
    # 1.6 times the largest error, so that dark numbers are legible on every colour
    limit = max(1.0, errors.max().item() * 1.6)
    axes.imshow(np.ma.masked_equal(errors.numpy(), 0), cmap="Oranges", vmin=0, vmax=limit)
    axes.imshow(np.ma.masked_equal(np.eye(count), 0), cmap="Greys", vmin=0, vmax=12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor")
    for row, column in matrix.nonzero().tolist() if count < 25 else ():  # else illegible
        number = axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", size=8)
        number.set(weight="bold" if row == column else "normal", in_layout=False)
    rotation, align = (45, "right") if longest > 3 else (0, "center")
    axes.set_xticks(range(count), classes, rotation=rotation, ha=align)
    axes.set_yticks(range(count), classes)
    axes.set(xlabel="predicted", ylabel="label", title=title)
    axes.spines.bottom.set_visible(False)
    return figure


@styled
def image_grid(
    images: Tensor | Sequence[Tensor],
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
    size: float = 7,
) -> Figure:
    """Draw images ``[C, H, W]``, each below its caption, in a grid with ``columns`` in a row.

    Pixels are float in [0, 1] or uint8; uint8 greyscale images are inverted to black on white.
    Captions are ``size`` points high.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    if any(len(caption) * size > 120 for caption in captions):  # longer than one inch
        captions = [caption.replace(" → ", " →\n") for caption in captions]
    lines = max((1 + caption.count("\n") for caption in captions), default=0)
    x_step, y_step = 1.07, 1.07 + 0.06 * bool(lines) + 0.0186 * size * lines  # inches
    width, height = columns * x_step, rows * y_step + (0.3 if title else 0)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # ten times faster than one axes for each image
    axes.axis("off")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        x, y = column * x_step, (rows - 1 - row) * y_step + 0.03
        if not image.is_floating_point():
            image = (255 - image if len(image) == 1 else image).float() / 255
        pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
        extent = (x, x + 1, y, y + 1)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        if captions:
            axes.text(x + 0.5, y + 1.05, captions[number], size=size, ha="center", va="bottom")
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")  # imshow has changed them
    axes.text(width / 2, height - 0.06, title, size=10, ha="center", va="top")
    return figure


def filters(weight: Tensor) -> Figure:
    """Draw the first 64 kernels of a convolution ``[out, in, H, W]``.

    Those of colour images are in colour, with grey as zero; of others, the mean over ``in``.
    """
    weight = weight[:64]
    return image_grid(signed_colours(weight if weight.shape[1] == 3 else weight.mean(1, True)))


def signed_colours(maps: Tensor) -> Tensor:
    """Colours ``[N, 3, H, W]`` for maps ``[N, C, H, W]``, each scaled by its largest magnitude.

    Orange is positive, purple negative and white zero. Maps of three channels are colours already;
    grey is zero.
    """
    limit = maps.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    scaled = (maps / limit + 1) / 2  # 0.5 for zero
    if maps.shape[1] == 3:
        return scaled
    colours = colormaps["PuOr_r"](scaled.squeeze(1).numpy())
    return maps.new_tensor(colours[..., :3]).permute(0, 3, 1, 2)


@styled
def reliability(bins: Calibration) -> Figure:
    """Plot accuracy and mean confidence per confidence bin, with the image counts below.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017, figure 1.
    """
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    used, width = bins.counts > 0, 0.92 / len(bins.counts)
    left, confidence, accuracy, counts = (
        values[used].numpy() for values in (bins.edges[:-1], *bins[1:])
    )
    upper.bar(left, accuracy, width, align="edge", color=BLUE, alpha=0.85, label="accuracy")
    upper.hlines(confidence, left, left + width, color=ORANGE, lw=2.2, label="mean confidence")
    upper.set(ylim=(0, 1), xlim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=8.5)
    lower.bar(left, counts, width, align="edge", color=GREY)
    lower.set(yscale="log", xlabel="confidence", ylabel="images")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.yaxis.set_minor_formatter(NullFormatter())
    for axes, axis in ((upper, upper.yaxis), (lower, lower.xaxis)):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.grid(axis="y")
    return figure


@styled
def png(figure: Figure, transparent: bool = True) -> bytes:
    """Render a figure as a PNG file."""
    file = BytesIO()
    # class names may have characters that the font lacks
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        figure.savefig(file, format="png", dpi=FILE_DPI, transparent=transparent)
    return file.getvalue()


def rgb_array(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure as ``uint8 [H, W, 3]``."""
    return np.asarray(Image.open(BytesIO(png(figure, transparent=False))).convert("RGB"))
