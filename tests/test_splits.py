"""Splits by ratio, shares for learning curves, and what pixels are scaled to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import FAST

from lenet_pl.config import check
from lenet_pl.console import end_summary
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.mnist import Mini
from lenet_pl.data.split import largest_remainder, share, stratified_split
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.training import train


def mini(**options) -> DigitsDataModule:
    options = {"val_size": 1000, "split_seed": 0, **options}
    data = DigitsDataModule(Mini, None, 64, 500, seed=0, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_parts_are_exact_stratified_disjoint_and_seeded():
    labels = torch.tensor([0] * 33 + [1] * 47 + [2] * 23)
    parts = stratified_split(labels, [21, 10], seed=3)
    assert [len(part) for part in parts] == [72, 21, 10]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(103))
    for part in parts:
        ideal = torch.bincount(labels) * len(part) / 103
        assert (torch.bincount(labels[part]) - ideal).abs().max() < 1.5
        assert torch.equal(part, part.sort().values)
    again, other = (stratified_split(labels, [21, 10], seed)[2] for seed in (3, 4))
    assert torch.equal(parts[2], again) and not torch.equal(parts[2], other)


@pytest.mark.parametrize(
    ("total", "ratios", "sizes"),
    [
        (70_000, [7, 2, 1], [49_000, 14_000, 7_000]),
        (70_000, [0.7, 0.2, 0.1], [49_000, 14_000, 7_000]),
        (103, [7, 2, 1], [72, 21, 10]),  # 72.1, 20.6, 10.3
        (10, [1, 1, 1], [4, 3, 3]),
    ],
)
def test_sizes_by_largest_remainder(total, ratios, sizes):
    assert largest_remainder(total, np.array(ratios)).tolist() == sizes


@pytest.mark.parametrize("ratios", [[7, 2, 1], [0.7, 0.2, 0.1]])
def test_all_images_pooled(ratios):
    data, official = mini(split=ratios), Mini().load()
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 4900,
        "val": 1400,
        "test": 700,
    }
    images = torch.cat([official.train.images, official.test.images])
    labels = torch.cat([official.train.labels, official.test.labels])
    assert torch.equal(torch.cat([*data.indices.values()]).sort().values, torch.arange(7000))
    for name, split in data.splits.items():
        assert torch.equal(images[data.indices[name]], split.images)
        assert torch.equal(labels[data.indices[name]], split.labels)
        assert len(set(torch.bincount(split.labels).tolist())) == 1
    facts = data.facts()
    assert (facts["pooled"], facts["split"]) == (True, ratios)
    assert facts["digest"] == mini().digest
    assert facts["split_digest"] != mini(split=ratios, split_seed=1).split_digest
    assert (mini().facts()["pooled"], mini().facts()["split"]) == (False, None)


def test_a_pooled_run_says_so(composed, tmp_path, caplog):
    caplog.set_level("INFO")
    words = ["data.split=[7,2,1]", "data.fraction=0.5", "data.normalise=scale"]
    train(composed("data=mini", "trainer=debug", *words))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["pooled"] is True and result["data"]["split"] == [7, 2, 1]
    assert result["data"]["counts"] == {"train": 2450, "val": 1400, "test": 700}
    assert (result["data"]["mean"], result["data"]["std"]) == (0.0, 1.0)
    assert "split       7 : 2 : 1 of all images" in caplog.text
    assert "pooled      with the official test set" in caplog.text
    assert "reduced     to 0.5 of the training images" in caplog.text
    scores = {"val/acc": 0.9, "val/loss": 0.1}
    result |= {"best_epoch": 1, "metrics": scores}
    told = [str(line) for line in end_summary(result, Path("run")).renderables]
    assert any(line.startswith("pooled") for line in told)
    result["data"]["pooled"] = False
    told = [str(line) for line in end_summary(result, Path("run")).renderables]
    assert not any(line.startswith("pooled") for line in told)


def test_a_smaller_share_is_part_of_a_larger_one():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 97 + [3] * 3)[torch.randperm(1000)]
    smaller = set()
    for fraction in (0.004, 0.01, 0.1, 0.25, 0.5, 0.999, 1.0):
        chosen = share(labels, fraction, seed=0)
        assert len(chosen) == len(set(chosen.tolist())) == round(fraction * 1000)
        counts = torch.bincount(labels[chosen], minlength=4)
        assert counts.min() >= 1
        assert (counts - torch.bincount(labels) * fraction).abs().max() <= 3
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())
    with pytest.raises(DataError, match=r"data.fraction=0.003: leaves 3 training images for 4 cl"):
        share(labels, 0.003, seed=0)


def test_a_fraction_is_taken_of_training_only():
    whole, some = mini(), mini(fraction=0.1)
    assert torch.bincount(some.splits["train"].labels).tolist() == [50] * 10
    assert set(some.indices["train"].tolist()) < set(whole.indices["train"].tolist())
    for name in ("val", "test"):
        assert torch.equal(some.splits[name].images, whole.splits[name].images)
    assert some.facts()["fraction"] == 0.1 and some.split_digest != whole.split_digest
    assert some.mean == pytest.approx(some.splits["train"].images.double().mean().item() / 255)


def test_validation_as_a_share():
    assert mini(val_size=1 / 6).split_digest == mini(val_size=1000).split_digest


@pytest.mark.parametrize(
    ("word", "low", "high"), [("standardise", None, None), ("scale", 0, 1), ("none", 0, 255)]
)
def test_what_pixels_become(composed, word, low, high):
    from lenet_pl.training import build

    parts = build(composed("data=mini", f"data.normalise={word}"))
    seen = []
    parts.classifier.net = torch.nn.Module()
    parts.classifier.net.forward = lambda pixels: seen.append(pixels)
    parts.classifier(parts.data.splits["train"].images)
    if low is None:
        assert seen[0].double().mean().item() == pytest.approx(0, abs=1e-6)
        assert seen[0].double().std().item() == pytest.approx(1, abs=1e-6)
    else:
        assert (seen[0].min(), seen[0].max()) == (low, pytest.approx(high))
    assert parts.data.facts()["normalise"] == parts.data.state_dict()["normalise"] == word


@pytest.mark.parametrize(
    ("override", "told"),
    [
        *(
            (f"data.split={value}", "null or three numbers above 0")
            for value in ("[7,2]", "[7,0,3]", "[7,-2,1]", "[7,2,1,1]", "7", "[a,b,c]", "{a: 1}")
        ),
        *((f"data.fraction={value}", "a number above 0, up to 1") for value in (0, 1.5, -1, "x")),
        ("data.normalise=standardize", "one of standardise, scale, none"),
        ("data.clean=maybe", "one of true, false"),
        ("data.clean=1", "one of true, false"),
        ("data.suspect_folds=1", "0, or a whole number from 2 to 20"),
        ("data.val_size=0", "a whole number from 1 on, or a share between 0 and 1"),
        ("data.val_size=1.5", "a whole number from 1 on, or a share between 0 and 1"),
    ],
)
def test_values_that_cannot_work(composed, override, told):
    with pytest.raises(ConfigError) as caught:
        check(composed("data=mini", override))
    key = override.partition("=")[0]
    assert str(caught.value).startswith(f"{key}=") and told in str(caught.value)


def test_ratios_that_leave_nothing(composed):
    with pytest.raises(DataError, match=r"data.split=99999:1:1: gives 7,?000:0:0 of 7,000 images"):
        mini(split=[99_999, 1, 1])


def test_a_run_goes_on_with_its_own_pixels_only(composed, tmp_path):
    from lenet_pl.training import build

    short = ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "test=false", "logger=none"]
    train(composed(*FAST, *short))
    goes_on = [*FAST, f"ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}"]
    build(composed(*goes_on))
    for word in ("data.normalise=scale", "data.split=[7,2,1]", "data.fraction=0.5"):
        with pytest.raises(ConfigError, match="was trained on other images"):
            build(composed(*goes_on, word))
