"""The progress bar."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lenet_pl.console import console

REFRESH = 0.1  # seconds: a bar that is drawn at every step costs more than the step's logging


class ProgressBar(Callback):
    """On a terminal, a bar over all steps of the run with the time left; nothing elsewhere.

    Each epoch's line is logged by the history, above the bar.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (console.is_terminal and trainer.is_global_zero):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        total = trainer.estimated_stepping_batches
        self._task = self._bar.add_task("", total=total, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar and (now := time.monotonic()) - self._drawn > REFRESH:
            self._drawn = now
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, description=epoch, completed=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
