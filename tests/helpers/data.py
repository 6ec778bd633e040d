"""Assertions about splits."""

import hashlib

from lenet_pl.data.datamodule import DigitsDataModule


def assert_disjoint(data: DigitsDataModule) -> None:
    sums = {
        name: {hashlib.sha256(image.numpy().data).digest() for image in split.images}
        for name, split in data.splits.items()
    }
    assert sums["train"].isdisjoint(sums["val"])
    assert sums["train"].isdisjoint(sums["test"])
    assert sums["val"].isdisjoint(sums["test"])
