"""What a report is made of: a run's own record, and its weights on its images."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import predict
from lenet_pl.evaluation.loading import model_name
from lenet_pl.metrics import Proportion
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.report.figures import Figures, read_settings
from lenet_pl.runs import Run

if TYPE_CHECKING:
    from lenet_pl.data.datamodule import DigitsDataModule

MEANING = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class SplitPredictions:
    """A split and what the network says of it.

    Attributes:
        split: ``val`` or ``test``.
        images, labels: uint8 ``[N, C, H, W]`` and int64 ``[N]``.
        indices: where each image stands in the official files.
        files: the file of each image, where it has one of its own.
        logits: ``[N, classes]``.
    """

    split: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    files: Sequence[str]
    logits: Tensor

    @property
    def meaning(self) -> str:
        return MEANING[self.split]

    @cached_property
    def predicted(self) -> Tensor:
        return self.logits.argmax(1)

    @cached_property
    def correct(self) -> Tensor:
        return self.predicted == self.labels

    @property
    def accuracy(self) -> Proportion:
        return Proportion(int(self.correct.sum()), len(self.labels))


@dataclass(frozen=True)
class RunEvaluation:
    """A run, opened and evaluated.

    Attributes:
        run: as it was opened.
        data: its data.
        network: with the weights that are meant.
        rows: of ``metrics.csv``, up to the last finished epoch.
        epoch: whose weights these are, from 1.
        val: validation.
        test: the test split, if the run was tested with these very weights; a report is no way
            of looking at the test set, it only reads again what training read.
        train: how many of a sample of training images are right, as they are.
    """

    run: Run
    data: "DigitsDataModule"
    network: PixelNet
    rows: list[dict[str, float]]
    epoch: int
    val: SplitPredictions
    test: SplitPredictions | None
    train: Proportion

    @property
    def shown(self) -> SplitPredictions:
        """The split that the report is about."""
        return self.test or self.val

    @property
    def name(self) -> str:
        """Of the run, short: the last two parts of its folder."""
        return "/".join(self.run.folder.absolute().parts[-2:])

    @property
    def model(self) -> str:
        """The network's name."""
        return model_name(self.network)

    @property
    def pooled(self) -> bool:
        """Whether official training and test images were mixed before they were split."""
        return bool((self.run.result.get("data") or {}).get("pooled"))

    @property
    def overrides(self) -> list[str]:
        """The words of the run's command."""
        file = self.run.folder / ".hydra" / "overrides.yaml"
        words = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else []
        mine = [str(word) for word in words] if isinstance(words, list) else []
        return [word for word in mine if not word.startswith(("ckpt_path=", "hydra.", "sweep="))]

    def figures(self) -> Figures:
        """What findings rest on."""
        result = self.run.result
        return Figures(
            settings=read_settings(
                self.run.config,
                folder=self.run.folder,
                overrides=self.overrides,
                data=self.data.source.name,
                model=self.model,
            ),
            rows=self.rows,
            best_epoch=result.get("best_epoch") or self.epoch,
            stopped_early=result.get("stopped_early", False),
            error=result.get("error"),
            trained_on=len(self.data.splits["train"]),
            train=self.train,
            logits=self.val.logits,
            labels=self.val.labels,
            indices=self.val.indices,
            classes=self.run.classes,
            test=self.test.accuracy if self.test else None,
            files=self.val.files,
            pooled=self.pooled,
        )


def evaluate_run(run: Run, data: "DigitsDataModule | None" = None) -> RunEvaluation:
    """Evaluate a run's weights on its own images.

    Args:
        run: as it was opened.
        data: its data, if they are at hand.

    Raises:
        ConfigError: if the run's record is damaged, or the data have changed since.
        DataError: if the data cannot be had.
    """
    rows = read_rows(run)
    scored = run.network()  # goes to the device and precision of testing; what is shown does not
    data = data or run.data()
    before, now = run.state["DigitsDataModule"], data.state_dict()
    for key in ("digest", "split_digest"):
        if before[key] != now[key]:
            raise ConfigError(
                f"{run.folder}: the data are not those of the run (another {key}): "
                f"{data.source.name} in data.root={run.config.data.root} has changed since"
            )
    epoch = run.state["epoch"] + 1
    tested = "test/acc" in run.result.get("metrics", {}) and run.result["best_epoch"] == epoch
    train = data.splits["train"]
    sample = torch.linspace(0, len(train) - 1, min(len(train), len(data.splits["val"]))).long()
    guesses = predict(run, scored, train.images[sample]).argmax(1)

    files = data.files

    def show(split: str) -> SplitPredictions:
        images, labels = data.splits[split].images, data.splits[split].labels
        logits = predict(run, scored, images)
        return SplitPredictions(
            split, images, labels, data.indices[split], files.get(split, ()), logits
        )

    return RunEvaluation(
        run=run,
        data=data,
        network=run.network(),
        rows=rows,
        epoch=epoch,
        val=show("val"),
        test=show("test") if tested else None,
        train=Proportion(int((guesses == train.labels[sample]).sum()), len(sample)),
    )


def read_rows(run: Run) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``; ConfigError if there are none."""
    path = run.folder / "metrics.csv"
    try:
        with path.open(newline="") as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: missing or damaged: {error}") from error
    needed = {"epoch", "lr"} | {f"{a}/{b}" for a in ("train", "val") for b in ("loss", "acc")}
    if not rows or any(needed - row.keys() for row in rows):
        raise ConfigError(f"{path}: a report needs training and validation in every epoch")
    return rows
