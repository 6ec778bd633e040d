"""Readers of the files in a run folder, which may be damaged or come from someone else.

Every file is checked against a schema; a damaged one raises ConfigError. This module imports torch
and NumPy only to read tensors and arrays.
"""

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_pl import __version__, rules
from lenet_pl.errors import ConfigError, one_line
from lenet_pl.files import quoted

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

VERSION_KEY = "lenet-pl_version"  # in a checkpoint
DATA_KEY = "DigitsDataModule"  # in a checkpoint: the data module's state, under its class's name

RESULT = {
    "name?": rules.optional(rules.STRING),
    "status": rules.one_of("finished", "paused", "pruned", "interrupted", "failed"),
    "epochs": rules.NATURAL,
    "best_epoch?": rules.NATURAL,
    "monitor?": rules.METRIC,
    "metrics": {"*": rules.FINITE},
    "error?": rules.STRING,
    "overrides?": [rules.STRING],
    "stopped_early?": rules.BOOL,
    "seconds?": {"fit?": rules.FINITE, "epoch_median?": rules.FINITE},
    "device?": rules.STRING,
    "data?": {"pooled?": rules.BOOL},
    "versions?": {"*": rules.STRING},
    "git?": {"commit": rules.STRING, "dirty": rules.BOOL},
}
METRICS = [{"epoch": rules.FINITE, "seconds": rules.FINITE, "*": rules.FINITE}]
PART = {"_target_": rules.STRING}
CONFIG = {
    "data": {"_target_": rules.STRING, "source": PART, "root?": rules.STRING},
    "model": PART,
    "loss": PART,
    "optimizer?": rules.NODE,
    "scheduler?": rules.NODE,
    "trainer?": rules.NODE,
    "callbacks?": rules.NODE,
}
PREDICTIONS = {"index": "int64", "label": "int64", "prediction": "int64", "confidence": "float32"}
WEIGHTS = {"*": rules.TENSOR}
CHECKPOINT = {
    "state_dict": WEIGHTS,
    "epoch": rules.NATURAL,
    "global_step": rules.NATURAL,
    "settings": rules.NODE,
    DATA_KEY: {
        **{"digest": rules.STRING, "split_digest": rules.STRING, "classes": [rules.STRING]},
        **{"shape": rules.list_of(rules.COUNT, 3), "class_counts": [rules.COUNT]},
    },
    "callbacks": {
        "*": rules.NODE,
        "EpochHistory": {"rows": METRICS},
        "LoggedRun?": {"ids": {"*": rules.STRING}},
        "BestAndLast?": {
            "epoch": rules.NATURAL,
            "best_model_path": rules.STRING,
            "best_model_score?": rules.TENSOR,
            "monitor?": rules.METRIC,
        },
    },
    "optimizer_states": [{"state": rules.MAPPING, "param_groups": [rules.NODE]}],
    "lr_schedulers": [rules.NODE],
    "loops": {"fit_loop": rules.NODE},
    "pytorch-lightning_version": rules.STRING,
    VERSION_KEY + "?": rules.STRING,
}

MAX_TEXT, MAX_JSON, MAX_TENSORS = 2**18, 2**25, 2**34  # bytes; larger files are not read
MAX_PREDICTIONS = 2**23  # bytes, compressed; uncompressed, an array has up to MAX_JSON
MAX_DEPTH = 40  # of YAML
ERRORS = (
    *(ConfigError, OSError, ValueError, TypeError, RecursionError),
    *(csv.Error, yaml.YAMLError, OmegaConfBaseException),
)


def exists(path: Path, limit: int) -> bool:
    """Whether the file exists; ValueError if reading it could block, or it is too large."""
    if not (path.exists() or path.is_symlink()):  # a link may lead nowhere
        return False
    if not path.is_file():
        raise ValueError("not a regular file")
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{size:,} bytes, more than the limit of {limit:,}")
    return True


@contextmanager
def checking(path: Path, problem: str = "damaged run folder") -> Iterator[None]:
    """Turn the errors of code that uses a file into a ConfigError that names the file."""
    try:
        yield
    except ERRORS as error:
        raise ConfigError(f"{problem}: {path}: {one_line(error, 30)}") from error


def _valid(content: Any, schema: Any) -> Any:
    """Return the content of a file if it has this schema; ValueError otherwise."""
    if reason := rules.invalid(rules.with_schema(content, schema)):
        raise ValueError(reason)
    return content


def _read(path: Path, parse: Callable[[str], Any], schema: Any, limit: int = MAX_TEXT) -> Any:
    """The parsed content of a text file; None if it does not exist."""
    with checking(path):
        if exists(path, limit):
            return _valid(parse(path.read_text(encoding="utf-8")), schema)
        return None


def read_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty before the run has ended."""
    return read_json(folder / "result.json", RESULT)


def read_json(path: Path, schema: Any) -> dict[str, Any]:
    """The content of a JSON file; empty if it does not exist."""
    return _read(path, json.loads, schema, MAX_JSON) or {}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, one per epoch; empty before the first epoch ends."""
    return _read(folder / "metrics.csv", _parse_metrics, METRICS, MAX_JSON) or []


