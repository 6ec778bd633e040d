"""The plan of a sweep: everything that can be checked before its first job."""

import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet_pl.config import check, flatten, monitored_metric, task_config
from lenet_pl.errors import ConfigError
from lenet_pl.naming import NOT_PARAMETERS, describe, override_values, parameter_overrides
from lenet_pl.records import checking, read_config, read_overrides
from lenet_pl.rules import COUNT, METRIC, MONITORED, Checks, integer, invalid, one_of, optional
from lenet_pl.sweeps.results import job_folders

EXTRAS = {  # extras of lenet-pl, by the Hydra plugin that they install
    "hydra_joblib_launcher": "parallel",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "slurm",
    "hydra_optuna_sweeper": "optuna",
}
# keys that determine the rungs of halving, and the images and metric that settings are ranked by
COMPARABLE = (
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.fast_dev_run"),
    *("data.source", "data.root", "data.split", "data.val_size", "data.split_seed"),
    "trainer.limit_val_batches",
)


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked and can start."""

    folder: Path  # absolute
    jobs: dict[str, list[str]]  # overrides by job name; empty if a search proposes the jobs
    total: int | None  # number of jobs, if known in advance
    varied: tuple[str, ...]  # the keys that are swept over
    existing: dict[str, list[str]]  # parameters by job name, of an earlier start
    threads: int | None  # CPU threads per parallel job; None if jobs run one after another
    monitor: str = "val/acc"  # the validation metric that ranks the jobs
    rungs: tuple[int, ...] = ()  # epochs after which successive halving compares the settings
    cwd: Path = field(default_factory=Path.cwd)  # at the start; workers change to it
    pid: int = field(default_factory=os.getpid)  # of the main process

    def describe(self, overrides: Iterable[str]) -> str:
        """The varied values of a job: ``lr 0.01, batch_size 64``."""
        return describe(override_values(overrides), self.varied)


def make_plan(config: DictConfig, loader: ConfigLoader) -> Plan:
    """Check a sweep and every job that is known in advance, and fetch the data.

    Raises:
        ConfigError: for an invalid value in any job, a folder that holds something else, or a
            plugin that is not installed.
        DataError: if the data cannot be fetched.
        HydraException: for an override that cannot be composed.
    """
    hydra, folder = config.hydra, Path(config.hydra.sweep.dir).absolute()
    names = {path.name for path in folder.iterdir()} - {".lock"} if folder.is_dir() else set()
    if names and ("multirun.yaml" not in names or ".hydra" in names):
        raise _folder_error(hydra, "is not a sweep's folder")
    _check_plugins(hydra)
    # a job that was stopped during startup has nothing to keep, and may have no overrides
    existing = {
        path.name: parameter_overrides(read_overrides(path))
        for path in job_folders(folder)
        if (path / "result.json").exists() or (path / "checkpoints").exists()
    }
    params = hydra.sweeper.get("params") or {}
    overrides = [*(f"{key}={value}" for key, value in params.items()), *hydra.overrides.task]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    varied = tuple(key for key, override in last.items() if override.is_sweep_override())
    sweeper = hydra.sweeper._target_.rpartition(".")[2]
    if sweeper in ("BasicSweeper", "HalvingSweeper"):
        [grid] = BasicSweeper.split_arguments(parsed, None)
        by_name = _compose(config, loader, grid)
        if not grid:
            raise ConfigError("-m: the sweep has no jobs")
        jobs, configs, total = dict(zip(by_name, grid, strict=True)), [*by_name.values()], len(grid)
        for name, before in existing.items():
            reason = f"job {name} was started with {shlex.join(before) or 'no overrides'}"
            if name in jobs and parameter_overrides(jobs[name]) == before:
                old, now = read_config(folder / name), _parameters(by_name[name])
                change = _difference(_parameters(old), now) if old else ""
                reason = change and f"in job {name}, {change}"
            if reason:
                raise _folder_error(hydra, f"holds another sweep: {reason}")
    else:
        _check_search(config, folder)
        jobs, configs, total = {}, [config], hydra.sweeper.get("n_trials")
    if "name" in varied:
        raise ConfigError("name: must be the same in all jobs of a sweep")
    monitor, *others = dict.fromkeys(map(monitored_metric, configs))
    if others:
        raise ConfigError("callbacks.checkpoint.monitor: must be the same in all jobs of a sweep")
    if monitor == "val/loss" and len({OmegaConf.to_yaml(cfg.loss) for cfg in configs}) > 1:
        raise ConfigError(
            "callbacks.checkpoint.monitor=val/loss: cannot rank jobs with different losses; add "
            "callbacks.checkpoint.monitor=val/acc callbacks.checkpoint.mode=max"
        )
    rungs = _check_halving(hydra.sweeper, configs) if sweeper == "HalvingSweeper" else ()
    for cfg in configs:
        _check_devices(cfg)
    for data in {OmegaConf.to_yaml(cfg.data): cfg.data for cfg in configs}.values():
        instantiate(data.source)(data.root).prepare()  # once, not in several jobs at a time
    for cfg in configs:
        _create_experiment(cfg)
    threads = _threads(hydra.launcher, total)
    return Plan(folder, jobs, total, varied, existing, threads, monitor, rungs)


def _folder_error(hydra: DictConfig, reason: str) -> ConfigError:
    """The error of a sweep that cannot use its folder."""
    return ConfigError(f"hydra.sweep.dir={hydra.sweep.dir}: {reason}; choose another folder")


def _check_plugins(hydra: DictConfig) -> None:
    for group in ("launcher", "sweeper"):
        target = hydra[group]._target_
        plugin = target.removeprefix("hydra_plugins.").partition(".")[0]
        choice = f"hydra/{group}={hydra.runtime.choices[f'hydra/{group}']}"
        if plugin in EXTRAS and not importlib.util.find_spec(f"hydra_plugins.{plugin}"):
            raise ConfigError(f'{choice}: not installed; pip install "lenet-pl[{EXTRAS[plugin]}]"')
        if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise ConfigError(f"{choice}: no Slurm here (srun not found); choose submitit_local")


def _create_experiment(cfg: DictConfig) -> None:
    """Create MLflow's database and experiment, since jobs that start together would clash."""
    for node in filter(None, cfg.logger.values()):
        if node._target_.endswith(".MLFlowLogger"):
            from mlflow.tracking import MlflowClient

            client = MlflowClient(node.get("tracking_uri"))
            if client.get_experiment_by_name(node.experiment_name) is None:
                client.create_experiment(node.experiment_name)


