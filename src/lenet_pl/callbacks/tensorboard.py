"""What TensorBoard shows besides the curves."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lenet_pl.callbacks.checkpoint import BestAndLastCheckpoint
from lenet_pl.metrics import confusion_matrix, most_confident_errors

log = logging.getLogger(__name__)

# train and validation in one chart each
LAYOUT = {
    "training": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "acc")}
}
METRICS = ("val/acc", "val/loss")
SHOWN = 32  # images in a picture
KERNELS = 16  # in a row


class TensorBoardSummary(Callback):
    """Hyper-parameters with the best epoch's metrics, the graph, the configuration, pictures.

    The metrics and pictures of the best epoch are written when the best weights are validated
    after training. Does nothing where there is no TensorBoard logger.

    Args:
        hparams: flat, of plain types: the columns of the HParams tab.
        config: the resolved configuration as YAML.
    """

    def __init__(self, hparams: Mapping[str, Any], config: str) -> None:
        self.hparams = dict(hparams)
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in _loggers(trainer):
            logger.hparams.update(self.hparams)  # for the hparams.yaml that the logger writes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in _loggers(trainer):
            writer = logger.experiment
            writer.add_custom_scalars(LAYOUT)
            writer.add_text("config", f"```yaml\n{self.config}\n```")
            _add_graph(writer, pl_module)
            _add_training_images(writer, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        best = next((c for c in trainer.callbacks if isinstance(c, BestAndLastCheckpoint)), None)  # type: ignore[attr-defined]
        epoch = best.epoch if best else trainer.current_epoch
        # under tags of their own: the tab shows a tag's last value, and the last is not the best
        metrics = {f"best/{name}": trainer.callback_metrics[name].item() for name in METRICS}
        for logger in _loggers(trainer):
            logger.log_hyperparams(self.hparams, metrics, epoch)
            _add_pictures(logger.experiment, trainer, pl_module, epoch)
            logger.save()


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    real = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
    return [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)] if real else []


def _add_graph(writer: SummaryWriter, pl_module: Any) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer is deprecated, and the only one there is
            writer.add_graph(pl_module.net, pl_module.example_input_array.to(pl_module.device))
    except Exception as error:  # a network that cannot be traced trains all the same
        log.warning("no graph in TensorBoard: %s", str(error).strip().splitlines()[0])


def _add_training_images(writer: SummaryWriter, trainer: Trainer) -> None:
    """The first batch as the network sees it; the run's own draws do not depend on this look."""
    from lenet_pl import plots  # matplotlib costs half a second: only where it draws

    data = trainer.datamodule  # type: ignore[attr-defined]
    images, labels = next(iter(trainer.train_dataloader or ()))
    images = images[:SHOWN].cpu()
    if images.is_floating_point():  # augmented
        images = images.mul(255).round().byte()
    captions = [data.classes[label] for label in labels[:SHOWN]]
    changes = ", ".join(data.augment) or "not augmented"
    figure = plots.gallery(images, captions, f"training images, {changes}")
    writer.add_image("train/images", plots.pixels(figure), dataformats="HWC")


def _add_pictures(writer: SummaryWriter, trainer: Trainer, pl_module: Any, epoch: int) -> None:
    from lenet_pl import plots  # matplotlib costs half a second: only where it draws

    data = trainer.datamodule  # type: ignore[attr-defined]
    logits, labels = pl_module.outputs["val"]
    wrong = most_confident_errors(logits, labels, SHOWN)
    confidence, predicted = logits[wrong].softmax(1).max(1)
    captions = [
        f"{data.classes[label]} → {data.classes[guess]} {share:.0%}"
        for label, guess, share in zip(labels[wrong], predicted, confidence, strict=True)
    ]
    figures = {
        "val/confusion": plots.confusion(
            confusion_matrix(logits, labels), data.classes, f"validation, epoch {epoch}"
        ),
        "val/mistakes": plots.gallery(
            data.splits["val"].images[wrong], captions, f"label → confident guess, epoch {epoch}"
        ),
    }
    first = next((m for m in pl_module.net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        kernels = first.weight[:KERNELS].detach().float().cpu()
        figures["net/first filters"] = plots.filters(kernels, f"first layer, epoch {epoch}")
    for tag, figure in figures.items():
        writer.add_image(tag, plots.pixels(figure), epoch, dataformats="HWC")
