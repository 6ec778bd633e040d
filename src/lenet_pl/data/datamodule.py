"""The data of one run: split, measured, held in memory, handed out in whole batches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lenet_pl.data.batches import Batches
from lenet_pl.data.loader import AugmentedLoader
from lenet_pl.data.sources import Labelled, Source
from lenet_pl.data.split import digest, stratified


class DigitsDataModule(LightningDataModule):
    """Train, validation and test images as tensors on the training device.

    A batch is a pair of images ``uint8 [B, C, H, W]`` and labels ``int64 [B]``. Normalisation
    is the classifier's; :attr:`mean` and :attr:`std` are measured here, on the training split.

    Args:
        source: builds the data set's source from ``root``.
        root: the folder the data lies in.
        batch_size: training images per step (per device).
        eval_batch_size: images per batch in validation and test.
        val_size: images of the official training set kept for validation.
        split_seed: chooses which.
        augment: change the training images, by name, one after the other; they then come as
            float in [0, 1].
        seed: with the epoch's number, orders the training images.
    """

    def __init__(
        self,
        source: Callable[[str | None], Source],
        root: str | None,
        batch_size: int,
        eval_batch_size: int,
        val_size: int,
        split_seed: int,
        seed: int,
        augment: Mapping[str, Callable[..., Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.source = source(root)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.seed = seed
        self.augment = {name: part for name, part in (augment or {}).items() if part is not None}
        self.splits: dict[str, Labelled] = {}
        self.indices: dict[str, Tensor] = {}  # where each image stood in the official files

    def prepare_data(self) -> None:
        """Bring the files to the disk; raises DataError where they cannot be had."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Read and split, once; raises DataError for sizes that do not add up."""
        if self.splits:  # Lightning calls this for fit, validate and test
            return
        official = self.source.load()
        train, val = stratified(official.train.labels, self.val_size, self.split_seed)
        self.splits = {
            "train": Labelled(*official.train.__getitems__(train)),
            "val": Labelled(*official.train.__getitems__(val)),
            "test": official.test,
        }
        self.indices = {"train": train, "val": val, "test": torch.arange(len(official.test))}
        self.classes = official.classes
        self.origin = official.origin
        self.digest = digest(*vars(official.train).values(), *vars(official.test).values())
        self.split_digest = digest(train, val)
        self.mean, self.std = moments(self.splits["train"].images)

    def facts(self) -> dict[str, Any]:
        """What identifies the data of a run, in plain types."""
        return {
            "name": self.source.name,
            "source": self.origin,
            "digest": self.digest,
            "split_digest": self.split_digest,
            "counts": {name: len(split) for name, split in self.splits.items()},
            "mean": self.mean,
            "std": self.std,
        }

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints: a run goes on with the data it began with, or not at all."""
        return {
            "digest": self.digest,
            "split_digest": self.split_digest,
            "classes": list(self.classes),
        }

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        # what is to be overfitted must be the same batches in every epoch
        shuffled = not self.trainer.overfit_batches  # type: ignore[attr-defined]
        return self._loader("train", self.batch_size, self.seed if shuffled else None)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.eval_batch_size)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        if isinstance(batch, Tensor):  # the example image of Lightning's own model summary
            return batch.to(device)
        images, labels = batch
        return images.to(device), labels.to(device)  # no work where the data lies there already

    def _loader(self, name: str, batch_size: int, seed: int | None = None) -> DataLoader:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        split = self.splits[name]
        if fits(split.images, device):
            split = split.to(device)
        shares = (self.trainer.global_rank, self.trainer.world_size) if name == "train" else (0, 1)
        batches = Batches(len(split), batch_size, seed, *shares, device=split.images.device)
        # what is to be overfitted stays as it is
        if name == "train" and self.augment and seed is not None:
            return AugmentedLoader(split, batches, list(self.augment.values()), device)
        # __getitems__ returns a batch already; the stubs know batches as lists only
        return DataLoader(
            split,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=_as_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # or each epoch would draw from the global one
        )


def _as_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


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


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images take at most half of the device's free memory."""
    return device.type != "cuda" or images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
