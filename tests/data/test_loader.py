"""The order of an epoch, and batches of augmented images."""

import torch
from torch import Tensor

from lenet_pl.data.augment import Noise
from lenet_pl.data.loader import BatchLoader, BatchSampler, ImageDataset


def test_every_epoch_has_every_image_once_in_an_order_of_its_own():
    batches = BatchSampler(103, 10, seed=0)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        sizes = [len(batch) for batch in batches]
        assert sizes == [10] * 10 + [3]
        assert len(batches) == 11
        order = torch.cat(list(batches))
        assert sorted(order.tolist()) == list(range(103))
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 3
    again = BatchSampler(103, 10, seed=0)
    again.set_epoch(1)
    assert torch.cat(list(again)).tolist() == orders[1]
    # seed 1 in epoch 0 is not seed 0 in epoch 1
    other = BatchSampler(103, 10, seed=1)
    assert torch.cat(list(other)).tolist() != orders[1]


def test_without_a_seed_the_order_is_kept():
    assert torch.cat(list(BatchSampler(7, 3))).tolist() == list(range(7))


def test_processes_divide_an_epoch_equally():
    parts = [torch.cat(list(BatchSampler(103, 10, 0, rank, 2))).tolist() for rank in (0, 1)]
    assert [len(part) for part in parts] == [51, 51]
    assert set(parts[0]).isdisjoint(parts[1])
    assert len(BatchSampler(103, 10, 0, 0, 2)) == 6


def make_loader(
    shades: Tensor, epoch: int = 0, seed: int = 0, rank: int = 0, world_size: int = 1
) -> BatchLoader:
    """A thousand images of one shade each, with hardly any noise, labelled by their number."""
    images = shades.view(-1, 1, 1, 1).expand(1000, 1, 4, 4).to(torch.uint8)
    batches = BatchSampler(1000, 30, seed, rank, world_size)
    batches.set_epoch(epoch)
    data = ImageDataset(images, torch.arange(1000))
    return BatchLoader(data, batches, [Noise(0.001)], torch.device("cpu"), until=9)


def test_augmented_batches_are_those_without_augmentation():
    loader = make_loader(torch.arange(1000) % 256)
    batches = list(loader)
    assert len(batches) == len(loader) == 34
    assert [len(labels) for _, labels in batches] == [30] * 33 + [10]
    expected = torch.cat(list(BatchSampler(1000, 30, 0)))
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected)
    for images, labels in batches:
        assert images.dtype == torch.float32
        shades = images.mean((1, 2, 3)) * 255  # each image has its own label
        assert (shades - (labels % 256).float()).abs().max().item() < 1


def test_random_draws_depend_on_seed_epoch_and_process_only():
    grey = torch.tensor(128)  # so that two batches differ in their noise alone

    def first_batch(**options) -> Tensor:
        return next(iter(make_loader(grey, **options)))[0]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    expected = first_batch()
    iterator = iter(make_loader(grey))
    second = [next(iterator), next(iterator)][1][0]
    assert torch.equal(first_batch(), expected)
    assert torch.equal(torch.get_rng_state(), state)
    others = [
        second,
        first_batch(epoch=1),
        first_batch(seed=1),
        first_batch(rank=1, world_size=2),
    ]
    assert not any(torch.equal(other, expected) for other in others)
