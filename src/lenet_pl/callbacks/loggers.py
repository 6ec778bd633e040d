"""What W&B, MLflow and other loggers get beside the metrics of each epoch."""

import random
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.seed import isolate_rng

from lenet_pl.callbacks.checkpoint import BestAndLastCheckpoint
from lenet_pl.errors import ConfigError, one_line

# the constructor argument that continues a run of the logger's service, by class
RUN_ID = {"WandbLogger": "id", "MLFlowLogger": "run_id"}


class LoggedRun(Callback):
    """Logs the configuration and the metrics of the best epoch, except to TensorBoard.

    Checkpoints include the ids of the W&B and MLflow runs, for resumed runs.

    Args:
        config: the resolved configuration, as plain values.
        ids: by class of the logger, the id of the run that it continues.
    """

    def __init__(self, config: Mapping[str, Any], ids: Mapping[str, str]) -> None:
        self.config, self.ids = dict(config), dict(ids)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in _loggers(trainer):
            kind = type(logger).__name__
            if kind not in self.ids:  # MLflow rejects a parameter that has changed
                logger.log_hyperparams(self.config)
            if kind in RUN_ID and logger.version:
                self.ids[kind] = str(logger.version)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            _log(trainer, "val/", "best/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log(trainer, "test/")

    def state_dict(self) -> dict[str, Any]:
        return {"ids": self.ids}


def best_epoch(trainer: Any) -> int:
    """The epoch of the best weights; without checkpoints, the last."""
    callbacks = trainer.checkpoint_callbacks
    epochs = [c.epoch for c in callbacks if isinstance(c, BestAndLastCheckpoint)]
    return epochs[0] if epochs else trainer.current_epoch


def _loggers(trainer: Any) -> list[Logger]:
    writes = trainer.is_global_zero
    return [x for x in trainer.loggers if writes and not isinstance(x, TensorBoardLogger)]


def _log(trainer: Trainer, stage: str, prefix: str = "") -> None:
    """Log a stage's metrics of the best weights: ``best/val/acc``, ``test/acc`` and so on."""
    metrics = {
        f"{prefix}{name}": value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(stage)
    }
    for logger in _loggers(trainer):
        logger.log_metrics(metrics, best_epoch(trainer))
        logger.save()


def open_loggers(trainer: Trainer) -> None:
    """Start the runs of W&B and MLflow; ConfigError if a service cannot be reached."""
    with isolate_rng():
        random.seed()  # MLflow chooses the name of a run with this generator
        for logger in _loggers(trainer):
            try:
                _ = getattr(logger, "experiment", None)
            except Exception as error:  # of many types
                reason = one_line(error, 40)
                raise ConfigError(f"logger: {type(logger).__name__}: {reason}") from error


def close_loggers(trainer: Trainer, status: str) -> None:
    """End the runs of W&B and MLflow with the status in ``result.json``."""
    for logger in _loggers(trainer):
        if isinstance(logger, MLFlowLogger):
            logger.finalize({"failed": "FAILED", "interrupted": "KILLED"}.get(status, "FINISHED"))
        elif isinstance(logger, WandbLogger):
            import wandb

            wandb.finish(exit_code=int(status in ("failed", "interrupted")))
