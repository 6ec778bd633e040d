"""The plan of a sweep: everything that can be checked before its first job."""

import importlib.util
import os
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.config import check, check_hydra, flatten, monitored_metric, task_config
from lenet_pl.errors import ConfigError, one_line
from lenet_pl.records import read_config, read_overrides
from lenet_pl.rules import COUNT, MONITORED, integer, invalid, optional, show
from lenet_pl.sweeps.halving import rung_epochs
from lenet_pl.sweeps.results import NOT_PARAMETERS, job_folders, parameter_overrides

EXTRAS = {  # extras of lenet-pl, by the Hydra plugin that they install
    "hydra_joblib_launcher": "parallel",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "slurm",
    "hydra_optuna_sweeper": "optuna",
}
# keys that determine the rungs, and the images and metric that settings are ranked by
COMPARABLE = (
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.fast_dev_run"),
    *("data.source", "data.root", "data.split", "data.val_size", "data.split_seed"),
    "trainer.limit_val_batches",
)
KEPT = ("result.json", "checkpoints")  # left by an earlier start of a job


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


def make_plan(config: DictConfig, loader: ConfigLoader) -> Plan:
    """Check a sweep and every job that is known in advance, and fetch the data.

    Raises:
        ConfigError: for an invalid value in any job, a folder that holds something else, or a
            plugin that is not installed.
        DataError: if the data cannot be fetched.
        HydraException: for an override that cannot be composed.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    sweeper = config.hydra.sweeper
    check_hydra(config.hydra)
    names = {path.name for path in folder.iterdir()} - {".lock"} if folder.is_dir() else set()
    if names and ("multirun.yaml" not in names or ".hydra" in names):
        raise folder_error(config, "is not a sweep's folder; choose another folder")
    _check_plugins(config)
    # a job that was stopped during startup has nothing to keep, and may have no overrides
    begun = [p for p in job_folders(folder) if any((p / name).exists() for name in KEPT)]
    existing = {path.name: parameter_overrides(read_overrides(path)) for path in begun}
    params = sweeper.get("params") or {}
    overrides = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    jobs: dict[str, list[str]] = {}
    rungs: list[int] = []
    if sweeper._target_.endswith((".BasicSweeper", ".HalvingSweeper")):
        [grid] = BasicSweeper.split_arguments(parsed, None)
        by_name = _compose(config, loader, grid)
        configs, total = list(by_name.values()), len(by_name)
        if not total:
            raise ConfigError("-m: the sweep has no jobs")
        jobs = dict(zip(by_name, grid, strict=True))
        for name, before in existing.items():
            reason = f"job {name} was started with {shlex.join(before) or 'no overrides'}"
            if name in jobs and parameter_overrides(jobs[name]) == before:
                reason = _difference(folder / name, by_name[name])
            if reason:
                raise folder_error(config, f"holds another sweep: {reason}; choose another folder")
        if sweeper._target_.endswith(".HalvingSweeper"):
            rungs = _rungs(sweeper, configs)
    else:  # the sweeper chooses the jobs as it goes
        _check_devices(config)
        file = folder / "multirun.yaml"
        try:
            same = not file.is_file() or _search(OmegaConf.load(file)) == _search(config)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{file}: damaged: {one_line(error)}") from error
        if not same:
            raise folder_error(config, "holds another sweep; choose another folder")
        configs, total = [config], sweeper.get("n_trials")
        mode, metric = sweeper.get("direction"), monitored_metric(config)
        if mode in ("maximize", "minimize") and not mode.startswith(MONITORED.get(metric, "")):
            raise ConfigError(
                f"hydra.sweeper.direction={mode}: must be {MONITORED[metric]}imize for {metric}"
            )
    monitor = monitored_metric(configs[0])
    if other := next((cfg for cfg in configs if monitored_metric(cfg) != monitor), None):
        raise ConfigError(
            f"callbacks.checkpoint.monitor={monitored_metric(other)}: must be {monitor}, as in job "
            "0, since it ranks the jobs"
        )
    for data in {OmegaConf.to_yaml(cfg.data): cfg.data for cfg in configs}.values():
        instantiate(data.source)(data.root).prepare()  # once, not in several jobs at a time
    for cfg in configs:
        _create_experiment(cfg)
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    return Plan(
        folder=folder,
        jobs=jobs,
        total=total,
        varied=tuple(key for key, override in last.items() if override.is_sweep_override()),
        existing=existing,
        threads=_threads(config.hydra.launcher, total),
        monitor=monitor,
        rungs=tuple(rungs),
    )


def folder_error(config: DictConfig, reason: str) -> ConfigError:
    """The error of a sweep that cannot use its folder."""
    return ConfigError(f"hydra.sweep.dir={config.hydra.sweep.dir}: {reason}")


def _check_plugins(config: DictConfig) -> None:
    for group in ("launcher", "sweeper"):
        target = config.hydra[group]._target_
        plugin = target.removeprefix("hydra_plugins.").partition(".")[0]
        choice = f"hydra/{group}={config.hydra.runtime.choices[f'hydra/{group}']}"
        if plugin in EXTRAS and not importlib.util.find_spec(f"hydra_plugins.{plugin}"):
            raise ConfigError(f'{choice}: not installed; pip install "lenet-pl[{EXTRAS[plugin]}]"')
        if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise ConfigError(f"{choice}: no Slurm here (srun not found); choose submitit_local")


def _create_experiment(cfg: DictConfig) -> None:
    """Create MLflow's database and experiment, since jobs that start together would clash."""
    for node in filter(None, cfg.logger.values()):
        if node._target_.endswith(".MLFlowLogger"):
            from mlflow.tracking import MlflowClient

            client = MlflowClient(node.tracking_uri)
            if client.get_experiment_by_name(node.experiment_name) is None:
                client.create_experiment(node.experiment_name)


