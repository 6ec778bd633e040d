"""The images of one run: split, cleaned, reduced, measured."""

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenet_pl.data import cleaning as clean
from lenet_pl.data.mnist import RawDataset
from lenet_pl.data.split import digest, divide, share
from lenet_pl.data.suspects import suspects
from lenet_pl.errors import DataError

BY_RATIO = (7, 2, 1)  # train, validation and test, where the makers did not split
SHOWN = 10  # names of broken pictures on the console
# mean and standard deviation to standardise with, of pixels scaled to [0, 1]
FIXED = {"scale": (0.0, 1.0), "none": (0.0, 1 / 255)}


class Options(NamedTuple):
    """How to prepare the images; the data module says what each means."""

    val_size: float
    split_seed: int
    split: list[float] | None
    fraction: float
    normalise: str
    clean: bool
    suspect_folds: int
    on_error: str


class Prepared:
    """Splits, and all that is known of them.

    Args:
        official: the images as their makers split them.
        options: how to prepare them.

    Attributes:
        splits, indices, names, mean, std: as the data module has them.
        classes, origin, broken: as the source gave them.
        ratios: of train, validation and test; None where the official test set is kept.
        pooled: whether official training and test images were mixed.
        found: what cleaning found; None where it did not look.

    Raises:
        DataError: for what does not add up.
    """

    def __init__(self, official: RawDataset, options: Options) -> None:
        self.official, self.options = official, options
        self.classes, self.origin = official.classes, official.origin
        self.broken = dict(official.broken)
        if self.broken and options.on_error == "stop":
            name, reason = next(iter(self.broken.items()))
            raise DataError(
                f"data.on_error=stop: {len(self.broken):,} pictures cannot be read, the first "
                f"is {name} ({reason}); data.on_error=skip goes on without them"
            )
        outside = clean.check_labels(official, options.clean)
        made = len(official.test) > 0
        self.ratios = options.split or (None if made else list(BY_RATIO))
        self.pooled = made and self.ratios is not None

        parts = divide(official, options.val_size, self.ratios, options.split_seed)
        self.found: clean.Findings | None = None
        if options.clean:
            self.found, stays = clean.inspect(parts, official.classes, outside)
            parts["train"] = parts["train"].only(stays)
        if options.fraction < 1:
            labels = parts["train"].take().labels
            parts["train"] = parts["train"].only(
                share(labels, options.fraction, options.split_seed)
            )

        self.splits = {name: part.take() for name, part in parts.items()}
        self.indices = {name: part.index for name, part in parts.items()}
        self.names = {
            name: [part.names[i] for i in part.index] for name, part in parts.items() if part.names
        }
        self._files = {name: part.names for name, part in parts.items() if part.names}
        lots = official.splits().values()
        self.digest = digest(*(tensor for lot in lots for tensor in vars(lot).values()))
        chosen = ("train", "val", "test") if self.ratios else ("train", "val")
        self.split_digest = digest(*(self.indices[name] for name in chosen))
        train = self.splits["train"]
        self._check_classes(train.labels)
        fixed = FIXED.get(options.normalise)
        self.mean, self.std = fixed or moments(train.images)

    def _check_classes(self, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        none = [name for name, n in zip(self.classes, counts, strict=True) if not n]
        if none:
            raise DataError(
                f"data: no training image is left of class {', '.join(none)}; it needs more "
                "images, or a split and a fraction that leave it some"
            )

    @cached_property
    def suspects(self) -> list[dict[str, Any]]:
        """Training images whose label is doubtful; looked for when first asked for."""
        classes, options = self.classes, self.options
        train, index = self.splits["train"], self.indices["train"]
        return suspects(train, index, classes, options.suspect_folds, options.split_seed)

    def findings(self) -> dict[str, Any] | None:
        """What is wrong with the images, in plain types; None where nothing was looked for.

        Images are named by their index; ``files`` has the files of those mentioned.
        """
        found = dict(self.found or {})
        if self.options.suspect_folds:
            found["suspects"] = self.suspects
        if found and self._files:
            found["files"] = {
                split: {str(i): self._files[split][i] for i in sorted(indices)}
                for split, indices in clean.mentioned(found).items()
            }
        return found or None

    def notes(self) -> list[str]:
        """What a person should know of these images: a line for each thing that is unusual."""
        options, broken = self.options, list(self.broken.items())
        lines = []
        if self.ratios:
            ratios = " : ".join(f"{ratio:g}" for ratio in self.ratios)
            lines.append(f"split       {ratios} of all images")
        if self.pooled:
            lines.append("pooled      with the official test set: compare with no published figure")
        if self.found:
            lines.append(f"cleaned     {clean.in_words(self.found)}")
        if options.suspect_folds:
            lines.append(f"suspects    {len(self.suspects):,} doubtful labels, in cleaning.json")
        if options.fraction < 1:
            lines.append(f"reduced     to {options.fraction:.4g} of the training images")
        lines += [f"left out    {name}: {reason}" for name, reason in broken[:SHOWN]]
        if len(broken) > SHOWN:
            lines.append(f"            and {len(broken) - SHOWN:,} more, all in result.json")
        return lines

    def facts(self) -> dict[str, Any]:
        """What identifies the data of a run, in plain types."""
        found = self.found
        return {
            "source": self.origin,
            "digest": self.digest,
            "split_digest": self.split_digest,
            "counts": {name: len(split) for name, split in self.splits.items()},
            "mean": self.mean,
            "std": self.std,
            "normalise": self.options.normalise,
            "classes": list(self.classes),
            "pooled": self.pooled,
            "split": self.ratios,
            "fraction": self.options.fraction,
            "clean": {"removed": found["removed"], **found["counts"]} if found else None,
            "broken": list(self.broken),
        }


_last: list[Prepared] = []  # one at most


def prepare(official: RawDataset, options: Options) -> Prepared:
    """As :class:`Prepared`; jobs of a sweep that share a process share the same images."""
    if not (_last and _last[0].options == options and same(_last[0].official, official)):
        _last[:] = [Prepared(official, options)]
    return _last[0]


def same(one: RawDataset, other: RawDataset) -> bool:
    """Whether these are the same images and labels, named alike."""
    ours, theirs = one.splits(), other.splits()
    return (
        (one.classes, one.origin, one.names, one.broken)
        == (other.classes, other.origin, other.names, other.broken)
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[n].images, theirs[n].images) for n in ours)
        and all(torch.equal(ours[n].labels, theirs[n].labels) for n in ours)
    )


def moments(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of pixels scaled to [0, 1], exact in double precision.

    Args:
        images: uint8, any shape.
    """
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.double) / 255
    mean = (counts @ values) / counts.sum()
    variance = (counts @ (values - mean) ** 2) / counts.sum()
    return mean.item(), variance.sqrt().item()
