"""Validation of the configuration: values, their combinations, and the objects built from them.

Only the checks of built objects import torch, so a mistyped value is reported at once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.errors import ConfigError, one_line, shorten
from lenet_pl.runs import DATA_KEY, read_checkpoint

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from lenet_pl.classifier import Classifier
    from lenet_pl.data.datamodule import DigitsDataModule

# a description of the valid values, and the test for them
Rule = tuple[str, Callable[[Any], bool]]
LARGEST = 10**9


def number(
    low: float = -LARGEST, high: float = LARGEST, above: bool = False, below: bool = False
) -> Rule:
    """A number, but no bool, in a range without ``low`` if ``above`` and ``high`` if ``below``."""
    start, end = "above" if above else "from", "and below" if above else "to below"
    text = f"a number {start} {low:,} {end if below else 'up to' if above else 'to'} {high:,}"

    def valid(x: Any) -> bool:
        inside = type(x) in (int, float) and low <= x <= high
        return inside and not (above and x == low) and not (below and x == high)

    return text, valid


def integer(low: int, high: int = LARGEST) -> Rule:
    """An integer in a range that includes both ends."""
    return f"an integer from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high


def one_of(*choices: Any) -> Rule:
    """One of the given values, of the same type."""
    names = [str(x).lower() if isinstance(x, bool) else str(x) for x in choices]
    text = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    return text, lambda x: any(x == y and type(x) is type(y) for y in choices)


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list whose items all satisfy a rule."""
    text, valid = rule
    return (
        f"a list{f' of {length}' if length else ''}, each item {text}",
        lambda x: isinstance(x, list) and len(x) == (length or len(x)) and all(map(valid, x)),
    )


def either(*rules: Rule) -> Rule:
    """A value that satisfies one of several rules."""
    text = ", or ".join(text for text, _ in rules)
    return text, lambda x: any(valid(x) for _, valid in rules)


def optional(rule: Rule) -> Rule:
    """Null, or a value that satisfies a rule."""
    text, valid = rule
    return f"null or {text}", lambda x: x is None or valid(x)


def left_out(reason: str) -> Rule:
    """A key that a run sets itself, or that does not go with runs of whole epochs."""
    return f"left out: {reason}", lambda x: x is None


BOOL = one_of(True, False)
AUTO = one_of("auto", True, False)
TEXT: Rule = ("text", lambda x: isinstance(x, str))
NODE: Rule = ("a mapping", lambda x: isinstance(x, dict))
NUMBER = number()
POSITIVE = number(0, above=True)
NOT_NEGATIVE = number(0)
BELOW_1 = number(0, 1, below=True)
FRACTION = number(0, 1, above=True)
COUNT = integer(1)
SEED = integer(0, 2**32 - 1)
PART = either(COUNT, FRACTION)  # of the batches; 1 is one of them, 1.0 all
CLASSES = integer(2, 10**5)
STEP: dict[str, Rule] = {"lr": POSITIVE, "weight_decay": NOT_NEGATIVE}
MONITOR: dict[str, Rule] = {"monitor": TEXT, "mode": one_of("min", "max")}
CLASSIFIER: dict[str, Rule] = {
    "net": NODE,
    "loss": NODE,
    "optimizer": NODE,
    "scheduler": optional(NODE),
    "decay_biases": BOOL,
}