def _rungs(sweeper: DictConfig, configs: list[DictConfig]) -> list[int]:
    """The rungs of successive halving.

    Raises:
        ConfigError: if there are none, or jobs cannot be compared at a rung, or resumed after it.
    """
    rules = {"eta": integer(2), "min_epochs": COUNT, "max_batch_size": optional(COUNT)}
    if reason := invalid((f"hydra.sweeper.{x}", sweeper[x], rule) for x, rule in rules.items()):
        raise ConfigError(reason)
    for key in COMPARABLE:
        if len({str(OmegaConf.select(cfg, key)) for cfg in configs}) > 1:
            raise ConfigError(f"{key}: must be the same in all jobs of hydra/sweeper=halving")
    eta, min_epochs, cfg = sweeper.eta, sweeper.min_epochs, configs[0]
    max_epochs = cfg.trainer.max_epochs
    if not (rungs := rung_epochs(eta, min_epochs, max_epochs)):
        raise ConfigError(
            f"trainer.max_epochs={max_epochs}: too few for successive halving; with "
            f"hydra.sweeper.eta={eta} and hydra.sweeper.min_epochs={min_epochs}, it must be at "
            f"least {eta * min_epochs}"
        )
    monitor = OmegaConf.select(cfg, "callbacks.checkpoint.monitor")
    least = cfg.trainer.get("min_epochs") or 0
    for key, value, valid, required in (
        ("trainer.fast_dev_run", cfg.trainer.fast_dev_run, not cfg.trainer.fast_dev_run, "false"),
        ("callbacks.checkpoint.monitor", monitor, monitor, " or ".join(MONITORED)),
        ("trainer.min_epochs", least, least <= rungs[0], f"at most {rungs[0]}"),
    ):
        if not valid:
            raise ConfigError(f"{key}={show(value)}: must be {required} for hydra/sweeper=halving")
    return rungs


def _compose(
    config: DictConfig, loader: ConfigLoader, jobs: list[list[str]]
) -> dict[str, DictConfig]:
    """Compose and check each job; return them by folder name, which must be unique."""
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
        _check_devices(cfg)
        configs[name] = cfg
    return configs


def _check_devices(cfg: DictConfig) -> None:
    """Check that a job has one device: DDP would start processes that repeat the whole sweep."""
    trainer, devices = cfg.trainer, cfg.trainer.devices
    one = len(devices) == 1 if OmegaConf.is_list(devices) else str(devices) == "1"
    for key, choice, valid in [
        ("devices", 1, one or (devices == "auto" and trainer.accelerator == "cpu")),
        ("strategy", "auto", trainer.strategy in ("auto", "single_device")),
        ("num_nodes", 1, trainer.get("num_nodes", 1) == 1),
    ]:
        if not valid:
            raise ConfigError(
                f"trainer.{key}={trainer[key]}: a job of a sweep has one device; choose "
                f"trainer.{key}={choice}, and hydra/launcher=joblib to run jobs in parallel"
            )


def _search(config: Any) -> list[Any]:
    """What identifies a search, whose jobs are not known in advance."""
    sweeper = config.hydra.sweeper
    keys = [key for key in sweeper if key != "n_trials"]  # more trials extend the same search
    return [OmegaConf.to_yaml(OmegaConf.masked_copy(sweeper, keys)), _parameters(config)]


def _parameters(config: Any) -> dict[str, Any]:
    """The configuration of what is trained, by dotted key."""
    keys = [key for key in config if key not in ("hydra", *NOT_PARAMETERS)]
    return flatten(OmegaConf.to_container(OmegaConf.masked_copy(config, keys)))


def _difference(job: Path, config: DictConfig) -> str:
    """How a job's configuration differs from that of an earlier start; empty if it does not."""
    now, before = _parameters(config), _parameters(read_config(job) or config)
    for key in now | before:
        if (old := before.get(key)) != (new := now.get(key)):
            return f"in job {job.name}, {key} was {old}, now {new}"
    return ""


def _threads(launcher: DictConfig, total: int | None) -> int | None:
    """CPU threads per parallel job; None if jobs run one after another."""
    if launcher._target_.endswith(".BasicLauncher"):
        return None
    if (workers := launcher.get("n_jobs")) is None:  # not joblib
        ray = "ray" in launcher
        cpus = launcher.ray.remote.get("num_cpus") if ray else launcher.get("cpus_per_task")
        return max(1, int(cpus or 1))
    cores = cpu_count()
    at_once = int(workers) if workers > 0 else max(1, cores + 1 + workers)  # -1: one per core
    return max(1, cores // min(at_once, total or cores))


def cpu_count() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
