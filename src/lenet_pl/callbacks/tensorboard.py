"""TensorBoard output other than the metrics of each epoch."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lenet_pl.callbacks.loggers import best_epoch
from lenet_pl.errors import one_line
from lenet_pl.metrics import by_confidence, confusion_matrix

log = logging.getLogger(__name__)

# training and validation in the same chart
CHARTS = {x: ["Multiline", [f"train/{x}", f"val/{x}"]] for x in ("loss", "acc")}
METRICS = ("val/acc", "val/loss")
IMAGES = 32  # in a grid


class TensorBoardSummary(Callback):
    """Logs hyperparameters, graph, configuration and images, if TensorBoard is among the loggers.

    Metrics and images of the best epoch are logged after training, when it is validated again.

    Args:
        hparams: columns of the HParams tab, as plain values.
        config: the resolved configuration as YAML.
    """

    def __init__(self, hparams: Mapping[str, Any], config: str) -> None:
        self.hparams = dict(hparams)
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in _loggers(trainer):
            logger.hparams.update(self.hparams)  # the logger writes them to hparams.yaml

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in _loggers(trainer):
            writer = logger.experiment
            writer.add_custom_scalars({"training": CHARTS})
            writer.add_text("config", f"```yaml\n{self.config}\n```")
            _add_graph(writer, pl_module)
            _add_training_images(writer, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        epoch = best_epoch(trainer)
        # separate tags, because the HParams tab shows the last value of a tag
        metrics = {f"best/{name}": trainer.callback_metrics[name].item() for name in METRICS}
        for logger in _loggers(trainer):
            logger.log_hyperparams(self.hparams, metrics, epoch)
            _add_validation_images(logger.experiment, trainer, epoch)
            logger.save()


def _loggers(trainer: Any) -> list[TensorBoardLogger]:
    writes = trainer.is_global_zero and not trainer.fast_dev_run
    return [x for x in trainer.loggers if writes and isinstance(x, TensorBoardLogger)]


def _add_graph(writer: SummaryWriter, pl_module: Any) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # add_graph uses a deprecated tracer
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
    figure = plots.image_grid(images, captions, f"training images, {augmentation}")
    writer.add_image("train/images", plots.rgb_array(figure), dataformats="HWC")


def _add_validation_images(writer: SummaryWriter, trainer: Any, epoch: int) -> None:
    from lenet_pl import plots  # matplotlib takes half a second to import

    data, classifier = trainer.datamodule, trainer.lightning_module
    logits, labels = classifier.outputs["val"]
    wrong = by_confidence(logits, logits.argmax(1) != labels, IMAGES)
    confidences, predicted = logits[wrong].softmax(1).max(1)
    captions = [
        f"{data.classes[label]} → {data.classes[prediction]} {confidence:.0%}"
        for label, prediction, confidence in zip(labels[wrong], predicted, confidences, strict=True)
    ]
    matrix, images = confusion_matrix(logits, labels), data.splits["val"].images[wrong]
    figures = {
        "val/confusion": plots.confusion_matrix(matrix, data.classes, f"validation, epoch {epoch}"),
        "val/misclassified": plots.image_grid(
            images, captions, f"label → prediction, epoch {epoch}"
        ),
    }
    convolution = next((m for m in classifier.net.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is not None:
        kernels = convolution.weight.detach().float().cpu()
        figures["net/first filters"] = plots.filters(kernels, f"first layer, epoch {epoch}")
    for tag, figure in figures.items():
        writer.add_image(tag, plots.rgb_array(figure), epoch, dataformats="HWC")
