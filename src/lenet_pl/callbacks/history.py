"""Progress of a training run: the metrics of each epoch, and a progress bar."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from lenet_pl.callbacks.loggers import log_metrics
from lenet_pl.callbacks.stopping import StoppedError
from lenet_pl.console import console, percent, score
from lenet_pl.files import write_csv
from lenet_pl.rules import gain

log = logging.getLogger(__name__)

Row = dict[str, float]

FIRST = ("train/loss", "train/acc", "val/loss", "val/acc")  # metrics in a row
REFRESH = 1  # seconds; a GPU has to finish its steps before the loss can be shown


class EpochHistory(Callback):
    """Writes a row per epoch to ``metrics.csv`` and to the loggers.

    A row has the epoch (from 1), its metrics, its last learning rate and its time in seconds,
    including validation; metrics other than loss and accuracy come last. Loggers get the epoch as
    step, so that runs with different batch sizes are comparable. Checkpoints include the rows, for
    resumed runs.
    """

    def __init__(self, path: Path, monitor: str) -> None:
        self.path = path
        self.monitor = monitor  # the validation metric that defines the best epoch
        self.rows: list[Row] = []
        self.restored = 0  # number of rows that were read from a checkpoint
        self._start = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.rows and trainer.is_global_zero:  # a resumed run, possibly in a new folder
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_last_batch:
            raise StoppedError(f"stopped in the middle of epoch {trainer.current_epoch + 1}")
        metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            **{name: metrics[name] for name in FIRST},
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._start,
            **metrics,
        }
        for name in ("train/loss", "val/loss"):
            if not math.isfinite(row[name]):
                raise FloatingPointError(
                    f"{name} is {row[name]} in epoch {row['epoch']}; try a smaller optimizer.lr"
                )
        *before, now = (gain(self.monitor, x[self.monitor]) for x in (*self.rows, row))
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        self._write()
        log_metrics(trainer, {x: row[x] for x in row if x != "epoch"}, int(row["epoch"]))
        best = now > max(before, default=-math.inf)
        log.info(_line(row, trainer.max_epochs, self.monitor, best))

    def _write(self) -> None:
        names = list(self.rows[-1])  # a resumed run may have begun without some of them
        write_csv(self.path, names, ([row.get(x, "") for x in names] for row in self.rows))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.restored = len(self.rows)


def _line(row: Row, max_epochs: int | None, monitor: str, best: bool) -> str:
    """``epoch  3/20  train 0.0912  97.20 %  val 0.0713  97.90 %  5.1 s  best``."""
    parts = [
        f"{stage} {row[f'{stage}/loss']:.4f} {percent(row[f'{stage}/acc']):>8}"
        for stage in ("train", "val")
    ]
    if monitor not in FIRST:
        parts.append(f"{monitor} {score(monitor, row[monitor])}")
    parts += [f"{row['seconds']:.1f} s", *["best"] * best]
    return "  ".join([_epoch(int(row["epoch"]), max_epochs), *parts])


def _epoch(number: int, last: int | None) -> str:
    return f"epoch {number:{len(str(last))}}/{last}"


class ProgressBar(Callback):
    """Shows epoch, steps, mean training loss and remaining time, if the console is a terminal."""

    bar: Progress | None = None
    drawn = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if console.is_terminal and trainer.is_global_zero:
            loss, epoch = " loss {task.fields[loss]}", "{task.description}"
            columns = (epoch, BarColumn(None), MofNCompleteColumn(), loss, TimeRemainingColumn())
            options: Any = {"transient": True, "expand": True, "auto_refresh": False}
            self.bar = Progress(*columns, console=console, **options)
            self.bar.add_task("", total=trainer.estimated_stepping_batches)
            self._draw(self.bar, trainer, "-.----")
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.bar and time.monotonic() - self.drawn >= REFRESH:
            self.drawn = time.monotonic()
            logits, labels = map(torch.cat, zip(*pl_module.batches["train"], strict=True))
            self._draw(self.bar, trainer, f"{pl_module.loss(logits.float(), labels).item():.4f}")

    def _draw(self, bar: Progress, trainer: Trainer, loss: str) -> None:
        epoch = _epoch(trainer.current_epoch + 1, trainer.max_epochs)
        step = trainer.global_step
        bar.update(TaskID(0), completed=step, description=epoch, loss=loss, refresh=True)

    def on_train_end(self, *_: Any) -> None:
        if self.bar:
            self.bar.stop()

    on_exception: Any = on_train_end