# by the name of the class or function in _target_, since a key is a constructor argument; those of
# classes that are not listed, such as your own, are free
RULES: dict[str, dict[str, Rule]] = {
    "config": {  # keys without a group
        "seed": SEED,
        "ckpt_path": optional(TEXT),
        "test": BOOL,
        "run_dir": TEXT,
        "label": optional(TEXT),
        "hparams": (
            "a mapping to text, numbers, true or false",
            lambda x: (
                isinstance(x, dict) and all(isinstance(y, str | int | float) for y in x.values())
            ),
        ),
    },
    "DigitsDataModule": {
        "source": NODE,
        "root": optional(TEXT),
        "batch_size": COUNT,
        "eval_batch_size": COUNT,
        "val_size": either(COUNT, number(0, 1, above=True, below=True)),
        "split": optional(("three numbers above 0, as in [7,2,1]", list_of(POSITIVE, 3)[1])),
        "split_seed": SEED,
        "fraction": FRACTION,
        "normalise": one_of("standardise", "scale", "none"),
        "clean": BOOL,
        "suspect_folds": either(one_of(0), integer(2, 20)),
        "augment": NODE,
        "augment_until": number(0, 1),
        "seed": SEED,
        "on_error": one_of("skip", "stop"),
    },
    "Folder": {"invert": AUTO, "centre": AUTO},
    # the augmentations themselves check the ranges
    "Affine": {"degrees": NUMBER, "translate": NUMBER, "scale": NUMBER, "shear": NUMBER},
    "Elastic": {"alpha": NUMBER, "sigma": NUMBER},
    "Erasing": {
        "probability": NUMBER,
        "area": list_of(NUMBER, 2),
        "aspect": list_of(NUMBER, 2),
    },
    "Noise": {"std": NUMBER},
    "LeNet": {"num_classes": CLASSES},
    "MLP": {"hidden": list_of(integer(1, 10**6)), "dropout": BELOW_1, "num_classes": CLASSES},
    "LSTM": {
        "hidden_size": integer(1, 10**5),
        "num_layers": integer(1, 100),
        "bidirectional": BOOL,
        "dropout": BELOW_1,
        "num_classes": CLASSES,
    },
    "Pretrained": {
        "name": TEXT,
        "weights": optional(TEXT),
        "image_size": optional(integer(1, 4096)),
        "freeze": BOOL,
        "num_classes": CLASSES,
    },
    "CrossEntropyLoss": {"label_smoothing": BELOW_1},
    "SGD": STEP | {"momentum": BELOW_1, "nesterov": BOOL},
    "Adam": STEP | {"betas": list_of(BELOW_1, 2)},
    "AdamW": STEP | {"betas": list_of(BELOW_1, 2)},
    "Muon": STEP | {"momentum": BELOW_1, "iterations": integer(1, 100)},
    "cosine": {"warmup": BELOW_1, "final": BELOW_1},
    "one_cycle": {
        "warmup": BELOW_1,
        "div_factor": number(1),
        "final_div_factor": number(1),
    },
    "plateau": MONITOR | {"factor": BELOW_1, "patience": integer(0)},
    "Classifier": CLASSIFIER,
    "FastClassifier": CLASSIFIER | {"steps_per_execution": COUNT},
    "BestAndLastCheckpoint": MONITOR | {"dirpath": TEXT, "weights": TEXT},
    "EarlyStopping": MONITOR | {"patience": COUNT},
    "WeightAverage": {"decay": optional(BELOW_1), "start": BELOW_1},
    "Unfreeze": {"unfreeze_epoch": integer(2), "lr_factor": POSITIVE},
    "TensorBoardLogger": {
        "save_dir": TEXT,
        "name": optional(TEXT),
        "version": optional(either(TEXT, integer(0))),
        "sub_dir": optional(TEXT),
        "default_hp_metric": BOOL,
    },
    "Trainer": {
        "accelerator": TEXT,
        "devices": either(one_of("auto", -1), integer(1, 1024), list_of(integer(0, 1023))),
        "num_nodes": integer(1, 10**4),
        # the strategies that start their processes before training, which keep the result
        "strategy": either(
            one_of("auto", "ddp", "ddp_find_unused_parameters_true", "single_device"), NODE
        ),
        "precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"),
        "max_epochs": COUNT,
        "gradient_clip_val": optional(POSITIVE),
        "gradient_clip_algorithm": one_of("norm", "value"),
        "accumulate_grad_batches": COUNT,
        "overfit_batches": either(one_of(0, 0.0), PART),
        "limit_train_batches": optional(PART),
        "limit_val_batches": optional(PART),
        "limit_test_batches": optional(PART),
        "profiler": optional(either(one_of("simple", "advanced", "pytorch"), NODE)),
        "detect_anomaly": BOOL,
        "fast_dev_run": either(BOOL, COUNT),
        "deterministic": optional(either(BOOL, one_of("warn"))),
        "default_root_dir": TEXT,
        "use_distributed_sampler": one_of(False),
        "num_sanity_val_steps": integer(-1),
        "enable_progress_bar": BOOL,
        "enable_model_summary": BOOL,
        "val_check_interval": FRACTION,
        "check_val_every_n_epoch": one_of(1),
        "max_steps": left_out("runs consist of whole epochs; set trainer.max_epochs"),
        "max_time": left_out("runs consist of whole epochs; set trainer.max_epochs"),
        "callbacks": left_out("set callbacks"),
        "logger": left_out("set logger; logger=none turns it off"),
        "enable_checkpointing": left_out("callbacks=none saves no checkpoints"),
        "barebones": left_out("callbacks=none logger=none leave out what takes time"),
    },
}
INSTANTIATE: dict[str, Rule] = {  # keys of Hydra's, in any mapping
    "_target_": TEXT,
    "_partial_": BOOL,
    "_recursive_": BOOL,
    "_convert_": one_of("none", "partial", "object", "all"),
}

