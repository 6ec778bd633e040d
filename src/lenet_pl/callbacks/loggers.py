"""What loggers get beside the metrics of each epoch."""

import logging
import random
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lenet_pl.errors import ConfigError, one_line
from lenet_pl.metrics import by_confidence, confusion_matrix

log = logging.getLogger(__name__)

# the constructor argument that continues a run of the logger's service, by class
RUN_ID = {"WandbLogger": "id", "MLFlowLogger": "run_id"}
# training and validation in the same chart, by title
CHARTS = {
    "accuracy": ["Multiline", ["acc/train", "acc/val"]],
    "loss": ["Multiline", ["loss/train", "loss/val"]],
}
# legible in TensorBoard, which shows images 350 pixels wide
GRID: Any = {"columns": 4, "size": 11}
IMAGES = 16  # in a grid
CELL = 0.16  # inches, of a confusion matrix


def log_metrics(trainer: Any, metrics: Mapping[str, float], epoch: int) -> None:
    """Log the metrics of an epoch; to TensorBoard, with accuracy and loss as the first tags."""
    for logger in _loggers(trainer):
        tag = _tag if isinstance(logger, TensorBoardLogger) else str
        logger.log_metrics({tag(name): metrics[name] for name in metrics}, epoch)
        logger.save()


def _tag(name: str) -> str:
    """``acc/val`` for ``val/acc``, ``other/lr`` for ``lr``; the first two groups are opened."""
    stage, slash, metric = name.rpartition("/")
    return ("" if metric in ("acc", "loss") else "other/") + metric + slash + stage


class LoggedRun(Callback):
    """Logs the configuration and the result of a run; to TensorBoard, also its graph and images.

    Checkpoints include the ids of the W&B and MLflow runs, for resumed runs.
    """

    def __init__(
        self, config: dict[str, Any], hparams: dict[str, Any], ids: dict[str, str]
    ) -> None:
        self.config = config  # as plain values
        self.hparams = hparams  # columns of TensorBoard's HParams tab
        self.ids = ids  # of the runs that are continued, by class of the logger

    def open(self, trainer: Trainer) -> None:
        """Start the runs of W&B and MLflow; ConfigError if a service cannot be reached."""
        random.seed()  # MLflow chooses the name of a run with this generator
        for logger in _loggers(trainer):
            try:
                _ = getattr(logger, "experiment", None)
            except Exception as error:  # of many types
                reason = one_line(error, 40)
                raise ConfigError(f"logger: {type(logger).__name__}: {reason}") from error
            if isinstance(logger, TensorBoardLogger):
                logger.hparams.update(self.hparams)  # the logger writes them to hparams.yaml

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in _loggers(trainer):
            kind = type(logger).__name__
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars({"training": CHARTS})
                text = yaml.safe_dump(self.config, sort_keys=False)
                logger.experiment.add_text("config", f"```yaml\n{text}\n```")
                _add_graph(logger.experiment, pl_module)
                _add_training_images(logger.experiment, trainer)
            elif kind not in self.ids:  # MLflow rejects a parameter that has changed
                logger.log_hyperparams(self.config)
            if kind in RUN_ID and logger.version:
                self.ids[kind] = str(logger.version)

    def log_result(self, trainer: Trainer, metrics: Mapping[str, float], epoch: int) -> None:
        """Log the metrics of the best epoch and, except to TensorBoard, those on the test set.

        Their names, ``best/val/acc`` and so on, differ from those of an epoch, since HParams shows
        the last value of a name. In TensorBoard, ``val_best/acc`` is among the last tags.
        """
        for logger in _loggers(trainer):
            if isinstance(logger, TensorBoardLogger):
                best = sorted(name for name in metrics if name.startswith("val/"))
                columns = {name.replace("val/", "val_best/"): metrics[name] for name in best}
                logger.log_hyperparams(self.hparams, columns, epoch)
                _add_validation_images(logger.experiment, trainer, epoch)
            else:
                named = {name.replace("val/", "best/val/"): x for name, x in metrics.items()}
                logger.log_metrics(named, epoch)
            logger.save()

    def state_dict(self) -> dict[str, Any]:
        return {"ids": self.ids}


def close_loggers(succeeded: bool) -> None:
    """End the run of W&B, since a later job of this process would continue it."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish(exit_code=int(not succeeded))


def _loggers(trainer: Any) -> list[Logger]:
    return trainer.loggers if trainer.is_global_zero else []


def _add_graph(writer: SummaryWriter, pl_module: Any) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):  # add_graph uses a deprecated tracer
            writer.add_graph(pl_module.net, pl_module.example_input_array.to(pl_module.device))
    except Exception as error:  # networks that cannot be traced can still be trained
        log.warning("no graph in TensorBoard: %s", one_line(error, 30))


def _add_training_images(writer: SummaryWriter, trainer: Any) -> None:
    from lenet_pl import plots  # matplotlib takes half a second to import

    data = trainer.datamodule
    images, labels = next(iter(trainer.train_dataloader))  # generators are seeded per epoch
    images = images[:IMAGES].cpu()
    if images.is_floating_point():  # augmented
        images = images.mul(255).round().byte()
    captions = [data.classes[label] for label in labels[:IMAGES]]
    augmentation = ", ".join(data.augment) or "not augmented"
    figure = plots.image_grid(images, captions, f"training images, {augmentation}", **GRID)
    writer.add_image("plots/training images", plots.rgb_array(figure), dataformats="HWC")


def _add_validation_images(writer: SummaryWriter, trainer: Any, epoch: int) -> None:
    from lenet_pl import plots  # matplotlib takes half a second to import

    data, classifier = trainer.datamodule, trainer.lightning_module
    logits, labels = classifier.outputs["val"]
    wrong = by_confidence(logits, logits.argmax(1) != labels, IMAGES)
    captions = [
        f"{data.classes[label]} → {data.classes[row.argmax()]} {row.max():.0%}"
        for label, row in zip(labels[wrong], logits[wrong].softmax(1), strict=True)
    ]
    matrix, images = confusion_matrix(logits, labels), data.splits["val"].images[wrong]
    title, errors = f"validation, epoch {epoch}", f"label → prediction, epoch {epoch}"
    figures = {
        "confusion": plots.confusion_matrix(matrix, data.classes, title, cell=CELL),
        "misclassified": plots.image_grid(images, captions, errors, **GRID),
    }
    for layer in [x for x in classifier.net.modules() if isinstance(x, nn.Conv2d)][:1]:
        figures["weights of the first layer"] = plots.filters(layer.weight.detach().float().cpu())
    for name, figure in figures.items():  # a group after the curves and before a report's
        array = plots.rgb_array(figure)
        writer.add_image(f"plots/{name}", array, epoch, dataformats="HWC")
