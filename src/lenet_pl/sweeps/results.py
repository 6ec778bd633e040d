"""A sweep read from its job folders: who is best, and how good that one is on the test set."""

import csv
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lenet_pl.errors import ConfigError

# the C parser where libyaml is there: ten times as fast, which shows with hundreds of jobs
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
UNFINISHED = "unfinished"  # still running, or cut off
# no parameters: the preset, whose values are among the overrides, and what resuming one job adds
BESIDE = {"sweep", "resume", "ckpt_path", "test"}


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: of its folder, which is its number.
        overrides: key and value of its parameters, as they were typed.
        words: all its overrides, as they were typed.
        status: ``finished``, ``failed``, ``interrupted``, or ``unfinished`` where there is no
            ``result.json`` yet.
        error: the one-line reason of a job that failed.
        epochs: how many it has done.
        best_epoch: the best of them by validation accuracy.
        metrics: of the best epoch, ``val/acc`` and ``val/loss``; and the test's where tested.
        seconds: in its epochs, those before an interruption included.
        folder: where it lies.
    """

    name: str
    overrides: dict[str, str]
    words: tuple[str, ...]
    status: str
    error: str | None
    epochs: int
    best_epoch: int | None
    metrics: dict[str, float]
    seconds: float | None
    folder: Path

    @property
    def scored(self) -> bool:
        return self.status == "finished" and "val/acc" in self.metrics


@dataclass(frozen=True)
class Setting:
    """The finished jobs that differ by nothing but their seed, the best first."""

    jobs: tuple[Job, ...]

    @property
    def n(self) -> int:
        return len(self.jobs)

    def mean(self, metric: str = "val/acc") -> float:
        return statistics.fmean(job.metrics[metric] for job in self.jobs)

    def sd(self, metric: str = "val/acc") -> float | None:
        """The sample standard deviation; None of a single job."""
        return statistics.stdev(job.metrics[metric] for job in self.jobs) if self.n > 1 else None


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, best first.

    Attributes:
        folder: the sweep's.
        jobs: finished ones by validation score, then the unfinished, then the failed.
        varied: the keys whose values differ among them, as they were typed.
        settings: the finished jobs, grouped by everything but the seed, best mean first.
        untested: why the winner could not be tested, if it was to be.
    """

    folder: Path
    jobs: tuple[Job, ...]
    varied: tuple[str, ...]
    settings: tuple[Setting, ...] = field(default=())
    untested: str | None = None

    @property
    def seeds(self) -> bool:
        """Whether some jobs differ by nothing but their seed."""
        return any(setting.n > 1 for setting in self.settings)

    @property
    def winner(self) -> Setting | None:
        return self.settings[0] if self.settings else None

    @property
    def counts(self) -> Counter[str]:
        return Counter(job.status for job in self.jobs)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What varied besides the seed; the seed where nothing else did."""
        return tuple(key for key in self.varied if key != "seed") or self.varied


def read_sweep(folder: Path) -> Sweep:
    """Read the job folders of a sweep, whether or not it has ended.

    Raises:
        ConfigError: if there is no sweep there.
    """
    jobs = [_read_job(path) for path in job_folders(folder)]
    if not jobs:
        raise ConfigError(
            f"{folder}: no sweep there (it would hold {folder / '0/.hydra/overrides.yaml'})"
        )
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    varied = tuple(key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1)
    ranked = tuple(sorted(jobs, key=_rank))
    groups: dict[tuple, list[Job]] = defaultdict(list)
    for job in ranked:
        if job.scored:
            groups[tuple(job.overrides.get(key) for key in varied if key != "seed")].append(job)
    settings = sorted((Setting(tuple(group)) for group in groups.values()), key=_rank_setting)
    return Sweep(folder, ranked, varied, tuple(settings))


def job_folders(folder: Path) -> list[Path]:
    """The job folders of a sweep, by number."""
    found = (path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml"))
    return sorted(found, key=_number)


def _read_job(folder: Path) -> Job:
    rows = _read_rows(folder / "metrics.csv")
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        words = result.get("overrides")
        if words is None:
            text = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
            words = yaml.load(text, LOADER) or []
        if not result:
            result = {"status": UNFINISHED, "epochs": len(rows), **_best(rows)}
        return Job(
            name=folder.name,
            overrides=dict(_parts(parameters(words))),
            words=tuple(words),
            status=result["status"],
            error=result.get("error"),
            epochs=result["epochs"],
            best_epoch=result["best_epoch"],
            metrics=result["metrics"],
            seconds=sum(float(row["seconds"]) for row in rows) if rows else None,
            folder=folder,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder}: a damaged run folder: {error}") from error


def parameters(words: Iterable[str]) -> list[str]:
    """Of a job's overrides those that say what is trained."""
    return [word for word in words if word.partition("=")[0].lstrip("+~") not in BESIDE]


def _parts(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        key, _, value = word.partition("=")
        yield key.lstrip("+"), value.strip("'\"")


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _best(rows: list[dict[str, str]]) -> dict[str, Any]:
    validated = [row for row in rows if row.get("val/acc")]
    if not validated:
        return {"best_epoch": None, "metrics": {}}
    best = max(validated, key=lambda row: float(row["val/acc"]))  # the first of equal ones
    metrics = {name: float(best[name]) for name in ("val/acc", "val/loss")}
    return {"best_epoch": int(best["epoch"]), "metrics": metrics}


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdigit() else (sys.maxsize, folder.name)


def _rank(job: Job) -> tuple:
    order = 0 if job.scored else {"finished": 1, UNFINISHED: 2, "interrupted": 3}.get(job.status, 4)
    score = (-job.metrics.get("val/acc", 0.0), job.metrics.get("val/loss", 0.0))
    return order, *score, _number(job.folder)


def _rank_setting(setting: Setting) -> tuple:
    return -setting.mean(), setting.mean("val/loss"), _number(setting.jobs[0].folder)