SINGLE = ("data", "model", "loss", "optimizer", "scheduler", "classifier", "trainer")
SEVERAL = ("augment", "callbacks", "logger")
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


def conf_dir() -> Path:
    """The configuration folder: the checkout's, or the one installed with the package."""
    here = Path(__file__).parent
    return next(path for path in (here / "conf", here.parents[1] / "conf") if path.is_dir())


def options(group: str) -> list[str]:
    """The options of a group of ``conf/``; empty if there is no such group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def check_hydra(hydra: DictConfig) -> None:
    """Check Hydra's own configuration.

    Raises:
        ConfigError: for a folder that is missing, for ``hydra.output_subdir``, which tools rely on,
            and for ``model=[lenet,mlp]``, which Hydra would merge into a model that is neither.
    """
    raw = OmegaConf.to_container(hydra)  # hydra.job.num is missing before a sweep
    for key, value in flatten({key: cast(Any, raw)[key] for key in ("run", "sweep")}).items():
        if key.endswith("dir") and not value:
            raise ConfigError(f"hydra.{key}={show(value)}: must be a folder")
    if hydra.output_subdir != ".hydra":
        raise ConfigError(f"hydra.output_subdir={show(hydra.output_subdir)}: must be .hydra")
    for group in SINGLE:
        if group not in hydra.runtime.choices:
            raise ConfigError(f"{group}: takes one option; to sweep over several: -m {group}=A,B")


def task_config(config: DictConfig, folder: Path) -> DictConfig:
    """The configuration that Hydra will pass to a job with this run folder."""
    cfg = config.copy()
    with read_write(cfg), open_dict(cfg):
        cfg.run_dir = os.path.normpath(folder.absolute())
        del cfg["hydra"]
    return cfg


def check(cfg: DictConfig) -> None:
    """Check values and their combinations, as far as possible without data and network.

    Raises:
        ConfigError: for the first invalid value.
    """
    settings = _resolve(cfg)
    _check_groups(settings)
    for key, value, rule in with_rules(settings):
        if rule and not rule[1](value):
            raise ConfigError(f"{key}={show(value)}: must be {rule[0]}")
    _check_monitors(cfg)
    unfreeze = OmegaConf.select(cfg, "callbacks.finetune.unfreeze_epoch") or 0
    if unfreeze > cfg.trainer.max_epochs and not cfg.trainer.fast_dev_run:
        raise ConfigError(
            f"callbacks.finetune.unfreeze_epoch={unfreeze}: exceeds trainer.max_epochs="
            f"{cfg.trainer.max_epochs}"
        )
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise ConfigError(f"ckpt_path={cfg.ckpt_path}: no such file")


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    """Plain values; raises ConfigError where one is missing or refers to nothing."""
    settings: dict[str, Any] = {}
    # data and classifier refer to these groups, whose keys an error should name
    for key in dict.fromkeys(("seed", "augment", *SINGLE[1:5], *map(str, cfg))):
        try:
            value = cfg.get(key, None)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except (OmegaConfBaseException, RecursionError) as error:
            key = getattr(error, "full_key", None) or key
            raise ConfigError(f"{key}: {(str(error).splitlines() or [''])[0]}") from error
        settings[key] = value
    return settings


def with_rules(
    values: Mapping[str, Any], path: str = "", own: Mapping[str, Rule] = RULES["config"]
) -> Iterator[tuple[str, Any, Rule | None]]:
    """Yield each key, its value and its rule; None for a mapping without, and for free keys.

    Args:
        values: of a node of the configuration.
        path: its key.
        own: the rules of its keys.
    """
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        yield key, value, INSTANTIATE.get(name) or own.get(name)
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, dict):
                library, _, target = str(node.get("_target_", "")).partition(".")
                known = library in ("lenet_pl", "torch", "pytorch_lightning")
                rules = RULES.get(target.rpartition(".")[2], {}) if known else {}
                yield from with_rules(node, key, rules)


def show(value: Any) -> str:
    """A value as it is written in YAML, shortened."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else shorten(str(value))