def _compose(
    config: DictConfig, loader: ConfigLoader, jobs: list[list[str]]
) -> dict[str, DictConfig]:
    """Compose and check each job; return their configurations by folder name, which is unique."""
    configs: dict[str, DictConfig] = {}
    for number, overrides in enumerate(jobs):
        cfg = loader.load_sweep_config(config, overrides)
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.job.num = number
        name = str(cfg.hydra.sweep.subdir)
        if name in configs:
            raise ConfigError(
                f"hydra.sweep.subdir={name}: two jobs would share it; use ${{hydra.job.num}}"
            )
        check(task_config(cfg, Path(cfg.hydra.sweep.dir) / name))
        configs[name] = cfg
    return configs


def _check_devices(cfg: DictConfig) -> None:
    """Check that a job has one device: DDP would start processes that repeat the whole sweep."""
    trainer, devices = cfg.trainer, cfg.trainer.devices
    one = devices == 1 or (devices == "auto" and trainer.accelerator == "cpu")
    one = one or (OmegaConf.is_list(devices) and len(devices) == 1)
    alone = trainer.strategy in ("auto", "single_device") and trainer.get("num_nodes", 1) == 1
    if not (one and alone):
        raise ConfigError(
            f"trainer.devices={devices} trainer.strategy={trainer.strategy}: a job of a sweep has "
            "one device; choose trainer.devices=1 trainer.strategy=auto trainer.num_nodes=1, and "
            "hydra/launcher=joblib to run jobs in parallel"
        )


