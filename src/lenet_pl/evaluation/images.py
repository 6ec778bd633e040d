"""The images a network is tested on: a split of its run's own data, another data set, pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lenet_pl.data.folder import SPLITS as FOLDERS
from lenet_pl.data.folder import class_folders
from lenet_pl.data.mnist import MNIST, ImageDataset, Mini, Source
from lenet_pl.data.mnist_like import KMNIST, FashionMNIST
from lenet_pl.data.pictures import read
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.evaluation.loading import LoadedModel, source_name
from lenet_pl.runs import Run

# by the names of conf/data
SOURCES = {"mini": Mini, "mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST}
OF_MNIST = {"MNIST", "Mini"}  # classes of sources of the very same digits


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
    labelled: ImageDataset
    indices: Tensor
    files: list[str] | None = None
    notes: tuple[str, ...] = ()


def own(run: Run, split: str) -> Images:
    """What a run was trained, validated or tested on.

    Raises:
        DataError: if the data cannot be had.
    """
    data = run.data()
    names = data.files.get(split)
    notes = []
    before, now = run.state["DigitsDataModule"], data.state_dict()
    if any(before[key] != now[key] for key in ("digest", "split_digest")):
        notes.append("the data has changed since; it may be split in another way than for training")
    if (run.result.get("data") or {}).get("pooled"):
        notes.append("pooled: test images come from the official training set too, so this does")
        notes[-1] += " not compare with published figures"
    if not len(data.splits[split]):
        raise DataError(f"--split {split}: there are no such images")
    name = data.source.name
    return Images(name, split, True, data.splits[split], data.indices[split], names, tuple(notes))


def other(data: str, split: str, subject: LoadedModel, root: str) -> Images:
    """Another data set, by its name or that of a folder of pictures.

    Args:
        data: one of :data:`SOURCES`, or a folder with a folder of pictures for each class.
        split: ``test`` or ``train``, as the makers of the data set split it.
        subject: the network; pictures are prepared as those were that it has seen.
        root: the data root of the data sets that are files.

    Raises:
        ConfigError: if there is no such data, or of other classes.
        DataError: if it cannot be had.
    """
    if data not in SOURCES:
        return _pictures(data, subject)
    source = Mini() if data == "mini" else SOURCES[data](root)
    source.prepare()
    official = source.load()
    if official.classes != subject.classes:
        raise ConfigError(
            f"--data {data}: has the classes {', '.join(official.classes)}; "
            f"the network knows {', '.join(subject.classes)}"
        )
    if split == "val":
        raise ConfigError(f"--split val: {data} has none of its own; choose from test, train")
    labelled = official.test if split == "test" else official.train
    notes: tuple[str, ...] = ()
    if subject.run and _same(source, source_name(subject.run)):
        notes = _trained_on(subject.run, split)
    return Images(data, split, False, labelled, torch.arange(len(labelled)), None, notes)


def _same(source: Source, name: str) -> bool:
    """Whether a run's source, by the name of its class, has images of this one."""
    mine = type(source).__name__
    return mine == name or {mine, name} <= OF_MNIST


def _trained_on(run: Run, split: str) -> tuple[str, ...]:
    """A note where the run was trained on images of this split of its own data set."""
    if run.config.data.get("split") is not None:
        why = "the run pooled training and test images of this data set"
    elif split == "train":
        why = "these are training images of the run's own data set"
    else:
        return ()
    return (f"{why}, and was trained on some of these: the figures are better than on new images",)


def _own_folder(run: Run, place: Path) -> tuple[str, ...]:
    """The same where the pictures lie in the run's own folder of pictures."""
    root = Path(str(run.config.data.root)).resolve()
    if source_name(run) != "Folder" or not place.resolve().is_relative_to(root):
        return ()
    first = place.resolve().relative_to(root).parts[:1]
    split = FOLDERS.get(first[0].lower(), "train") if first else "train"
    return _trained_on(run, split)


def _pictures(folder: str, subject: LoadedModel) -> Images:
    """All pictures in the class folders of a folder; those that cannot be read are noted."""
    place = Path(folder)
    if not place.is_dir():
        raise ConfigError(
            f"--data {folder}: neither a folder nor a data set; choose from {', '.join(SOURCES)}"
        )
    classes = subject.classes
    folders = class_folders(place)
    if unknown := sorted(folders.keys() - set(classes)):
        raise ConfigError(
            f"--data {folder}: the network does not know {', '.join(unknown)}; "
            f"its classes are {', '.join(classes)}"
        )
    labelled, names, broken = read(place, folders, classes, *subject.preparation)
    if not names:
        raise DataError(f"--data {folder}: no picture in a folder named after one of its classes")
    notes = _own_folder(subject.run, place) if subject.run else ()
    notes += tuple(f"left out {name}: {reason}" for name, reason in broken.items())
    indices = torch.arange(len(names))
    return Images(place.resolve().name, "", False, labelled, indices, names, notes)
