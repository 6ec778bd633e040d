"""Splits that keep every class's share, chosen by a seed of their own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenet_pl.data.mnist import ImageDataset, RawDataset
from lenet_pl.errors import DataError


def stratified_split(labels: Tensor, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Set images aside, in parts of the given sizes, so that each class keeps its share.

    For each part in turn, the classes' quotas of what is left are rounded by largest remainder,
    so their sum is exactly its size.

    Args:
        labels: int64 [N].
        sizes: how many images to set aside for each part, fewer than N in all.
        seed: chooses which.

    Returns:
        The indices that stay, then those of each part, int64, each sorted.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    left = [order[shuffled == label] for label in np.unique(shuffled)]
    parts = []
    for size in sizes:
        counts = np.array([len(images) for images in left])
        numbers = largest_remainder(size, counts)
        parts.append([images[:n] for images, n in zip(left, numbers, strict=True)])
        left = [images[n:] for images, n in zip(left, numbers, strict=True)]
    return tuple(torch.from_numpy(np.sort(np.concatenate(part))) for part in (left, *parts))


def largest_remainder(total: int, weights: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to the weights, whose sum is exactly the total."""
    quotas = weights * total / weights.sum()
    numbers = np.floor(quotas).astype(int)
    by_remainder = np.argsort(numbers - quotas, kind="stable")
    numbers[by_remainder[: total - numbers.sum()]] += 1
    return numbers


def share(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A stratified share of some images; a smaller one is part of every larger one.

    The first image of each class comes first, then each class is drawn from at its own rate.

    Args:
        labels: int64 [N].
        fraction: above 0, up to 1; of N, rounded.
        seed: chooses which.

    Returns:
        Sorted indices, int64.

    Raises:
        DataError: if there would be fewer images than classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    rank = np.empty(len(order))
    names, counts = np.unique(shuffled, return_counts=True)
    for name, count in zip(names, counts, strict=True):
        rank[shuffled == name] = np.arange(count) / count
    size = round(fraction * len(order))
    if size < len(names):
        raise DataError(
            f"data.fraction={fraction}: leaves {size} training images for {len(names)} classes; "
            f"give more than {len(names) / len(order):.2g}"
        )
    return torch.from_numpy(np.sort(order[np.argsort(rank, kind="stable")][:size]))


@dataclass(frozen=True)
class Part:
    """Some images of a lot.

    Args:
        lot: the images to choose from.
        index: which, int64, sorted.
        names: the file of each image of the lot, where they have names.
    """

    lot: ImageDataset
    index: Tensor
    names: Sequence[str] = ()

    def only(self, positions: Tensor) -> "Part":
        """Those at the given positions of this part."""
        return Part(self.lot, self.index[positions], self.names)

    def take(self) -> ImageDataset:
        """The images themselves; without a copy where they are the whole lot."""
        if len(self.index) == len(self.lot):
            return self.lot
        return ImageDataset(*self.lot.__getitems__(self.index))


def divide(
    official: RawDataset, val_size: float, ratios: Sequence[float] | None, seed: int
) -> dict[str, Part]:
    """Training, validation and test images.

    Training images whose label is no class are in none of them.

    Args:
        official: as the makers split it.
        val_size: images to set aside of the training images, a number or a share; not needed
            where the makers have done that.
        ratios: of train, validation and test, to which all images are pooled and split anew, in
            the order of the makers' train, validation and test; None keeps the makers' test set.
        seed: chooses which images go where.

    Raises:
        DataError: for sizes that leave nothing on one side.
    """
    lots = official.splits()
    if ratios is not None:
        lot = ImageDataset(
            torch.cat([lot.images for lot in lots.values()]),
            torch.cat([lot.labels for lot in lots.values()]),
        )
        names = [file for name in lots for file in official.names.get(name, ())]
        usable = in_range(lot.labels, len(official.classes))
        sizes = largest_remainder(len(usable), np.array(ratios, dtype=float))
        if not sizes.all():
            raise DataError(
                f"data.split={_colons(ratios)}: gives {_colons(sizes.tolist())} of {len(usable):,} "
                "images; each part needs at least one"
            )
        parts = stratified_split(lot.labels[usable], sizes[1:].tolist(), seed)
        return {
            name: Part(lot, usable[part], names)
            for name, part in zip(("train", "val", "test"), parts, strict=True)
        }
    whole = {
        name: Part(lot, torch.arange(len(lot)), official.names.get(name, ()))
        for name, lot in lots.items()
    }
    train = whole["train"].only(in_range(official.train.labels, len(official.classes)))
    if "val" in whole:
        return whole | {"train": train}
    size = _number(val_size, len(train.index))
    stays, aside = stratified_split(train.lot.labels[train.index], [size], seed)
    return {"train": train.only(stays), "val": train.only(aside), "test": whole["test"]}


def in_range(labels: Tensor, classes: int) -> Tensor:
    """The indices of the labels from 0 to below ``classes``."""
    return ((labels >= 0) & (labels < classes)).nonzero().flatten()


def _number(val_size: float, total: int) -> int:
    size = int(val_size) if val_size >= 1 or val_size <= 0 else round(val_size * total)
    if not 0 < size < total:
        raise DataError(
            f"data.val_size={val_size}: of {total:,} training images "
            f"1 to {total - 1:,} can be set aside"
        )
    return size


def _colons(numbers: Sequence[float]) -> str:
    return ":".join(f"{number:g}" for number in numbers)


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of some tensors, in order, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()
