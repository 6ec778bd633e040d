"""Moving and stochastic averages of the weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class WeightAverage(WeightAveraging):
    """Validates, saves and tests averaged weights, while training continues with the current ones.

    Without a ``decay``, all steps have the same weight, which is stochastic weight averaging:
    P. Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI
    2018, algorithm 1.
    """

    def __init__(self, decay: float | None, start: float) -> None:
        super().__init__(multi_avg_fn=partial(update_average, decay=decay))
        self.start = start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average, first_epoch = self._average_model, self.start * (trainer.max_epochs or 1)
        assert average is not None

        def update(*_: Any) -> None:
            if trainer.current_epoch < first_epoch:
                average.n_averaged.zero_()  # so that torch copies the weights
            average.update_parameters(pl_module)

        # a hook of the optimizer, since FastClassifier takes several steps per Lightning batch
        trainer.optimizers[0].register_step_post_hook(update)

    def on_train_batch_end(self, *_: Any) -> None:
        """Disable Lightning's update; the optimizer's hook replaces it."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # otherwise, Lightning swaps it in at every later validation; a run that is resumed after
        # its last epoch has no on_train_end
        self._average_model = None


def update_average(
    averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor, decay: float | None
) -> None:
    """Add the current weights and buffers to an average of ``count`` earlier ones, in place.

    The decay is at most ``(1 + count) / (10 + count)``, so that the random initial weights are soon
    forgotten, as in TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.
    """
    n = int(count)
    keep = n / (n + 1) if decay is None else min(decay, (1 + n) / (10 + n))
    for average, current in zip(averages, currents, strict=True):
        if average.is_floating_point():
            average.lerp_(current, 1 - keep)  # exact if both are equal
        else:
            average.copy_(current)  # BatchNorm's num_batches_tracked
