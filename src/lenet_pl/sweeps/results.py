"""The results of a sweep: its jobs, read from their folders and ranked."""

import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lenet_pl.config import monitored_metric
from lenet_pl.errors import ConfigError
from lenet_pl.records import (
    override_key,
    read_config,
    read_json,
    read_metrics,
    read_overrides,
    read_result,
)
from lenet_pl.rules import NATURAL, STRING, gain

if TYPE_CHECKING:
    from lenet_pl.sweeps.verdict import Verdict

# overrides that do not affect training: a preset, the final test, and what resuming a job adds
NOT_PARAMETERS = {"sweep", "resume", "ckpt_path", "pause_after", "test"}
ORDER = ("finished", "pruned", "paused", "unfinished", "interrupted", "pending", "failed")
# plan.json: the command that continues the sweep, and the jobs that are known in advance
PLAN = {"command": STRING, "total?": NATURAL, "jobs": {"*": [STRING]}}


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Its status is that of ``result.json``; ``unfinished`` until that exists, and ``pending`` until
    the job starts.
    """

    folder: Path  # named after the job's number
    overrides: tuple[str, ...]  # all of them, as typed
    status: str
    error: str | None
    epochs: int
    best_epoch: int | None
    metrics: dict[str, float]  # of the best epoch, and of the test set once evaluated
    seconds: float | None  # of all epochs, including those before an interruption
    monitor: str  # the validation metric that defines the best epoch, and ranks the jobs

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def values(self) -> dict[str, str]:
        """The values of the parameters by key, as typed."""
        values = override_values(parameter_overrides(self.overrides))
        return {key: value.strip("'\"") for key, value in values.items()}

    @property
    def validated(self) -> bool:
        return {"val/acc", "val/loss", self.monitor} <= self.metrics.keys()

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: by the monitored metric, then by the loss; needs validation."""
        return -gain(self.monitor, self.metrics[self.monitor]), self.metrics["val/loss"]

    @property
    def scored(self) -> bool:
        """Whether the job can win."""
        return self.status == "finished" and self.validated


@dataclass(frozen=True)
class SeedGroup:
    """Finished jobs that differ only in their seed, best first."""

    jobs: tuple[Job, ...]

    @property
    def names(self) -> list[str]:
        return [job.name for job in self.jobs]

    @property
    def values(self) -> dict[str, str]:
        """The values of the parameters by key; the seed is the best job's."""
        return self.jobs[0].values

    @property
    def monitor(self) -> str:
        return self.jobs[0].monitor

    def mean(self, metric: str | None = None) -> float:
        """The mean of a metric, by default the monitored one."""
        return statistics.fmean(job.metrics[metric or self.monitor] for job in self.jobs)

    def sd(self, metric: str | None = None) -> float | None:
        """The sample standard deviation; None for a single job."""
        values = [job.metrics[metric or self.monitor] for job in self.jobs]
        return statistics.stdev(values) if len(values) > 1 else None

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the monitored metric's mean; None for one job or equal seeds."""
        if len({job.values.get("seed") for job in self.jobs}) < max(2, len(self.jobs)):
            return None
        from lenet_pl.metrics import mean_interval  # imports torch

        ends = mean_interval([job.metrics[self.monitor] for job in self.jobs])
        if ends is None or not self.monitor.endswith("acc"):
            return ends
        return max(0.0, ends[0]), min(1.0, ends[1])

    def statistics(self, split: str) -> dict[str, Any]:
        """A split's metrics for JSON; empty if it was not evaluated.

        The interval is that of the monitored metric's mean, or of a single job's test accuracy.
        """
        acc, loss, n = f"{split}/acc", f"{split}/loss", len(self.jobs)
        ends = (f"{acc}_low", f"{acc}_high") if split == "test" and n == 1 else ()
        if not all({acc, loss, *ends} <= job.metrics.keys() for job in self.jobs):
            return {}
        means = {acc: self.mean(acc), f"{acc}_sd": self.sd(acc), loss: self.mean(loss), "n": n}
        if split == "val":
            name, (low, high) = self.monitor, self.interval() or (None, None)
            means |= {name: self.mean(), f"{name}_sd": self.sd()}
            return means | {f"{name}_low": low, f"{name}_high": high}
        return means | {key: self.jobs[0].metrics[key] for key in ends}


@dataclass(frozen=True)
class SweepResults:
    """The jobs of a sweep."""

    folder: Path
    jobs: tuple[Job, ...]  # by status as in ORDER, then by the monitored metric
    monitor: str  # of the jobs
    varied: tuple[str, ...]  # the keys whose values differ between jobs
    groups: tuple[SeedGroup, ...]  # of the finished jobs, best mean first
    total: int  # number of jobs, including those a search has yet to propose
    command: str | None  # continues the sweep
    test_error: str | None = None  # why the winner could not be tested

    @property
    def winner(self) -> SeedGroup | None:
        return self.groups[0] if self.groups else None

    @property
    def accuracy(self) -> str:
        """The metric that figures show: the monitored one if it is an accuracy."""
        return self.monitor if self.monitor.endswith("acc") else "val/acc"

    @property
    def has_seeds(self) -> bool:
        """Whether some finished jobs differ only in their seed."""
        return any(len(group.jobs) > 1 for group in self.groups)

    @property
    def counts(self) -> Counter[str]:
        """The number of jobs by status."""
        return Counter(job.status for job in self.jobs)

    @property
    def complete(self) -> bool:
        """Whether all jobs have ended."""
        done = sum(self.counts[status] for status in ("finished", "pruned", "failed"))
        return done >= self.total

    @cached_property
    def verdict(self) -> "Verdict | None":
        """What the results show; None if there is no winner."""
        from lenet_pl.sweeps.verdict import judge  # imports this module

        return judge(self)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The varied keys except the seed."""
        return tuple(key for key in self.varied if key != "seed")


def parameter_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides of a job that determine what is trained."""
    return [item for item in overrides if override_key(item) not in NOT_PARAMETERS]


