"""Progress of a training run: the metrics of each epoch, and a progress bar."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from lenet_pl.callbacks.loggers import log_metrics
from lenet_pl.callbacks.stopping import StoppedError
from lenet_pl.console import console, percent, score
from lenet_pl.files import write_csv
from lenet_pl.rules import gain

log = logging.getLogger(__name__)

Row = dict[str, float]

FIRST = ("train/loss", "train/acc", "val/loss", "val/acc")  # metrics in a row
REFRESH = 0.1  # seconds; drawing the progress bar takes longer than a training step


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
        for name, value in row.items():
            if name.endswith("/loss") and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} in epoch {row['epoch']}; try a smaller optimizer.lr"
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
    total = str(max_epochs)
    scores = [
        f"{stage} {row[f'{stage}/loss']:.4f} {percent(row[f'{stage}/acc']):>8}"
        for stage in ("train", "val")
    ]
    if monitor not in FIRST:
        scores.append(f"{monitor} {score(monitor, row[monitor])}")
    start, end = f"epoch {row['epoch']:{len(total)}.0f}/{total}", f"{row['seconds']:.1f} s"
    return "  ".join([start, *scores, end, *["best"] * best])


class ProgressBar(Callback):
    """Shows epoch, steps, mean training loss and remaining time, if the console is a terminal.

    The loss is computed from the logits of the epoch's batches so far, at most once per redraw, and
    once per second on a GPU, which has to finish its steps first.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._drawn = self._computed = 0.0
        self._batches = self._images = 0  # included in the loss
        self._loss = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (console.is_terminal and trainer.is_global_zero):
            return
        names = ("{task.description}", "{task.fields[steps]}  loss {task.fields[loss]}")
        columns = (names[0], BarColumn(None), names[1], TimeRemainingColumn())
        options: Any = {"console": console, "transient": True, "expand": True}
        self._bar = Progress(*columns, auto_refresh=False, **options)
        self._task = self._bar.add_task("", total=trainer.estimated_stepping_batches, steps="")
        self._draw(trainer)
        self._bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = self._images = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        now = time.monotonic()
        if self._bar is None or now - self._drawn < REFRESH:
            return
        self._drawn = now
        if pl_module.device.type == "cpu" or now - self._computed > 1:
            self._computed = now
            self._update_loss(pl_module)
        self._draw(trainer)

    def _update_loss(self, pl_module: Any) -> None:
        """Include the batches since the last call in the mean."""
        batches = pl_module.batches["train"]
        logits, labels = map(torch.cat, zip(*batches[self._batches :], strict=True))
        with torch.no_grad():
            loss = pl_module.loss(logits.float(), labels).item()
        self._batches, self._images = len(batches), self._images + len(labels)
        self._loss += (loss - self._loss) * len(labels) / self._images

    def _draw(self, trainer: Trainer) -> None:
        assert self._bar is not None
        step, total, last = trainer.global_step, self._bar.tasks[0].total, str(trainer.max_epochs)
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {trainer.current_epoch + 1:{len(last)}}/{last}",
            steps=f"{step:{len(str(total))}}/{total}",
            loss=f"{self._loss:.4f}" if self._images else "-.----",
            refresh=True,
        )

    def on_train_end(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    on_exception: Any = on_train_end
