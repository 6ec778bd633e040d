"""The average of the weights along the way, which is often better than the last of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class WeightAverage(WeightAveraging):
    """Validates, keeps and tests the average of the weights; training goes on from the last.

    The running statistics of batch norms are averaged likewise.

    Args:
        decay: of an exponential moving average over the steps: the share that the average keeps
            of itself in a step. None weighs all steps alike: stochastic weight averaging, after
            P. Izmailov et al., "Averaging weights leads to wider optima and better
            generalization", UAI 2018, algorithm 1.
        start: the share of the epochs after which it begins; until then the average is the
            current weights.
    """

    def __init__(self, decay: float | None, start: float) -> None:
        super().__init__(multi_avg_fn=partial(update, decay=decay))
        self.start = start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def take(*_: Any) -> None:
            assert self._average_model is not None and trainer.max_epochs is not None
            if trainer.current_epoch < self.start * trainer.max_epochs:
                self._average_model.n_averaged.zero_()  # the first to be averaged is copied
            self._average_model.update_parameters(pl_module)

        # a step may be one of several that Lightning takes for a single batch
        self._hook = trainer.optimizers[0].register_step_post_hook(take)

    def on_train_batch_end(self, *_: Any) -> None:
        """Lightning would take the weights in here."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._hook.remove()
        # Lightning would go on to swap the last average in, whatever weights are validated now
        self._average_model = None


def update(
    averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor, decay: float | None
) -> None:
    """Take the current weights into the average of the ``count`` before them.

    The decay begins small, as ``(1 + count) / (10 + count)``, so that the first weights, which
    are random, do not stay: TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.
    """
    seen = int(count)
    keep = seen / (seen + 1) if decay is None else min(decay, (1 + seen) / (10 + seen))
    for average, current in zip(averages, currents, strict=True):
        if average.is_floating_point():
            average.lerp_(current, 1 - keep)  # equal values stay what they are, to the bit
        else:
            average.copy_(current)  # a count of batches
