"""How the learning rate changes: torch's schedulers, as Lightning steps them.

Each takes the optimizer, whose ``lr`` is the highest there will be, and the run's number of
optimizer steps, and returns what ``configure_optimizers`` returns under ``lr_scheduler``.
"""

from math import ceil, cos, pi
from typing import Any

from pytorch_lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau


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