def override_values(overrides: Iterable[str]) -> dict[str, str]:
    """The values of overrides by key, with any quotes."""
    pairs = (override.partition("=") for override in overrides)
    return {override_key(key): value for key, _, value in pairs}


def job_folders(folder: Path) -> list[Path]:
    """The job folders of a sweep, by number."""
    folders = [path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")]
    return sorted(folders, key=lambda f: (int(f.name) if f.name.isdigit() else sys.maxsize, f.name))


def read_job(folder: Path) -> Job:
    """Read the folder of a job, which may still be running."""
    result, rows = read_result(folder), read_metrics(folder)
    monitor = result.get("monitor") or monitored_metric(read_config(folder) or OmegaConf.create())
    if not result:
        best = best_row(rows, monitor)
        result = {"status": "unfinished", "epochs": len(rows)}
        result["best_epoch"] = int(best["epoch"]) if best else None
        result["metrics"] = {key: value for key, value in best.items() if key.startswith("val/")}
    return Job(
        folder=folder,
        overrides=tuple(result.get("overrides") or read_overrides(folder)),
        error=result.get("error"),
        seconds=sum(row["seconds"] for row in rows) if rows else None,
        monitor=monitor,
        **{key: result[key] for key in ("status", "epochs", "best_epoch", "metrics")},
    )


def best_row(rows: Iterable[dict[str, float]], monitor: str) -> dict[str, float]:
    """The row with the best value of a metric, the first of equals; empty without validation."""
    validated = (row for row in rows if monitor in row)
    return max(validated, key=lambda row: gain(monitor, row[monitor]), default={})


def ended(result: Mapping[str, Any], epochs: int | None) -> bool:
    """Whether a job has trained up to a rung of successive halving, or to its end (None)."""
    paused = result.get("status") in ("paused", "pruned") and epochs is not None
    return result.get("status") == "finished" or (paused and result["epochs"] >= epochs)


def readable_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if it is damaged, so that the job starts over."""
    try:
        return read_result(folder)
    except ConfigError:
        return {}


def read_sweep(folder: Path) -> SweepResults:
    """Read and rank the jobs of a sweep, which may still be running."""
    plan = read_json(folder / "plan.json", PLAN) or {}  # Hydra's own multirun writes none
    jobs = [read_job(path) for path in job_folders(folder)]
    if not jobs:
        file = folder / "0/.hydra/overrides.yaml"
        raise ConfigError(f"{folder}: not a sweep's folder ({file} is missing)")
    monitor = jobs[0].monitor
    if other := next((job for job in jobs if job.monitor != monitor), None):
        raise ConfigError(
            f"{folder}: the jobs cannot be ranked; callbacks.checkpoint.monitor is {monitor} in "
            f"job {jobs[0].name}, {other.monitor} in job {other.name}"
        )
    planned, names = plan.get("jobs", {}), {job.name for job in jobs}
    jobs += [
        Job(folder / name, tuple(overrides), "pending", None, 0, None, {}, None, monitor)
        for name, overrides in planned.items()
        if name not in names
    ]
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    varied = tuple(key for key in keys if len({job.values.get(key) for job in jobs}) > 1)
    jobs.sort(key=_rank)  # stable: ties stay in the order of their numbers
    settings: dict[tuple[str | None, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        settings[tuple(job.values.get(key) for key in varied if key != "seed")].append(job)
    groups = []
    for group in settings.values():
        scored = tuple(job for job in group if job.scored)
        # a seed that stopped early must not win for a setting that was pruned
        if scored and not any(job.status in ("paused", "pruned") for job in group):
            groups.append(SeedGroup(scored))
    groups.sort(key=lambda group: (-gain(monitor, group.mean()), group.mean("val/loss")))
    total, command = max(len(jobs), plan.get("total") or 0), plan.get("command")
    return SweepResults(folder, tuple(jobs), monitor, varied, tuple(groups), total, command)


def _rank(job: Job) -> tuple[float, ...]:
    rung = -job.epochs if job.status == "pruned" else 0
    return (ORDER.index(job.status), rung, *(job.rank if job.validated else (inf, inf)))


def typed(text: str | None) -> Any:
    """The text as a number if it is one, otherwise as it is."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text or "")
    return text


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that is safe to calculate with."""
    return isinstance(value, int | float) and abs(value) < 1e300


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """A name for each key: its last part where that is unique, otherwise the whole key."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def readable(value: str) -> str:
    """A value as typed; a long number, such as a sampled one, with three significant digits."""
    number = typed(value)
    return value if len(value) <= 7 or isinstance(number, str) else f"{number:.3g}"


def setting_values(sweep: SweepResults, group: SeedGroup) -> str:
    """``lr 0.01, batch_size 32``; for a single job, the seed if nothing else varies."""
    keys = sweep.parameters or (sweep.varied if len(group.jobs) == 1 else ())
    names = short_names(sweep.varied)
    return ", ".join(f"{names[key]} {readable(group.values.get(key, 'default'))}" for key in keys)


def job_names(names: Sequence[str]) -> str:
    """``job 4``, ``jobs 4, 5``, or ``12 jobs`` if there are more than ten."""
    if len(names) > 10:
        return f"{len(names)} jobs"
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names)}"
