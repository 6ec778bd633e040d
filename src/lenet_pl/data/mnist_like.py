"""Data sets made to take MNIST's place: the same files, other pictures."""

from lenet_pl.data.download import Fetch, File
from lenet_pl.data.mnist import MNIST, torchvision_mirrors


def _zipped(*sums: str) -> tuple[File, ...]:
    """MNIST's four files by name and shape, each by the sum of its gzipped form."""
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    return tuple(
        File(file.name, md5, zipped=True, shape=shape)
        for file, md5, shape in zip(MNIST.files, sums, shapes, strict=True)
    )


class _Zipped(MNIST):
    """A data set in MNIST's format whose makers publish the sums of the gzipped files."""

    def sources(self) -> tuple[Fetch, ...]:
        return (torchvision_mirrors,)


class FashionMNIST(_Zipped):
    """60,000 and 10,000 pictures of ten kinds of clothing, each 28 × 28, from a shop's catalogue.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms", arXiv:1708.07747 (2017); the classes are those of its table 2,
    the sums those of torchvision.
    """

    name = "fashion_mnist"
    place = "FashionMNIST"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    files = _zipped(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )


class KMNIST(_Zipped):
    """60,000 and 10,000 handwritten hiragana of ten kinds, each 28 × 28.

    Source: T. Clanuwat, M. Bober-Irizar, A. Kitamoto, A. Lamb, K. Yamamoto, D. Ha, "Deep learning
    for classical Japanese literature", arXiv:1812.01718 (2018); the sums are those of torchvision.
    """

    name = "kmnist"
    place = "KMNIST"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    files = _zipped(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    )
