"""The figures that findings rest on, and what a finding is."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lenet_pl.metrics import Proportion, confusion_matrix
from lenet_pl.runs import hydra_mode

# of a group that is exchanged, the keys that its other options have too
SHARED = {"data.batch_size", "data.eval_batch_size", "data.split_seed", "data.seed"}
Z = 2.576  # beyond this many standard errors lies 1 % of what chance does


def beyond_chance(first: Proportion, second: Proportion) -> float:
    """How far the first share lies above the second, in standard errors of the difference.

    Source: the pooled two-proportion test; e.g. A. Agresti, "Categorical Data Analysis" (2002),
    p. 77.
    """
    pooled = (first.count + second.count) / (first.total + second.total)
    error = sqrt(pooled * (1 - pooled) * (1 / first.total + 1 / second.total))
    return (first.value - second.value) / error if error else 0.0


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do, as far as a finding proposes something else.

    Attributes:
        folder: the run folder.
        overrides: the words of the run's command.
        data, model: their names.
        fraction: of the training images, what was trained on.
        lr, batch_size, max_epochs, label_smoothing, weight_decay: as configured.
        patience: of early stopping, None where there is none.
        augment, scheduler: whether there is one.
        job: whether it is one of a sweep, which does not go on by itself.
    """

    folder: Path
    overrides: Sequence[str]
    data: str
    model: str
    fraction: float
    lr: float
    batch_size: int
    max_epochs: int
    label_smoothing: float
    weight_decay: float
    patience: int | None
    augment: bool
    scheduler: bool
    job: bool = False


def read_settings(
    config: DictConfig, folder: Path, overrides: Sequence[str], data: str, model: str
) -> Settings:
    """The settings that a run's configuration holds, and what it does not say itself."""

    def value(key: str, otherwise: Any) -> Any:
        found = OmegaConf.select(config, key)
        return otherwise if found is None else found

    return Settings(
        folder=folder,
        overrides=overrides,
        data=data,
        model=model,
        fraction=value("data.fraction", 1.0),
        lr=value("optimizer.lr", 0.0),
        batch_size=config.data.batch_size,
        max_epochs=value("trainer.max_epochs", 0),
        label_smoothing=value("loss.label_smoothing", 0.0),
        weight_decay=value("optimizer.weight_decay", 0.0),
        patience=value("callbacks.early_stopping.patience", None),
        augment=bool(value("augment", {})),
        scheduler=bool(value("scheduler", {})),
        job=(hydra_mode(folder) == "MULTIRUN"),
    )


@dataclass(frozen=True)
class Figures:
    """What was measured of a run. Logits and labels are those of validation.

    Attributes:
        rows: of ``metrics.csv``.
        best_epoch: whose weights these are.
        stopped_early: whether training ended before ``max_epochs``.
        error: why the run failed, if it did.
        trained_on: the number of training images.
        train: how many training images, as they are, the weights get right.
        logits, labels: ``[N, classes]`` and ``int64 [N]``.
        indices: of the validation images in the official files.
        classes: their names.
        test: how many test images, None where the run was not tested.
        files: the file of each validation image, where it has one of its own.
        pooled: whether the indices count training images, then test images.
    """

    settings: Settings
    rows: Sequence[Mapping[str, float]]
    best_epoch: int
    stopped_early: bool
    error: str | None
    trained_on: int
    train: Proportion
    logits: Tensor
    labels: Tensor
    indices: Tensor
    classes: Sequence[str]
    test: Proportion | None
    files: Sequence[str] = ()
    pooled: bool = False

    @cached_property
    def matrix(self) -> Tensor:
        return confusion_matrix(self.logits, self.labels)

    @cached_property
    def val(self) -> Proportion:
        return Proportion(int(self.matrix.trace()), len(self.labels))

    @property
    def mistakes(self) -> int:
        return self.val.total - self.val.count

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


@dataclass(frozen=True)
class Finding:
    """A sentence, the figures it rests on, and what to try next.

    Attributes:
        title: the sentence.
        evidence: the figures.
        advice: what to try, and why it may help.
        overrides: the words that do it; none where there is nothing to run.
        resume: whether the run goes on with them, instead of a new one.
        kind: ``problem``, ``hint`` or ``good``.
        alone: whether nothing else is worth a word before this is mended.
    """

    title: str
    evidence: str
    advice: str
    overrides: tuple[str, ...]
    resume: bool = False
    kind: str = "hint"
    alone: bool = False

    def command(self, settings: Settings) -> str:
        """What to paste: the run's own command, changed, or the one that goes on with it."""
        if not self.overrides:
            return ""
        if self.resume:
            words = [f"resume={settings.folder}", *self.overrides]
        else:
            words = [*(w for w in settings.overrides if not self._replaces(w)), *self.overrides]
        return shlex.join(["lenet-pl", "train", *words])

    def _replaces(self, word: str) -> bool:
        key = word.partition("=")[0].lstrip("+~")
        new = {override.partition("=")[0] for override in self.overrides}
        group = key.partition(".")[0]
        return key in new or (group in new and key not in SHARED)
