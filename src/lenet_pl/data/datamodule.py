"""The data of a run: loaded, split and held in memory, and served in batches."""

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lenet_pl.data import cleaning
from lenet_pl.data.loader import Augmentation, BatchLoader, BatchSampler, ImageDataset
from lenet_pl.data.source import DescribedSource, RawDataset, Source
from lenet_pl.data.split import Subset, digest, split_dataset, stratified_fraction
from lenet_pl.errors import DataError

RATIOS = [7, 2, 1]  # of train, validation and test where there is no official test split
LISTED = 10  # files named on the console
MOMENTS = {"scale": (0.0, 1.0), "none": (0.0, 1 / 255)}  # mean and std that are not measured


@dataclass(frozen=True)
class DataSplits:
    """The result of loading and splitting, which several data modules may share."""

    splits: Mapping[str, Subset]
    facts: dict[str, Any]  # for result.json
    broken: Mapping[str, str]  # by file, why an image could not be read
    report: dict[str, Any]  # of cleaning.inspect; empty if it was not called
    folds: tuple[int, int]  # their number and seed, to find label issues by cross-validation

    @cached_property
    def label_issues(self) -> list[dict[str, Any]]:
        """Suspect labels of the training split, found when they are first needed."""
        return cleaning.find_label_issues(self.splits["train"], self.facts["classes"], *self.folds)


