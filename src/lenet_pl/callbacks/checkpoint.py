"""Checkpoints of the best and the last epoch, and a state dict of the best network."""

import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lenet_pl.files import replacing


class BestAndLastCheckpoint(ModelCheckpoint):
    """Saves ``best.ckpt``, ``last.ckpt`` and the state dict of the best network.

    Ties go to the earlier epoch. A run that continues in a new folder copies the best weights so
    far into it.

    Args:
        dirpath: folder of the checkpoints.
        weights: file of the state dict, loadable without Lightning.
        monitor: metric that defines the best epoch.
        mode: ``max`` or ``min``.

    Attributes:
        epoch: the best epoch so far, from 1; 0 before the first.
    """

    state_key = "BestAndLast"  # Lightning's default is recomputed from all arguments in every hook

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
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        previous_score, previous_epoch = self.best_model_score, self.epoch
        self.epoch = trainer.current_epoch + 1  # set before saving, so that best.ckpt stores it
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_score is previous_score:
            self.epoch = previous_epoch
        elif trainer.is_global_zero:
            self._save_weights(Path(self.best_model_path))
        trainer.save_checkpoint(f"{self.dirpath}/last.ckpt", weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.epoch = state_dict["epoch"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if not state or not state["best_model_path"]:
            return
        # look beside the loaded checkpoint, because the run folder may have been moved
        source = Path(str(trainer.ckpt_path)).absolute().with_name("best.ckpt")
        best = Path(str(self.dirpath)) / "best.ckpt"
        if not source.exists():
            del checkpoint["callbacks"][self.state_key]
            return
        if trainer.is_global_zero:
            if source != best:
                best.parent.mkdir(parents=True, exist_ok=True)
                with replacing(best) as part:
                    shutil.copy(source, part)
            self._save_weights(best)
        state |= {
            "dirpath": self.dirpath,
            "best_model_path": str(best),
            "kth_best_model_path": str(best),
            "best_k_models": {str(best): state["best_model_score"]},
        }

    def _save_weights(self, checkpoint: Path) -> None:
        # with weight averaging, the average is in the file only
        weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
        state = {
            name.removeprefix("net."): value.contiguous()
            for name, value in weights.items()
            if name.startswith("net.")
        }
        # an open file, because torch.save stores the name of a path, here a temporary one
        with replacing(self.weights) as part, part.open("wb") as file:
            torch.save(state, file)
