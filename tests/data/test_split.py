"""Stratified splits and fractions: exact sizes, classes in proportion, chosen by a seed."""

import hashlib

import numpy as np
import pytest
import torch

from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.source import RawDataset
from lenet_pl.data.split import (
    digest,
    largest_remainder,
    split_dataset,
    stratified_fraction,
    stratified_split,
)
from lenet_pl.errors import DataError


def test_one_held_out_set_is_exact_stratified_disjoint_and_seeded():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    rest, held_out = stratified_split(labels, [15], seed=3)
    assert len(rest) == 85
    assert len(held_out) == 15
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(100))
    # quotas of 15: 10.5, 3, 1.5; of equal remainders the first ones are rounded up
    assert torch.bincount(labels[held_out]).tolist() == [11, 3, 1]
    assert torch.equal(stratified_split(labels, [15], seed=3)[1], held_out)
    assert not torch.equal(stratified_split(labels, [15], seed=4)[1], held_out)


def test_several_held_out_sets_are_exact_stratified_disjoint_and_seeded():
    labels = torch.tensor([0] * 33 + [1] * 47 + [2] * 23)
    sets = stratified_split(labels, [21, 10], seed=3)
    assert [len(indices) for indices in sets] == [72, 21, 10]
    assert torch.equal(torch.cat(sets).sort().values, torch.arange(103))
    for indices in sets:
        ideal = torch.bincount(labels) * len(indices) / 103
        assert (torch.bincount(labels[indices]) - ideal).abs().max() < 1.5
        assert torch.equal(indices, indices.sort().values)
    same, other = (stratified_split(labels, [21, 10], seed)[2] for seed in (3, 4))
    assert torch.equal(sets[2], same)
    assert not torch.equal(sets[2], other)


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


@pytest.mark.parametrize("size", [0, -1, 100, 101])
def test_validation_sizes_that_leave_nothing(size):
    images = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    data = ImageDataset(images, torch.zeros(100, dtype=torch.long))
    with pytest.raises(DataError, match=rf"data.val_size={size}: .* 1 to 99 "):
        split_dataset(RawDataset(data, data, ("0",), "test"), size, None, seed=0)


def test_a_smaller_fraction_is_a_subset_of_a_larger_one():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 97 + [3] * 3)[torch.randperm(1000)]
    smaller = set()
    for fraction in (0.004, 0.01, 0.1, 0.25, 0.5, 0.999, 1.0):
        chosen = stratified_fraction(labels, fraction, seed=0)
        assert len(chosen) == len(set(chosen.tolist())) == round(fraction * 1000)
        counts = torch.bincount(labels[chosen], minlength=4)
        assert counts.min() >= 1
        assert (counts - torch.bincount(labels) * fraction).abs().max() <= 3
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())
    with pytest.raises(DataError, match=r"data.fraction=0.003: leaves 3 training images for 4 cl"):
        stratified_fraction(labels, 0.003, seed=0)


def test_the_digest_depends_on_order_and_content():
    a, b = torch.tensor([1, 2]), torch.tensor([3])
    assert digest(a, b) != digest(b, a)
    assert digest(a) == hashlib.sha256(a.numpy().tobytes()).hexdigest()
