"""Stratified splits and subsets, chosen by a seed of their own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.source import RawDataset
from lenet_pl.errors import DataError


def stratified_split(labels: Tensor, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Hold out disjoint sets of images, with the classes in proportion.

    For each set in turn, the class counts of the remaining images are scaled to its size and
    rounded by largest remainder, so that their sum is exact. Returns the indices of the remaining
    images, then those of each set; int64, sorted.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    remaining = [order[shuffled == label] for label in np.unique(shuffled)]
    held_out = []
    for size in sizes:
        counts = largest_remainder(size, np.array([len(indices) for indices in remaining]))
        held_out.append([indices[:n] for indices, n in zip(remaining, counts, strict=True)])
        remaining = [indices[n:] for indices, n in zip(remaining, counts, strict=True)]
    sets = (remaining, *held_out)
    return tuple(torch.from_numpy(np.sort(np.concatenate(indices))) for indices in sets)


def largest_remainder(total: int, weights: np.ndarray) -> np.ndarray:
    """Integers in proportion to the weights that sum to exactly the total."""
    quotas = weights * total / weights.sum()
    counts: np.ndarray = np.floor(quotas).astype(int)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def stratified_fraction(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """The sorted indices of a fraction of the images, with the classes in proportion.

    A smaller fraction is a subset of every larger one: the images are ranked, one of each class
    first, then each class at its own rate. Raises DataError if it has fewer images than classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    rank = np.empty(len(order))
    classes, counts = np.unique(shuffled, return_counts=True)
    for label, count in zip(classes, counts, strict=True):
        rank[shuffled == label] = np.arange(count) / count
    size = round(fraction * len(order))
    if size < len(classes):
        raise DataError(
            f"data.fraction={fraction}: leaves {size} training images for {len(classes)} classes; "
            f"give more than {len(classes) / len(order):.2g}"
        )
    return torch.from_numpy(np.sort(order[np.argsort(rank, kind="stable")][:size]))


@dataclass(frozen=True)
class Subset(ImageDataset):
    """Some images of an official split, or of all of them one after the other."""

    indices: Tensor  # int64 [n], sorted positions in that split
    files: Sequence[str] = ()  # of all its images, if they have files of their own

    def select(self, positions: Tensor) -> "Subset":
        """The images at some sorted positions; not copied if these are all."""
        if len(positions) == len(self):
            return self
        return Subset(*self.__getitems__(positions), self.indices[positions], self.files)


def split_dataset(
    raw: RawDataset, val_size: float, ratios: Sequence[float] | None, seed: int
) -> dict[str, Subset]:
    """Make the subsets ``train``, ``val`` and ``test``, without labels outside the classes.

    Without an official validation split, ``val_size`` training images are held out (below 1, it
    is a fraction). With ``ratios``, the images of all official splits are pooled and split anew.
    Raises DataError if a split would be empty.
    """
    subsets = {
        name: Subset(split.images, split.labels, torch.arange(len(split)), raw.files.get(name, ()))
        for name, split in raw.splits().items()
    }
    if ratios is not None:
        images = torch.cat([split.images for split in subsets.values()])
        labels = torch.cat([split.labels for split in subsets.values()])
        files = [*chain(*(split.files for split in subsets.values()))]
        subsets = {"train": Subset(images, labels, torch.arange(len(labels)), files)}
    for name, split in subsets.items():
        valid = (split.labels >= 0) & (split.labels < len(raw.classes))
        subsets[name] = split.select(valid.nonzero().flatten())
    if "val" in subsets:
        return subsets
    train = subsets.pop("train")
    total = len(train)
    if ratios is None:
        size = int(val_size) if val_size >= 1 or val_size <= 0 else round(val_size * total)
        if not 0 < size < total:
            raise DataError(
                f"data.val_size={val_size}: of {total:,} training images 1 to {total - 1:,} can "
                "be held out"
            )
        sizes = [total - size, size]
    else:
        sizes = largest_remainder(total, np.array(ratios, dtype=float)).tolist()
        if not all(sizes):
            given, counts = (":".join(f"{n:g}" for n in numbers) for numbers in (ratios, sizes))
            raise DataError(
                f"data.split={given}: gives {counts} of {total:,} images; each split needs "
                "at least one"
            )
    parts = stratified_split(train.labels, sizes[1:], seed)
    chosen = zip(("train", "val", "test"), parts, strict=False)
    return {name: train.select(part) for name, part in chosen} | subsets


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of some tensors, in order, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()
