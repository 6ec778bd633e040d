"""Whether jobs can be run, and a folder take them: it is new, or holds the same sweep."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet_pl.errors import ConfigError
from lenet_pl.sweeps.results import BESIDE, LOADER, parameters


def check_folder(config: DictConfig, folder: Path) -> None:
    """It is new, or empty, or a sweep's."""
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()} - {".lock"}
    if names and ("multirun.yaml" not in names or ".hydra" in names):
        raise ConfigError(
            f"hydra.sweep.dir={config.hydra.sweep.dir}: is no sweep's folder; "
            "choose another, or a new one"
        )


def check_devices(config: DictConfig) -> None:
    """One to a job: Lightning starts more processes by repeating the command, which is the sweep's.

    Raises:
        ConfigError: if a job asks for more.
    """
    trainer = config.trainer
    cpu = trainer.accelerator == "cpu"  # of which there is one
    devices = trainer.devices
    one = len(devices) == 1 if OmegaConf.is_list(devices) else str(devices) == "1"
    allowed = {
        "devices": one or (cpu and devices == "auto"),
        "strategy": trainer.strategy in ("auto", "single_device"),
        "num_nodes": trainer.get("num_nodes", 1) == 1,
    }
    for key, good in allowed.items():
        if not good:
            raise ConfigError(
                f"trainer.{key}={trainer[key]}: a job of a sweep has one device; give "
                f"trainer.{key}={'auto' if key == 'strategy' else 1}; several jobs run side by "
                "side with hydra/launcher=joblib"
            )


def check_jobs(
    config: DictConfig, folder: Path, before: dict[str, Any], composed: dict[str, DictConfig]
) -> None:
    other = f"hydra.sweep.dir={config.hydra.sweep.dir}: holds another sweep"
    for name in before:
        if name not in composed:
            raise ConfigError(f"{other}, with a job {name}; choose another folder")
        path, new = folder / name / ".hydra" / "config.yaml", OmegaConf.to_yaml(composed[name])
        old = path.read_text(encoding="utf-8")
        if old != new and _values(old) != _values(new):
            raise ConfigError(f"{other}: in its job {name} {_difference(old, new)}")


def check_search(config: DictConfig, folder: Path) -> None:
    """The jobs of a search are not known, but what it searches is, and what stays the same."""
    record = folder / "multirun.yaml"
    if not record.is_file():
        return
    old, new = (_searched(cfg) for cfg in (OmegaConf.load(record), config))
    if old != new:
        raise ConfigError(
            f"hydra.sweep.dir={config.hydra.sweep.dir}: holds another sweep: "
            f"there {_difference(old, new)}"
        )


def _searched(config: Any) -> str:
    with read_write(config), open_dict(config):
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        cfg.sweeper = config.hydra.sweeper
        cfg = cfg.copy()
        cfg.sweeper.pop("n_trials", None)  # more of the same is the same
    return OmegaConf.to_yaml(cfg)


def _difference(old: str, new: str) -> str:
    """``optimizer.lr was 0.1, now 0.2``: the first that differs of two configurations."""
    before, now = (dict(_values(text)) for text in (old, new))
    key = next((key for key in {**now, **before} if before.get(key) != now.get(key)), "the order")
    return f"{key} was {before.get(key)}, now {now.get(key)}; choose another folder"


def _values(text: str) -> list[tuple[str, Any]]:
    """In their order; without those that resuming the job by hand has set."""
    return [(key, value) for key, value in _flat(yaml.load(text, LOADER)) if key not in BESIDE]


def _flat(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _flat(value, f"{path}.{key}" if path else str(key))
    ]


def read_overrides(folder: Path) -> list[str]:
    """What a job was asked to train."""
    text = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    return parameters(yaml.load(text, LOADER) or [])
