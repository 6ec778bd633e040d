"""What a sweep is going to do, worked out and checked before its first job."""

import importlib.util
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet_pl.config import check, check_choices
from lenet_pl.errors import ConfigError
from lenet_pl.sweeps.match import (
    check_devices,
    check_folder,
    check_jobs,
    check_search,
    read_overrides,
)
from lenet_pl.sweeps.results import job_folders

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
        batch: how many a launcher may be given at once that starts all it is given.
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
    batch: int | None
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
    check_choices(config.hydra.runtime.choices)
    check_folder(config, folder)
    _check_plugins(config)
    before = {path.name: read_overrides(path) for path in job_folders(folder)}
    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        [jobs] = BasicSweeper.split_arguments(parsed, None)
        composed = _compose(config, loader, jobs)
        for cfg in composed.values():
            check(cfg)
            check_devices(cfg)
        check_jobs(config, folder, before, composed)
        total, configs = len(jobs), list(composed.values())
    else:  # its jobs are not known beforehand
        check_devices(config)
        check_search(config, folder)
        total, configs = config.hydra.sweeper.get("n_trials"), [config]
    parallel = not config.hydra.launcher._target_.endswith(".BasicLauncher")
    threads = _threads(config, total) if parallel else None
    starts_all = config.hydra.launcher._target_.endswith(".submitit_launcher.LocalLauncher")
    return Plan(
        folder=folder,
        cwd=Path.cwd(),
        total=total,
        varied=_varied(parsed),
        before=before,
        parallel=parallel,
        threads=threads,
        batch=max(1, cpu_count() // (threads or 1)) if starts_all else None,
        data=tuple({OmegaConf.to_yaml(cfg.data): cfg.data for cfg in configs}.values()),
        started=time.time(),
    )


def _varied(parsed: Sequence[Override]) -> tuple[str, ...]:
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    return tuple(key for key, override in last.items() if override.is_sweep_override())


def _check_plugins(config: DictConfig) -> None:
    for part in ("launcher", "sweeper"):
        target = config.hydra[part].get("_target_", "hydra_plugins.hydra_optuna_sweeper")
        plugin = target.removeprefix("hydra_plugins.").partition(".")[0]
        chosen = f"hydra/{part}={config.hydra.runtime.choices[f'hydra/{part}']}"
        if plugin in EXTRAS and not _installed(plugin):
            raise ConfigError(
                f'{chosen}: is not installed; pip install "lenet-pl[{EXTRAS[plugin]}]"'
            )
        if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise ConfigError(f"{chosen}: no Slurm here (srun is not found); choose submitit_local")


def _installed(plugin: str) -> bool:
    # without any plugin there is no such package to look into
    names = ("hydra_plugins", f"hydra_plugins.{plugin}")
    return all(importlib.util.find_spec(name) is not None for name in names)


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


def _threads(config: DictConfig, total: int | None) -> int:
    """The threads of each of the jobs that run side by side."""
    launcher, cores = config.hydra.launcher, cpu_count()
    if (workers := launcher.get("n_jobs")) is not None:  # joblib's; -1 is one to a core
        at_once = min(workers if workers > 0 else max(1, cores + 1 + workers), total or cores)
        return max(1, cores // at_once)
    if "ray" in launcher:
        return max(1, int(launcher.ray.remote.get("num_cpus") or 1))
    return launcher.get("cpus_per_task") or 1


def cpu_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
