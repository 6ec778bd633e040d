"""The results of a sweep: its jobs, read from their folders and ranked."""

import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenet_pl.errors import ConfigError
from lenet_pl.records import override_key, read_json, read_metrics, read_overrides, read_result
from lenet_pl.rules import NATURAL, STRING

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
    best_epoch: int | None  # by validation accuracy
    metrics: dict[str, float]  # of the best epoch, and of the test set once evaluated
    seconds: float | None  # of all epochs, including those before an interruption

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
        return {"val/acc", "val/loss"} <= self.metrics.keys()

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

    def mean(self, metric: str = "val/acc") -> float:
        return statistics.fmean(job.metrics[metric] for job in self.jobs)

    def sd(self, metric: str = "val/acc") -> float | None:
        """The sample standard deviation; None for a single job."""
        values = [job.metrics[metric] for job in self.jobs]
        return statistics.stdev(values) if len(values) > 1 else None

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean validation accuracy; None for one job or equal seeds."""
        if len({job.values.get("seed") for job in self.jobs}) < max(2, len(self.jobs)):
            return None
        from lenet_pl.metrics import mean_interval  # imports torch

        ends = mean_interval([job.metrics["val/acc"] for job in self.jobs])
        return ends and (max(0.0, ends[0]), min(1.0, ends[1]))

    def statistics(self, split: str) -> dict[str, Any]:
        """A split's metrics for JSON; empty if it was not evaluated.

        The interval is that of the mean validation accuracy, or of a single job's test accuracy.
        """
        acc, loss, n = f"{split}/acc", f"{split}/loss", len(self.jobs)
        ends = (f"{acc}_low", f"{acc}_high") if split == "test" and n == 1 else ()
        if not all({acc, loss, *ends} <= job.metrics.keys() for job in self.jobs):
            return {}
        means = {acc: self.mean(acc), f"{acc}_sd": self.sd(acc), loss: self.mean(loss), "n": n}
        if split == "val":
            low, high = self.interval() or (None, None)
            return means | {"val/acc_low": low, "val/acc_high": high}
        return means | {key: self.jobs[0].metrics[key] for key in ends}


@dataclass(frozen=True)
class SweepResults:
    """The jobs of a sweep."""

    folder: Path
    jobs: tuple[Job, ...]  # by status as in ORDER, then by validation accuracy
    varied: tuple[str, ...]  # the keys whose values differ between jobs
    groups: tuple[SeedGroup, ...]  # of the finished jobs, best mean first
    total: int  # number of jobs, including those a search has yet to propose
    command: str | None  # continues the sweep
    test_error: str | None = None  # why the winner could not be tested

    @property
    def winner(self) -> SeedGroup | None:
        return self.groups[0] if self.groups else None

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
    if not result:
        best = best_row(rows)
        result = {"status": "unfinished", "epochs": len(rows)}
        result["best_epoch"] = int(best["epoch"]) if best else None
        result["metrics"] = {key: value for key, value in best.items() if key.startswith("val/")}
    return Job(
        folder=folder,
        overrides=tuple(result.get("overrides") or read_overrides(folder)),
        error=result.get("error"),
        seconds=sum(row["seconds"] for row in rows) if rows else None,
        **{key: result[key] for key in ("status", "epochs", "best_epoch", "metrics")},
    )


def best_row(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The row with the best validation accuracy, the first of equals; empty without validation."""
    validated = (row for row in rows if "val/acc" in row)
    return max(validated, key=lambda row: row["val/acc"], default={})


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
    planned, names = plan.get("jobs", {}), {job.name for job in jobs}
    jobs += [
        Job(folder / name, tuple(overrides), "pending", None, 0, None, {}, None)
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
    groups.sort(key=lambda group: (-group.mean(), group.mean("val/loss")))
    total = max(len(jobs), plan.get("total") or 0)
    return SweepResults(folder, tuple(jobs), varied, tuple(groups), total, plan.get("command"))


def _rank(job: Job) -> tuple[float, ...]:
    accuracy, loss = job.metrics.get("val/acc", -1.0), job.metrics.get("val/loss", 0.0)
    return (
        float(ORDER.index(job.status)),
        -job.epochs if job.status == "pruned" else 0,
        -accuracy,
        loss,
    )


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
