"""The best weights, twice: to go on from, and to take away; and the last, to resume."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn


class BestAndLast(ModelCheckpoint):
    """Keeps ``best.ckpt`` and ``last.ckpt``, and the best network's bare weights.

    The first of equally good epochs is kept. A run that goes on in a new folder takes the best
    weights so far along.

    Args:
        dirpath: the folder of the checkpoints.
        weights: the file of the network's state dict, loadable without Lightning.
        monitor: the metric that decides.
        mode: ``max`` or ``min``.

    Attributes:
        epoch: the best one so far, from 1; 0 before the first.
    """

    state_key = "BestAndLast"  # there is one; Lightning would spell out its options at every hook

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
        epoch, self.epoch = self.epoch, trainer.current_epoch + 1  # as best.ckpt is to know it
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_score is before:
            self.epoch = epoch
        elif trainer.is_global_zero:
            _save(cast(nn.Module, pl_module.net), self.weights)
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", weights_only=False)

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


def _save(net: nn.Module, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
