"""The results of a sweep: its jobs, read from their folders, grouped by setting and ranked."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import inf
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from lenet_pl import records
from lenet_pl.errors import ConfigError
from lenet_pl.naming import describe, override_values, parameter_overrides, short_names
from lenet_pl.records import override_key
from lenet_pl.rules import NATURAL, STRING, gain
from lenet_pl.runs import read_outcome

if TYPE_CHECKING:
    from torch import Tensor

STATUSES = ("finished", "pruned", "paused", "unfinished", "interrupted", "pending", "failed")
AT_RUNG = ("paused", "pruned")  # stopped at a rung of successive halving
# plan.json: the command that continues the sweep, and the jobs that are known in advance
PLAN = {"command": STRING, "total?": NATURAL, "jobs": {"*": [STRING]}}


class Job:
    """One run of a sweep, read from its folder; ``planned`` are the overrides before it starts."""

    def __init__(self, folder: Path, planned: Sequence[str] | None = None) -> None:
        result = read_outcome(folder)
        self.folder, self.name, self.error = folder, folder.name, result.get("error")
        pending = result["status"] == "unfinished" and planned is not None
        self.status: str = "pending" if pending else result["status"]
        self.epochs, self.best_epoch = result["epochs"], result.get("best_epoch")
        self.device: str | None = result.get("device")
        self.monitor = result["monitor"]  # the metric that defines the best epoch, and ranks jobs
        self.shown = tuple(dict.fromkeys(("val/acc", "val/loss", self.monitor)))
        # of the best epoch, and of the test set once evaluated
        self.metrics: dict[str, float] = result["metrics"]
        self.rows = records.read_metrics(folder)  # including the epochs before an interruption
        self.seconds = sum(row["seconds"] for row in self.rows) if self.rows else None
        if planned is None:
            planned = result.get("overrides") or records.read_overrides(folder)
        self.overrides, self.parameters = planned, parameter_overrides(planned)
        self.raw_values = override_values(self.parameters)  # by key, as typed
        self.values = {key: value.strip("'\"") for key, value in self.raw_values.items()}
        self.validated = self.status != "failed" and {*self.shown} <= self.metrics.keys()
        self.scored = self.validated and self.status == "finished"  # it can win
        # a sort key, smaller for better jobs: by status, then by rung, then by score
        rung = -self.epochs if self.status == "pruned" else 0
        scores = rank(self.monitor, [self.metrics]) if self.validated else (inf, inf)
        self.rank = (STATUSES.index(self.status), rung, *scores)

    @cached_property
    def outcomes(self) -> "Tensor | None":
        """Index, label and 1 for a correct prediction of each validation image: int64 ``[3, N]``.

        None if ``val_predictions.npz`` is missing, damaged or does not match the accuracy.
        """
        import torch

        with suppress(ConfigError):
            if arrays := records.read_val_predictions(self.folder):
                index, label, prediction, _ = map(torch.from_numpy, arrays.values())
                correct = (prediction == label).long()
                if abs(int(correct.sum()) - self.metrics["val/acc"] * len(correct)) <= 0.5:
                    return torch.stack([index, label, correct])[:, index.argsort()]
        return None


class Setting:
    """Jobs that differ only in their seed, best first.

    These are the finished jobs or, if the setting cannot win, those that have trained furthest.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        scored = [job for job in jobs if job.scored]
        # a seed that stopped early must not win for a setting that was pruned
        self.can_win = bool(scored) and not any(job.status in AT_RUNG for job in jobs)
        if not self.can_win:
            jobs = [job for job in jobs if job.validated] or jobs
            scored = [job for job in jobs if job.epochs == max(job.epochs for job in jobs)]
        self.jobs, self.names = scored, [job.name for job in scored]
        self.values = scored[0].values  # of the parameters by key; the seed is the best job's
        # a sort key, smaller for better settings
        self.rank: tuple[float, ...] = (inf, -scored[0].epochs)
        if self.can_win:
            self.rank = rank(scored[0].monitor, [job.metrics for job in scored])

    def mean(self, metric: str) -> float:
        return fmean(job.metrics[metric] for job in self.jobs)

    def sd(self, metric: str) -> float | None:
        """The sample standard deviation; None for a single job."""
        return stdev(job.metrics[metric] for job in self.jobs) if len(self.jobs) > 1 else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for one job or equal seeds."""
        from lenet_pl.metrics import mean_interval  # imports torch

        ends = mean_interval([job.metrics[metric] for job in self.jobs])
        if ends is None or len({job.values.get("seed") for job in self.jobs}) < len(self.jobs):
            return None
        return (max(0.0, ends[0]), min(1.0, ends[1])) if metric.endswith("acc") else ends

    def statistics(self, split: str) -> dict[str, Any]:
        """A split's metrics for JSON; empty if it was not evaluated.

        The interval is that of the monitored metric's mean, or of a single job's test accuracy.
        """
        acc, loss = f"{split}/acc", f"{split}/loss"
        if not all({acc, loss} <= job.metrics.keys() for job in self.jobs):
            return {}
        best = acc if split == "test" else self.jobs[0].monitor
        values: dict[str, Any] = {loss: self.mean(loss), "n": len(self.jobs)}
        for metric in (acc, best):
            values |= {metric: self.mean(metric), f"{metric}_sd": self.sd(metric)}
        if split == "val":
            low, high = self.interval(best) or (None, None)
        elif len(self.jobs) == 1:
            low, high = (self.jobs[0].metrics.get(f"{acc}_{end}") for end in ("low", "high"))
        else:
            return values
        return values | {f"{best}_low": low, f"{best}_high": high}


class Sweep:
    """The jobs in a sweep's folder, which may still be running, ranked and grouped by setting."""

    def __init__(self, folder: Path) -> None:
        jobs = [Job(path) for path in job_folders(folder)]
        if not jobs:
            file = folder / "0/.hydra/overrides.yaml"
            raise ConfigError(f"{folder}: not a sweep's folder ({file} is missing)")
        self.folder, self.monitor, self.shown = folder, jobs[0].monitor, jobs[0].shown
        if other := next((job for job in jobs if job.monitor != self.monitor), None):
            raise ConfigError(
                f"{folder}: the jobs cannot be ranked; callbacks.checkpoint.monitor is "
                f"{self.monitor} in job {jobs[0].name}, {other.monitor} in job {other.name}"
            )
        plan = records.read_json(folder / "plan.json", PLAN)  # Hydra's own multirun writes none
        self.command: str | None = plan.get("command")  # continues the sweep
        names, planned = {job.name for job in jobs}, plan.get("jobs", {}).items()
        jobs += [Job(folder / name, overrides) for name, overrides in planned if name not in names]
        self.jobs = sorted(jobs, key=lambda job: job.rank)  # ties stay in order of their numbers
        # the metric that figures show: the monitored one if it is an accuracy
        self.accuracy = self.monitor if self.monitor.endswith("acc") else "val/acc"
        keys = dict.fromkeys(key for job in self.jobs for key in job.values)
        # the keys whose values differ between jobs; the parameters are those without the seed
        self.varied = [key for key in keys if len({job.values.get(key) for job in self.jobs}) > 1]
        self.parameters = [key for key in self.varied if key != "seed"]
        self.short = short_names(self.varied)  # by key
        groups = defaultdict(list)
        for job in self.jobs:
            groups[setting_key(job.overrides)].append(job)
        self.settings = sorted(map(Setting, groups.values()), key=lambda setting: setting.rank)
        self.ranked = [setting for setting in self.settings if setting.can_win]
        self.winner = self.ranked[0] if self.ranked else None
        self.has_seeds = any(len(setting.jobs) > 1 for setting in self.ranked)
        self.counts = Counter(job.status for job in self.jobs)
        done = sum(self.counts[status] for status in ("finished", "pruned", "failed"))
        # a search may have jobs yet to propose
        self.complete = done >= max(plan.get("total") or 0, len(jobs))

    def describe(self, setting: Setting) -> str:
        """``lr 0.01, batch_size 32``; for a single job, the seed if nothing else varies."""
        keys = self.parameters or (self.varied if len(setting.jobs) == 1 else ())
        return describe({key: setting.values.get(key, "default") for key in keys}, self.varied)


