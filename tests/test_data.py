"""Files, splits, batches."""

import hashlib

import numpy as np
import pytest
import torch
from helpers.data import assert_disjoint
from hydra.utils import instantiate

from lenet_pl.data import idx
from lenet_pl.data.batches import BatchSampler
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.mnist import MNIST, ImageDataset, Mini, RawDataset
from lenet_pl.data.prepared import moments
from lenet_pl.data.split import digest, divide, stratified_split
from lenet_pl.errors import DataError


@pytest.fixture(scope="module")
def mini() -> DigitsDataModule:
    data = DigitsDataModule(Mini, None, 64, 500, 1000, split_seed=0, seed=0)
    data.prepare_data()
    data.setup("fit")
    return data


def test_idx_of_known_bytes():
    assert idx.encode(np.array([[1, 2, 3]], np.uint8)) == bytes.fromhex(
        "00000802 00000001 00000003 010203"
    )
    decoded = idx.decode(bytearray.fromhex("00000802 00000001 00000003 010203"))
    assert decoded.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("raw", ["", "00000d01", "00000801 00000004 010203", "1f8b0800 00000000"])
def test_idx_refuses_what_is_none(raw):
    with pytest.raises(ValueError):
        idx.decode(bytearray.fromhex(raw))


def test_split_is_exact_stratified_disjoint_and_seeded():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    stays, aside = stratified_split(labels, [15], seed=3)
    assert len(stays) == 85 and len(aside) == 15
    assert torch.equal(torch.cat([stays, aside]).sort().values, torch.arange(100))
    # shares of 15: 10.5, 3, 1.5; the two halves go to the first of equal remainders
    assert torch.bincount(labels[aside]).tolist() == [11, 3, 1]
    assert torch.equal(stratified_split(labels, [15], seed=3)[1], aside)
    assert not torch.equal(stratified_split(labels, [15], seed=4)[1], aside)


def of_one_class(size: int) -> RawDataset:
    images = torch.zeros(size, 1, 28, 28, dtype=torch.uint8)
    lot = ImageDataset(images, torch.zeros(size, dtype=torch.long))
    return RawDataset(lot, lot, ("0",), "here")


@pytest.mark.parametrize("size", [0, -1, 100, 101])
def test_split_that_does_not_add_up(size):
    with pytest.raises(DataError, match=rf"data.val_size={size}: .* 1 to 99 "):
        divide(of_one_class(100), size, None, seed=0)


def test_the_default_split_of_mini_stays_what_it_is(mini):
    assert {name: len(split) for name, split in mini.splits.items()} == {
        "train": 5000,
        "val": 1000,
        "test": 1000,
    }
    for split in mini.splits.values():
        assert split.images.dtype == torch.uint8 and split.images.shape[1:] == (1, 28, 28)
        assert len(set(torch.bincount(split.labels).tolist())) == 1  # every digit as often
    assert mini.split_digest == "3e19f00c6f017a3102067f70248cc4046182de6b83d4fd50c8d503688067915b"
    assert mini.digest == "3928c957932bda522d87163f1f49249bcd1348ab9d62eeee5fbaa9d58adc3ca8"


def test_validation_and_test_images_never_meet_training(mini):
    assert_disjoint(mini)


def test_setup_twice_changes_nothing(mini):
    before = mini.splits["train"].images
    mini.setup("test")
    assert mini.splits["train"].images is before


def test_moments_are_those_of_the_training_split(mini):
    pixels = mini.splits["train"].images.numpy().astype(np.float64) / 255
    assert mini.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert mini.std == pytest.approx(pixels.std(), rel=1e-12)
    assert moments(torch.tensor([0, 255], dtype=torch.uint8)) == (0.5, 0.5)


def test_every_epoch_has_every_image_once_in_its_own_order():
    batches = BatchSampler(103, 10, seed=0)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        sizes = [len(batch) for batch in batches]
        assert sizes == [10] * 10 + [3] and len(batches) == 11
        order = torch.cat(list(batches))
        assert sorted(order.tolist()) == list(range(103))
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 3
    again = BatchSampler(103, 10, seed=0)
    again.set_epoch(1)
    assert torch.cat(list(again)).tolist() == orders[1]
    # seed and epoch do not add up to the same thing
    other = BatchSampler(103, 10, seed=1)
    assert torch.cat(list(other)).tolist() != orders[1]


def test_without_a_seed_the_order_is_the_file_s():
    assert torch.cat(list(BatchSampler(7, 3))).tolist() == list(range(7))


def test_processes_share_an_epoch_equally():
    shares = [torch.cat(list(BatchSampler(103, 10, 0, rank, 2))).tolist() for rank in (0, 1)]
    assert [len(share) for share in shares] == [51, 51]
    assert set(shares[0]).isdisjoint(shares[1])
    assert len(BatchSampler(103, 10, 0, 0, 2)) == 6


def test_the_digits_that_ship_name_their_source():
    assert Mini().prepare() == "shipped with lenet-pl"
    assert MNIST.classes == Mini.classes == tuple("0123456789")


def test_mini_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"data.root=.*train-images-idx3-ubyte.gz.* not there"):
        Mini(str(tmp_path)).prepare()


def test_digest_knows_order_and_place():
    a, b = torch.tensor([1, 2]), torch.tensor([3])
    assert digest(a, b) != digest(b, a)
    assert digest(a) == hashlib.sha256(a.numpy().tobytes()).hexdigest()


def test_jobs_in_one_process_share_what_was_prepared(composed):
    def read(*words):
        data = instantiate(composed("data=mini", *words).data, _convert_="all")
        data.setup("fit")
        return data

    first = read("data.batch_size=32")
    assert read("data.batch_size=64").prepared is first.prepared
    assert read("data.split_seed=1").prepared is not first.prepared
