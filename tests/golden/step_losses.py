"""A Lightning callback that a golden run is given on its command line."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class StepLosses(Callback):
    """Writes the losses of the first optimizer steps to a JSON file.

    It listens to the loss function itself, so it sees every step, also where Lightning takes
    many of them at once. A loss that nothing is learnt from, such as an epoch's, is passed by.

    Args:
        path: of the JSON file.
        count: how many losses are kept.
    """

    def __init__(self, path: str, count: int = 10) -> None:
        self.path = Path(path)
        self.count = count
        self.losses: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def note(module: Any, inputs: Any, output: Any) -> None:
            if output.requires_grad and len(self.losses) < self.count:
                self.losses.append(output.item())

        self.hook = pl_module.loss.register_forward_hook(note)  # type: ignore[union-attr]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.hook.remove()
        self.path.write_text(json.dumps(self.losses))
