"""Train the last layer first, and then the whole network."""

from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import BaseFinetuning
from torch.optim import Optimizer


class Unfreeze(BaseFinetuning):
    """Lets go, at an epoch, what ``model.freeze`` holds fast.

    The parameters stand in the optimizer from the start, in groups of their own, so that
    schedules and checkpoints know them; here they begin to get gradients, and batch norms to
    follow the data again.

    Args:
        unfreeze_epoch: the first epoch, counted from 1, in which everything is trained.
        lr_factor: the learning rate of what was frozen, as a factor of the last layer's.
    """

    def __init__(self, unfreeze_epoch: int, lr_factor: float) -> None:
        super().__init__()
        self.unfreeze_epoch = unfreeze_epoch
        self.lr_factor = lr_factor

    def freeze_before_training(self, pl_module: Any) -> None:
        pl_module.frozen_lr_factor = self.lr_factor  # the model has frozen itself

    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        frozen = not all(parameter.requires_grad for parameter in pl_module.parameters())
        if frozen and epoch + 1 >= self.unfreeze_epoch:  # or later, in a run that goes on
            self.make_trainable(pl_module)
            pl_module.train()

    def state_dict(self) -> dict[str, Any]:
        return {}  # Lightning's is for groups that are added on the way

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
