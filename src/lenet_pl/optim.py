"""Losses, optimizers and learning-rate schedules that torch does not provide.

The files in ``conf/optimizer`` and ``conf/scheduler`` describe the arguments. A schedule is built
from the optimizer, whose lr is the peak, and the number of optimizer steps of the run.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import ceil, cos, pi
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

Mode = Literal["min", "max"]
Schedule = dict[str, Any]  # what Lightning expects under "lr_scheduler"


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross-entropy between logits ``[N, K]`` and labels ``int64 [N]``.

    ``class_weights`` has K numbers above 0, of the images of each class, for a weighted mean; None
    weights all equally. They are not part of the ``state_dict``.
    """

    def __init__(self, label_smoothing: float, class_weights: Sequence[float] | None) -> None:
        super().__init__(label_smoothing=label_smoothing)
        weight = None if class_weights is None else torch.tensor([*map(float, class_weights)])
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        # with trainer.precision=64-true, the module has another type than the logits of an epoch
        weight = None if self.weight is None else self.weight.to(input.dtype)
        return cross_entropy(input, target, weight, label_smoothing=self.label_smoothing)


class OneHotMSE(nn.Module):
    """Mean squared error between logits and one-hot targets.

    Source: L. Hui, M. Belkin, "Evaluation of neural architectures trained with square loss vs
    cross-entropy in classification tasks", ICLR 2021, section 3, without rescaling. After a
    softmax, the gradient would vanish for confident errors.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over images and classes, given logits ``[N, K]`` and labels ``int64 [N]``."""
        return mse_loss(logits, one_hot(labels, logits.shape[1]).to(logits.dtype))


class Muon(Optimizer):
    """SGD with Nesterov momentum and orthogonalised updates for matrices.

    Unlike ``torch.optim.Muon``, it also takes convolution kernels ``[out, in, k, k]``, as matrices
    ``[out, in · k · k]``, and vectors, which are updated as in SGD. Sources: K. Jordan et al.,
    "Muon: an optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon; J. Liu et al., "Muon is scalable for LLM training",
    arXiv:2502.16982, equation 3, for the decoupled weight decay.

    The learning rate is multiplied by the square root of rows / columns for tall matrices. A step
    first multiplies all weights by 1 - lr · weight_decay. More iterations bring the singular values
    of an update closer to 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
                update = gradient.add(buffer, alpha=momentum)
                if parameter.ndim > 1 and min(update.flatten(1).shape) > 1:
                    matrix = orthogonalise(update.flatten(1), group["iterations"])
                    rows, columns = matrix.shape
                    update = matrix.mul_(max(1.0, rows / columns) ** 0.5).view(parameter.shape)
                parameter.mul_(1 - lr * group["weight_decay"])
                if isinstance(lr, Tensor):  # in a CUDA graph
                    parameter.addcmul_(update, -lr)
                else:
                    parameter.add_(update, alpha=-lr)
        return loss


def orthogonalise(matrix: Tensor, iterations: int) -> Tensor:
    """Replace the singular values of a matrix ``[m, n]`` with values of about 0.7 to 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315  # an odd polynomial, steep at 0 and near 1 from 0.7 on
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T  # along the shorter side
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if tall else x


def planned_steps(trainer: Trainer, images: int, batch_size: int) -> int:
    """Compute ``trainer.estimated_stepping_batches`` for a trainer that has no data yet.

    ``images`` is the size of the training split, ``batch_size`` the batch size per device.
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
) -> Schedule:
    """Raise the learning rate to its peak and lower it to almost 0, both along half a cosine.

    Source: L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using
    large learning rates", arXiv:1708.07120, section 3, with constant momentum. Raises ValueError
    if there are too few steps for a warm-up.
    """
    if not 1 < warmup * total_steps < total_steps:
        raise ValueError(
            f"warmup={warmup}: must cover more than one of the run's {total_steps} steps; "
            "raise it, or trainer.max_epochs"
        )
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps + 1,  # Lightning calls it once more after the last step
        pct_start=warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,
    )
    return {"scheduler": scheduler, "interval": "step"}


def cosine(optimizer: Optimizer, total_steps: int, warmup: float, final: float) -> Schedule:
    """Raise the learning rate linearly to its peak and lower it along half a cosine.

    Sources: I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    ICLR 2017, equation 5; P. Goyal et al., "Accurate, large minibatch SGD", arXiv:1706.02677,
    section 2.2, for the warm-up. Raises ValueError if no steps remain after the warm-up.
    """
    if (warmup_steps := round(warmup * total_steps)) >= total_steps:
        raise ValueError(
            f"warmup={warmup}: leaves none of the run's {total_steps} steps for the decay; "
            "lower it, or raise trainer.max_epochs"
        )
    factor = partial(cosine_factor, total=total_steps, warmup=warmup_steps, final=final)
    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def cosine_factor(step: int, total: int, warmup: int, final: float) -> float:
    """Return the learning rate of :func:`cosine` at a step, relative to the peak."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / (total - warmup))
    return final + (1 - final) * (1 + cos(pi * progress)) / 2


def plateau(
    optimizer: Optimizer, total_steps: int, monitor: str, mode: Mode, factor: float, patience: int
) -> Schedule:
    """Lower the learning rate after an epoch when a validation metric stops improving."""
    scheduler = ReduceLROnPlateau(optimizer, mode, factor, patience)
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}
