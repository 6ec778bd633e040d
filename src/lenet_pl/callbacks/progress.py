"""The progress bar."""

import time
from typing import Any

from pytorch_lightning import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lenet_pl.console import console

REFRESH = 0.1  # seconds; drawing a bar takes longer than a training step


class ProgressBar(Callback):
    """Shows the steps of the run and the remaining time, on a terminal only."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        if not (console.is_terminal and trainer.is_global_zero):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        total = trainer.estimated_stepping_batches
        self._task = self._bar.add_task("", total=total, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._bar and (now := time.monotonic()) - self._drawn > REFRESH:
            self._drawn = now
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, description=epoch, completed=trainer.global_step)

    def on_train_end(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
