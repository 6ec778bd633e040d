"""The record of a run: a row per epoch."""

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lenet_pl.console import percent

log = logging.getLogger(__name__)

Row = dict[str, float]


class EpochHistory(Callback):
    """Keeps a row per epoch, writes them to ``metrics.csv`` and hands them to the loggers.

    A row has the epoch (from 1), the metrics that were logged in it, the learning rate that it
    ended with and its seconds, validation included. The loggers get the epoch as their x-axis, so
    runs of different batch size compare. The rows travel in the checkpoints: a resumed run's file
    is that of an uninterrupted one.

    Args:
        path: of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._validated: Row = {}
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.rows and trainer.is_global_zero:  # of a run that goes on, here or in a new folder
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._validated = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = _metrics(trainer, "val/")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            **_metrics(trainer, "train/"),
            **self._validated,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._started,
        }
        for name, value in row.items():
            if name.endswith("/loss") and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} in epoch {row['epoch']}; try a smaller optimizer.lr"
                )
        best = max((old.get("val/acc", 0.0) for old in self.rows), default=0.0)
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        self._write()
        for logger in trainer.loggers:
            logger.log_metrics(
                {key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"])
            )
            logger.save()
        log.info(epoch_line(row, trainer.max_epochs, row.get("val/acc", 0.0) > best))

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=max((list(row) for row in self.rows), key=len))
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


def _metrics(trainer: Trainer, prefix: str) -> Row:
    metrics = trainer.callback_metrics.items()
    return {name: value.item() for name, value in metrics if name.startswith(prefix)}


def epoch_line(row: Row, max_epochs: int | None, best: bool) -> str:
    """``epoch  3/20  train 0.0912  97.20 %  val 0.0713  97.90 %  5.1 s  best``"""
    total = str(max_epochs)
    words = [f"epoch {row['epoch']:{len(total)}.0f}/{total}"]
    for stage in ("train", "val"):
        if f"{stage}/loss" in row:
            accuracy = percent(row[f"{stage}/acc"])
            words.append(f"{stage} {row[f'{stage}/loss']:.4f} {accuracy:>8}")
    words.append(f"{row['seconds']:.1f} s")
    return "  ".join(words + ["best"] * best)
