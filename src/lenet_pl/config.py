"""Validation of the configuration: values, their combinations, and the objects built from them.

Only the checks of built objects import torch, so a mistyped value is reported at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from lenet_pl.errors import ConfigError, one_line
from lenet_pl.records import DATA_KEY, read_checkpoint

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from lenet_pl.classifier import Classifier
    from lenet_pl.data.datamodule import DigitsDataModule

# a description of the valid values, and the test for them
Rule = tuple[str, Callable[[Any], bool]]


def number(text: str, condition: Callable[[float], bool]) -> Rule:
    """A finite number that is not a bool."""
    return f"a number {text}", lambda x: type(x) in (int, float) and abs(x) < inf and condition(x)


def integer(low: int, high: float = inf) -> Rule:
    """An integer in a range that includes both ends."""
    text = f"from {low} to {high}" if high < inf else f"of at least {low}"
    return f"an integer {text}", lambda x: type(x) is int and low <= x <= high


def one_of(*choices: Any) -> Rule:
    """One of the given values, of the same type."""
    text = ", ".join(str(choice).lower() for choice in choices)
    return f"one of {text}", lambda x: any(x == y and type(x) is type(y) for y in choices)


def list_of(rule: Rule) -> Rule:
    """A list whose items all satisfy a rule."""
    text, valid = rule
    return f"a list, each item {text}", lambda x: isinstance(x, ListConfig) and all(map(valid, x))


def optional(rule: Rule) -> Rule:
    """Null, or a value that satisfies a rule."""
    text, valid = rule
    return f"null or {text}", lambda x: x is None or valid(x)


POSITIVE = number("above 0", lambda x: x > 0)
NOT_NEGATIVE = number("of at least 0", lambda x: x >= 0)
AT_LEAST_1 = number("of at least 1", lambda x: x >= 1)
BELOW_1 = number("of at least 0 and below 1", lambda x: 0 <= x < 1)
BOOL = one_of(True, False)
AUTO = one_of("auto", True, False)

RULES: dict[str, Rule] = {
    "seed": integer(0, 2**32 - 1),
    "data.batch_size": integer(1),
    "data.eval_batch_size": integer(1),
    "data.val_size": (
        "an integer of at least 1, or a fraction between 0 and 1",
        lambda x: POSITIVE[1](x) and (type(x) is int or x < 1),
    ),
    "data.split": optional(
        (
            "three numbers above 0, for train, validation and test, as in [7,2,1]",
            lambda x: isinstance(x, Sequence) and len(x) == 3 and all(map(POSITIVE[1], x)),
        )
    ),
    "data.split_seed": integer(0),
    "data.fraction": number("above 0, up to 1", lambda x: 0 < x <= 1),
    "data.augment_until": number("from 0 to 1", lambda x: 0 <= x <= 1),
    "data.normalise": one_of("standardise", "scale", "none"),
    "data.clean": BOOL,
    "data.suspect_folds": (
        "0, or an integer from 2 to 20",
        lambda x: type(x) is int and x != 1 and 0 <= x <= 20,
    ),
    "data.on_error": one_of("skip", "stop"),
    "data.source.invert": AUTO,
    "data.source.centre": AUTO,
    "model.num_classes": integer(2),
    "model.hidden": list_of(integer(1)),
    "model.hidden_size": integer(1),
    "model.num_layers": integer(1),
    "model.dropout": BELOW_1,
    "model.image_size": optional(integer(1)),
    "loss.label_smoothing": BELOW_1,
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": BELOW_1,
    "optimizer.betas": list_of(BELOW_1),
    "optimizer.iterations": integer(1),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "scheduler.warmup": BELOW_1,
    "scheduler.div_factor": AT_LEAST_1,
    "scheduler.final_div_factor": AT_LEAST_1,
    "scheduler.final": BELOW_1,
    "scheduler.factor": BELOW_1,
    "scheduler.patience": integer(0),
    "classifier.decay_biases": BOOL,
    "classifier.steps_per_execution": integer(1),
    "trainer.max_epochs": integer(1),
    "trainer.accumulate_grad_batches": integer(1),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.limit_train_batches": optional(POSITIVE),
    "trainer.limit_val_batches": optional(POSITIVE),
    "trainer.limit_test_batches": optional(POSITIVE),
    "callbacks.early_stopping.patience": integer(1),
    "callbacks.average.decay": optional(BELOW_1),
    "callbacks.average.start": BELOW_1,
    "callbacks.finetune.unfreeze_epoch": integer(2),
    "callbacks.finetune.lr_factor": POSITIVE,
}

SINGLE = ("data", "model", "loss", "optimizer", "scheduler", "classifier", "trainer")
MONITORED = {
    "val/acc": "max",
    "val/loss": "min",
}  # validation metrics, and the direction of improvement

# what must not change when a run is resumed; the data is compared by digest
RESUME_KEYS = (
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


def check(cfg: DictConfig) -> None:
    """Check values and their combinations, as far as possible without data and network.

    Raises:
        ConfigError: for the first invalid value.
    """
    check_values(cfg)
    _check_leftovers(cfg)
    _check_monitors(cfg)
    _check_epochs(cfg)
    if cfg.ckpt_path is not None and not Path(str(cfg.ckpt_path)).is_file():
        raise ConfigError(f"ckpt_path={cfg.ckpt_path}: no such file")


def check_values(cfg: DictConfig) -> None:
    """Check each value by itself; raise ConfigError for the first invalid one."""
    for key, (text, valid) in RULES.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, DictConfig) and name in node and not valid(value := node[name]):
            raise ConfigError(f"{key}={value}: must be {text}")


def _check_leftovers(cfg: DictConfig) -> None:
    """Reject keys that an experiment set for an option that the command line has replaced."""
    for group in SINGLE:
        if cfg[group] and "_target_" not in cfg[group]:
            remove = ", ".join(f"~{group}.{key}" for key in cfg[group])
            raise ConfigError(f"{group}: was replaced, but {remove[1:]} is still set; add {remove}")
    for group in ("augment", "callbacks", "logger"):
        for name, node in (cfg[group] or {}).items():
            if node is not None and not (isinstance(node, DictConfig) and "_target_" in node):
                raise ConfigError(
                    f"{group}.{name}={node}: must be null, which leaves it out, or a mapping with "
                    "_target_"
                )


def _check_monitors(cfg: DictConfig) -> None:
    """Require every monitor to be a validation metric, and its mode to match."""
    nodes = {f"callbacks.{name}": node for name, node in (cfg.callbacks or {}).items()}
    for name, node in {**nodes, "scheduler": cfg.scheduler}.items():
        monitor, mode = (node.get("monitor"), node.get("mode")) if node else (None, None)
        if monitor is not None and monitor not in MONITORED:
            raise ConfigError(
                f"{name}.monitor={monitor}: must be a validation metric; choose from "
                f"{', '.join(MONITORED)}"
            )
        if monitor is not None and mode in ("min", "max") and mode != MONITORED[monitor]:
            raise ConfigError(f"{name}.mode={mode}: must be {MONITORED[monitor]} for {monitor}")


def _check_epochs(cfg: DictConfig) -> None:
    """Check settings that refer to epochs."""
    trainer = cfg.trainer
    if (steps := trainer.get("max_steps", -1)) != -1:
        raise ConfigError(
            f"trainer.max_steps={steps}: not supported, since runs consist of whole epochs; use "
            "trainer.max_epochs"
        )
    unfreeze = OmegaConf.select(cfg, "callbacks.finetune.unfreeze_epoch") or 0
    if unfreeze > trainer.max_epochs and not trainer.fast_dev_run:
        raise ConfigError(
            f"callbacks.finetune.unfreeze_epoch={unfreeze}: exceeds trainer.max_epochs="
            f"{trainer.max_epochs}"
        )
    every = trainer.get("check_val_every_n_epoch", 1)
    if "monitor" in cfg.scheduler and every != 1:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: must be 1, since scheduler.monitor="
            f"{cfg.scheduler.monitor} is needed after every epoch"
        )


def check_choices(choices: Iterable[str]) -> None:
    """Reject ``model=[lenet,mlp]``, which Hydra would merge into a model that is neither.

    Args:
        choices: the groups for which a single option was chosen.

    Raises:
        ConfigError: if several options were chosen for a group that takes one.
    """
    for group in SINGLE:
        if group not in choices:
            raise ConfigError(f"{group}: takes one option; to sweep over several: -m {group}=A,B")


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; an empty mapping counts as a value."""
    if not (isinstance(node, dict) and node):
        return {prefix: node}
    return {
        path: value
        for key, child in node.items()
        for path, value in flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def resume_settings(cfg: DictConfig) -> dict[str, Any]:
    """The values of :data:`RESUME_KEYS` by dotted key, with a class name for each ``_target_``."""
    settings: dict[str, Any] = {}
    for key in RESUME_KEYS:
        node = OmegaConf.select(cfg, key)
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for path, leaf in flatten(value, key).items():
            if path.endswith("._target_"):
                settings[path.removesuffix("._target_")] = str(leaf).rpartition(".")[2]
            # a checkpoint replaces pretrained weights
            elif path != "model.weights" and not path.endswith("._partial_"):
                settings[path] = leaf
    return {key: value for key, value in settings.items() if value not in (None, {})}


def with_key(path: str, error: BaseException) -> str:
    """``model.name=x: …`` for an error that begins with ``name=x``, else ``model: …``."""
    message = one_line(error, 100)  # of torch's, which can list every parameter
    name, equals, _ = message.partition("=")
    return f"{path}.{message}" if equals and name.isidentifier() else f"{path}: {message}"


def check_outputs(classifier: "Classifier", classes: int) -> None:
    """Check that the network maps an image to one logit per class.

    Raises:
        ConfigError: if it rejects the image or returns the wrong number of logits.
    """
    import torch

    training = classifier.training
    try:
        with torch.no_grad():
            outputs = classifier.eval()(classifier.example_input_array).shape[1]
    except RuntimeError as error:
        raise ConfigError(f"model: does not accept these images: {error}") from error
    finally:
        classifier.train(training)
    if outputs != classes:
        raise ConfigError(f"model.num_classes={outputs}: the data has {classes} classes")


def check_accelerator(name: str) -> None:
    """Check that ``trainer.accelerator`` is available.

    Raises:
        ConfigError: if it is not.
    """
    from pytorch_lightning import accelerators

    known = {
        "cuda": accelerators.CUDAAccelerator,
        "mps": accelerators.MPSAccelerator,
        "tpu": accelerators.XLAAccelerator,
    }
    available = [key for key, accelerator in known.items() if accelerator.is_available()]
    usable = ["auto", "cpu", *available, *(["gpu"] if {"cuda", "mps"} & {*available} else [])]
    if name not in usable:
        raise ConfigError(
            f"trainer.accelerator={name}: not available on this machine; choose from "
            f"{', '.join(usable)}"
        )


def check_optimizer(
    trainer: "Trainer", classifier: "Classifier", data: "DigitsDataModule"
) -> int | None:
    """Build optimizer and schedule once, to check that they accept their arguments.

    Returns:
        The optimizer steps of the run if the schedule ends with it, else None.

    Raises:
        ConfigError: if they do not, if there is nothing to unfreeze, or if the classifier does
            not support the trainer's settings.
    """
    from lenet_pl.callbacks.finetuning import Unfreeze
    from lenet_pl.optim import planned_steps

    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, Unfreeze):
            if all(parameter.requires_grad for parameter in classifier.net.parameters()):
                raise ConfigError("callbacks.finetune: nothing is frozen; add model.freeze=true")
            if trainer.num_devices * trainer.num_nodes > 1:
                # DDP never averages the gradients of parameters that are frozen when it starts
                raise ConfigError("callbacks.finetune: needs one device; add trainer.devices=1")
    steps = planned_steps(trainer, len(data.splits["train"]), data.batch_size)
    schedule, part = {}, "optimizer"
    try:
        optimizer = classifier.build_optimizer()
        part = "scheduler"
        if classifier.scheduler and not cast(Any, trainer).fast_dev_run:
            schedule = classifier.scheduler(optimizer, steps)
    except (TypeError, ValueError) as error:
        raise ConfigError(with_key(part, error)) from error
    try:
        classifier.check_trainer(trainer, optimizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return steps if schedule.get("interval") == "step" else None


def check_checkpoint(
    cfg: DictConfig, settings: Mapping[str, Any], classifier: "Classifier", data: "DigitsDataModule"
) -> None:
    """Check that training can continue from ``ckpt_path`` as if it had never stopped.

    Args:
        cfg: the configuration of this run.
        settings: its :func:`resume_settings`, and ``steps`` where its schedule has an end.
        classifier: as built for it; the checkpoint's weights are loaded into it.
        data: as built for it.

    Raises:
        ConfigError: if it is not a checkpoint, or its model, images or settings differ.
    """
    path = cfg.ckpt_path
    try:
        checkpoint = read_checkpoint(Path(path))
    except ConfigError as error:
        raise ConfigError(f"ckpt_path={error}") from error
    try:
        classifier.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ConfigError(
            f"ckpt_path={path}: the weights belong to another model: {one_line(error, 30)}"
        ) from error
    if checkpoint[DATA_KEY] != data.state_dict():
        raise ConfigError(
            f"ckpt_path={path}: was trained on other images; set data, data.val_size and "
            "data.split_seed as for that run"
        )
    before = checkpoint["settings"]
    for key in before | settings:
        old, new = before.get(key), settings.get(key)
        if key == "steps" and old and new and old != new:
            raise ConfigError(
                f"trainer.max_epochs={cfg.trainer.max_epochs}: the schedule of ckpt_path={path} "
                f"ends after {old:,} steps, this run after {new:,}; it cannot be extended"
            )
        if old != new:
            raise ConfigError(f"{key}={new}: ckpt_path={path} was trained with {old}")
    if (epochs := checkpoint["epoch"] + 1) > cfg.trainer.max_epochs:
        raise ConfigError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: ckpt_path={path} already has {epochs}"
        )
