"""Splits that keep every class's share, chosen by a seed of their own."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from lenet_pl.data.errors import DataError


def stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Set ``size`` images aside so that each class keeps its share.

    The classes' quotas are rounded by largest remainder, so their sum is exactly ``size``.

    Args:
        labels: int64 [N].
        size: how many images to set aside, at least one and fewer than N.
        seed: chooses which.

    Returns:
        The indices that stay and those set aside, int64, each sorted.

    Raises:
        DataError: if nothing would be left on one side.
    """
    if not 0 < size < len(labels):
        raise DataError(
            f"data.val_size={size}: of {len(labels):,} training images "
            f"1 to {len(labels) - 1:,} can be set aside"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    classes, counts = np.unique(shuffled, return_counts=True)
    quotas = counts * size / len(labels)
    sizes = np.floor(quotas).astype(int)
    by_remainder = np.argsort(sizes - quotas, kind="stable")
    sizes[by_remainder[: size - sizes.sum()]] += 1
    aside = np.concatenate([order[shuffled == c][:n] for c, n in zip(classes, sizes, strict=True)])
    stays = np.setdiff1d(order, aside)
    return torch.from_numpy(stays), torch.from_numpy(np.sort(aside))


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of some tensors, in order, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()
