"""Corrupted copies of images."""

import json

import torch

from lenet_pl.data.mnist import Mini
from lenet_pl.evaluation.robustness import CORRUPTIONS, corrupted_copies


def test_corruptions_are_reproducible():
    images = Mini().load().test.images
    first, second = (dict(corrupted_copies(images)) for _ in range(2))
    assert list(first) == list(CORRUPTIONS)
    for name, copies in first.items():
        assert torch.equal(copies, second[name])
        assert copies.dtype == torch.uint8
        assert copies.shape == images.shape
        assert not torch.equal(copies, images)
    shifted = first["shifted by 2 pixels"]
    offsets = [(2, 3), (-2, 3), (2, 2), (-2, 2)]  # few digits reach the outermost two pixels
    same = torch.stack([(images.roll(*o) == shifted).flatten(1).all(1) for o in offsets])
    assert same.any(0).double().mean() > 0.95
    assert same.sum(1).min() > 200


def test_stronger_corruptions_cost_more_accuracy(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run, "--robust", "--json")[1])
    accuracy = {row["images"]: row["accuracy"] for row in answer["robust"]}
    assert list(accuracy) == list(CORRUPTIONS)
    assert accuracy["rotated by 30°"] < accuracy["rotated by 15°"] < answer["accuracy"]
    assert accuracy["noise, σ 30 %"] < answer["accuracy"]
    assert "rotated by 15°" in lenet_pl("test", run, "--robust")[1]
