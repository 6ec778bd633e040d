"""What a network takes pictures for."""

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lenet_pl.data.ink import Auto
from lenet_pl.data.preprocess import SUFFIXES, image_files, open_image, prepare
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.evaluation.loading import LoadedModel
from lenet_pl.metrics import predict_logits

ZOOM, COLUMNS, CAPTION = 5, 8, 34  # of what the network saw; pixels a pixel, and below a picture


@dataclass(frozen=True)
class Seen:
    """A picture that could be read.

    Attributes:
        name: its path, or ``-``.
        image: uint8 ``[1, 28, 28]``, what the network saw.
        probabilities: float64 ``[classes]``.
    """

    name: str
    image: Tensor
    probabilities: Tensor


def predict(
    subject: LoadedModel, names: Sequence[str], invert: Auto | None = None
) -> tuple[list[Seen], dict[str, str]]:
    """Look at pictures, all in one batch.

    Args:
        subject: the network.
        names: files, folders, glob patterns, and ``-`` for standard input.
        invert: as for :func:`~lenet_pl.data.preprocess.prepare`; None is as the run has it.

    Returns:
        What could be read, and the reason of each that could not.
    """
    read: list[tuple[str, Tensor]] = []
    failed: dict[str, str] = {}
    own, centre = subject.preparation
    invert = own if invert is None else invert
    for name, source in _sources(names, failed):
        try:
            image = prepare(open_image(source, name), invert=invert, centre=centre)
            read.append((name, image))
        except DataError as error:
            failed[name] = str(error).removeprefix(f"{name}: ")
    if not read:
        return [], failed
    images = torch.stack([image for _, image in read])
    rows = predict_logits(subject.network, images).double().softmax(1)
    seen = [Seen(name, image, row) for (name, image), row in zip(read, rows, strict=True)]
    return seen, failed


def _sources(names: Sequence[str], failed: dict[str, str]) -> Iterator[tuple[str, Path | bytes]]:
    """Each picture once, in the order it was asked for; what leads to none is noted."""
    done = set()
    for name in names:
        if name == "-":
            yield name, sys.stdin.buffer.read()
            continue
        paths, reason = _paths(name)
        if not paths:
            failed[name] = reason
        for path in paths:
            if path not in done:
                done.add(path)
                yield str(path), path


def _paths(name: str) -> tuple[list[Path], str]:
    """The pictures that an argument means, or why there are none."""
    path = Path(name)
    if path.is_dir():
        found = sorted(image_files(path))
        return found, f"a folder without a picture ({' '.join(sorted(SUFFIXES))})"
    if path.exists():
        return [path], ""
    matches = sorted(Path(p) for p in glob.glob(name, recursive=True))  # noqa: PTH207, may be absolute
    reason = "matches no file" if glob.has_magic(name) else "there is no such file"
    return [path for path in matches if path.is_file()], reason


def write_grid(subject: LoadedModel, seen: Sequence[Seen]) -> Path:
    """Write what the network saw into one PNG, and what it took it for; returns its path.

    Raises:
        ConfigError: if it cannot be written.
    """
    side = 28 * ZOOM
    columns = min(COLUMNS, len(seen))
    rows = -(-len(seen) // columns)
    grid = Image.new("L", (columns * (side + 4), rows * (side + CAPTION)), 255)
    draw = ImageDraw.Draw(grid)
    for i, picture in enumerate(seen):
        left, top = i % columns * (side + 4), i // columns * (side + CAPTION)
        pixels = Image.fromarray(picture.image[0].numpy())
        grid.paste(pixels.resize((side, side), Image.Resampling.NEAREST), (left, top))
        best = int(picture.probabilities.argmax())
        share = 100 * picture.probabilities[best].item()
        name = Path(picture.name).name
        name = name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"
        draw.text((left + 2, top + side + 2), name, fill=90, font_size=12)
        said = f"{subject.classes[best]}  {share:.1f} %"
        draw.text((left + 2, top + side + 16), said, fill=0, font_size=13)
    path = subject.folder / f"{subject.prefix}seen.png"
    try:
        grid.save(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    return path
