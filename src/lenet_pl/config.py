"""Validation of the configuration: values, their combinations, and the objects built from them.

Every check raises ConfigError for the first thing that is invalid. Only the checks of built objects
import torch, so a mistyped value is reported immediately.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from inspect import formatannotation, signature
from math import ceil
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, cast, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.errors import ConfigError, one_line
from lenet_pl.records import DATA_KEY, load_weights, read_checkpoint
from lenet_pl.rules import MONITORED, RULES, invalid, show, with_rules

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from lenet_pl.classifier import Classifier
    from lenet_pl.data.datamodule import DigitsDataModule

SINGLE = ("data", "model", "loss", "optimizer", "scheduler", "classifier", "trainer")
SEVERAL = ("augment", "callbacks", "logger")
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}  # extras have the same names
REFERRING = ("data", "classifier", "hparams", "logger")  # to other keys, which an error should name
# of keys, by names that users may try
SYNONYMS = {"learning_rate": "lr", "gpus": "devices", "epochs": "max_epochs"}

# what must not change when a run is resumed; the data is compared by digest
RESUME_KEYS = (
    *("seed", "data.batch_size", "data.augment_until", "augment", "model", "loss", "optimizer"),
    *("scheduler", "classifier.decay_biases", "callbacks.average", "callbacks.finetune"),
    *("trainer.precision", "trainer.accumulate_grad_batches"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
)
# taken from the data where they are null; a checkpoint's weights fit them
FROM_DATA = ("model.num_classes", "model.channels", "model.size")


def conf_dir() -> Path:
    """The configuration folder: the checkout's, or the one installed with the package."""
    here = Path(__file__).parent
    return next(path for path in (here / "conf", here.parents[1] / "conf") if path.is_dir())


def options(group: str) -> list[str]:
    """The options of a group of ``conf/``; empty if there is no such group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def suggest(key: str, cfg: DictConfig) -> str:
    """Suggest keys of the same or a similar name for one that does not exist."""
    parent, _, name = key.rpartition(".")
    optional = ["from", "resume", *(path.name for path in conf_dir().iterdir() if path.is_dir())]
    paths: dict[str, list[str]] = {}  # by the last part of the key
    for path in dict.fromkeys([*_keys(OmegaConf.to_container(cfg)), *sorted(optional)]):
        if path != key and path.startswith("hydra.") == key.startswith("hydra."):
            paths.setdefault(path.rpartition(".")[2], []).append(path)
    siblings = {x: [y] for x in paths if (y := f"{parent}.{x}".lstrip(".")) in paths[x]}
    name = name if name in paths else SYNONYMS.get(name, name)
    same = {name: paths[name]} if name in paths else {}
    for known in (same, siblings, paths):
        if close := get_close_matches(name, known, 1, 0.7):
            given = (re.fullmatch(rf"\+*{re.escape(key)}([=.].*)", x) for x in sys.argv)
            value = next((match[1] for match in given if match), "")
            return f"did you mean {' or '.join(shlex.quote(x + value) for x in known[close[0]])}?"
    return f"choose from {', '.join(siblings or [f'{parent}={x}' for x in options(parent)])}"


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys in nested mappings, without those whose value is another key's."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if not re.match("_|hparams$", str(name)) and not re.fullmatch(r"\$\{[\w.]+\}", str(value)):
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def check_hydra(hydra: DictConfig) -> None:
    """Check Hydra's own configuration; tools rely on ``hydra.output_subdir``."""
    raw: Any = OmegaConf.to_container(hydra)  # unresolved: hydra.job.num is missing before a sweep
    for key, value in flatten({group: raw[group] for group in ("run", "sweep")}).items():
        if key.endswith("dir") and not value:
            raise ConfigError(f"hydra.{key}={show(value)}: must be a folder")
    # Lightning starts the other processes of DDP with null
    if hydra.output_subdir != ".hydra" and os.environ.get("LOCAL_RANK", "0") == "0":
        raise ConfigError(f"hydra.output_subdir={show(hydra.output_subdir)}: must be .hydra")
    for group in SINGLE:  # model=[lenet,mlp] would be merged into a model that is neither
        if group not in hydra.runtime.choices:
            raise ConfigError(f"{group}: takes one option; to sweep over several: -m {group}=A,B")
    folders = [x["path"] for x in raw["runtime"]["config_sources"] if x["schema"] == "file"]
    for override in OverridesParser.create().parse_overrides(raw["overrides"]["task"]):
        group, value = override.key_or_group, override.value()
        for names in value.list if isinstance(value, ChoiceSweep) else [value]:
            if group in SEVERAL and isinstance(names, list):
                _check_list(group, names, folders)


