"""The images a network is tested on: a split of its run's own data, another data set, pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lenet_pl.data.errors import DataError
from lenet_pl.data.folder import folders_in
from lenet_pl.data.mnist_like import KMNIST, FashionMNIST
from lenet_pl.data.pictures import read
from lenet_pl.data.sources import MNIST, Labelled, Mini
from lenet_pl.errors import ConfigError
from lenet_pl.run import Run

# by the names of conf/data
SOURCES = {"mini": Mini, "mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST}
SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Images:
    """A split of a data set.

    Attributes:
        data: the name of the data set.
        split: ``test``, ``val``, ``train``; empty where there is but one.
        own: whether the network's run was trained on this data set.
        labelled: images and labels.
        indices: int64 ``[N]``, where each stood in the official files, or among the pictures.
        files: their names, where each image has a file of its own.
        notes: what one has to know to read the figures.
    """

    data: str
    split: str
    own: bool
    labelled: Labelled
    indices: Tensor
    files: list[str] | None = None
    notes: tuple[str, ...] = ()


def own(run: Run, split: str) -> Images:
    """What a run was trained, validated or tested on.

    Raises:
        DataError: if the data cannot be had.
    """
    data = run.data()
    names = data.names.get(split)
    notes = []
    if data.digest != run.state["DigitsDataModule"]["digest"]:
        notes.append("the data has changed since; it may be split in another way than for training")
    if (run.result.get("data") or {}).get("pooled"):
        notes.append("pooled: test images come from the official training set too, so this does")
        notes[-1] += " not compare with published figures"
    if not len(data.splits[split]):
        raise DataError(f"--split {split}: there are no such images")
    name = data.source.name
    return Images(name, split, True, data.splits[split], data.indices[split], names, tuple(notes))


def other(data: str, split: str, classes: tuple[str, ...], root: str) -> Images:
    """Another data set, by its name or that of a folder of pictures.

    Args:
        data: one of :data:`SOURCES`, or a folder with a folder of pictures for each class.
        split: ``test`` or ``train``, as the makers of the data set split it.
        classes: those that the network knows.
        root: the data root of the data sets that are files.

    Raises:
        ConfigError: if there is no such data, or of other classes.
        DataError: if it cannot be had.
    """
    if data not in SOURCES:
        return _pictures(data, classes)
    source = Mini() if data == "mini" else SOURCES[data](root)
    source.prepare()
    official = source.load()
    if official.classes != classes:
        raise ConfigError(
            f"--data {data}: has the classes {', '.join(official.classes)}; "
            f"the network knows {', '.join(classes)}"
        )
    if split == "val":
        raise ConfigError(f"--split val: {data} has none of its own; choose from test, train")
    labelled = official.test if split == "test" else official.train
    return Images(data, split, False, labelled, torch.arange(len(labelled)))


def _pictures(folder: str, classes: tuple[str, ...]) -> Images:
    """All pictures in the class folders of a folder; those that cannot be read are noted."""
    place = Path(folder)
    if not place.is_dir():
        raise ConfigError(
            f"--data {folder}: neither a folder nor a data set; choose from {', '.join(SOURCES)}"
        )
    folders = folders_in(place)
    if unknown := sorted(folders.keys() - set(classes)):
        raise ConfigError(
            f"--data {folder}: the network does not know {', '.join(unknown)}; "
            f"its classes are {', '.join(classes)}"
        )
    labelled, names, broken = read(place, folders, classes)
    if not names:
        raise DataError(f"--data {folder}: no picture in a folder named after one of its classes")
    notes = tuple(f"left out {name}: {reason}" for name, reason in broken.items())
    indices = torch.arange(len(names))
    return Images(place.resolve().name, "", False, labelled, indices, names, notes)
