"""The sweeper ``hydra/sweeper=halving``; Hydra loads plugins only from this namespace."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class HalvingSweeper(BasicSweeper):
    """Successive halving over a grid; see :mod:`lenet_pl.sweeps.halving`.

    The arguments are described in ``conf/hydra/sweeper/halving.yaml``.
    """

    def __init__(self, eta: int, min_epochs: int, max_batch_size: int | None, params: Any) -> None:
        super().__init__(max_batch_size, params)
        self.eta = eta  # min_epochs determines the rungs of the plan

    def sweep(self, arguments: list[str]) -> Any:
        from lenet_pl.sweeps.halving import halve  # Hydra imports all plugins at every start

        halve(self)