def _check_list(group: str, names: list[Any], folders: list[str]) -> None:
    """Check that no two options in a list, as in ``callbacks=[ema,swa]``, define the same part."""
    first: dict[str, str] = {}  # the first option that defines a part
    for name in names:
        files = (Path(folder, group, f"{name}.yaml") for folder in folders)
        file = next(filter(Path.is_file, files), None)
        content: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
        for part, node in content.items():
            defined = isinstance(node, dict) and "_target_" in node  # else it changes a part
            if defined and first.setdefault(part, name) != name:
                raise ConfigError(
                    f"{group}=[{','.join(map(str, names))}]: {first[part]} and {name} both set "
                    f"{group}.{part}; choose one"
                )


def monitored_metric(cfg: DictConfig) -> str:
    """The validation metric that selects the best epoch and the best job of a sweep."""
    return str(OmegaConf.select(cfg, "callbacks.checkpoint.monitor") or "val/acc")


def task_config(config: DictConfig, folder: Path) -> DictConfig:
    """The configuration that Hydra will pass to a job with this run folder."""
    cfg = config.copy()
    with read_write(cfg), open_dict(cfg):
        cfg.run_dir = os.path.normpath(folder.absolute())
        del cfg["hydra"]
    return cfg


def check(cfg: DictConfig, single: bool = False) -> None:
    """Check values and their combinations, as far as possible without data and network.

    Only a ``single`` run, not yet started, may have the key ``find``.
    """
    if "find" in cfg and not single:
        raise ConfigError("find=lr: cannot be used in a sweep; remove -m or sweep=")
    nested = {x.rpartition(".")[2] for x in _keys(OmegaConf.to_container(cfg)) if "." in x}
    for name in map(str, cfg):  # a key of one's own may have any name but that of a nested key
        reference = rf"\$\{{([\w.]+:)?{re.escape(name)}\b"  # ${name} or ${oc.select:name}
        known = name in RULES["config"] or options(name) or SYNONYMS.get(name, name) not in nested
        if not (known or re.search(reference, OmegaConf.to_yaml(cfg))):
            raise ConfigError(f"{name}: nothing reads this key; {suggest(name, cfg)}")
    settings = check_values(cfg, sorted(map(str, cfg), key=lambda name: name in REFERRING))
    for group in (*SINGLE, *SEVERAL):
        node, choices = settings.get(group), options(group)
        if not isinstance(node, dict) or (not node and "none" not in choices):
            raise ConfigError(f"{group}={show(node)}: must be one of {', '.join(choices)}")
        if group in SINGLE and node and "_target_" not in node:
            remove = ", ".join(f"~{group}.{key}" for key in node)
            raise ConfigError(f"{group}: was replaced, but {remove[1:]} is still set; add {remove}")
        for name, part in node.items() if group in SEVERAL else ():
            if not (part is None or (isinstance(part, dict) and "_target_" in part)):
                reason = "must be null, which leaves it out, or a mapping with _target_"
                raise ConfigError(f"{group}.{name}={show(part)}: {reason}")
            package = PACKAGES.get(part["_target_"].rpartition(".")[2]) if part else None
            if package and not find_spec(package):
                install = f'pip install "lenet-pl[{package}]"'
                raise ConfigError(f"{group}={name}: needs the package {package}; {install}")
    monitors = {f"callbacks.{name}": node for name, node in settings["callbacks"].items() if node}
    for name, node in {**monitors, "scheduler": settings["scheduler"]}.items():
        better, mode = MONITORED.get(node.get("monitor")), node.get("mode")
        if better and mode not in (None, better):
            raise ConfigError(f"{name}.mode={mode}: must be {better} for {node['monitor']}")
    epochs = cfg.trainer.max_epochs
    unfreeze = OmegaConf.select(cfg, key := "callbacks.finetune.unfreeze_epoch") or 0
    if unfreeze > epochs and not cfg.trainer.fast_dev_run:
        raise ConfigError(f"{key}={unfreeze}: exceeds trainer.max_epochs={epochs}")
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise ConfigError(f"ckpt_path={cfg.ckpt_path}: no such file")


