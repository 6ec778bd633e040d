"""What is wrong with images is found, exactly, and left out of training only."""

import gzip
import json

import pytest
import torch

from lenet_pl.data import idx
from lenet_pl.data.cleaning import in_words
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.mnist import MNIST, ImageDataset, Mini, RawDataset
from lenet_pl.data.suspects import doubted, suspects
from lenet_pl.errors import DataError
from lenet_pl.training import train


class Planted:
    """A source whose images a test has made."""

    name = "planted"

    def __init__(self, **lots: tuple[list[int], list[int]]) -> None:
        made = {name: self.lot(*lot) for name, lot in lots.items()}
        self.official = RawDataset(made["train"], made["test"], ("a", "b"), "here", made.get("val"))

    @staticmethod
    def lot(pictures: list[int], labels: list[int]) -> ImageDataset:
        """Picture 0 is blank; another number is another picture."""
        images = torch.zeros(len(pictures), 1, 28, 28, dtype=torch.uint8)
        for image, number in zip(images, pictures, strict=True):
            image.view(-1)[number] = 255 if number else 0
        return ImageDataset(images, torch.tensor(labels))

    def prepare(self) -> str:
        return "here"

    def load(self) -> RawDataset:
        return self.official


def prepared(source, **options) -> DigitsDataModule:
    data = DigitsDataModule(lambda _: source, None, 64, 500, 1, split_seed=0, seed=0, **options)
    data.setup()
    return data


LOTS = {
    "train": ([1, 2, 0, 3, 2, 4, 5, 2, 0, 6, 7], [0, 1, 0, 1, 1, 0, 1, 0, 9, -1, 0]),
    "val": ([8, 5], [0, 1]),
    "test": ([9, 4, 9], [0, 1, 1]),
}


def test_each_finding_by_its_index():
    data = prepared(Planted(**LOTS), clean=True)
    found = data.prepared.findings()
    assert found == {
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
    assert data.facts()["clean"] == {"removed": 7, **found["counts"]}
    assert in_words(found) == (
        "7 of 11 training images removed: 2 labels out of range, 1 blank, 2 leaked, 2 duplicates; "
        "3 images under several labels"
    )


@pytest.mark.parametrize(
    ("lots", "clean", "told"),
    [
        (LOTS, False, r"labels of train are out of range 0 to 1, at 8, 9 \(2 images\); data.clean"),
        ({**LOTS, "test": ([9, 1], [0, 2])}, True, r"labels of test are out of range 0 to 1, at 1"),
    ],
)
def test_labels_out_of_range_are_not_trained_on(lots, clean, told):
    with pytest.raises(DataError, match=told):
        prepared(Planted(**lots), clean=clean)


def test_a_class_that_cleaning_uses_up():
    lots = {"train": ([1, 2, 0, 0], [0, 0, 1, 1]), "val": ([3], [0]), "test": ([4], [1])}
    with pytest.raises(DataError, match="no training image is left of class b"):
        prepared(Planted(**lots), clean=True)


def test_the_digits_that_ship_are_clean():
    data = DigitsDataModule(Mini, None, 64, 500, 1000, split_seed=0, seed=0, clean=True)
    data.setup()
    assert data.facts()["clean"]["removed"] == 0
    assert data.split_digest == "3e19f00c6f017a3102067f70248cc4046182de6b83d4fd50c8d503688067915b"


def test_leaks_planted_in_a_run(composed, tmp_path, caplog):
    """Two test images and a blank one in place of training images; a label that is another's."""
    caplog.set_level("INFO")
    official = Mini().load()
    images, labels = official.train.images[:800].clone(), official.train.labels[:800].clone()
    images[5], images[6] = official.test.images[3], official.test.images[4]
    images[7] = 0
    images[9] = images[8]
    parts = (images, labels, official.test.images[:100], official.test.labels[:100])
    (tmp_path / "digits").mkdir()
    for file, part in zip(MNIST.files, parts, strict=True):
        raw = idx.encode(part.squeeze(1).numpy() if part.dim() == 4 else part.numpy())
        (tmp_path / "digits" / f"{file.name}.gz").write_bytes(gzip.compress(raw, 1))
    root = f"data.root={tmp_path / 'digits'}"
    words = ["data.clean=true", "data.suspect_folds=2", "data.val_size=10", "trainer=debug"]
    train(composed("data=mini", root, *words))
    found = json.loads((tmp_path / "run" / "cleaning.json").read_text())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["leaked"] == [
        {"index": 5, "split": "test", "of": 3},
        {"index": 6, "split": "test", "of": 4},
    ]
    assert found["blank"] == [7] and found["duplicates"] == [{"index": 9, "of": 8}]
    assert result["data"]["clean"]["removed"] == found["removed"] == 4
    assert result["data"]["counts"] == {"train": 786, "val": 10, "test": 100}
    assert "cleaned     4 of 790 training images removed: 1 blank, 2 leaked" in caplog.text
    assert f"suspects    {len(found['suspects'])} doubtful labels" in caplog.text


def test_no_cleaning_no_file(composed, tmp_path):
    train(composed("data=mini", "trainer=debug"))
    assert not (tmp_path / "run" / "cleaning.json").exists()


def test_the_rule_of_confident_learning():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    p = torch.tensor([0.9, 0.8, 0.1, 0.4, 0.7, 0.05])  # of class 0
    # mean self-confidence: 0.6 of class 0; (0.6 + 0.3 + 0.95) / 3 = 0.617 of class 1
    assert doubted(torch.stack([p, 1 - p], 1), labels) == [(2, 1), (4, 0)]


def test_wrong_labels_are_suspected_and_listed_only():
    official = Mini().load().train
    data = ImageDataset(official.images[:1500], official.labels[:1500].clone())
    wrong = torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:30]
    true = data.labels[wrong].tolist()
    data.labels[wrong] = (data.labels[wrong] + 3) % 10
    planted = dict(zip((wrong + 7).tolist(), true, strict=True))
    classes = [f"the {digit}" for digit in range(10)]
    before = torch.get_rng_state()
    found = suspects(data, torch.arange(1500) + 7, classes, folds=3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert found == suspects(data, torch.arange(1500) + 7, classes, folds=3, seed=0)
    confidence = [suspect["confidence"] for suspect in found]
    assert confidence == sorted(confidence, reverse=True)
    caught = [suspect for suspect in found if suspect["index"] in planted]
    assert len(caught) >= 22 and len(found) < 100  # 25 of 67
    right = [suspect["suggested"] == classes[planted[suspect["index"]]] for suspect in caught]
    assert sum(right) >= 20
