"""What a sweep is going to do, worked out and checked before its first job."""

import importlib.util
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet_pl.analysis.sweep import LOADER, job_folders
from lenet_pl.checks import check
from lenet_pl.errors import ConfigError

# plugin and the extra that brings it
EXTRAS = {
    "hydra_joblib_launcher": "parallel",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "slurm",
    "hydra_optuna_sweeper": "optuna",
}


@dataclass(frozen=True)
class Plan:
    """A sweep that can start.

    Attributes:
        folder: of the sweep, absolute.
        cwd: where it was started; a worker elsewhere goes there.
        total: the number of jobs; None of a sweeper that does not say.
        varied: the keys that are swept over.
        before: the job folders that were there already, with their overrides.
        parallel: whether jobs run in processes of their own.
        threads: for each of them; None leaves it to torch.
        data: the configurations of the data sets that the jobs will ask for.
        started: when, as the clock on the wall has it, which is what files bear.
    """

    folder: Path
    cwd: Path
    total: int | None
    varied: tuple[str, ...]
    before: dict[str, list[str]]
    parallel: bool
    threads: int | None
    data: tuple[DictConfig, ...]
    started: float


def make_plan(config: DictConfig, loader: ConfigLoader) -> Plan:
    """Expand the sweep, check every job that is known beforehand, and the folder.

    Args:
        config: the sweep's, ``hydra`` included.
        loader: composes a job's.

    Raises:
        ConfigError: for a value out of range in any job, a folder that holds another sweep or
            none, or a plugin that is not installed.
        HydraException: for an override that cannot be composed.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    _check_folder(config, folder)
    _check_plugins(config)
    before = {path.name: _overrides(path) for path in job_folders(folder)}
    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        [jobs] = BasicSweeper.split_arguments(parsed, None)
        composed = _compose(config, loader, jobs)
        _check_jobs(config, folder, before, composed)
        total, configs = len(jobs), list(composed.values())
    else:  # its jobs are not known beforehand
        _check_search(config, folder)
        total, configs = config.hydra.sweeper.get("n_trials"), [config]
    parallel, threads = _share(config, total)
    return Plan(
        folder=folder,
        cwd=Path.cwd(),
        total=total,
        varied=_varied(parsed),
        before=before,
        parallel=parallel,
        threads=threads,
        data=tuple({OmegaConf.to_yaml(cfg.data): cfg.data for cfg in configs}.values()),
        started=time.time(),
    )


def _varied(parsed: Sequence[Override]) -> tuple[str, ...]:
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    return tuple(key for key, override in last.items() if override.is_sweep_override())


def _check_folder(config: DictConfig, folder: Path) -> None:
    """It is new, or empty, or a sweep's; and can be written."""
    shown = f"hydra.sweep.dir={config.hydra.sweep.dir}"
    try:
        if folder.is_dir():
            foreign = any(folder.iterdir()) and not (folder / "multirun.yaml").is_file()
            if foreign or (folder / ".hydra").exists():
                raise ConfigError(f"{shown}: is no sweep's folder; choose another, or a new one")
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise PermissionError
    except OSError as error:
        raise ConfigError(f"{shown}: cannot write there; choose another folder") from error


def _check_plugins(config: DictConfig) -> None:
    for part in ("launcher", "sweeper"):
        target = config.hydra[part].get("_target_", "hydra_plugins.hydra_optuna_sweeper")
        plugin = target.removeprefix("hydra_plugins.").partition(".")[0]
        chosen = f"hydra/{part}={config.hydra.runtime.choices[f'hydra/{part}']}"
        if plugin in EXTRAS and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
            raise ConfigError(
                f'{chosen}: is not installed; pip install "lenet-pl[{EXTRAS[plugin]}]"'
            )
        if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise ConfigError(f"{chosen}: no Slurm here (srun is not found); choose submitit_local")


def _compose(
    config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]]
) -> dict[str, DictConfig]:
    """Each job's configuration, by the name of its folder."""
    composed: dict[str, DictConfig] = {}
    for number, overrides in enumerate(jobs):
        cfg = loader.load_sweep_config(config, list(overrides))
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.job.num = number
            name = str(cfg.hydra.sweep.subdir)
            del cfg["hydra"]
        if name in composed:
            raise ConfigError(
                f"hydra.sweep.subdir={name}: two jobs would share it; ${{hydra.job.num}} differs"
            )
        composed[name] = cfg
    return composed


def _check_jobs(
    config: DictConfig, folder: Path, before: dict[str, Any], composed: dict[str, DictConfig]
) -> None:
    for cfg in composed.values():
        check(cfg)
    other = f"hydra.sweep.dir={config.hydra.sweep.dir}: holds another sweep"
    for name in before:
        if name not in composed:
            raise ConfigError(f"{other}, with a job {name}; choose another folder")
        old, new = folder / name / ".hydra" / "config.yaml", OmegaConf.to_yaml(composed[name])
        if (text := old.read_text(encoding="utf-8")) != new:
            raise ConfigError(f"{other}: in its job {name} {_difference(text, new)}")


def _check_search(config: DictConfig, folder: Path) -> None:
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
    before, now = (dict(_flat(yaml.load(text, LOADER))) for text in (old, new))
    key = next((key for key in {**now, **before} if before.get(key) != now.get(key)), "the order")
    return f"{key} was {before.get(key)}, now {now.get(key)}; choose another folder"


def _flat(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _flat(value, f"{path}.{key}" if path else str(key))
    ]


def _overrides(folder: Path) -> list[str]:
    text = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    return yaml.load(text, LOADER) or []


def _share(config: DictConfig, total: int | None) -> tuple[bool, int | None]:
    """Whether jobs run side by side, and the threads that each of them gets."""
    launcher, cores = config.hydra.launcher, cpu_count()
    if launcher._target_.endswith(".BasicLauncher"):
        return False, None
    if (workers := launcher.get("n_jobs")) is not None:  # joblib's; -1 is one to a core
        at_once = min(workers if workers > 0 else max(1, cores + 1 + workers), total or cores)
        return True, max(1, cores // at_once)
    if "ray" in launcher:
        return True, max(1, int(launcher.ray.remote.get("num_cpus") or 1))
    return True, launcher.get("cpus_per_task") or 1


def cpu_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