class DigitsDataModule(LightningDataModule):
    """Train, validation and test images as tensors on the training device.

    A batch is a pair of images ``uint8 [B, C, H, W]`` and labels ``int64 [B]``; augmented images
    are float in [0, 1]. The classifier normalises them with :attr:`mean` and :attr:`std`.

    The arguments are the keys of ``conf/data``, where they are explained, and a cache, which data
    modules of one process can share to load the same splits once; it holds one entry. (Hydra copies
    plain dicts, but not ``collections.UserDict``.)

    Attributes:
        splits: the images of ``train``, ``val`` and ``test``.
        indices: by split, the position of each image in its official file, or in all of them one
            after the other if they were pooled.
        files: by split, the file of each image, if images have files of their own.
        classes: class names, in the order of the labels.
        origin: where the files came from.
        digest, split_digest: SHA-256 of the official splits, and of the indices of this run.
        mean, std: of pixels scaled to [0, 1]; a list of a number per channel if there are several.
    """

    def __init__(
        self,
        source: Callable[[str | None], Source],  # called with root
        root: str | None,
        batch_size: int,
        eval_batch_size: int,
        val_size: float,
        split: Sequence[float] | None,
        split_seed: int,
        fraction: float,
        normalise: str,
        clean: bool,
        suspect_folds: int,
        augment: Mapping[str, Augmentation | None],  # by name, applied in order
        augment_until: float,
        seed: int,  # of shuffling and augmentation, together with the epoch
        on_error: str = "skip",  # a key of data=folder alone
        cache: MutableMapping[Any, DataSplits] | None = None,
    ) -> None:
        super().__init__()
        self.source = DescribedSource(source(root))
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.val_size, self.split_seed, self.fraction = val_size, split_seed, fraction
        self.ratios, self.normalise, self.clean = split, normalise, clean
        self.augment = {name: item for name, item in augment.items() if item is not None}
        self.augment_until, self.on_error, self.cache = augment_until, on_error, cache
        self.suspect_folds = suspect_folds
        options = (source, root, val_size, split, split_seed, fraction, normalise, clean)
        self.options = repr((*options, suspect_folds, on_error))  # that splits depend on
        self.splits: dict[str, Subset] = {}

    def prepare_data(self) -> None:
        """Make sure that the files are on disk; raises DataError if they cannot be."""
        if not self.splits and self._cached() is None:
            self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images, once; raises DataError if they cannot be used."""
        if self.splits:  # Lightning calls this for fit, validate and test
            return
        self._loaded = loaded = self._cached() or self._load()
        if self.cache is not None:
            self.cache.clear()
            self.cache[self._key()] = loaded
        self.splits = dict(loaded.splits)
        self.indices = {name: split.indices for name, split in self.splits.items()}
        self.files = {
            name: [split.files[i] for i in split.indices]
            for name, split in self.splits.items()
            if split.files
        }
        facts = loaded.facts
        self.classes, self.origin = tuple(facts["classes"]), facts["source"]
        self.digest, self.split_digest = facts["digest"], facts["split_digest"]
        self.mean, self.std = facts["mean"], facts["std"]

    def _key(self) -> Hashable:
        paths = filter(Path.exists, map(Path, self.source.paths()))
        files = [(path.absolute(), path.stat()) for path in paths]
        return self.options, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in files)

    def _cached(self) -> DataSplits | None:
        return None if self.cache is None else self.cache.get(self._key())

    def _load(self) -> DataSplits:
        """Load, check labels, split, clean, reduce and measure."""
        raw = self.source.load()
        if not isinstance(raw, RawDataset):
            raise DataError(f"data.source: load must return a RawDataset, not {type(raw).__name__}")
        if raw.broken and self.on_error == "stop":
            file, reason = next(iter(raw.broken.items()))
            raise DataError(
                f"data.on_error=stop: {len(raw.broken):,} images cannot be read, the first is "
                f"{file} ({reason}); data.on_error=skip leaves them out"
            )
        out_of_range = cleaning.check_labels(raw, self.clean)
        ratios = self.ratios or (None if len(raw.test) else RATIOS)
        splits = split_dataset(raw, self.val_size, ratios, self.split_seed)
        report: dict[str, Any] = {}
        if self.clean:
            report, keep = cleaning.inspect(splits, raw.classes, out_of_range)
            splits["train"] = splits["train"].select(keep)
        if self.fraction < 1:
            keep = stratified_fraction(splits["train"].labels, self.fraction, self.split_seed)
            splits["train"] = splits["train"].select(keep)

        train, classes = splits["train"], raw.classes
        counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
        if empty := [name for name, n in zip(classes, counts, strict=True) if not n]:
            raise DataError(
                f"data: no training image is left of class {', '.join(empty)}; it needs more "
                "images, or a split and a fraction that leave it some"
            )
        if fixed := MOMENTS.get(self.normalise):
            channels = train.images.shape[1]
            mean, std = (value if channels == 1 else [value] * channels for value in fixed)
        else:
            mean, std = moments(train.images)
        official = [tensor for split in raw.splits().values() for tensor in vars(split).values()]
        chosen = [splits[name].indices for name in ("train", "val", "test")[: 3 if ratios else 2]]
        facts = {
            "name": self.source.name,
            "source": raw.origin or self.source.name,
            "digest": digest(*official),
            "split_digest": digest(*chosen),
            "counts": {name: len(split) for name, split in splits.items()},
            "mean": mean,
            "std": std,
            "normalise": self.normalise,
            "classes": list(classes),
            "pooled": ratios is not None and len(raw.test) > 0,
            "split": ratios,
            "fraction": self.fraction,
            "clean": {"removed": report["removed"], **report["counts"]} if report else None,
            "broken": list(raw.broken),
            "ignored": list(raw.ignored),
        }
        return DataSplits(splits, facts, raw.broken, report, (self.suspect_folds, self.split_seed))

    def facts(self) -> dict[str, Any]:
        """What identifies the data and its splits, in plain types."""
        return deepcopy(self._loaded.facts)

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints, so that a run can only continue with the same data."""
        facts, train = self.facts(), self.splits["train"]
        state = {key: facts[key] for key in ("digest", "split_digest", "classes", "normalise")}
        counts = torch.bincount(train.labels, minlength=len(self.classes)).tolist()
        return state | {"shape": [*train.images.shape[1:]], "class_counts": counts}  # [C, H, W]

    def cleaning_report(self) -> dict[str, Any] | None:
        """The content of ``cleaning.json``, in plain types; None if nothing was inspected.

        Images are named by their index, and ``files`` has the file of each index.
        """
        report = dict(self._loaded.report)
        if self.suspect_folds:
            report["suspects"] = self._loaded.label_issues
        if report and self.files:
            report["files"] = cleaning.mentioned_files(report, self._loaded.splits)
        return report or None

    def notes(self) -> list[str]:
        """Lines for the console about everything unusual in the data."""
        loaded, facts, lines = self._loaded, self._loaded.facts, []
        if facts["split"]:
            ratios = " : ".join(f"{ratio:g}" for ratio in facts["split"])
            lines.append(f"split       {ratios} of all images")
        if facts["pooled"]:
            lines.append(
                "pooled      with the official test set: do not compare with published results"
            )
        if loaded.report:
            lines.append(f"cleaned     {cleaning.summary(loaded.report)}")
        if self.suspect_folds:
            lines.append(f"suspects    {len(loaded.label_issues):,} label issues, in cleaning.json")
        if self.fraction < 1:
            lines.append(f"reduced     to {self.fraction:.4g} of the training images")
        if ignored := facts["ignored"]:
            names = ", ".join(ignored[:3]) + ", …" * (len(ignored) > 3)
            lines.append(f"ignored     {len(ignored):,} files that are not images: {names}")
        broken = [f"left out    {file}: {reason}" for file, reason in loaded.broken.items()]
        if len(broken) > LISTED:
            broken[LISTED:] = [f"            and {len(broken) - LISTED:,} more, all in result.json"]
        return lines + broken

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test", self.eval_batch_size)

    def _loader(self, name: str, batch_size: int) -> BatchLoader:
        trainer: Any = self.trainer
        device: torch.device = trainer.strategy.root_device
        data: ImageDataset = self.splits[name]
        # on the device if the images take at most half of its free memory
        if device.type != "cuda" or data.images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            data = data.to(device)
        rank, processes = (trainer.global_rank, trainer.world_size) if name == "train" else (0, 1)
        # overfitting repeats the same batches of unchanged images in every epoch
        shuffled = name == "train" and not trainer.overfit_batches
        seed, augment = (self.seed, list(self.augment.values())) if shuffled else (None, [])
        batches = BatchSampler(len(data), batch_size, seed, rank, processes, data.images.device)
        until = round(self.augment_until * (trainer.max_epochs or 1))
        return BatchLoader(data, batches, augment, device, until)


def moments(images: Tensor) -> tuple[float | list[float], float | list[float]]:
    """Mean and standard deviation of uint8 pixels scaled to [0, 1], in double precision.

    Numbers for images ``[N, 1, H, W]``, else lists with one number per channel. The deviation of
    pixels that are all equal is returned as 1, since images are divided by it.
    """
    values = torch.arange(256, dtype=torch.double) / 255
    means, deviations = [], []
    for pixels in images.unbind(1):
        counts = torch.bincount(pixels.flatten(), minlength=256).double()
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        means.append(mean.item())
        deviations.append(variance.sqrt().item() or 1.0)
    return (means[0], deviations[0]) if len(means) == 1 else (means, deviations)
