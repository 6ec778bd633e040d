"""Typed readers of the files in a run folder, which may be damaged or come from someone else.

Every file is compared with a schema. This module imports torch only to read tensors.
"""

import csv
import io
import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_pl import __version__
from lenet_pl.errors import ConfigError, one_line

if TYPE_CHECKING:
    from torch import nn

VERSION_KEY = "lenet-pl_version"  # in a checkpoint
DATA_KEY = "DigitsDataModule"  # in a checkpoint: the data module's state, under its class's name

# A type, None, a tuple of alternatives, [schema of all items], or {key: schema}, where "key?" may
# be missing and ``str`` stands for every key. int means at least 0, float any finite number.
Schema = Any

RESULT: Schema = {
    "status": str,
    "epochs": int,
    "best_epoch": (int, None),
    "metrics": {str: float},
    "error?": (str, None),
    "overrides?": [str],
    "stopped_early?": bool,
    "seconds?": {str: (float, None)},
    "device?": (str, None),
    "data?": ({"pooled?": bool}, None),
    "versions?": {str: str},
    "git?": ({"commit": str, "dirty": bool}, None),
}
METRICS: Schema = [{"epoch": float, "seconds": float, str: float}]
PART: Schema = {"_target_": str}
CONFIG: Schema = {
    "data": {"_target_": str, "source": PART, "root": (str, None)},
    "model": PART,
    "loss": PART,
    "optimizer?": dict,
    "scheduler?": (dict, None),
    "trainer?": dict,
    "callbacks?": (dict, None),
}
CHECKPOINT: Schema = {
    "state_dict": dict,
    "epoch": int,
    "settings": {str: object},
    DATA_KEY: {"digest": str, "split_digest": str, "classes": [str]},
    "callbacks": {
        str: dict,
        "EpochHistory": {"rows": METRICS},
        "BestAndLast?": {"epoch": int, "best_model_path": str},
    },
    "optimizer_states": [dict],
    "lr_schedulers": [dict],
    "loops": {"fit_loop": dict},
    "pytorch-lightning_version": str,
    VERSION_KEY + "?": str,
}

NAMES = {str: "text", int: "an integer of at least 0", float: "a finite number", bool: "a boolean"}
NAMES |= {dict: "a mapping", list: "a list", type(None): "null"}
MAX_TEXT, MAX_JSON, MAX_TENSORS = 2**18, 2**25, 2**34  # bytes; larger files are not read
MAX_DEPTH = 40  # of YAML
LARGE = 1e300  # numbers, which may be integers of any length, are below it
DAMAGED = (OSError, ValueError, TypeError, RecursionError)


def mismatch(value: Any, schema: Schema, key: str = "") -> str | None:
    """The first part of a value that does not match a schema, in words; None if all of it does."""
    options = schema if isinstance(schema, tuple) else (schema,)
    for option in options:
        if isinstance(option, list) and isinstance(value, list):
            parts = [(item, option[0], f"{key}[{i}]") for i, item in enumerate(value)]
        elif isinstance(option, dict) and isinstance(value, dict):
            names = {str(name).removesuffix("?"): name for name in option if name is not str}
            for name, declared in names.items():
                if name not in value and name == declared:
                    return f"{key}.{name}: is missing".lstrip(".")
            parts = [
                (item, option[names[name]] if name in names else option[str], f"{key}.{name}")
                for name, item in value.items()
                if name in names or str in option
            ]
            if str in option and not all(isinstance(name, str) for name in value):
                return f"{key}: has a key that is not text"
        elif _matches(value, option):
            return None
        else:
            continue
        return next(filter(None, (mismatch(*part) for part in parts)), None)
    expected = " or ".join(NAMES.get(_kind(option), _kind(option).__name__) for option in options)
    scalar = isinstance(value, str | int | float | None)
    got = repr(value)[:40] if scalar else NAMES.get(type(value), type(value).__name__)
    return f"{key or 'content'}: must be {expected}, not {got}".lstrip(".")


def _kind(option: Any) -> type:
    return option if isinstance(option, type) else type(option)


def _matches(value: Any, option: Any) -> bool:
    if option in (int, float):
        number = type(value) in (int, option) and abs(value) < LARGE
        return number and (option is float or value >= 0)
    return not isinstance(option, dict | list) and isinstance(value, _kind(option))