def _check_groups(settings: Mapping[str, Any]) -> None:
    """Require each group to be complete, without keys of an option that has been replaced."""
    for group in (*SINGLE, *SEVERAL):
        node = settings.get(group)
        if not isinstance(node, dict) or (not node and "none" not in options(group)):
            raise ConfigError(f"{group}={show(node)}: must be one of {', '.join(options(group))}")
        if group in SINGLE and node and "_target_" not in node:
            remove = ", ".join(f"~{group}.{key}" for key in node)
            raise ConfigError(f"{group}: was replaced, but {remove[1:]} is still set; add {remove}")
        for name, part in node.items() if group in SEVERAL else ():
            if part is not None and not (isinstance(part, dict) and "_target_" in part):
                raise ConfigError(
                    f"{group}.{name}={show(part)}: must be null, which leaves it out, or a "
                    "mapping with _target_"
                )


def _check_monitors(cfg: DictConfig) -> None:
    """Require every monitor to be a validation metric, and its mode to match."""
    nodes = {f"callbacks.{name}": node for name, node in cfg.callbacks.items()}
    for name, node in {**nodes, "scheduler": cfg.scheduler}.items():
        monitor, mode = (node.get("monitor"), node.get("mode")) if node else (None, None)
        if monitor is not None and monitor not in MONITORED:
            raise ConfigError(
                f"{name}.monitor={monitor}: must be a validation metric; choose from "
                f"{', '.join(MONITORED)}"
            )
        if monitor is not None and mode in ("min", "max") and mode != MONITORED[monitor]:
            raise ConfigError(f"{name}.mode={mode}: must be {MONITORED[monitor]} for {monitor}")


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
    from lenet_pl.classifier import DEBUG_STEPS
    from lenet_pl.optim import planned_steps

    _check_processes(trainer)
    _check_limits(trainer, data)
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
        if classifier.scheduler:
            debugging = cast(Any, trainer).fast_dev_run
            schedule = classifier.scheduler(optimizer, DEBUG_STEPS if debugging else steps)
    except (TypeError, ValueError) as error:
        raise ConfigError(with_key(part, error)) from error
    try:
        classifier.check_trainer(trainer, optimizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return steps if schedule.get("interval") == "step" else None


def _check_processes(trainer: "Trainer") -> None:
    """Require processes that keep the result, and that this one is the main one if it is alone."""
    from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher

    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            "trainer.strategy: trains in child processes, whose result is lost; choose ddp, and no "
            "notebook"
        )
    if trainer.num_devices * trainer.num_nodes == 1:
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
            if (rank := os.environ.get(name, "0")) != "0":
                raise ConfigError(
                    f"{name}={rank}: this environment variable makes it process {rank} of several, "
                    "but the run has one device; unset it, or set trainer=ddp trainer.devices"
                )


def _check_limits(trainer: "Trainer", data: "DigitsDataModule") -> None:
    """Require fractions of the batches to be at least one batch."""
    processes = trainer.num_devices * trainer.num_nodes
    for stage, size, images in (
        ("train", data.batch_size, len(data.splits["train"]) // processes),
        ("val", data.eval_batch_size, len(data.splits["val"])),
        ("test", data.eval_batch_size, len(data.splits["test"])),
    ):
        limit, batches = getattr(trainer, f"limit_{stage}_batches"), ceil(images / size)
        if isinstance(limit, float) and int(batches * limit) < 1:
            overfit = stage != "test" and trainer.overfit_batches  # type: ignore[attr-defined]
            key = "overfit_batches" if overfit else f"limit_{stage}_batches"
            raise ConfigError(
                f"trainer.{key}={limit}: is less than one of the {batches} {stage} batches; use a "
                "larger fraction, or a number of batches"
            )


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
