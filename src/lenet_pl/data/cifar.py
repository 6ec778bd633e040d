"""CIFAR-10, from the archive that torchvision downloads."""

import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch

from lenet_pl.data import download
from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.mnist import MNIST
from lenet_pl.data.source import RawDataset


def torchvision_archive(folder: Path, files: Sequence[download.File]) -> str:
    """Download the archive from where torchvision does."""
    from torchvision.datasets import CIFAR10  # slow to import, and rarely needed

    return download.from_mirrors([CIFAR10.url.rpartition("/")[0] + "/"], folder, files)


class CIFAR10(MNIST):
    """50,000 training and 10,000 test colour images of ten kinds of objects, 32 × 32.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009), chapter
    3; checksum of torchvision.
    """

    name = family = "cifar10"
    centred = False
    subfolder = ""
    classes = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    # the size is an upper bound
    files = (
        download.File(
            "cifar-10-python.tar", 2 * 10**8, "c58f30108f718f92721af3b95e74349a", gzipped=True
        ),
    )
    providers = (torchvision_archive,)

    def _read(self) -> RawDataset:
        origin, [content] = download.fetch(self.root, self.folder, self.files, self.providers)
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            batches = [f"data_batch_{number}" for number in range(1, 6)]
            train, test = (_images(archive, names) for names in (batches, ["test_batch"]))
        return RawDataset(train, test, self.classes, origin)


def _images(archive: tarfile.TarFile, names: Sequence[str]) -> ImageDataset:
    """The images of some members, which are pickled rows of red, green and blue planes."""
    images, labels = [], []
    for name in names:
        member = archive.extractfile(f"cifar-10-batches-py/{name}")
        assert member is not None  # it is a regular file, since the checksum is right
        batch = download.ArrayUnpickler(member, encoding="latin1").load()
        images.append(torch.from_numpy(batch["data"]).view(-1, 3, 32, 32))
        labels.append(torch.tensor(batch["labels"], dtype=torch.long))
    return ImageDataset(torch.cat(images), torch.cat(labels))
