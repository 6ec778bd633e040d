"""The training step."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet_pl.pixels import standardise


class Classifier(LightningModule):
    """A network that sees standardised pixels, with its loss and its optimizer.

    Loss and accuracy are computed once an epoch over the logits of all its batches, and logged
    as ``train/loss``, ``train/acc``, ``val/loss`` and so on; nothing is logged in a step.

    Args:
        net: takes float images ``[N, C, H, W]``, returns logits ``[N, classes]``.
        loss: takes logits and labels, returns the mean over the images.
        optimizer: takes the parameters.
        mean, std: of the training pixels, scaled to [0, 1]; kept in the checkpoint.
        scheduler: takes the optimizer and the number of steps; none where it is empty.
        decay_biases: whether weight decay also pulls at biases and other vectors.

    Attributes:
        outputs: the logits ``[N, classes]`` and labels ``[N]`` of each stage's last epoch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        mean: float,
        std: float,
        scheduler: Callable[..., Any] | None = None,
        decay_biases: bool = True,
    ) -> None:
        super().__init__()
        # the order in memory that convolutions are fastest with: 12 % of a step of 32 on 2 cores
        self.net = net.to(memory_format=torch.channels_last)
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.decay_biases = decay_biases
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.batches: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "val": [], "test": []}
        self.outputs: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[N, C, H, W]``, either uint8 or float in [0, 1]."""
        return self.net(standardise(images, self.mean, self.std))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        self.batches["train"].append((logits.detach(), labels))
        return self.loss(logits, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.batches["val"].append((self(images), labels))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.batches["test"].append((self(images), labels))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:  # the next batches in line are validation's
            self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def _log_epoch(self, stage: str) -> None:
        parts = zip(*self.batches[stage], strict=True)
        logits, labels = (torch.cat(part) for part in parts)
        self.batches[stage].clear()
        self.outputs[stage] = logits.cpu(), labels.cpu()
        # in double precision, so that a share of images is exactly that; Apple's GPUs have none
        device = "cpu" if self.device.type == "mps" else self.device
        metrics = {
            f"{stage}/loss": self.loss(logits.float(), labels).to(device).double(),
            f"{stage}/acc": (logits.argmax(1) == labels).to(device).double().mean(),
        }
        # the history, not Lightning, hands the row of an epoch to the loggers
        self.log_dict(
            metrics, on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True
        )

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes on the module which hook it is in, 44 times a step; a module's own
        # search among parameters and buffers makes that 3 % of the step
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.net.parameters())
