"""Checkpoints of the best and the last epoch, and a state dict of the best network."""

import logging
import os
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lenet_pl.errors import ConfigError
from lenet_pl.files import write_bytes
from lenet_pl.records import read_checkpoint

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint whole or not at all.

    Lightning writes to ``TMPDIR`` and moves the file. To another file system, that is a copy, which
    destroys the previous checkpoint if it is interrupted.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        _save(checkpoint, Path(path))


class BestAndLastCheckpoint(Checkpoint):
    """Saves ``last.ckpt``, ``best.ckpt`` and the state dict of the best network.

    Ties go to the earlier epoch. ``best.ckpt`` is a copy of ``last.ckpt`` from the best epoch, so
    it can be restored if a run is killed before the copy. A run that continues in a new
    folder copies the best weights so far into it.
    """

    state_key = "BestAndLast"

    def __init__(self, dirpath: str, weights: str, monitor: str, mode: str) -> None:
        folder = Path(dirpath).absolute()
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.weights = Path(weights)  # file of the state dict, loadable without Lightning
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.epoch = 0  # the best so far, from 1; 0 before the first
        self.score = -inf  # of that epoch; larger is better

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score = self.sign * trainer.callback_metrics[self.monitor].item()
        if improved := score > self.score:
            self.epoch, self.score = trainer.current_epoch + 1, score
        trainer.save_checkpoint(self.last, weights_only=False)
        if improved and trainer.is_global_zero:
            self._keep(self.last)
        trainer.strategy.barrier()  # other processes read best.ckpt after training

    def _keep(self, path: Path) -> None:
        """Copy the best checkpoint, and save its weights for use without Lightning."""
        if path != self.best:
            self.best.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.best, path.read_bytes())
        # with weight averaging, the average is in the file only
        state = torch.load(self.best, weights_only=True, map_location="cpu")["state_dict"]
        names = [name for name in state if name.startswith("net.")]
        _save({name.removeprefix("net."): state[name].contiguous() for name in names}, self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "epoch": self.epoch}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.epoch = checkpoint["callbacks"].get(self.state_key, {"epoch": 0})["epoch"]
        if not self.epoch:
            return
        # look beside the loaded checkpoint, because the run folder may have been moved
        last = Path(str(trainer.ckpt_path)).absolute()
        source, epoch = last.with_name("best.ckpt"), checkpoint["epoch"] + 1
        try:
            kept = read_checkpoint(source)["epoch"] + 1
        except ConfigError:  # missing or damaged
            kept = 0
        if kept != self.epoch:
            # killed before best.ckpt was written, or the file is lost
            if kept <= epoch != self.epoch:
                log.warning(
                    f"{source} is missing or damaged: the weights of epoch {self.epoch} are "
                    f"lost; epoch {epoch} is now the best"
                )
            source, self.epoch = last, epoch
        row = checkpoint["callbacks"]["EpochHistory"]["rows"][self.epoch - 1]
        self.score = self.sign * row[self.monitor]
        if trainer.is_global_zero:
            self._keep(source)
        trainer.strategy.barrier()


def _save(state: dict[str, Any], path: Path) -> None:
    buffer = BytesIO()  # torch.save does not say why a file cannot be written
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getbuffer())