def exists(path: Path, limit: int) -> bool:
    """Whether there is a file.

    Raises:
        ValueError: if it is a folder, a pipe or a device, or larger than any that is written.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > limit:
        raise ValueError(f"{status.st_size:,} bytes, more than the {limit:,} of any such file")
    return True


def damaged(path: Path, error: Exception) -> ConfigError:
    """The error of a file that cannot be used."""
    return ConfigError(f"{path}: damaged run folder: {one_line(error, 30)}")


def _read(path: Path, parse: Callable[[str], Any], schema: Schema, limit: int = MAX_TEXT) -> Any:
    """The parsed content of a text file; None if there is no file."""
    try:
        if not exists(path, limit):
            return None
        content = parse(path.read_text(encoding="utf-8"))
        if reason := mismatch(content, schema):
            raise ValueError(reason)
        return content
    except (*DAMAGED, csv.Error, yaml.YAMLError, OmegaConfBaseException) as error:
        raise damaged(path, error) from error


def read_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty before the run has ended.

    Raises:
        ConfigError: if the file is damaged.
    """
    return _read(folder / "result.json", json.loads, RESULT, MAX_JSON) or {}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, one per epoch; empty before the first has ended.

    Raises:
        ConfigError: if the file is damaged.
    """
    return _read(folder / "metrics.csv", _parse_metrics, METRICS, MAX_JSON) or []


def _parse_metrics(text: str) -> list[dict[str, float]]:
    lines = csv.DictReader(io.StringIO(text))
    rows = [{name: float(value) for name, value in line.items() if value} for line in lines]
    if any(row.get("epoch") != number for number, row in enumerate(rows, 1)):
        raise ValueError("epoch: must count the rows from 1")
    return rows


def read_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with.

    Raises:
        ConfigError: if Hydra's ``overrides.yaml`` is missing or damaged.
    """
    path = folder / ".hydra" / "overrides.yaml"
    if (overrides := _read(path, lambda text: _parse_yaml(text) or [], [str])) is None:
        raise ConfigError(f"{folder}: not a run folder ({path} is missing)")
    return cast("list[str]", overrides)


def override_key(override: str) -> str:
    """``optimizer.lr`` of ``+optimizer.lr=0.1``."""
    return override.partition("=")[0].lstrip("+~")


def read_config(folder: Path) -> DictConfig | None:
    """The configuration of a run as composed for it; None without one.

    Raises:
        ConfigError: if Hydra's ``config.yaml`` is damaged.
    """

    def parse(text: str) -> Any:
        _parse_yaml(text)
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))

    content = _read(folder / ".hydra" / "config.yaml", parse, CONFIG)
    return None if content is None else OmegaConf.create(content)


def _parse_yaml(text: str) -> Any:
    """Parse YAML without aliases, whose expansion can take forever."""
    # libyaml's parser, if installed, is ten times faster, which matters with many jobs
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("has aliases, or is nested too deeply")
    return yaml.load(text, loader)


def hydra_mode(folder: Path) -> str:
    """``RUN`` for a single run, ``MULTIRUN`` for a job of a sweep, empty if unknown."""
    text = _read(folder / ".hydra" / "hydra.yaml", str, str) or ""
    return next((mode for mode in ("MULTIRUN", "RUN") if f"mode: {mode}\n" in text), "")


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote to a file, on the CPU; code in it is rejected, not run.

    Raises:
        ValueError: if the file is missing, or its checksums do not match.
        Exception: of many types, if it holds anything else.
    """
    import torch

    if not exists(path, MAX_TENSORS):
        raise ValueError("no such file")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            if any(file.compress_type for file in archive.infolist()) or archive.testzip():
                raise ValueError("its content does not match its checksums")
    with warnings.catch_warnings(action="ignore"):
        return torch.load(path, weights_only=True, map_location="cpu")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        ConfigError: if it is damaged, or was not written by this version of lenet-pl.
    """
    from torch import Tensor

    last = path.name == "last.ckpt"
    advice = "; once it is deleted, resume= starts the run from the beginning" if last else ""
    try:
        state = read_tensors(path)
        if reason := mismatch(state, CHECKPOINT | {"state_dict": {str: Tensor}}):
            raise ValueError(reason)
        json.dumps(state["settings"])  # plain values, not nested too deeply
        epochs, callbacks = state["epoch"] + 1, state["callbacks"]
        best = callbacks.get("BestAndLast", {"epoch": 0})["epoch"]
        if len(callbacks["EpochHistory"]["rows"]) != epochs or best > epochs:
            raise ValueError(f"callbacks: must be those of epoch {epochs}")
    except DAMAGED as error:
        raise ConfigError(f"{path}: damaged checkpoint: {one_line(error, 30)}{advice}") from error
    except Exception as error:
        raise ConfigError(
            f"{path}: not a checkpoint of lenet-pl, damaged, or contains code, which is not run"
            f"{advice}"
        ) from error
    written = state.get(VERSION_KEY, "0.1.0")  # the last version that did not write its own
    if written.split(".")[:2] != __version__.split(".")[:2]:
        raise ConfigError(
            f"{path}: written by lenet-pl {written}, which lenet-pl {__version__} cannot open; "
            f"install lenet-pl {written} or train again"
        )
    return cast("dict[str, Any]", state)


def load_weights(net: "nn.Module", weights: dict[str, Any], path: Path, misfit: str) -> None:
    """Load the weights in a file into a network.

    Raises:
        ConfigError: with ``misfit`` if they do not fit, or if some are not finite.
    """
    try:
        net.load_state_dict(weights)
    except Exception as error:  # the values may be of any type and shape
        raise ConfigError(f"{path}: {misfit}: {one_line(error, 30)}") from error
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise ConfigError(f"{path}: {name} has NaN or infinite values; train again")
