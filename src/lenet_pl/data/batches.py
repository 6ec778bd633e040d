"""Which images make a batch, and in which order."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class BatchSampler:
    """The batches of an epoch, each a tensor of indices.

    Args:
        size: how many images there are.
        batch_size: how many make a batch; the last one takes what is left.
        seed: with the epoch's number, orders the images; None keeps their order.
        rank, world: this process's share in distributed training: every ``world``-th image
            from ``rank`` on, cut to the same number for all.
        device: where the indices are wanted.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world, self.device = rank, world, device
        self.epoch = 0

    @cached_property
    def sampler(self) -> "BatchSampler":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        order = np.arange(self.size)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        share = order[: self.size // self.world * self.world][self.rank :: self.world]
        yield from torch.from_numpy(share).to(self.device).split(self.batch_size)

    def __len__(self) -> int:
        return -(-(self.size // self.world) // self.batch_size)
