"""Sources of images, and the data sets that they load."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from lenet_pl.data.loader import ImageDataset
from lenet_pl.errors import DataError


@dataclass(frozen=True)
class RawDataset:
    """A data set in its official splits; DataError if its tensors have another type or shape."""

    train: ImageDataset
    test: ImageDataset  # empty if there is no official split
    classes: tuple[str, ...]  # in the order of the labels
    origin: str = ""  # where the files came from; by default the name of the source
    val: ImageDataset | None = None  # None or empty if there is no official one
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by split, one per image
    broken: Mapping[str, str] = field(default_factory=dict)  # the reason, by file
    ignored: Sequence[str] = ()  # files that are not images

    def __post_init__(self) -> None:
        for name, split in self.splits().items():
            images, labels = split.images, split.labels
            if not (torch.is_tensor(images) and torch.is_tensor(labels)):
                raise DataError(
                    f"data: {name} images and labels must be tensors; use torch.from_numpy"
                )
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise DataError(f"data: {name} images must be uint8 [N, C, H, W], {_kind(images)}")
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"data: {name} labels must be int64 [{len(images)}], {_kind(labels)}"
                )
        shapes = {tuple(split.images.shape[1:]): name for name, split in self.splits().items()}
        if len(shapes) > 1:
            raise DataError(f"data: images of {' and '.join(shapes.values())} differ in shape")

    def splits(self) -> dict[str, ImageDataset]:
        """The official splits that are not empty, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split}


def _kind(tensor: torch.Tensor) -> str:
    return f"but are {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class Source(Protocol):
    """Loads a data set.

    Optional members are those of :class:`DescribedSource`, and ``centred``: whether the objects are
    centred as in MNIST.
    """

    def prepare(self) -> Any:
        """Make sure that the files are on disk; raises DataError."""

    def load(self) -> RawDataset:
        """Read the files into memory; raises DataError if they cannot be used."""


class DescribedSource:
    """A source as the data module uses it, with defaults for optional members."""

    def __init__(self, source: Any) -> None:
        self.prepare, self.load = source.prepare, source.load
        self.name: str = getattr(source, "name", type(source).__name__)
        # the same for data sets that share images
        self.family: str = getattr(source, "family", self.name)
        # the files on disk
        self.paths: Callable[[], Iterable[Path]] = getattr(source, "paths", tuple)
