"""The same training, with many optimizer steps to each of Lightning's."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lenet_pl.classifier import Batch, Classifier


class FastClassifier(Classifier):
    """Trains as :class:`Classifier` does, on the CPU to the bit, in less time.

    Of an epoch of LeNet's in batches of 32, Lightning's work around the steps is a sixth on two
    cores. Here Lightning takes the first step of some, and the others follow in a bare
    loop. Its counters are kept right, so that checkpoints of either classifier go on with the
    other, but its hooks around a batch, a backward pass and a step are called once for all.

    Args:
        args, kwargs: as :class:`Classifier` takes them.
        steps_per_execution: optimizer steps to one of Lightning's; Keras has the name.
        cuda_graph: whether, on a CUDA GPU, forward and backward pass of a whole batch are
            captured once and replayed, rather than launched kernel by kernel; of no effect
            elsewhere, on the first of some steps, and on a batch that is not whole.
    """

    def __init__(self, *args: Any, steps_per_execution: int, cuda_graph: bool, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.steps_per_execution = steps_per_execution
        self.cuda_graph = cuda_graph
        self.replay: Replay | None = None

    def training_step(self, dataloader_iter: Iterator) -> Tensor:  # type: ignore[override]
        # by this argument's name Lightning hands out the iterator itself, which can be drawn on
        self.remaining = dataloader_iter
        return super().training_step(self._next(), 0)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.captures:
            # its graph would tie the parameters to the stream that this step was taken on
            optimizer_closure._result.closure_loss = None
        loop = self.trainer.fit_loop.epoch_loop
        progress = loop.automatic_optimization.optim_progress.optimizer
        for _ in range(self._more()):
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)  # after the last
            self._step(optimizer.optimizer, self._next())
            # as if Lightning had taken it
            loop.batch_progress.increment_by(1)
            loop._batches_that_stepped += 1
            progress.step.increment_by(1)
            progress.zero_grad.increment_by(1)

    def _next(self) -> Batch:
        images, labels = next(self.remaining)[0]
        return images.to(self.device), labels.to(self.device)

    def _more(self) -> int:
        """Steps to take besides the first, none beyond the epoch."""
        before = self.trainer.fit_loop.epoch_loop.batch_idx

        left = int(self.trainer.num_training_batches) - before
        return min(self.steps_per_execution, left) - 1

    @property
    def captures(self) -> bool:
        return self.cuda_graph and self.device.type == "cuda"

    def _step(self, optimizer: Optimizer, batch: Batch) -> None:
        trainer: Any = self.trainer
        if self.captures and len(batch[1]) == trainer.datamodule.batch_size:
            if self.replay is None or not self.replay.holds():
                self.replay = Replay(self, batch)
            self.batches["train"].append((self.replay(batch), batch[1]))
        else:
            optimizer.zero_grad()
            self._loss(batch).backward()
        self.configure_gradient_clipping(
            optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
        optimizer.step()

    def _loss(self, batch: Batch) -> Tensor:
        with self.trainer.precision_plugin.train_step_context():
            return super().training_step(batch, 0)


class Replay:
    """The forward and backward pass of a batch as a CUDA graph.

    A step of a small network is many kernels with little to do; a graph launches them all at
    once. Not yet run on a GPU. The optimizer's step stays outside, with its learning rate,
    its hooks and the clipping of gradients.

    Args:
        classifier: which has taken a step already, so that everything is set up.
        batch: of the size that all will have, on the device.
    """

    def __init__(self, classifier: FastClassifier, batch: Batch) -> None:
        self.parameters = list(classifier.parameters())
        self.trained = [p.requires_grad for p in self.parameters]
        self.batch = batch[0].clone(), batch[1].clone()
        for parameter in self.parameters:
            parameter.grad = None  # or they would be added to
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.passes(classifier)
        self.gradients = [p.grad for p in self.parameters]

    def passes(self, classifier: FastClassifier) -> None:
        classifier._loss(self.batch).backward()
        self.logits, _ = classifier.batches["train"].pop()

    def holds(self) -> bool:
        """Whether what is trained is still what was when it was captured."""
        return self.trained == [p.requires_grad for p in self.parameters]

    def __call__(self, batch: Batch) -> Tensor:
        """The logits of a batch, whose gradients are left in the parameters."""
        for own, part in zip(self.batch, batch, strict=True):
            own.copy_(part)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.logits.clone()
