"""Losses, optimizers and learning-rate schedules that torch does not have."""

from collections.abc import Callable, Iterable
from math import ceil, cos, pi
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau


class OneHotMSE(nn.Module):
    """Mean squared error of the logits themselves against one-hot targets.

    Logits, not probabilities: behind a softmax the square's gradient vanishes where the network
    is confidently wrong. Source: L. Hui, M. Belkin, "Evaluation of neural architectures trained
    with square loss vs cross-entropy in classification tasks", ICLR 2021, section 3, whose
    rescaling for many classes is not needed for ten.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over images and classes, of logits ``[N, K]`` and labels ``int64 [N]``."""
        return mse_loss(logits, one_hot(labels, logits.shape[1]).to(logits.dtype))


# of the odd polynomial that is iterated: steep at 0, near 1 from 0.7 on
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Momentum whose steps go as far in every direction of a matrix; vectors step as in SGD.

    A kernel ``[out, in, k, k]`` is taken as the matrix ``[out, in · k · k]`` that it is where
    images are unfolded; ``torch.optim.Muon`` takes matrices only. What has but one row or column
    is a vector. Source: K. Jordan et al.,
    "Muon: an optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon, with Nesterov's momentum and the decoupled decay of
    J. Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982, equation 3.

    Args:
        params: of the network, or groups of them.
        lr: of a matrix, how far a step goes in each direction, for a tall one times the square
            root of rows over columns; of a vector, as usual.
        momentum: the share of the running sum of gradients that is kept in a step.
        weight_decay: times lr, the share of all weights that is taken off in a step.
        iterations: of Newton and Schulz; each brings the singular values of a step nearer to 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, options | {"iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        step = gradient.add(momentum, alpha=group["momentum"])
        if parameter.ndim > 1 and min(step.flatten(1).shape) > 1:
            matrix = orthogonalised(step.flatten(1), group["iterations"])
            rows, columns = matrix.shape
            step = matrix.mul_(max(1.0, rows / columns) ** 0.5).view(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"])


def orthogonalised(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix ``[m, n]`` with its singular vectors, and singular values of about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T  # of the shorter side
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if tall else x


def planned_steps(trainer: Trainer, images: int, batch_size: int) -> int:
    """Optimizer steps of a run that is not yet attached to its trainer.

    Afterwards it is ``trainer.estimated_stepping_batches``.

    Args:
        trainer: says for how many epochs, on how many devices, and with what limits.
        images: of the training split.
        batch_size: images per step and device.
    """
    batches = ceil(images // (trainer.num_devices * trainer.num_nodes) / batch_size)
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float,
    div_factor: float,
    final_div_factor: float,
) -> dict[str, Any]:
    """Up to the optimizer's lr and down to almost nothing, each along half a cosine.

    Source: L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using
    large learning rates", arXiv:1708.07120, section 3. The momentum stays what it is.

    Args:
        optimizer: whose lr is the peak.
        total_steps: of the run.
        warmup: the share of the steps that go up.
        div_factor: the peak over the lr of the first step.
        final_div_factor: the lr of the first step over that of the last.

    Raises:
        ValueError: for so few steps that it cannot go up.
    """
    if not 1 < warmup * total_steps < total_steps:
        raise ValueError(
            f"warmup={warmup}: of the run's {total_steps} steps, more than one must go up; "
            "raise it, or trainer.max_epochs"
        )
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps + 1,  # it is asked once more after the last step
        pct_start=warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,
    )
    return {"scheduler": scheduler, "interval": "step"}


def cosine(optimizer: Optimizer, total_steps: int, warmup: float, final: float) -> dict[str, Any]:
    """Up in a straight line, and down along half a cosine.

    Sources: I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    ICLR 2017, equation 5, without restarts; the warm-up of P. Goyal et al., "Accurate, large
    minibatch SGD", arXiv:1706.02677, section 2.2.

    Args:
        optimizer: whose lr is the peak.
        total_steps: of the run.
        warmup: the share of the steps that go up; 0 begins at the peak.
        final: the lr at the end, as a share of the peak.

    Raises:
        ValueError: for so few steps that none goes down.
    """
    if (up := round(warmup * total_steps)) >= total_steps:
        raise ValueError(
            f"warmup={warmup}: leaves none of the run's {total_steps} steps to go down; "
            "lower it, or raise trainer.max_epochs"
        )
    scheduler = LambdaLR(optimizer, Cosine(total_steps, up, final))
    return {"scheduler": scheduler, "interval": "step"}


def plateau(
    optimizer: Optimizer, total_steps: int, monitor: str, mode: str, factor: float, patience: int
) -> dict[str, Any]:
    """Less, each time that a metric has not got better for some epochs.

    Args:
        optimizer: whose lr is that of the beginning.
        total_steps: of the run; of no consequence here.
        monitor: the metric, of validation.
        mode: ``min`` or ``max``, what is better.
        factor: what the lr is multiplied by.
        patience: epochs in a row without a better one that are borne.
    """
    scheduler = ReduceLROnPlateau(optimizer, mode, factor, patience)  # type: ignore[arg-type]
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


class Cosine:
    """The factor of :func:`cosine` at a step, as an object whose numbers checkpoints keep."""

    def __init__(self, total: int, warmup: int, final: float) -> None:
        self.total, self.warmup, self.final = total, warmup, final

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        return self.final + (1 - self.final) * (1 + cos(pi * done)) / 2
