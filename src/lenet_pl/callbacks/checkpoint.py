"""The best weights, twice: to go on from, and to take away; and the last, to resume."""

import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


class BestAndLastCheckpoint(ModelCheckpoint):
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
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        before = self.best_model_score
        epoch, self.epoch = self.epoch, trainer.current_epoch + 1  # as best.ckpt is to know it
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_score is before:
            self.epoch = epoch
        elif trainer.is_global_zero:
            _take_out(Path(self.best_model_path), self.weights)
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self.epoch}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if not state or not state["best_model_path"]:
            return
        # the best lies beside the checkpoint that is loaded, wherever it was when that was saved
        assert self.dirpath is not None and trainer.ckpt_path is not None
        old, new = (
            Path(place) / "best.ckpt" for place in (Path(trainer.ckpt_path).parent, self.dirpath)
        )
        if not old.exists():
            checkpoint["callbacks"].pop(self.state_key)
            return
        if old.absolute() != new and trainer.is_global_zero:
            new.parent.mkdir(parents=True, exist_ok=True)
            part = new.with_suffix(".part")
            shutil.copy(old, part)
            part.replace(new)
        if trainer.is_global_zero:
            _take_out(new, self.weights)
        state |= {
            "dirpath": self.dirpath,
            "best_model_path": str(new),
            "kth_best_model_path": str(new),
            "best_k_models": {str(new): state["best_model_score"]},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.epoch = state_dict["epoch"]


def _take_out(checkpoint: Path, path: Path) -> None:
    """The bare network's weights out of a checkpoint, which may be those of an average."""
    weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    state = {
        name.removeprefix("net."): value.contiguous()
        for name, value in weights.items()
        if name.startswith("net.")
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
