"""The best weights, twice: to go on from, and to take away."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` and, whenever it is renewed, the bare network's weights beside it.

    The first of equally good epochs is kept. A run that goes on in a new folder takes the best
    weights so far along.

    Args:
        dirpath: the folder of ``best.ckpt``.
        weights: the file of the network's state dict, loadable without Lightning.
        monitor: the metric that decides.
        mode: ``max`` or ``min``.

    Attributes:
        epoch: the best one so far, from 1; 0 before the first.
    """

    def __init__(self, dirpath: str, weights: str, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.weights = Path(weights)
        self.epoch = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.best_model_score
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_score is before:
            return
        self.epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            net = cast(nn.Module, pl_module.net)
            state = {
                name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()
            }
            part = self.weights.with_suffix(".part")
            torch.save(state, part)
            part.replace(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        old = Path(state_dict["best_model_path"])
        assert self.dirpath is not None
        new = Path(self.dirpath) / old.name
        if old != new:
            if not new.exists() and old.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(old, new)
                shutil.copy(old.parent.parent / self.weights.name, self.weights)
            if new.exists():
                score = state_dict["best_model_score"]
                state_dict = {
                    **state_dict,
                    "dirpath": self.dirpath,
                    "best_model_path": str(new),
                    "kth_best_model_path": str(new),
                    "best_k_models": {str(new): score},
                }
        super().load_state_dict(state_dict)
        self.epoch = state_dict["epoch"]
