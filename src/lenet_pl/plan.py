"""Whether optimizer, schedule and checkpoint can do what is asked of them."""

import re
from inspect import Parameter, signature
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.optim import Optimizer

from lenet_pl.callbacks.finetuning import Unfreeze
from lenet_pl.classifier import Classifier
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import ConfigError
from lenet_pl.fast import FastClassifier
from lenet_pl.optim import planned_steps


def check_plan(trainer: Trainer, classifier: Classifier, data: DigitsDataModule) -> None:
    """Make the optimizer and the schedule once, which may refuse their arguments.

    Raises:
        ConfigError: if they do, if fine-tuning finds nothing to let go, or if the fast
            classifier is to do what only Lightning does.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, Unfreeze):
            continue
        if all(parameter.requires_grad for parameter in classifier.net.parameters()):
            raise ConfigError("callbacks.finetune: nothing is frozen; add model.freeze=true")
        if trainer.num_devices * trainer.num_nodes > 1:
            # what is frozen when the processes are tied together never gets their mean gradient
            raise ConfigError("callbacks.finetune: works on one device; add trainer.devices=1")
        callback.freeze_before_training(classifier)  # as it will once training begins
    steps = planned_steps(trainer, len(data.splits["train"].labels), data.batch_size)
    part = "optimizer"
    try:
        optimizer = classifier.new_optimizer()
        part = "scheduler"
        if classifier.scheduler and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            classifier.new_schedule(optimizer, steps)
    except (TypeError, ValueError) as error:
        raise ConfigError(told(part, error)) from error
    if isinstance(classifier, FastClassifier):
        _check_fast(trainer, classifier, optimizer)


def _check_fast(trainer: Any, classifier: FastClassifier, optimizer: Optimizer) -> None:
    """It takes most steps itself, without what Lightning can do besides."""
    single = isinstance(trainer.strategy, SingleDeviceStrategy)
    for key, value, wanted in (
        ("devices", trainer.num_devices * trainer.num_nodes, [1]),
        ("strategy", "auto" if single else type(trainer.strategy).__name__, ["auto"]),
        ("accumulate_grad_batches", trainer.accumulate_grad_batches, [1]),
        ("precision", trainer.precision, ["32-true", "bf16-mixed"]),
        ("val_check_interval", trainer.val_check_interval, [1.0]),
    ):
        if value not in wanted:
            choices = " or ".join(map(str, wanted))
            raise ConfigError(
                f"trainer.{key}={value}: must be {choices} with classifier=fast; classifier=plain "
                "takes it"
            )
    if classifier.cuda_graph and trainer._detect_anomaly:
        raise ConfigError("trainer.detect_anomaly=True: add classifier.cuda_graph=false")
    if signature(optimizer.step).parameters["closure"].default is Parameter.empty:
        raise ConfigError(
            f"optimizer: {type(optimizer).__name__} evaluates the loss itself; add classifier=plain"
        )


def check_checkpoint(cfg: DictConfig, classifier: Classifier, data: DigitsDataModule) -> None:
    """Whether a run can go on from ``ckpt_path`` as if it had never stopped.

    Raises:
        ConfigError: if it is no checkpoint, or one of other weights, images or settings.
    """
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
            f"ckpt_path={path}: was trained on other images; give the data, data.val_size and "
            "data.split_seed it was trained with"
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


def told(part: str, error: BaseException) -> str:
    """``model.name=x: …`` of an error that begins with ``name=x``, else ``model: …``."""
    return f"{part}.{error}" if re.match(r"\w+=", str(error)) else f"{part}: {error}"
