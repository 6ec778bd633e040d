"""The sweeper ``hydra/sweeper=halving``; Hydra loads plugins from this namespace only."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class HalvingSweeper(BasicSweeper):
    """Successive halving over a grid, see :mod:`lenet_pl.sweeps.halving`.

    Args:
        eta: after each rung, the best ``1 / eta`` of the settings go on.
        min_epochs: epochs up to the first rung; each further rung has ``eta`` times as many.
        max_batch_size: jobs per batch of the launcher; None for all.
        params: the grid, by key, as for Hydra's basic sweeper.
    """

    def __init__(
        self,
        eta: int,
        min_epochs: int,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.eta, self.min_epochs = eta, min_epochs

    def sweep(self, arguments: list[str]) -> Any:
        from lenet_pl.sweeps.halving import halve  # plugins are imported at every start

        halve(self)
