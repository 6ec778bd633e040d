"""Blank, leaked and duplicate training images are removed; label issues are listed."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from helpers.data import data_module

from lenet_pl.data.cleaning import confident_learning, find_label_issues, summary
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.mnist import MNIST, Mini, encode_idx
from lenet_pl.data.source import RawDataset
from lenet_pl.data.split import Subset
from lenet_pl.errors import DataError
from lenet_pl.training import train


class Synthetic:
    """A source of images made from numbers: 0 is blank, and equal numbers are equal images."""

    name = family = "synthetic"
    centred = True

    def __init__(self, **splits: tuple[list[int], list[int]]) -> None:
        data = {name: self.make(*split) for name, split in splits.items()}
        self.raw = RawDataset(data["train"], data["test"], ("a", "b"), "a test", data.get("val"))

    @staticmethod
    def make(numbers: list[int], labels: list[int]) -> ImageDataset:
        images = torch.zeros(len(numbers), 1, 28, 28, dtype=torch.uint8)
        for image, number in zip(images, numbers, strict=True):
            image.view(-1)[number] = 255 if number else 0
        return ImageDataset(images, torch.tensor(labels))

    def prepare(self) -> str:
        return self.raw.origin

    def load(self) -> RawDataset:
        return self.raw

    def paths(self) -> list[Path]:
        return []


def load(source: Synthetic, clean: bool) -> DigitsDataModule:
    return data_module(lambda root: source, val_size=1, clean=clean)


SPLITS = {
    "train": ([1, 2, 0, 3, 2, 4, 5, 2, 0, 6, 7], [0, 1, 0, 1, 1, 0, 1, 0, 9, -1, 0]),
    "val": ([8, 5], [0, 1]),
    "test": ([9, 4, 9], [0, 1, 1]),
}


def test_the_report_lists_images_by_their_index():
    data = load(Synthetic(**SPLITS), clean=True)
    report = data.cleaning_report()
    assert report == {
        "images": 11,
        "removed": 7,
        "counts": {
            "labels_out_of_range": 2,
            "blank": 1,
            "leaked": 2,
            "duplicates": 2,
            "conflicts": 3,
        },
        "labels_out_of_range": [8, 9],
        "blank": [2],
        "leaked": [
            {"index": 5, "split": "test", "of": 1},
            {"index": 6, "split": "val", "of": 1},
        ],
        "duplicates": [{"index": 4, "of": 1}, {"index": 7, "of": 1}],
        "conflicts": [
            [
                {"split": "test", "index": 0, "label": "a"},
                {"split": "test", "index": 2, "label": "b"},
            ],
            [
                {"split": "test", "index": 1, "label": "b"},
                {"split": "train", "index": 5, "label": "a"},
            ],
            [
                {"split": "train", "index": 1, "label": "b"},
                {"split": "train", "index": 4, "label": "b"},
                {"split": "train", "index": 7, "label": "a"},
            ],
        ],
    }
    assert data.indices["train"].tolist() == [0, 1, 3, 10]
    assert [len(data.splits[name]) for name in ("val", "test")] == [2, 3]
    assert data.facts()["clean"] == {"removed": 7, **report["counts"]}
    assert summary(report) == (
        "7 of 11 training images removed: 2 labels out of range, 1 blank, 2 leaked, 2 duplicates; "
        "3 images under several labels"
    )


@pytest.mark.parametrize(
    ("splits", "clean", "message"),
    [
        (
            SPLITS,
            False,
            r"labels of train are out of range 0 to 1, at 8, 9 \(2 images\); data.clean",
        ),
        (
            {**SPLITS, "test": ([9, 1], [0, 2])},
            True,
            r"labels of test are out of range 0 to 1, at 1",
        ),
    ],
)
def test_labels_out_of_range_are_not_trained_on(splits, clean, message):
    with pytest.raises(DataError, match=message):
        load(Synthetic(**splits), clean=clean)


def test_a_class_without_images_after_cleaning():
    splits = {"train": ([1, 2, 0, 0], [0, 0, 1, 1]), "val": ([3], [0]), "test": ([4], [1])}
    with pytest.raises(DataError, match="no training image is left of class b"):
        load(Synthetic(**splits), clean=True)


def test_the_shipped_digits_are_clean():
    data = data_module(clean=True)
    assert data.facts()["clean"]["removed"] == 0
    assert data.split_digest == "3e19f00c6f017a3102067f70248cc4046182de6b83d4fd50c8d503688067915b"


def test_a_run_on_images_with_leaks(composed, tmp_path, caplog):
    """Training images replaced by two test images, a blank one and a duplicate."""
    caplog.set_level("INFO")
    raw = Mini().load()
    images, labels = raw.train.images[:800].clone(), raw.train.labels[:800].clone()
    images[5], images[6] = raw.test.images[3], raw.test.images[4]
    images[7] = 0
    images[9] = images[8]
    tensors = (images, labels, raw.test.images[:100], raw.test.labels[:100])
    (tmp_path / "digits").mkdir()
    for file, tensor in zip(MNIST.files, tensors, strict=True):
        content = encode_idx(tensor.squeeze(1).numpy() if tensor.dim() == 4 else tensor.numpy())
        (tmp_path / "digits" / f"{file.name}.gz").write_bytes(gzip.compress(content, 1))
    root = f"data.root={tmp_path / 'digits'}"
    overrides = ["data.clean=true", "data.suspect_folds=2", "data.val_size=10", "trainer=debug"]
    train(composed("data=mini", root, *overrides))
    report = json.loads((tmp_path / "run" / "cleaning.json").read_text())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert report["leaked"] == [
        {"index": 5, "split": "test", "of": 3},
        {"index": 6, "split": "test", "of": 4},
    ]
    assert report["blank"] == [7]
    assert report["duplicates"] == [{"index": 9, "of": 8}]
    assert result["data"]["clean"]["removed"] == report["removed"] == 4
    assert result["data"]["counts"] == {"train": 786, "val": 10, "test": 100}
    assert "cleaned     4 of 790 training images removed: 1 blank, 2 leaked" in caplog.text
    assert f"suspects    {len(report['suspects'])} label issues" in caplog.text


def test_without_cleaning_there_is_no_report(composed, tmp_path):
    train(composed("data=mini", "trainer=debug"))
    assert not (tmp_path / "run" / "cleaning.json").exists()


def test_confident_learning():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    p = torch.tensor([0.9, 0.8, 0.1, 0.4, 0.7, 0.05])  # of class 0
    # mean self-confidence: 0.6 of class 0; (0.6 + 0.3 + 0.95) / 3 = 0.617 of class 1
    assert confident_learning(torch.stack([p, 1 - p], 1), labels) == [(2, 1), (4, 0)]


def test_wrong_labels_are_found():
    digits = Mini().load().train
    data = Subset(digits.images[:1500], digits.labels[:1500].clone(), torch.arange(1500) + 7)
    wrong = torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:30]
    true = data.labels[wrong].tolist()
    data.labels[wrong] = (data.labels[wrong] + 3) % 10
    wrong_labels = dict(zip((wrong + 7).tolist(), true, strict=True))
    classes = [f"the {digit}" for digit in range(10)]
    before = torch.get_rng_state()
    issues = find_label_issues(data, classes, folds=3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert issues == find_label_issues(data, classes, folds=3, seed=0)
    confidence = [issue["confidence"] for issue in issues]
    assert confidence == sorted(confidence, reverse=True)
    right = [issue for issue in issues if issue["index"] in wrong_labels]
    assert len(right) >= 22
    assert len(issues) < 100
    corrected = [issue["suggested"] == classes[wrong_labels[issue["index"]]] for issue in right]
    assert sum(corrected) >= 20
