"""Images in memory, the order of an epoch, and batches of augmented images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

# images augmented at once: in a batch of 32 half of the time is call overhead, and much larger
# chunks leave the CPU's cache
CHUNK = 256

Augmentation = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of images ``uint8 [N, C, H, W]`` and labels ``int64 [N]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """A whole batch in one indexing operation."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def to(self, device: torch.device) -> "ImageDataset":
        return ImageDataset(self.images.to(device), self.labels.to(device))


@dataclass
class BatchSampler:
    """The batches of an epoch, each a tensor of indices."""

    size: int  # number of images
    batch_size: int  # the last batch may be smaller
    seed: int | None = None  # shuffles the images, together with the epoch; None keeps their order
    rank: int = 0  # of this process in distributed training; it gets every world_size-th image
    world_size: int = 1  # number of processes
    device: torch.device | str = "cpu"  # of the indices
    epoch: int = 0

    @property
    def sampler(self) -> "BatchSampler":
        """Itself: Lightning calls ``batch_sampler.sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        order = np.arange(self.size)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        equal = self.size // self.world_size * self.world_size  # the same number for each process
        order = order[self.rank : equal : self.world_size]
        yield from torch.from_numpy(order).to(self.device).split(self.batch_size)

    def __len__(self) -> int:
        return -(-(self.size // self.world_size) // self.batch_size)


class BatchLoader(DataLoader[tuple[Tensor, Tensor]]):
    """Yields batches of labelled images: unchanged as uint8, or augmented as float in [0, 1].

    The random numbers depend on the seed, the epoch and the process only: each iteration has its
    own generator, and no other is touched.
    """

    def __init__(
        self,
        images: ImageDataset,
        batches: BatchSampler,  # with a seed if images are augmented
        augment: Sequence[Augmentation],  # applied in order
        device: torch.device,  # of augmented batches
        until: int,  # epochs with augmentation; later ones yield the unchanged images as float
    ) -> None:
        super().__init__(images, batch_sampler=batches)  # type: ignore[arg-type]
        self.images, self.batches = images, batches
        self.augment, self.device, self.until = augment, device, until

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        if not self.augment:
            yield from map(self.images.__getitems__, self.batches)
            return
        batches, size = self.batches, self.batches.batch_size
        assert batches.seed is not None
        state = np.random.SeedSequence((batches.seed, batches.epoch, batches.rank))
        seed = int(state.generate_state(1, np.uint64)[0])
        generator = Generator(self.device).manual_seed(seed)
        augment = self.augment if batches.epoch < self.until else ()
        for indices in torch.cat(list(batches)).split(max(1, CHUNK // size) * size):
            images, labels = self.images.__getitems__(indices)
            images, labels = images.to(self.device), labels.to(self.device)
            images = images.float().div_(255)
            for augmentation in augment:
                images = augmentation(images, generator)
            yield from zip(images.split(size), labels.split(size), strict=True)
