"""The same training, with many optimizer steps per Lightning step, on a GPU as a CUDA graph."""

from collections.abc import Callable, Iterator
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lenet_pl.classifier import Batch, Classifier
from lenet_pl.optim import Muon

Update = Callable[[Batch], Tensor]  # trains on a batch and returns its logits


class FastClassifier(Classifier):
    """Trains as :class:`Classifier` does, bit for bit on the CPU, in less time.

    Lightning's overhead per step is about a sixth of a LeNet epoch (batch 32, 2 cores). Here, a
    Lightning step is a plain loop over ``steps_per_execution`` optimizer steps. It updates
    Lightning's counters, so either classifier resumes the other's checkpoints, but hooks around
    batches are called once per Lightning step, without outputs, and those around backward passes
    and optimizer steps are not called. On a GPU, if :func:`is_capturable` allows it, the steps are
    a CUDA graph, which repeats their kernels without running Python code. The name of
    ``steps_per_execution`` is from Keras; the other arguments are those of :class:`Classifier`.
    """

    def __init__(self, *args: Any, steps_per_execution: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps_per_execution = steps_per_execution

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        optimizer = self.trainer.optimizers[0]
        self.update: Update = partial(self._update, optimizer)
        if is_capturable(optimizer):  # in each epoch, since callbacks may have unfrozen layers
            self.update = CapturedUpdate(self.update, optimizer)

    def training_step(self, dataloader_iter: Iterator[Any]) -> None:  # type: ignore[override]
        # the name of this argument makes Lightning pass the iterator instead of a batch
        self.iterator = dataloader_iter

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer_closure()  # which Lightning requires; it calls training_step
        loop = self.trainer.fit_loop.epoch_loop
        progress = loop.automatic_optimization.optim_progress.optimizer
        remaining = int(self.trainer.num_training_batches) - loop.batch_idx
        for step in range(min(self.steps_per_execution, remaining)):
            if step > 0:  # Lightning counts the first
                loop.update_lr_schedulers("step", update_plateau_schedulers=False)
                loop.batch_progress.increment_by(1)
                loop._batches_that_stepped += 1
                progress.step.increment_by(1)
                progress.zero_grad.increment_by(1)
            images, labels = next(self.iterator)[0]
            batch = images.to(self.device), labels.to(self.device)
            self.batches["train"].append((self.update(batch), batch[1]))

    def _update(self, optimizer: Optimizer, batch: Batch) -> Tensor:
        trainer: Any = self.trainer
        optimizer.zero_grad()
        with trainer.precision_plugin.train_step_context():
            loss = super().training_step(batch, 0)
        loss.backward()
        self.configure_gradient_clipping(
            optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
        optimizer.step()
        return self.batches["train"].pop()[0]

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


def is_capturable(optimizer: Optimizer) -> bool:
    """Whether the steps can be a CUDA graph, which excludes weight averaging and anomaly checks."""
    on_gpu = optimizer.param_groups[0]["params"][0].is_cuda
    takes_tensors = type(optimizer) in (SGD, Adam, AdamW, Muon)  # as learning rate
    needs_python = optimizer._optimizer_step_post_hooks or torch.is_anomaly_enabled()
    return on_gpu and takes_tensors and not needs_python


class CapturedUpdate:
    """Runs an update as a CUDA graph, from the second batch of a shape on.

    The first batch runs as usual, which loads the kernels and creates the optimizer's state. The
    learning rates are tensors, since a graph repeats all numbers that come from Python.
    """

    def __init__(self, update: Update, optimizer: Optimizer) -> None:
        self.update, self.groups = update, optimizer.param_groups
        device = self.groups[0]["params"][0].device
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        for state in optimizer.state.values():
            if "step" in state:  # Adam's, on the CPU in a resumed run
                state["step"] = state["step"].to(device)
        self.graphs: dict[torch.Size, Update | None] = {}

    def __call__(self, batch: Batch) -> Tensor:
        for rate, group in zip(self.rates, self.groups, strict=True):
            rate.fill_(group["lr"])
        shape = batch[0].shape
        if shape not in self.graphs:
            self.graphs[shape] = None
            return self._run(batch)
        graph = self.graphs[shape] = self.graphs[shape] or capture(self._run, batch)
        return graph(batch)

    def _run(self, batch: Batch) -> Tensor:
        """Run the update with the options of the optimizer that a graph requires."""
        options = [dict(group) for group in self.groups]
        for rate, group in zip(self.rates, self.groups, strict=True):
            group.update({name: True for name in ("fused", "capturable") if name in group}, lr=rate)
        try:
            return self.update(batch)
        finally:  # schedules, logs and checkpoints have numbers
            for group, option in zip(self.groups, options, strict=True):
                group.update(option)


def capture(update: Update, batch: Batch) -> Update:
    """Capture an update in a CUDA graph, without running it, and return one that replays it."""
    inputs = torch.empty_like(batch[0]), torch.empty_like(batch[1])
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            logits = update(inputs)
    except RuntimeError as error:
        raise RuntimeError("cannot capture a CUDA graph; choose classifier=plain") from error

    def replay(batch: Batch) -> Tensor:
        for tensor, value in zip(inputs, batch, strict=True):
            tensor.copy_(value)
        graph.replay()
        return logits.clone()

    return replay
