"""Training batches whose images are augmented."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from lenet_pl.data.batches import BatchSampler
from lenet_pl.data.mnist import ImageDataset

# images augmented at once: of a batch of 32 alone, half of the time goes into calls, not work;
# of many more, what is worked on leaves the cache
TOGETHER = 256


class AugmentedLoader(DataLoader):
    """Hands out images as float ``[B, C, H, W]`` in [0, 1], changed anew in each epoch.

    The draws depend on the seed, the epoch and the process, and on nothing that ran before:
    each iteration has a generator of its own, and no other is touched.

    Args:
        split: the images.
        batches: which of them make a batch; knows seed, epoch and process.
        augment: take images and a generator on their device, and return changed ones; in order.
        device: where the batches are wanted.
        until: the number of epochs after which the images come as they are, in the same form.
    """

    def __init__(
        self,
        split: ImageDataset,
        batches: BatchSampler,
        augment: Sequence[Callable[[Tensor, Generator], Tensor]],
        device: torch.device,
        until: int,
    ) -> None:
        super().__init__(split, batch_sampler=batches)  # type: ignore[arg-type]
        self.split, self.batches = split, batches
        self.augment, self.device, self.until = augment, device, until

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        batches, size = self.batches, self.batches.batch_size
        assert batches.seed is not None
        draws = seeded(self.device, batches.seed, batches.epoch, batches.rank)
        order = torch.cat(list(batches))
        changes = self.augment if batches.epoch < self.until else ()
        for index in order.split(max(1, TOGETHER // size) * size):
            images, labels = self.split.__getitems__(index)
            images, labels = images.to(self.device), labels.to(self.device)
            images = images.float().div_(255)
            for change in changes:
                images = change(images, draws)
            yield from zip(images.split(size), labels.split(size), strict=True)


def seeded(device: torch.device, *numbers: int) -> Generator:
    """A generator whose draws no other combination of numbers repeats."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return Generator(device).manual_seed(int(state[0]))
