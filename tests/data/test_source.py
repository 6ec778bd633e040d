"""Sources of one's own, and the tensors that they may load."""

from pathlib import Path

import pytest
import torch
from helpers.data import data_module

from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.mnist import Mini
from lenet_pl.data.source import DescribedSource, RawDataset
from lenet_pl.errors import DataError

LABELS = torch.arange(40) % 2
IMAGES = (LABELS * 100).byte().view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
EMPTY = ImageDataset(IMAGES[:0], LABELS[:0])


class Short:
    """The shortest source."""

    def __init__(self, root: str | None) -> None:
        self.root = root

    def prepare(self) -> None:
        """Nothing to do."""

    def load(self) -> RawDataset:
        return RawDataset(ImageDataset(IMAGES, LABELS), EMPTY, ("dark", "bright"))


def test_prepare_and_load_are_enough():
    data = data_module(Short, split=[2, 1, 1])
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 20,
        "val": 10,
        "test": 10,
    }
    facts = data.facts()
    assert (facts["name"], facts["source"], facts["classes"]) == (
        "Short",
        "Short",
        ["dark", "bright"],
    )


def test_what_a_source_may_leave_out():
    source = DescribedSource(Short(None))
    assert (source.name, source.family) == ("Short", "Short")
    assert list(source.paths()) == []
    short = Short(None)
    short.name, short.paths = "mine", lambda: [Path("x")]
    source = DescribedSource(short)
    assert (source.name, source.family, [*source.paths()]) == ("mine", "mine", [Path("x")])
    source = DescribedSource(Mini())
    assert (source.name, source.family) == ("mini", "mnist")
    assert len(list(source.paths())) == 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            IMAGES.float(),
            LABELS,
            "train images must be uint8 [N, C, H, W], but are float32 [40, 1, ",
        ),
        (IMAGES[:, 0], LABELS, "train images must be uint8 [N, C, H, W], but are uint8 [40, 8, 8]"),
        (IMAGES.numpy(), LABELS, "train images and labels must be tensors; use torch.from_numpy"),
        (IMAGES, LABELS.int(), "train labels must be int64 [40], but are int32 [40]"),
        (IMAGES, LABELS[:39], "train labels must be int64 [40], but are int64 [39]"),
    ],
)
def test_tensors_of_another_type_or_shape(images, labels, message):
    with pytest.raises(DataError) as caught:
        RawDataset(ImageDataset(images, labels), EMPTY, ("dark", "bright"))
    assert str(caught.value).startswith(f"data: {message}")


def test_images_of_two_shapes():
    small = ImageDataset(IMAGES[..., :7], LABELS)
    with pytest.raises(DataError, match="data: images of train and test differ in shape"):
        RawDataset(ImageDataset(IMAGES, LABELS), small, ("dark", "bright"))


def test_something_else_than_a_data_set():
    class Pair(Short):
        def load(self):
            return IMAGES, LABELS

    with pytest.raises(DataError, match="load must return a RawDataset, not tuple"):
        data_module(Pair)
