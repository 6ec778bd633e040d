"""Folders of pictures, read."""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lenet_pl.data.ink import Auto
from lenet_pl.data.mnist import ImageDataset
from lenet_pl.data.preprocess import SIDE, image_files, open_image, prepare
from lenet_pl.errors import DataError


class Picture(NamedTuple):
    """A file: its label, and what changes when it does."""

    path: Path
    label: int
    size: int
    modified: int


class Pictures(NamedTuple):
    """What could be read, and what could not.

    Attributes:
        labelled: images and labels.
        names: the file of each image, below the root.
        broken: the files that cannot be read, and why.
    """

    labelled: ImageDataset
    names: list[str]
    broken: dict[str, str]


def read(
    root: Path,
    folders: Mapping[str, Path],
    classes: Sequence[str],
    invert: Auto = "auto",
    centre: Auto = "auto",
) -> Pictures:
    """Read all pictures in the folders of some classes, and in folders within these.

    Args:
        root: what names begin at.
        folders: where the pictures of each class lie.
        classes: their names, in the order of the labels; those without a folder have no picture.
        invert, centre: as :class:`lenet_pl.data.folder.Folder` has them.
    """
    found = _find(folders, classes)
    names = [picture.path.relative_to(root).as_posix() for picture in found]
    images, reasons = _decode(found, invert, centre)
    whole = [i for i in range(len(found)) if i not in reasons]
    labels = torch.tensor([found[i].label for i in whole], dtype=torch.long)
    broken = {names[i]: reason for i, reason in reasons.items()}
    return Pictures(ImageDataset(images, labels), [names[i] for i in whole], broken)


def _find(folders: Mapping[str, Path], classes: Sequence[str]) -> tuple[Picture, ...]:
    """All pictures, by file name and then class: an exported data set keeps its order."""
    found = []
    for name, folder in folders.items():
        for path in image_files(folder):
            try:
                stat = path.stat()
                size, modified = stat.st_size, stat.st_mtime_ns
            except OSError:  # a link to nothing, which opening it will say
                size = modified = -1
            found.append(Picture(path, classes.index(name), size, modified))
    return tuple(sorted(found, key=lambda picture: (picture.path.name, picture.path.as_posix())))


@lru_cache(maxsize=6)  # the three splits of two folders: a sweep reads the pictures once
def _decode(
    pictures: tuple[Picture, ...], invert: Auto, centre: Auto
) -> tuple[Tensor, dict[int, str]]:
    """The pictures ``uint8 [N, 1, 28, 28]`` that can be read; places and reasons of the others."""

    def decode(picture: Picture) -> Tensor | str:
        try:
            return prepare(open_image(picture.path), invert=invert, centre=centre)
        except DataError as error:
            return str(error).removeprefix(f"{picture.path}: ")

    Image.init()  # not by the first of several threads
    console = Console(stderr=True)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of decoders; a picture is read or it is not
        results = track(
            pool.map(decode, pictures),
            "reading pictures",
            total=len(pictures),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        decoded = list(results)
    reasons = {i: result for i, result in enumerate(decoded) if isinstance(result, str)}
    images = [result for result in decoded if not isinstance(result, str)]
    return torch.stack(images) if images else torch.empty(0, 1, SIDE, SIDE).byte(), reasons
