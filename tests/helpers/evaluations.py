"""Evaluated runs, real and synthetic."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from helpers.runs import FAST, compose_config
from lenet_pl.evaluation.evaluate import RunEvaluation, SplitPredictions
from lenet_pl.metrics import Proportion
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.runs import Run


def train_run(folder: Path, *overrides: str) -> Path:
    """Train a run in this process, with the files that the command line would write."""
    from lenet_pl.training import train

    cfg = compose_config(f"run_dir={folder}", *FAST, *overrides)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save([*FAST, *overrides], folder / ".hydra" / "overrides.yaml")
    train(cfg)
    return folder


CONFIG = compose_config(
    "run_dir=run", "optimizer.lr=0.01", "data.batch_size=64", "trainer.max_epochs=8"
)
TRAIN_LOSS = (0.4, 0.1, 0.06, 0.05, 0.045, 0.042, 0.04, 0.039)
VAL_LOSS = (0.15, 0.08, 0.06, 0.055, 0.05, 0.051, 0.0502, 0.0501)
# (label, prediction) of 20 errors, each pair of classes at most once
SPREAD = [(label, (label + step) % 10) for step in (1, 2) for label in range(10)]


def metric_rows(
    train: Sequence[float] = TRAIN_LOSS,
    val: Sequence[float] = VAL_LOSS,
    acc: Sequence[float] | None = None,
    lr: Sequence[float] | None = None,
    train_acc: float = 0.9,
) -> list[dict[str, float]]:
    """Rows of ``metrics.csv`` from losses, validation accuracies and learning rates."""
    acc = acc or [0.98] * len(train)
    lr = lr or [0.01] * len(train)
    columns = zip(train, val, acc, lr, strict=True)
    names = ("train/loss", "val/loss", "val/acc", "lr")
    return [
        {"epoch": n, "train/acc": train_acc, **dict(zip(names, column, strict=True))}
        for n, column in enumerate(columns, 1)
    ]


def predictions(
    errors: Sequence[tuple[int, int]] = SPREAD,
    confidence: float = 0.99,
    ambiguous: Sequence[tuple[float, float]] = (),
    split: str = "val",
) -> SplitPredictions:
    """Predictions for 2000 images, whose labels are the ten classes in turn.

    Args:
        errors: (label, prediction) of each error, for the first images of each label.
        confidence: the probability of the predicted class.
        ambiguous: probabilities of the label and of the class after it, for the last images.
        split: name of the split.
    """
    labels = torch.arange(2000) % 10
    predicted, used = labels.clone(), dict.fromkeys(range(10), 0)
    for label, prediction in errors:
        predicted[label + 10 * used[label]] = prediction
        used[label] += 1
    probabilities = torch.full((2000, 10), (1 - confidence) / 9, dtype=torch.double)
    probabilities[torch.arange(2000), predicted] = confidence
    for image, (own, following) in enumerate(ambiguous, 1):
        label = int(labels[-image])
        probabilities[-image] = 0.01
        probabilities[-image, [label, (label + 1) % 10]] = torch.tensor(
            [own, following], dtype=torch.double
        )
    return split_predictions(probabilities.log(), labels, split)


def split_predictions(logits: Tensor, labels: Tensor, split: str = "val") -> SplitPredictions:
    """Predictions for blank images, the i-th of which is image i + 7 of its file."""
    return SplitPredictions(
        split=split,
        images=torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8),
        labels=labels,
        indices=torch.arange(len(labels)) + 7,
        files=(),
        logits=logits,
    )


def synthetic_evaluation(
    *,
    rows: list[dict[str, float]] | None = None,
    val: SplitPredictions | None = None,
    test: SplitPredictions | None = None,
    train: Proportion | None = None,
    train_size: int = 55_000,
    settings: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    net: nn.Module | None = None,
    source: str = "mnist",
    folder: Path = Path("outputs/runs/d/t"),
    steps: int = 860,
    class_counts: Sequence[int] = (100,) * 10,
) -> RunEvaluation:
    """An evaluated run, by default a healthy one of 8 epochs with a validation accuracy of 99 %.

    Args:
        rows: of ``metrics.csv``.
        val: predictions for the validation split.
        test: predictions for the test split.
        train: correct predictions for training images.
        train_size: number of training images.
        settings: values of the configuration by dotted key.
        result: content of ``result.json``.
        net: the network.
        source: name of the data set, of the MNIST family.
        folder: the run folder.
        steps: optimizer steps per epoch.
        class_counts: training images of each class.
    """
    config = CONFIG.copy()
    for key, value in (settings or {}).items():
        OmegaConf.update(config, key, value, force_add=True)
    state = {
        "epoch": 4,
        "global_step": 5 * steps,
        "DigitsDataModule": {"classes": list("0123456789"), "class_counts": class_counts},
    }
    data = SimpleNamespace(
        splits={"train": range(train_size)}, source=SimpleNamespace(name=source, family="mnist")
    )
    return RunEvaluation(
        run=Run(folder, folder / "checkpoints" / "best.ckpt", config, result or {}, state),
        data=data,
        network=PixelNet(net or LeNet()).eval(),
        rows=rows or metric_rows(),
        val=val or predictions(),
        test=test,
        train=train or Proportion(1985, 2000),
    )


def with_files(predictions: SplitPredictions) -> SplitPredictions:
    """The same predictions for images that are files."""
    return replace(predictions, files=[f"{n}.png" for n in range(len(predictions.labels))])
