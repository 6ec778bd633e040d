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
from lenet_pl.callbacks.finetune import Finetune
from lenet_pl.callbacks.history import History
from lenet_pl.classifier import Classifier
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import ConfigError
from lenet_pl.run import without_weights
from lenet_pl.schedules import planned_steps

ACCELERATORS = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "tpu": XLAAccelerator}

# its tips and its account of hooks are not about this run
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
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
    own = cfg if cfg.ckpt_path is None else without_weights(cfg)
    classifier: Classifier = _instantiate(own, "classifier", mean=data.mean, std=data.std)
    classifier.example_input_array = data.splits["train"].images[:1] / 255
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
    _check_plan(trainer, classifier, data)
    if cfg.ckpt_path is not None:
        _check_checkpoint(cfg, classifier, data)
    best = next((callback for callback in callbacks if isinstance(callback, BestAndLast)), None)
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


def _instantiate(cfg: DictConfig, key: str, **parts: Any) -> Any:
    try:
        # lists and mappings as Python's own: what goes into a checkpoint must be plain
        return instantiate(cfg[key], **parts, _convert_="all")
    except InstantiationException as error:
        where = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else key
        # the classifier takes its parts from the groups that people know: net is ${model}
        where = where.replace("classifier.net", "model").replace("classifier.", "")
        where = where.replace("data.augment", "augment")
        raise ConfigError(_told(where, error.__cause__ or error)) from error


def _told(part: str, error: BaseException) -> str:
    """``model.name=x: …`` of an error that begins with ``name=x``, else ``model: …``."""
    return f"{part}.{error}" if re.match(r"\w+=", str(error)) else f"{part}: {error}"


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """What a group builds, less what an override such as ``callbacks.best=null`` took out."""
    return [part for part in _instantiate(cfg, group).values() if part is not None]


def _check_plan(trainer: Trainer, classifier: Classifier, data: DigitsDataModule) -> None:
    """Make the optimizer and the schedule once, which may refuse their arguments."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, Finetune):
            continue
        if all(parameter.requires_grad for parameter in classifier.net.parameters()):
            raise ConfigError("callbacks.finetune: nothing is frozen; add model.freeze=true")
        if trainer.num_devices * trainer.num_nodes > 1:
            # what is frozen when the processes are tied together never gets their mean gradient
            raise ConfigError("callbacks.finetune: works on one device; add trainer.devices=1")
    steps = planned_steps(trainer, len(data.splits["train"].labels), data.batch_size)
    part = "optimizer"
    try:
        optimizer = classifier.new_optimizer()
        part = "scheduler"
        if classifier.scheduler and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            classifier.new_schedule(optimizer, steps)
    except (TypeError, ValueError) as error:
        raise ConfigError(_told(part, error)) from error


def _check_checkpoint(cfg: DictConfig, classifier: Classifier, data: DigitsDataModule) -> None:
    path = cfg.ckpt_path
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        weights, epochs = checkpoint["state_dict"], checkpoint["epoch"] + 1
        split, before = checkpoint[type(data).__qualname__], checkpoint["settings"]
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
            f"ckpt_path={path}: was trained on other images, or on other pixels of them; give the "
            "data, data.val_size, data.split_seed and so on that it was trained with"
        )
    now = classifier.settings
    for name in [*(before | now)]:
        old, new = before.get(name), now.get(name)
        if name == "steps" and old and new and old != new:
            raise ConfigError(
                f"trainer.max_epochs={cfg.trainer.max_epochs}: the schedule of ckpt_path={path} is "
                f"one of {old:,} steps, and this run has {new:,}; it can go on only to its end"
            )
        if old != new:
            raise ConfigError(f"{name}={new}: ckpt_path={path} goes on with {old}")
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
