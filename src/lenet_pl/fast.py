"""The same training, with many optimizer steps per Lightning step."""

from collections.abc import Iterator
from inspect import Parameter, signature
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from lenet_pl.classifier import Batch, Classifier


class FastClassifier(Classifier):
    """Trains as :class:`Classifier` does, bit for bit on the CPU, in less time.

    Lightning's overhead per step is about a sixth of a LeNet epoch (batch 32, 2 cores). Here
    Lightning runs one of every ``steps_per_execution`` steps, and a plain loop runs the rest. The
    loop updates Lightning's counters, so either classifier resumes the other's checkpoints, but
    hooks around batches, backward passes and optimizer steps are called once per Lightning step.

    Args:
        args, kwargs: as for :class:`Classifier`.
        steps_per_execution: optimizer steps per Lightning step (the name is from Keras).
    """

    def __init__(self, *args: Any, steps_per_execution: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps_per_execution = steps_per_execution

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        # the name of this argument makes Lightning pass the iterator instead of a batch
        self.iterator = dataloader_iter
        return super().training_step(self._next_batch(), 0)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        loop = self.trainer.fit_loop.epoch_loop
        progress = loop.automatic_optimization.optim_progress.optimizer
        remaining = int(self.trainer.num_training_batches) - loop.batch_idx
        for _ in range(min(self.steps_per_execution, remaining) - 1):
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)  # of the last step
            self._step(optimizer.optimizer, self._next_batch())
            loop.batch_progress.increment_by(1)
            loop._batches_that_stepped += 1
            progress.step.increment_by(1)
            progress.zero_grad.increment_by(1)

    def _next_batch(self) -> Batch:
        images, labels = next(self.iterator)[0]
        return images.to(self.device), labels.to(self.device)

    def _step(self, optimizer: Optimizer, batch: Batch) -> None:
        trainer: Any = self.trainer
        optimizer.zero_grad()
        with trainer.precision_plugin.train_step_context():
            loss: Any = super().training_step(batch, 0)
        loss.backward()
        self.configure_gradient_clipping(
            optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
        optimizer.step()

    def check_trainer(self, trainer: Trainer, optimizer: Optimizer) -> None:
        single = isinstance(trainer.strategy, SingleDeviceStrategy)
        for key, value, allowed in (
            ("devices", trainer.num_devices * trainer.num_nodes, [1]),
            ("strategy", "auto" if single else type(trainer.strategy).__name__, ["auto"]),
            ("accumulate_grad_batches", trainer.accumulate_grad_batches, [1]),
            ("precision", trainer.precision, ["32-true", "bf16-mixed"]),
            ("val_check_interval", trainer.val_check_interval, [1.0]),
        ):
            if value not in allowed:
                raise ValueError(
                    f"trainer.{key}={value}: must be {' or '.join(map(str, allowed))} with "
                    "classifier=fast; choose classifier=plain"
                )
        if signature(optimizer.step).parameters["closure"].default is Parameter.empty:
            raise ValueError(
                f"optimizer: {type(optimizer).__name__} requires a closure; choose classifier=plain"
            )
