"""Pictures, as matplotlib figures that no global state holds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

DPI = 110


def confusion(matrix: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Counts ``[classes, classes]`` as a table; colour shows the mistakes, which are few."""
    side = 2.2 + 0.46 * len(classes)
    figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    mistakes = matrix.float().clone()
    mistakes.fill_diagonal_(0)
    axes.imshow(
        mistakes.numpy(), cmap="Oranges", vmin=0, vmax=max(1.0, mistakes.max().item() * 1.3)
    )
    for row, counts in enumerate(matrix.tolist()):
        for column, count in enumerate(counts):
            if count:
                weight = "bold" if row == column else "normal"
                axes.text(column, row, f"{count}", ha="center", va="center", weight=weight, size=8)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title, size=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def gallery(images: Tensor, captions: Sequence[str], title: str, columns: int = 8) -> Figure:
    """Images ``uint8 [N, C, H, W]`` in a grid, a caption above each."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(columns * 1.0, rows * 1.25 + 0.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(caption, size=7)
    figure.suptitle(title, size=10)
    return figure


def filters(weight: Tensor, title: str) -> Figure:
    """Kernels ``[out, in, H, W]`` of a convolution, those of the first input channel."""
    figure = Figure(figsize=(len(weight) * 1.0, 1.6), dpi=DPI, layout="constrained")
    limit = weight.abs().max().item()
    for axes, kernel in zip(
        figure.subplots(1, len(weight), squeeze=False).flat, weight, strict=True
    ):
        axes.imshow(kernel[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.axis("off")
    figure.suptitle(title, size=10)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """The drawn figure as ``uint8 [H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
