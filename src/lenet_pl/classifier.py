"""The training step."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet_pl import __version__
from lenet_pl.models.pixelnet import standardise

Batch = tuple[Tensor, Tensor]  # images [N, C, H, W], labels [N]

DEBUGGED = 1000  # steps a schedule is made for where a batch is all that there will be


class Classifier(LightningModule):
    """A network that sees standardised pixels, with its loss and its optimizer.

    Loss and accuracy are computed once an epoch over the logits of all its batches, and logged
    as ``train/loss``, ``train/acc``, ``val/loss`` and so on; nothing is logged in a step.

    Args:
        net: takes float images ``[N, C, H, W]``, returns logits ``[N, classes]``.
        loss: takes logits and labels, returns the mean over the images.
        optimizer: takes the parameters, in groups.
        mean, std: of the training pixels, scaled to [0, 1]; kept in the checkpoint.
        scheduler: takes the optimizer and the number of its steps, and returns what Lightning
            wants under ``lr_scheduler``; None or empty where the learning rate stays.
        decay_biases: whether weight decay also pulls at biases and other vectors.

    Attributes:
        frozen_lr: the learning rate of what is frozen at the start, should it be let go, as a
            factor of the optimizer's.
        settings: what a run that goes on must go on with, by key, in plain types; kept in the
            checkpoint. ``steps`` is what a schedule that ends with the run is made for.
        outputs: the logits ``[N, classes]`` and labels ``[N]`` of each stage's last epoch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        mean: float,
        std: float,
        scheduler: Callable[[Optimizer, int], dict[str, Any]] | None = None,
        decay_biases: bool = True,
    ) -> None:
        super().__init__()
        # the order in memory that convolutions are fastest with: 12 % of a step of 32 on 2 cores
        self.net = net.to(memory_format=torch.channels_last)
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.decay_biases = decay_biases
        self.frozen_lr = 1.0
        self.settings: dict[str, Any] = {}
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.batches: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "val": [], "test": []}
        self.outputs: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[N, C, H, W]``, either uint8 or float in [0, 1]."""
        return self.net(standardise(images, self.mean, self.std))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        self.batches["train"].append((logits.detach(), labels))
        return self.loss(logits, labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.batches["val"].append((self(images), labels))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
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
        logits = logits.float()  # in mixed precision they come in 16 bits
        self.outputs[stage] = logits.cpu(), labels.cpu()
        # in double precision, so that a share of images is exactly that; Apple's GPUs have none
        device = "cpu" if self.device.type == "mps" else self.device
        metrics = {
            f"{stage}/loss": self.loss(logits, labels).to(device).double(),
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

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        if not self.scheduler:
            return optimizer
        debugged = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        steps = DEBUGGED if debugged else int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": self.new_schedule(optimizer, steps)}

    def new_optimizer(self) -> Optimizer:
        """The optimizer over the network's parameters, what is frozen in groups of its own.

        A frozen parameter has no gradient, and optimizers pass it by. Being there from the start
        gives it its place in the schedule and in checkpoints.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.net.parameters():
            spared = parameter.ndim < 2 and not self.decay_biases
            groups.setdefault((not parameter.requires_grad, spared), []).append(parameter)
        kinds = sorted(groups)  # what is trained from the start comes first
        optimizer = self.optimizer(
            [
                {"params": groups[kind]} | ({"weight_decay": 0.0} if kind[1] else {})
                for kind in kinds
            ]
        )
        for (frozen, _), group in zip(kinds, optimizer.param_groups, strict=True):
            group["lr"] *= self.frozen_lr if frozen else 1.0
        return optimizer

    def new_schedule(self, optimizer: Optimizer, steps: int) -> dict[str, Any]:
        """What Lightning wants under ``lr_scheduler``, for a run of so many steps."""
        assert self.scheduler is not None
        schedule = self.scheduler(optimizer, steps)
        if schedule.get("interval") == "step":
            self.settings["steps"] = steps
        return schedule

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.settings
        checkpoint["lenet-pl_version"] = __version__

    def on_train_start(self) -> None:
        # early stopping had ended the run that goes on, which had only not been tested yet
        for callback in self.trainer.early_stopping_callbacks:
            if callback.wait_count >= callback.patience:
                self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        # Lightning does this after the checkpoints are written, and a resumed run would lack it
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                metric = self.trainer.callback_metrics[str(config.monitor)]
                config.scheduler.step(metric)  # type: ignore[arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if metric is None:  # else it is one of the above
            scheduler.step()
