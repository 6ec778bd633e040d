"""The parts of a run, built from its configuration."""

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from pytorch_lightning.callbacks import Checkpoint

from lenet_pl.callbacks.checkpoint import BestAndLastCheckpoint
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.callbacks.tensorboard import TensorBoardSummary
from lenet_pl.classifier import Classifier
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import ConfigError
from lenet_pl.plan import check_checkpoint, check_plan, told
from lenet_pl.runs import without_weights

ACCELERATORS = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "tpu": XLAAccelerator}

# what a run that goes on must go on with; the data, with its split, is compared by itself
LASTING = (
    "seed",
    "data.batch_size",
    "augment",
    "data.augment_until",
    "model",
    "loss",
    "optimizer",
    "scheduler",
    "classifier.decay_biases",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "callbacks.average",
    "callbacks.finetune",
)

# its tips and its account of hooks are not about this run
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
# the fast classifier takes the data's iterator, which Lightning calls experimental
warnings.filterwarnings("ignore", ".*`dataloader_iter`.*")
# true of every run here, and no reason to worry: the data lies in memory
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
# a run that is taken up again writes into the folder it had
warnings.filterwarnings("ignore", ".*exists and is not empty.*")
# what is frozen is meant to stay so
warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
# between Lightning and torch
warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")


class Parts(NamedTuple):
    """What a run consists of; ``best`` is None where no checkpoints are kept."""

    trainer: Trainer
    classifier: Classifier
    data: DigitsDataModule
    history: EpochHistory
    best: BestAndLastCheckpoint | None


def build(cfg: DictConfig) -> Parts:
    """Seed everything, read the data, and build network, callbacks, loggers and trainer.

    Raises:
        ConfigError: for a value that a constructor refuses, or a checkpoint that does not fit.
        DataError: if the data cannot be had.
    """
    # a unit that no longer fires gets no gradient, and its momentum fades into numbers so small
    # that a CPU takes three times as long for an epoch; they are zeros in all but name
    torch.set_flush_denormal(True)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data: DigitsDataModule = _instantiate(cfg, "data")
    data.prepare_data()
    data.setup("fit")
    own = cfg if cfg.ckpt_path is None else without_weights(cfg)
    classifier: Classifier = _instantiate(own, "classifier", mean=data.mean, std=data.std)
    classifier.settings = settings(cfg)
    classifier.example_input_array = data.splits["train"].images[:1] / 255
    _check_accelerator(cfg.trainer.accelerator)

    history = EpochHistory(Path(cfg.run_dir) / "metrics.csv")
    dashboard = TensorBoardSummary(hparams(cfg), _as_text(cfg))
    callbacks = [history, dashboard, *_chosen(cfg, "callbacks")]
    trainer: Trainer = _instantiate(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=_chosen(cfg, "logger"),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    check_plan(trainer, classifier, data)
    if cfg.ckpt_path is not None:
        check_checkpoint(cfg, classifier, data)
    best = next(
        (callback for callback in callbacks if isinstance(callback, BestAndLastCheckpoint)), None
    )
    return Parts(trainer, classifier, data, history, best)


def rehearse(cfg: DictConfig) -> None:
    """Build everything and pass one image through, to find what cannot work.

    Raises:
        ConfigError, DataError: as :func:`build` does, and if model and data do not fit.
    """
    _, classifier, data, _, _ = build(cfg)
    try:
        with torch.no_grad():
            outputs = classifier.eval()(classifier.example_input_array).shape[1]
    except RuntimeError as error:
        raise ConfigError(f"model: does not take these images: {error}") from error
    if outputs != len(data.classes):
        raise ConfigError(f"model.num_classes={outputs}: the data has {len(data.classes)} classes")


def hparams(cfg: DictConfig) -> dict[str, Any]:
    """The flat set for TensorBoard's HParams tab; of a class, its name."""
    values = OmegaConf.to_container(cfg.hparams, resolve=True)
    assert isinstance(values, dict)
    return {
        str(name): value.rsplit(".", 1)[-1] if isinstance(value, str) else value
        for name, value in values.items()
    }


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What a run must go on with, by its full key; under that of a part, the name of its class."""
    found: dict[str, Any] = {}

    def note(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                note(f"{key}.{name}", inner)
        elif key.endswith("._target_"):
            found[key.removesuffix("._target_")] = value.rpartition(".")[2]
        elif key != "model.weights" and not key.endswith("._partial_"):  # a checkpoint has weights
            found[key] = value

    for key in LASTING:
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        note(key, value)
    return {key: value for key, value in found.items() if value is not None}


def _instantiate(cfg: DictConfig, key: str, **parts: Any) -> Any:
    try:
        # lists and mappings as Python's own: what goes into a checkpoint must be plain
        return instantiate(cfg[key], **parts, _convert_="all")
    except InstantiationException as error:
        where = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else key
        # the classifier takes its parts from the groups that people know: net is ${model}
        where = where.replace("classifier.net", "model").replace("classifier.", "")
        where = where.replace("data.augment", "augment")
        raise ConfigError(told(where, error.__cause__ or error)) from error


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """What a group builds, less what an override such as ``callbacks.best=null`` took out."""
    return [part for part in _instantiate(cfg, group).values() if part is not None]


def _check_accelerator(wanted: str) -> None:
    found = [name for name, kind in ACCELERATORS.items() if kind.is_available()]
    usable = ["auto", "cpu", *found, *(["gpu"] if {"cuda", "mps"} & {*found} else [])]
    if wanted not in usable:
        raise ConfigError(
            f"trainer.accelerator={wanted}: not on this machine; choose from {', '.join(usable)}"
        )


def _as_text(cfg: DictConfig) -> str:
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return OmegaConf.to_yaml(own, resolve=True)
