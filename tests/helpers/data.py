"""Data modules built without the command line, and assertions about splits."""

import hashlib
from collections.abc import Callable

import yaml

from helpers.commands import ROOT
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.mnist import Mini
from lenet_pl.data.source import Source

DEFAULTS = yaml.safe_load((ROOT / "conf" / "data" / "mnist.yaml").read_text(encoding="utf-8"))
DEFAULTS = {name: value for name, value in DEFAULTS.items() if name not in ("_target_", "source")}
DEFAULTS |= {"root": None, "val_size": 1000, "augment": {}, "seed": 0}


def data_module(
    source: Callable[[str | None], Source] = Mini, root: str | None = None, **options: object
) -> DigitsDataModule:
    """A data module that is set up, with the defaults of ``conf/data`` and a source of its own."""
    data = DigitsDataModule(source, **{**DEFAULTS, "root": root, **options})
    data.prepare_data()
    data.setup()
    return data


def assert_disjoint(data: DigitsDataModule) -> None:
    """No image is in two splits."""
    digests = {
        name: {hashlib.sha256(image.numpy().data).digest() for image in split.images}
        for name, split in data.splits.items()
    }
    assert digests["train"].isdisjoint(digests["val"])
    assert digests["train"].isdisjoint(digests["test"])
    assert digests["val"].isdisjoint(digests["test"])
