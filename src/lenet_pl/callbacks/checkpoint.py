"""Checkpoints of the best and the last epoch, and a state dict of the best network."""

import logging
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

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
        buffer, path = BytesIO(), Path(path)  # torch.save does not say why a file cannot be written
        torch.save(checkpoint, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getbuffer())


class BestAndLastCheckpoint(ModelCheckpoint):
    """Saves ``last.ckpt``, ``best.ckpt`` and the state dict of the best network.

    Ties go to the earlier epoch. ``best.ckpt`` is a copy of ``last.ckpt`` from the best epoch, so
    it can be restored if a run is killed before the copy. A run that continues in a new
    folder copies the best weights so far into it.
    """

    state_key = "BestAndLast"  # Lightning's default is recomputed from all arguments in every hook

    def __init__(self, dirpath: str, weights: str, monitor: str, mode: str) -> None:
        super().__init__(dirpath, monitor=monitor, mode=mode, save_top_k=0)  # saves nothing itself
        self.weights = Path(weights)  # file of the state dict, loadable without Lightning
        self.last, self.best = (Path(str(self.dirpath)) / f"{x}.ckpt" for x in ("last", "best"))
        self.best_model_path = str(self.best)
        self.epoch = 0  # the best so far, from 1; 0 before the first

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score, best = trainer.callback_metrics[str(self.monitor)], self.best_model_score
        improved = best is None or bool(score < best if self.mode == "min" else score > best)
        if improved:
            self.epoch, self.best_model_score = trainer.current_epoch + 1, score
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
        weights = {name.removeprefix("net."): state[name].contiguous() for name in names}
        AtomicCheckpointIO().save_checkpoint(weights, self.weights)

    def state_dict(self) -> dict[str, Any]:
        names = ("epoch", "monitor", "best_model_score", "best_model_path")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.best_model_score = state_dict["epoch"], state_dict["best_model_score"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if not state or not state["epoch"]:
            return
        # look beside the loaded checkpoint, because the run folder may have been moved
        last = Path(str(trainer.ckpt_path)).absolute()
        source, epoch = last.with_name("best.ckpt"), checkpoint["epoch"] + 1
        try:
            kept = read_checkpoint(source)["epoch"] + 1
        except ConfigError:  # missing or damaged
            kept = 0
        if kept != state["epoch"]:
            # killed before best.ckpt was written, or the file is lost
            if kept <= epoch != state["epoch"]:
                log.warning(
                    f"{source} is missing or damaged: the weights of epoch {state['epoch']} are "
                    f"lost; epoch {epoch} is now the best"
                )
            row = checkpoint["callbacks"]["EpochHistory"]["rows"][-1]
            source, score = last, torch.tensor(row[self.monitor])
            state |= {"epoch": epoch, "best_model_score": score}
        if trainer.is_global_zero:
            self._keep(source)
        trainer.strategy.barrier()
