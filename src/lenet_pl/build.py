"""The parts of a run, built from its configuration."""

import logging
import re
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

from lenet_pl.callbacks.checkpoint import BestAndLast
from lenet_pl.callbacks.dashboard import Dashboard
from lenet_pl.callbacks.history import History
from lenet_pl.classifier import Classifier
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import ConfigError

ACCELERATORS = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "tpu": XLAAccelerator}

# its tips and its account of hooks are not about this run
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
# true of every run here, and no reason to worry: the data lies in memory
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
# a run that is taken up again writes into the folder it had
warnings.filterwarnings("ignore", ".*exists and is not empty.*")
# between Lightning and torch
warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")


class Parts(NamedTuple):
    """What a run consists of; ``best`` is None where no checkpoints are kept."""

    trainer: Trainer
    classifier: Classifier
    data: DigitsDataModule
    history: History
    best: BestAndLast | None


def build(cfg: DictConfig) -> Parts:
    """Seed everything, read the data, and build network, callbacks, loggers and trainer.

    Raises:
        ConfigError: for a value that a constructor refuses, or a checkpoint that does not fit.
        DataError: if the data cannot be had.
    """
    seed_everything(cfg.seed, workers=True, verbose=False)
    data: DigitsDataModule = _instantiate(cfg, "data")
    data.prepare_data()
    data.setup("fit")
    classifier: Classifier = _instantiate(cfg, "classifier", mean=data.mean, std=data.std)
    classifier.example_input_array = data.splits["train"].images[:1] / 255
    if cfg.ckpt_path is not None:
        _check_checkpoint(cfg, classifier, data)
    _check_accelerator(cfg.trainer.accelerator)

    history = History(Path(cfg.run_dir) / "metrics.csv")
    dashboard = Dashboard(hparams(cfg), _as_text(cfg))
    callbacks = [history, dashboard, *_chosen(cfg, "callbacks")]
    trainer: Trainer = _instantiate(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=_chosen(cfg, "logger"),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    best = next((callback for callback in callbacks if isinstance(callback, BestAndLast)), None)
    return Parts(trainer, classifier, data, history, best)


def rehearse(cfg: DictConfig) -> None:
    """Build everything and pass one image through, to find what cannot work.

    Raises:
        ConfigError, DataError: as :func:`build` does, and if model and data do not fit.
    """
    _, classifier, data, _, _ = build(cfg)
    try:
        classifier.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {error}") from error
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


def _instantiate(cfg: DictConfig, key: str, **parts: Any) -> Any:
    try:
        return instantiate(cfg[key], **parts)
    except InstantiationException as error:
        where = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else key
        # the classifier takes its parts from the groups that people know: net is ${model}
        where = where.replace("classifier.net", "model").replace("classifier.", "")
        where = where.replace("data.augment", "augment")
        cause = str(error.__cause__ or error)
        joint = "." if re.match(r"\w+=", cause) else ": "  # a constructor knows its arguments only
        raise ConfigError(f"{where}{joint}{cause}") from error


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """What a group builds, less what an override such as ``callbacks.best=null`` took out."""
    return [part for part in _instantiate(cfg, group).values() if part is not None]


def _check_checkpoint(cfg: DictConfig, classifier: Classifier, data: DigitsDataModule) -> None:
    path = cfg.ckpt_path
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        weights, epochs = checkpoint["state_dict"], checkpoint["epoch"] + 1
        split, settings = checkpoint[type(data).__qualname__], checkpoint["optimizer_states"][0]
    except Exception as error:
        raise ConfigError(
            f"ckpt_path={path}: not a checkpoint, damaged, or with code inside, which is not run"
        ) from error
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:30])
        raise ConfigError(f"ckpt_path={path}: the weights are another model's: {reason}") from error
    if split != data.state_dict():
        raise ConfigError(
            f"ckpt_path={path}: was trained on other images; give the data, data.val_size and "
            "data.split_seed it was trained with"
        )
    before, now = settings["param_groups"][0], classifier.configure_optimizers().defaults
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise ConfigError(
                f"optimizer.{name}={now[name]}: ckpt_path={path} goes on with {before[name]}"
            )
    if epochs > cfg.trainer.max_epochs:
        raise ConfigError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: ckpt_path={path} has {epochs} already"
        )


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