def _check_halving(sweeper: DictConfig, configs: list[DictConfig]) -> tuple[int, ...]:
    """Check that the jobs can be compared at the rungs and resumed after them; return the rungs."""
    for key in COMPARABLE:
        if len({str(OmegaConf.select(cfg, key)) for cfg in configs}) > 1:
            raise ConfigError(f"{key}: must be the same in all jobs of hydra/sweeper=halving")
    if reason := invalid(_halving_rules(sweeper, configs[0])):
        raise ConfigError(f"{reason} for hydra/sweeper=halving")
    return rung_epochs(sweeper.eta, sweeper.min_epochs, configs[0].trainer.max_epochs)


def _halving_rules(sweeper: DictConfig, cfg: DictConfig) -> Checks:
    trainer, first = cfg.trainer, sweeper.min_epochs
    yield "hydra.sweeper.eta", sweeper.eta, integer(2)
    yield "hydra.sweeper.min_epochs", first, COUNT
    yield "hydra.sweeper.max_batch_size", sweeper.max_batch_size, optional(COUNT)
    yield "trainer.fast_dev_run", trainer.fast_dev_run, one_of(False)
    yield "trainer.max_epochs", trainer.max_epochs, integer(sweeper.eta * first)
    # else it could not pause, or there would be no best epoch
    yield "trainer.min_epochs", trainer.get("min_epochs"), optional(integer(0, first))
    yield (key := "callbacks.checkpoint.monitor"), OmegaConf.select(cfg, key), METRIC


def rung_epochs(eta: int, min_epochs: int, max_epochs: int) -> tuple[int, ...]:
    """The epochs to ``max_epochs / eta`` after which settings are compared: 2, 6 for 3, 2, 20."""
    if min_epochs * eta > max_epochs:
        return ()
    return min_epochs, *rung_epochs(eta, min_epochs * eta, max_epochs)


def _check_search(config: DictConfig, folder: Path) -> None:
    """Check a search, whose jobs the sweeper chooses as it goes, and an earlier start of it."""
    if (file := folder / "multirun.yaml").is_file():
        with checking(file, "damaged"):
            before = _search(OmegaConf.load(file))
        if reason := _difference(before, _search(config)):
            raise _folder_error(config.hydra, f"holds another sweep: {reason}")
    mode, metric = config.hydra.sweeper.get("direction"), monitored_metric(config)
    if mode in ("maximize", "minimize") and not mode.startswith(MONITORED.get(metric, "")):
        raise ConfigError(
            f"hydra.sweeper.direction={mode}: must be {MONITORED[metric]}imize for {metric}"
        )


def _parameters(config: Any) -> dict[str, Any]:
    """The configuration of what is trained, by dotted key."""
    keys = [key for key in config if key not in ("hydra", *NOT_PARAMETERS)]
    return flatten(OmegaConf.to_container(OmegaConf.masked_copy(config, keys)))


def _search(config: Any) -> dict[str, Any]:
    """What identifies a search, by dotted key."""
    search = flatten(OmegaConf.to_container(config.hydra.sweeper), "hydra.sweeper")
    search.pop("hydra.sweeper.n_trials", None)  # more trials extend the same search
    return search | _parameters(config)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first value that differs from an earlier start; empty if none does."""
    keys = (key for key in now | before if before.get(key) != now.get(key))
    return next((f"{key} was {before.get(key)}, now {now.get(key)}" for key in keys), "")


def _threads(launcher: DictConfig, total: int | None) -> int | None:
    """CPU threads per parallel job; None if jobs run one after another."""
    if launcher._target_.endswith(".BasicLauncher"):
        return None
    if (workers := launcher.get("n_jobs")) is None:  # not joblib
        key = "ray.remote.num_cpus" if "ray" in launcher else "cpus_per_task"
        return max(1, int(OmegaConf.select(launcher, key) or 1))
    cores = cpu_count()
    at_once = int(workers) if workers > 0 else max(1, cores + 1 + workers)  # -1: one per core
    return max(1, cores // min(at_once, total or cores))


def cpu_count() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
