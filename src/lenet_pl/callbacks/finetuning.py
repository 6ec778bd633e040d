"""Fine-tuning: the last layer first, then all layers."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Unfreeze(Callback):
    """Unfreezes the layers frozen by ``model.freeze`` at a given epoch.

    Their parameters are in the optimizer from the start, in groups of their own, so schedules and
    checkpoints include them.
    """

    def __init__(self, unfreeze_epoch: int, lr_factor: float) -> None:
        self.unfreeze_epoch, self.lr_factor = unfreeze_epoch, lr_factor

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.frozen_lr_factor = self.lr_factor

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        frozen = not all(parameter.requires_grad for parameter in pl_module.parameters())
        if frozen and trainer.current_epoch + 1 >= self.unfreeze_epoch:  # later in a resumed run
            pl_module.requires_grad_(True)
            pl_module.train()
