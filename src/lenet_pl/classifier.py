"""The training step, the metrics of an epoch, and the optimizer's parameter groups."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet_pl import __version__
from lenet_pl.metrics import epoch_metrics
from lenet_pl.models.pixelnet import PixelNet, Values

Batch = tuple[Tensor, Tensor]  # images [N, C, H, W], labels [N]

DEBUG_STEPS = 1000  # length of the schedule with fast_dev_run, which trains on a single batch


class Classifier(PixelNet, LightningModule):
    """A network with its normalisation, loss and optimizer.

    The loss and :func:`epoch_metrics` are computed once per epoch, from the logits of all batches,
    and logged as ``train/loss``, ``train/acc``, ``val/loss`` and so on.

    Args:
        net: maps standardised images ``[N, C, H, W]`` to logits ``[N, classes]``.
        loss: maps logits and labels to the mean loss of the batch.
        optimizer: builds the optimizer from parameter groups.
        scheduler: builds Lightning's ``lr_scheduler`` dictionary from the optimizer and the
            number of optimizer steps; None or empty for a constant learning rate.
        decay_biases: whether weight decay also applies to biases and other vectors.
        seed: of dropout and other random numbers of the network, together with the epoch.
        mean, std: of the training pixels, scaled to [0, 1]; a number, or one per channel.
        example: one image ``[1, C, H, W]``, for TensorBoard's graph.
        settings: plain values that a resumed run must not change, by key, for the checkpoint.

    Attributes:
        frozen_lr_factor: factor on the learning rate of parameters that are frozen at the start.
        outputs: logits ``[N, classes]`` and labels ``[N]`` of each stage's last epoch.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[[Optimizer, int], dict[str, Any]] | None,
        decay_biases: bool,
        seed: int,
        mean: Values,
        std: Values,
        example: Tensor | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(net, mean, std)
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.decay_biases, self.seed = decay_biases, seed
        self.example_input_array = example
        self.settings = dict(settings or {})
        self.frozen_lr_factor = 1.0
        self.batches: dict[str, list[Batch]] = {"train": [], "val": [], "test": []}
        self.outputs: dict[str, Batch] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        self.batches["train"].append((logits.detach(), labels))
        return cast(Tensor, self.loss(logits, labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.batches["val"].append((self(images), labels))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.batches["test"].append((self(images), labels))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:  # validation comes next
            self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def _log_epoch(self, stage: str) -> None:
        """Log the loss and the metrics over all images of an epoch."""
        logits, labels = (torch.cat(tensors) for tensors in zip(*self.batches[stage], strict=True))
        self.batches[stage].clear()
        logits = logits.float()  # they have 16 bits in mixed precision
        self.outputs[stage] = logits.cpu(), labels.cpu()
        # double precision, since float32 would round the accuracy; MPS does not support it
        device = "cpu" if self.device.type == "mps" else self.device
        metrics = {"loss": self.loss(logits, labels).to(device).double()}
        metrics |= epoch_metrics(logits.to(device), labels.to(device))
        # logger=False: the history callback passes the metrics to the loggers
        self.log_dict(
            {f"{stage}/{name}": value for name, value in metrics.items()},
            on_step=False, on_epoch=True, logger=False, batch_size=1, sync_dist=True,
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this 44 times per step; nn.Module's lookup would cost 3 % of the step
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        if not self.scheduler:
            return optimizer
        debugging = cast(Any, self.trainer).fast_dev_run
        steps = DEBUG_STEPS if debugging else int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer, steps)}

    def build_optimizer(self) -> Optimizer:
        """Build the optimizer, with frozen parameters in separate groups.

        Optimizers skip them while they have no gradient; schedules and checkpoints include them.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}  # (frozen, without decay)
        for parameter in self.net.parameters():
            without_decay = parameter.ndim < 2 and not self.decay_biases
            groups.setdefault((not parameter.requires_grad, without_decay), []).append(parameter)
        keys = sorted(groups)  # trainable ones first
        optimizer = self.optimizer(
            [{"params": groups[key]} | ({"weight_decay": 0.0} if key[1] else {}) for key in keys]
        )
        for (frozen, _), group in zip(keys, optimizer.param_groups, strict=True):
            group["lr"] *= self.frozen_lr_factor if frozen else 1.0
        return optimizer

    def check_trainer(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Raise ValueError if this class does not support the trainer or the optimizer."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.settings
        checkpoint["lenet-pl_version"] = __version__

    def on_train_epoch_start(self) -> None:
        # a resumed run continues with the same random numbers, dropout's for example
        entropy = (self.seed, self.current_epoch, self.global_rank)
        [state] = np.random.SeedSequence(entropy).generate_state(1)
        seed_everything(int(state), verbose=False)

    def on_train_epoch_end(self) -> None:
        # Lightning steps these after saving checkpoints, so a resumed run would miss the step
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                metric = self.trainer.callback_metrics[str(config.monitor)]
                cast(Any, config.scheduler).step(metric)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if metric is None:  # otherwise, on_train_epoch_end has stepped it
            scheduler.step()
