"""The data of one run: split, measured, held in memory, handed out in whole batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lenet_pl.data.batches import BatchSampler
from lenet_pl.data.loader import AugmentedLoader
from lenet_pl.data.mnist import ImageDataset, Source
from lenet_pl.data.prepared import Options, prepare


class DigitsDataModule(LightningDataModule):
    """Train, validation and test images as tensors on the training device.

    A batch is a pair of images ``uint8 [B, C, H, W]`` and labels ``int64 [B]``. Normalisation
    is the classifier's; :attr:`mean` and :attr:`std` are measured here, on the training split.

    Args:
        source: builds the data set's source from ``root``.
        root: the folder the data lies in.
        batch_size: training images per step (per device).
        eval_batch_size: images per batch in validation and test.
        val_size: images of the official training set kept for validation, a number or a share.
        split_seed: chooses which.
        seed: with the epoch's number, orders the training images.
        augment: change the training images, by name, one after the other; they then come as
            float in [0, 1].
        augment_until: the share of the epochs after which they come as they are: what is learnt
            last is learnt from images like those that are judged.
        split: ratios of train, validation and test, to which all images are split anew.
        fraction: of the training images, what is trained on.
        normalise: ``standardise`` by the training split's mean and standard deviation, ``scale``
            to [0, 1], or ``none``.
        clean: whether to leave out training images that :mod:`lenet_pl.data.cleaning` finds.
        suspect_folds: folds of the cross-validation that looks for doubtful labels; 0 for none.
        on_error: ``skip`` pictures that cannot be read, or ``stop`` at them.

    Attributes:
        splits: the images of ``train``, ``val`` and ``test``.
        indices: where each image of a split stood in its official file; in all files, train
            then test, where those were pooled.
        names: the file of each image of a split, where it has one of its own.
        mean, std: what pixels scaled to [0, 1] are standardised with.
    """

    def __init__(
        self,
        source: Callable[[str | None], Source],
        root: str | None,
        batch_size: int,
        eval_batch_size: int,
        val_size: float,
        split_seed: int,
        seed: int,
        augment: Mapping[str, Callable[..., Tensor]] | None = None,
        augment_until: float = 1.0,
        split: Sequence[float] | None = None,
        fraction: float = 1.0,
        normalise: str = "standardise",
        clean: bool = False,
        suspect_folds: int = 0,
        on_error: str = "skip",
        cache: Any = None,
    ) -> None:
        super().__init__()
        self.source = source(root)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.augment = {name: part for name, part in (augment or {}).items() if part is not None}
        ratios = None if split is None else list(split)  # a list of omegaconf's goes no further
        self.augment_until = augment_until
        self.options = Options(
            val_size, split_seed, ratios, fraction, normalise, clean, suspect_folds, on_error
        )
        self.splits: dict[str, ImageDataset] = {}
        self.indices: dict[str, Tensor] = {}
        self.files: dict[str, list[str]] = {}

    def prepare_data(self) -> None:
        """Bring the files to the disk; raises DataError where they cannot be had."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Read and split, once; raises DataError for what does not add up."""
        if self.splits:  # Lightning calls this for fit, validate and test
            return
        self.prepared = prepared = prepare(self.source.load(), self.options)
        # copies: another data module may have the same
        self.splits, self.indices = dict(prepared.splits), dict(prepared.indices)
        self.files = dict(prepared.names)
        self.classes, self.origin = prepared.classes, prepared.origin
        self.digest, self.split_digest = prepared.digest, prepared.split_digest
        self.mean, self.std = prepared.mean, prepared.std

    def notes(self) -> list[str]:
        return self.prepared.notes()

    def cleaning_report(self) -> dict[str, Any] | None:
        return self.prepared.findings()

    def facts(self) -> dict[str, Any]:
        """What identifies the data of a run, in plain types."""
        return {"name": self.source.name, **self.prepared.facts()}

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints: a run goes on with the data it began with, or not at all."""
        return {
            "digest": self.digest,
            "split_digest": self.split_digest,
            "classes": list(self.classes),
            "normalise": self.options.normalise,
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
        batches = BatchSampler(len(split), batch_size, seed, *shares, device=split.images.device)
        # what is to be overfitted stays as it is
        if name == "train" and self.augment and seed is not None:
            until = round(self.augment_until * (self.trainer.max_epochs or 1))
            return AugmentedLoader(split, batches, list(self.augment.values()), device, until)
        # __getitems__ returns a batch already; the stubs know batches as lists only
        return DataLoader(
            split,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=_as_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # or each epoch would draw from the global one
        )


def _as_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images take at most half of the device's free memory."""
    return device.type != "cuda" or images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
