"""Classify photographs and scans of single digits, without the slow import of Lightning."""

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lenet_pl.console import percent
from lenet_pl.data.folder import image_files
from lenet_pl.data.preprocess import MAX_BYTES, Auto, open_image
from lenet_pl.errors import ConfigError, DataError, printable, shorten
from lenet_pl.evaluation.loading import DIGITS, LoadedModel
from lenet_pl.files import write_bytes
from lenet_pl.metrics import predict_logits


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    name: str  # its path, or - for standard input
    image: Tensor  # uint8 [C, H, W], as preprocessed for the network
    probabilities: Tensor  # float64 [classes]


def predict_images(
    model: LoadedModel, names: Sequence[str], invert: Auto | None = None
) -> tuple[list[Prediction], dict[str, str]]:
    """Classify images, each once and all in one batch.

    Args:
        model: the network.
        names: files, folders, glob patterns, and ``-`` for standard input.
        invert: whether strokes are darker than the paper; None is as for the training images.

    Returns:
        The predictions, and by name, why the other images cannot be read.
    """
    images: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    # classes of other names may have several parts
    convert = partial(model.preprocess, single=set(model.classes) <= set(DIGITS))
    if invert is not None:
        convert = partial(convert, invert=invert)
    if invert is True and convert.keywords.get("channels") == 3:
        raise ConfigError(
            "--invert yes: the network takes images in colour, which are not inverted"
        )
    for name in names:
        sources = _find(name)
        if not sources:
            failed[name] = "no image in this folder" if Path(name).is_dir() else "no such file"
        for key, source in sources.items():
            if key in images or key in failed:
                continue
            try:
                images[key] = convert(open_image(source, key))
            except DataError as error:
                failed[key] = str(error).removeprefix(f"{key}: ")
    if not images:
        return [], failed
    logits = predict_logits(model.network, torch.stack(list(images.values())))
    rows = zip(images.items(), logits.double().softmax(1), strict=True)
    return [Prediction(name, image, row) for (name, image), row in rows], failed


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


def write_preview(model: LoadedModel, predictions: Sequence[Prediction]) -> Path:
    """Draw the preprocessed images with their predictions into a PNG, and return its path."""
    from lenet_pl import plots  # matplotlib takes half a second to import

    captions = []
    for prediction in predictions:
        probability, label = prediction.probabilities.max(0)
        name = shorten(printable(Path(prediction.name).name), 16)
        captions.append(f"{name}\n{model.classes[int(label)]}  {percent(probability.item())}")
    # floats are not inverted, so the images appear as the network sees them
    images = torch.stack([prediction.image for prediction in predictions]) / 255
    columns = max(8, round(len(images) ** 0.5))
    figure = plots.image_grid(images, captions, columns=columns)
    path = model.folder / f"{model.prefix}seen.png"
    write_bytes(path, plots.png(figure, transparent=False))
    return path