def check_values(cfg: DictConfig, names: Iterable[str]) -> dict[str, Any]:
    """Check each value of some groups by itself, and return the groups as plain values."""
    settings: dict[str, Any] = {}
    for name in names:
        try:
            value: Any = cfg[name]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except (OmegaConfBaseException, RecursionError) as error:
            key = getattr(error, "full_key", None) or name
            message = str(error).partition("\n")[0]
            raise ConfigError(f"{key}: {message}") from error
        settings[name] = value
        if reason := invalid(with_rules({name: value})):
            raise ConfigError(reason)
    return settings


def fit_to_data(cfg: DictConfig, data: Mapping[str, Any]) -> DictConfig:
    """Return a copy with the values that depend on the data, given the data module's state.

    They are the keys :data:`FROM_DATA` that are null, and the weights of ``loss.class_weights=
    balanced``: images / (classes · images of the class), as in scikit-learn.
    """
    cfg = cfg.copy()
    channels, height, width = data["shape"]
    values = {"num_classes": len(data["classes"]), "channels": channels, "size": height}
    for name, value in values.items():
        if name in cfg.model and cfg.model[name] is None:
            if name == "size" and height != width:
                raise ConfigError(f"model.size=null: the images are not square: {height} × {width}")
            cfg.model[name] = value
    weights, counts = cfg.loss.get("class_weights"), data["class_counts"]
    if weights == "balanced":
        cfg.loss.class_weights = [sum(counts) / (len(counts) * count) for count in counts]
    elif OmegaConf.is_list(weights) and len(weights) != len(data["classes"]):
        raise ConfigError(
            f"loss.class_weights={show(weights)}: the data has {len(data['classes'])} classes"
        )
    return cfg


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
    keys, settings = tuple(f"{key}." for key in RESUME_KEYS), {}
    for path, value in flatten(OmegaConf.to_container(cfg, resolve=True)).items():
        # a checkpoint replaces pretrained weights
        unused = path.endswith("._partial_") or path in ("model.weights", *FROM_DATA)
        if f"{path}.".startswith(keys) and not unused and value not in (None, {}):
            part = path.removesuffix("._target_")
            settings[part] = value if part == path else str(value).rpartition(".")[2]
    return settings


def check_types(node: Any, path: str) -> None:
    """Check arguments in a resolved configuration against the type hints of its classes."""
    hints: dict[str, Any] = {}
    if isinstance(node, dict) and "_target_" in node:
        with suppress(Exception):  # of many types; building the object reports those that matter
            arguments = signature(get_object(node["_target_"]), eval_str=True).parameters
            hints = {name: argument.annotation for name, argument in arguments.items()}
    elif isinstance(node, list):
        node = dict(enumerate(node))
    for name, value in node.items() if isinstance(node, dict) else ():
        if value is not None and not _has_type(value, hints.get(name)):
            expected = formatannotation(hints[name])
            raise ConfigError(f"{path}.{name}={show(value)}: must be {expected}")
        check_types(value, f"{path}.{name}")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value has a plain type, or one of a union or list of them; True for others."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_has_type(value, part) for part in parts)
    if get_origin(hint) in (list, tuple):
        items = value if isinstance(value, list) else [None]
        return all(any(_has_type(x, part) for part in parts) for x in items)
    if hint is float:
        return type(value) in (int, float)
    return hint not in (int, bool, str, NoneType) or type(value) is hint


def with_key(path: str, error: BaseException) -> str:
    """``model.name=x: …`` for an error that begins with ``name=x``, else ``model: …``."""
    message = one_line(error, 100)  # of torch's, which can list every parameter
    name, equals, _ = message.partition("=")
    return f"{path}.{message}" if equals and name.isidentifier() else f"{path}: {message}"