def job_folders(folder: Path) -> list[Path]:
    """The job folders of a sweep, by number."""
    folders = [path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")]
    return sorted(folders, key=lambda f: (int(f.name) if f.name.isdigit() else sys.maxsize, f.name))


def rank(monitor: str, scores: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """A sort key, smaller for better scores: by the mean monitored metric, then the mean loss."""
    mean, loss = (fmean(score[key] for score in scores) for key in (monitor, "val/loss"))
    return -gain(monitor, mean), loss


def readable_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if it is damaged, so that the job starts over."""
    with suppress(ConfigError):
        return records.read_result(folder)
    return {}


def ended(folder: Path, epochs: int | None) -> bool:
    """Whether a job has trained up to a rung of successive halving, or to its end (None)."""
    result = readable_result(folder)
    at_rung = result.get("status") in AT_RUNG and epochs is not None
    return result.get("status") == "finished" or (at_rung and result["epochs"] >= epochs)


def setting_key(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that jobs of a setting have in common: all but the seed."""
    return tuple(x for x in parameter_overrides(overrides) if override_key(x) != "seed")


def job_names(names: Sequence[str]) -> str:
    """``job 4``, ``jobs 4, 5``, or ``12 jobs`` if there are more than ten."""
    if len(names) > 10:
        return f"{len(names)} jobs"
    return f"job{'s' if len(names) > 1 else ''} {', '.join(names)}"
