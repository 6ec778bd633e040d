"""Stopping a run at the end of a batch after a signal, or pausing it after a given epoch."""

import signal
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows lacks the last


class StoppedError(Exception):
    """The run was stopped before its end."""


class Stopping(Callback):
    """Stops a run after Ctrl-C, SIGTERM or SIGUSR1, which Slurm sends with ``--signal=USR1@…``.

    The handler only sets a flag, and all processes of a distributed run stop after the same batch.
    A second signal raises KeyboardInterrupt. ``pause_after`` is the epoch, counted from 1, after
    which training ends as if interrupted; the schedule still extends to ``max_epochs``.
    """

    received: signal.Signals | None = None
    signals: Set[signal.Signals] = frozenset()  # those that are handled

    def __init__(self, pause_after: int | None) -> None:
        self.pause_after = pause_after

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle signals within the block, except those that were ignored at the start."""
        if threading.current_thread() is threading.main_thread():  # other threads cannot
            known = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
            self.signals = {x for x in known if signal.getsignal(x) != signal.SIG_IGN}
        previous = {number: signal.signal(number, self._handle) for number in self.signals}
        self.mask(blocked=False)
        try:
            yield
        finally:
            self.mask(blocked=False)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def mask(self, blocked: bool) -> None:
        """Block or unblock the signals; processes started meanwhile inherit the mask."""
        if hasattr(signal, "pthread_sigmask"):
            how = signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK
            signal.pthread_sigmask(how, self.signals)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.mask(blocked=False)  # the other processes of a distributed run have started

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._replace_handler()
        early = any(x.wait_count >= x.patience for x in trainer.early_stopping_callbacks)
        # a run that is resumed may have reached its end before
        if early or (self.pause_after and trainer.current_epoch >= self.pause_after):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch + 1 == self.pause_after:
            trainer.should_stop = True

    def _replace_handler(self, *_: Any) -> None:
        # Lightning's SIGTERM handler waits for other processes, which may wait for this one
        if signal.SIGTERM in self.signals:
            signal.signal(signal.SIGTERM, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            raise StoppedError(f"stopped by {self.received.name}" if self.received else "stopped")

    on_validation_start: Any = _replace_handler
    on_test_start: Any = _replace_handler
    on_validation_batch_end: Any = on_train_batch_end
    on_test_batch_end: Any = on_train_batch_end