def check_outputs(classifier: "Classifier", classes: int) -> None:
    """Check that the network maps an image to one logit per class."""
    import torch

    try:
        with torch.no_grad():
            outputs = classifier.eval()(classifier.example_input_array).shape[1]
    except RuntimeError as error:
        raise ConfigError(f"model: does not accept these images: {error}") from error
    classifier.train()
    if outputs != classes:
        raise ConfigError(f"model.num_classes={outputs}: the data has {classes} classes")


def check_optimizer(
    trainer: "Trainer", classifier: "Classifier", data: "DigitsDataModule"
) -> int | None:
    """Build optimizer and schedule once, to check that they accept their arguments.

    Returns the optimizer steps of the run if its schedule has a fixed length, else None.
    """
    from lenet_pl.classifier import DEBUG_STEPS
    from lenet_pl.optim import planned_steps

    _check_devices(trainer, classifier)
    _check_limits(trainer, data)
    steps = planned_steps(trainer, len(data.splits["train"]), data.batch_size)
    length = DEBUG_STEPS if trainer.fast_dev_run else steps  # type: ignore[attr-defined]
    part, schedule = "optimizer", {}
    try:
        optimizer = classifier.build_optimizer()
        part = "scheduler"
        if classifier.scheduler:
            schedule = classifier.scheduler(optimizer, length)
    except (TypeError, ValueError) as error:
        raise ConfigError(with_key(part, error)) from error
    try:
        classifier.check_trainer(trainer, optimizer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return steps if schedule.get("interval") == "step" else None


def _check_devices(trainer: "Trainer", classifier: "Classifier") -> None:
    """Check the processes of a run, and that they train the same parameters."""
    from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher

    from lenet_pl.callbacks.finetuning import Unfreeze

    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            "trainer.strategy: trains in child processes, whose result is lost; choose ddp, and "
            "run it outside a notebook"
        )
    several = trainer.num_devices * trainer.num_nodes > 1
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if not several and (rank := os.environ.get(name, "0")) != "0":
            raise ConfigError(
                f"{name}={rank}: this environment variable is for one of several processes, but "
                "the run has one device; unset it, or set trainer=ddp trainer.devices"
            )
    if any(isinstance(callback, Unfreeze) for callback in cast(Any, trainer).callbacks):
        if all(parameter.requires_grad for parameter in classifier.net.parameters()):
            raise ConfigError("callbacks.finetune: nothing is frozen; add model.freeze=true")
        # DDP never averages the gradients of parameters that are frozen when it starts
        if several:
            raise ConfigError("callbacks.finetune: needs one device; add trainer.devices=1")


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

    Its weights are loaded into the classifier. The settings are the run's :func:`resume_settings`,
    plus ``steps`` if its schedule has a fixed length.
    """
    path, epochs = Path(cfg.ckpt_path), f"trainer.max_epochs={cfg.trainer.max_epochs}"
    checkpoint = read_checkpoint(path)
    load_weights(classifier, checkpoint["state_dict"], path, "weights belong to another model")
    if checkpoint[DATA_KEY] != data.state_dict():
        raise ConfigError(
            f"ckpt_path={path}: was trained on other images; set data, data.val_size and "
            "data.split_seed as for that run"
        )
    before, now = dict(checkpoint["settings"]), dict(settings)
    recorded = checkpoint["callbacks"].get("BestAndLast", {}).get("monitor")
    monitor = OmegaConf.select(cfg, key := "callbacks.checkpoint.monitor")
    if monitor and recorded:  # a run may stop or begin to save checkpoints
        before[key], now[key] = recorded, monitor
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if key == "steps" and old and new and old != new:
            raise ConfigError(
                f"{epochs}: the schedule of ckpt_path={path} ends after {old:,} steps, this run "
                f"after {new:,}; it cannot be extended"
            )
        if old != new:
            raise ConfigError(f"{key}={new}: ckpt_path={path} was trained with {old}")
    if (finished := checkpoint["epoch"] + 1) > cfg.trainer.max_epochs:
        raise ConfigError(f"{epochs}: ckpt_path={path} already has {finished}")
