"""Classify photographs and scans of single digits, without the slow import of Lightning."""

import glob
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lenet_pl.console import percent
from lenet_pl.data.folder import image_files
from lenet_pl.data.preprocess import MAX_BYTES, Auto, open_image
from lenet_pl.errors import ConfigError, DataError, printable, shorten
from lenet_pl.evaluation.loading import DIGITS, output_path, preprocessing
from lenet_pl.files import write_bytes
from lenet_pl.metrics import predict_logits
from lenet_pl.runs import Run


def predict_images(
    run: Run, names: Sequence[str], invert: Auto | None = None
) -> tuple[dict[str, Tensor], Tensor, dict[str, str]]:
    """Classify images: files, folders, glob patterns, and ``-`` for standard input, each once.

    ``invert`` is whether strokes are darker than the paper; None is as for the training images.
    Returns by name the preprocessed images ``uint8 [C, H, W]``; their probabilities, float64
    ``[N, classes]``; and by name why the other images cannot be read.
    """
    images: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    given = {} if invert is None else {"invert": invert}
    # classes of other names may have several parts
    convert = partial(preprocessing(run), single=set(run.classes) <= set(DIGITS), **given)
    if invert is True and convert.keywords["channels"] == 3:
        raise ConfigError(
            "--invert yes: the network takes images in colour, which are not inverted"
        )
    for name in names:
        sources = _find(name)
        if not sources:
            failed[name] = "no image in this folder" if Path(name).is_dir() else "no such file"
        for key in [key for key in sources if key not in images and key not in failed]:
            try:
                images[key] = convert(open_image(sources[key], key))
            except DataError as error:
                failed[key] = str(error).removeprefix(f"{key}: ")
    if not images:
        return {}, torch.empty(0, len(run.classes)), failed
    logits = predict_logits(run.network(), torch.stack(list(images.values())))
    return images, logits.double().softmax(1), failed


def _find(name: str) -> dict[str, Path | bytes]:
    """The images that an argument stands for: their names with their paths or content."""
    if name == "-":
        return {name: sys.stdin.buffer.read(MAX_BYTES + 1)}
    path = Path(name)
    if path.is_dir():
        paths = sorted(image_files(path))
    elif path.exists():
        paths = [path]
    else:
        matches = glob.glob(name, recursive=True)  # noqa: PTH207, may be absolute
        paths = sorted(filter(Path.is_file, map(Path, matches)))
    return {str(path): path for path in paths}


def write_preview(run: Run, images: Mapping[str, Tensor], probabilities: Tensor) -> Path:
    """Draw the preprocessed images with their predictions into a PNG, and return its path."""
    from lenet_pl import plots  # matplotlib takes half a second to import

    best = zip(images, *map(Tensor.tolist, probabilities.max(1)), strict=True)
    captions = [
        f"{shorten(printable(Path(name).name), 16)}\n{run.classes[label]}  {percent(probability)}"
        for name, probability, label in best
    ]
    # floats are not inverted, so the images appear as the network sees them
    pixels = torch.stack(list(images.values())) / 255
    figure = plots.image_grid(pixels, captions, columns=max(8, round(len(images) ** 0.5)))
    path = output_path(run, "seen.png")
    write_bytes(path, plots.png(figure, transparent=False))
    return path