def _parse_metrics(text: str) -> list[dict[str, float]]:
    lines = csv.DictReader(io.StringIO(text))
    rows = [{name: float(value) for name, value in line.items() if value} for line in lines]
    if any(row.get("epoch") != number for number, row in enumerate(rows, 1)):
        raise ValueError("epoch: must count the rows from 1")
    return rows


def read_val_predictions(folder: Path) -> "dict[str, np.ndarray] | None":
    """The arrays of ``val_predictions.npz``; None if the file does not exist.

    They have one entry per validation image: ``index``, its position in the official file,
    ``label``, ``prediction`` and ``confidence``, the probability of the prediction.
    """
    path = folder / "val_predictions.npz"
    with checking(path):
        if not exists(path, MAX_PREDICTIONS):
            return None
        import numpy as np

        try:
            with np.load(path) as archive:
                for file in archive.zip.infolist():  # other methods may unpack more than this size
                    plain = file.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    if file.file_size > MAX_JSON or not plain:
                        raise ValueError
                arrays = {x: archive[x] for x in PREDICTIONS}
            if any(x.dtype != PREDICTIONS[name] or x.ndim != 1 for name, x in arrays.items()):
                raise ValueError
        except Exception as error:  # of many types
            raise ValueError("not a valid file of predictions") from error
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("the arrays differ in length")
        if len(set(arrays["index"].tolist())) < len(arrays["index"]):
            raise ValueError("index: lists an image twice")
        for name, array in arrays.items():
            if not (len(array) and array.min() >= 0 and (name != "confidence" or array.max() <= 1)):
                raise ValueError(f"{name}: is empty or out of range")
        return arrays


def read_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        raise ConfigError(f"{folder}: not a run folder ({path} is missing)")
    return _read(path, lambda text: _parse_yaml(text) or [], [rules.STRING]) or []


def override_key(override: str) -> str:
    """The key of an override: ``optimizer.lr`` for ``+optimizer.lr=0.1``."""
    return override.partition("=")[0].lstrip("+~")


def read_config(folder: Path) -> DictConfig | None:
    """The configuration of a run as composed for it; None if the file is missing."""
    path = folder / ".hydra" / "config.yaml"
    content = _read(path, _parse_yaml, CONFIG)
    with checking(path):
        return None if content is None else OmegaConf.create(content)


def _parse_yaml(text: str) -> Any:
    """Parse YAML; aliases are rejected, since their expansion can be exponential."""
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
    return str(_read_hydra(folder)["mode"])


def search_path(folder: Path) -> list[str]:
    """The override with a run's search path for configurations; empty if it had none."""
    folders = [quoted(path, always=False) for path in _read_hydra(folder).get("searchpath") or ()]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def _read_hydra(folder: Path) -> dict[str, Any]:
    schema = {"hydra?": {"mode": rules.STRING, "searchpath?": [rules.STRING]}}
    # the file is empty while Hydra writes it
    content = _read(folder / ".hydra/hydra.yaml", lambda text: _parse_yaml(text) or {}, schema)
    return (content or {}).get("hydra") or {"mode": ""}


def read_tensors(path: Path, schema: Any, problem: str = "damaged run folder") -> Any:
    """Load a file that ``torch.save`` wrote, on the CPU; code in it is rejected, not run."""
    import torch

    with checking(path, problem):
        if not exists(path, MAX_TENSORS):
            raise ConfigError("no such file")
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:  # torch does not verify checksums
                    if any(file.compress_type for file in archive.infolist()) or archive.testzip():
                        raise ValueError
            with warnings.catch_warnings(action="ignore"):
                content = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # of many types
            reason = "not a valid torch.save file, or contains code, which is not run"
            raise ValueError(reason) from error
        return _valid(content, schema)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, which must have been written by this version of lenet-pl."""
    try:
        state = read_tensors(path, {VERSION_KEY + "?": rules.STRING})
        written = state.get(VERSION_KEY)
        if known := (written or "").split(".")[:2] == __version__.split(".")[:2]:
            with checking(path):
                epochs, callbacks = _valid(state, CHECKPOINT)["epoch"] + 1, state["callbacks"]
                json.dumps(state["settings"])  # plain values, not nested too deeply
                best = callbacks.get("BestAndLast", {"epoch": 0})["epoch"]
                if len(callbacks["EpochHistory"]["rows"]) != epochs or best > epochs:
                    raise ValueError(f"callbacks: do not match epoch {epochs}")
    except ConfigError as error:
        if path.name != "last.ckpt":
            raise
        advice = "once it is deleted, resume= starts the run from the beginning"
        raise ConfigError(f"{error}; {advice}") from error
    if not known:
        writer = f"lenet-pl {written}" if written else "another project or a version before 0.2"
        raise ConfigError(
            f"{path}: written by {writer}; lenet-pl {__version__} cannot open it; train again"
        )
    return cast("dict[str, Any]", state)


def load_weights(net: "nn.Module", weights: dict[str, Any], path: Path, misfit: str) -> None:
    """Load weights from a file into a network; ConfigError if they do not fit or are not finite."""
    try:
        net.load_state_dict(weights)
    except Exception as error:  # the values may be of any type and shape
        raise ConfigError(f"{path}: {misfit}: {one_line(error, 30)}") from error
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise ConfigError(f"{path}: {name} has NaN or infinite values; train again")
