"""The results of a sweep: read, ranked, printed and written to files."""

import shlex
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lenet_pl.console import console, percent
from lenet_pl.errors import ConfigError
from lenet_pl.files import write_bytes, write_csv, write_json
from lenet_pl.runs import override_key, read_metrics, read_overrides, read_result

# overrides that do not change what is trained: a preset, and what resuming a job adds
NOT_PARAMETERS = {"sweep", "resume", "ckpt_path", "test"}
FORMATS: dict[str, Callable[[Any], str]] = {  # of columns that are not shown as they are
    "val/acc": percent,
    "val/loss": "{:.4f}".format,
    "seconds": "{:.1f}".format,
    "mean": percent,
    "sd": percent,
}
NUMERIC = {"epoch", "n", *FORMATS}  # columns
MAX_ROWS = 30  # of a table on the console


@dataclass(frozen=True)
class Job:
    """One run of a sweep; without ``result.json`` its status is ``unfinished``."""

    folder: Path  # its name is the job's number
    overrides: tuple[str, ...]  # all of them, as typed
    status: str
    error: str | None
    epochs: int
    best_epoch: int | None  # by validation accuracy
    metrics: dict[str, float]  # of the best epoch, and of the test set once tested
    seconds: float | None  # of all epochs, including those before an interruption

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def values(self) -> dict[str, str]:
        """The values of the parameters by key, as typed."""
        pairs = (override.partition("=") for override in parameter_overrides(self.overrides))
        return {override_key(key): value.strip("'\"") for key, _, value in pairs}

    @property
    def scored(self) -> bool:
        """Whether the job can win."""
        return self.status == "finished" and "val/acc" in self.metrics


@dataclass(frozen=True)
class SeedGroup:
    """Finished jobs that differ only in their seed, best first."""

    jobs: tuple[Job, ...]

    @property
    def n(self) -> int:
        return len(self.jobs)

    @property
    def names(self) -> list[str]:
        return [job.name for job in self.jobs]

    @property
    def values(self) -> dict[str, str]:
        """The values of the parameters by key; the seed is the best job's."""
        return self.jobs[0].values

    @property
    def tested(self) -> bool:
        return all("test/acc" in job.metrics for job in self.jobs)

    def mean(self, metric: str = "val/acc") -> float:
        return statistics.fmean(job.metrics[metric] for job in self.jobs)

    def sd(self, metric: str = "val/acc") -> float | None:
        """The sample standard deviation; None for a single job."""
        return statistics.stdev(job.metrics[metric] for job in self.jobs) if self.n > 1 else None

    def statistics(self, split: str) -> dict[str, Any]:
        """Mean and standard deviation of a split's metrics, for JSON."""
        acc, loss = f"{split}/acc", f"{split}/loss"
        return {acc: self.mean(acc), f"{acc}_sd": self.sd(acc), loss: self.mean(loss), "n": self.n}


@dataclass(frozen=True)
class SweepResults:
    """The jobs of a sweep."""

    folder: Path
    jobs: tuple[Job, ...]  # finished ones by validation accuracy, unfinished ones, failed ones
    varied: tuple[str, ...]  # the keys whose values differ between jobs
    groups: tuple[SeedGroup, ...]  # of the finished jobs, best mean first
    test_error: str | None = None  # why the winner could not be tested

    @property
    def winner(self) -> SeedGroup | None:
        return self.groups[0] if self.groups else None

    @property
    def has_seeds(self) -> bool:
        """Whether some jobs differ only in their seed."""
        return any(group.n > 1 for group in self.groups)

    @property
    def counts(self) -> Counter[str]:
        """The number of jobs by status."""
        return Counter(job.status for job in self.jobs)

    @property
    def without_seed(self) -> tuple[str, ...]:
        """The varied keys except the seed."""
        return tuple(key for key in self.varied if key != "seed")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The keys to compare: the varied ones without the seed, unless nothing else varied."""
        return self.without_seed or self.varied


def parameter_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides of a job that determine what is trained."""
    return [item for item in overrides if override_key(item) not in NOT_PARAMETERS]


def job_folders(folder: Path) -> list[Path]:
    """The job folders of a sweep, by number."""
    return sorted((path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")), key=_number)


def read_job(folder: Path) -> Job:
    """Read the folder of a job, which may still be running.

    Raises:
        ConfigError: if the folder is damaged.
    """
    result, rows = read_result(folder), read_metrics(folder)
    try:
        if not result:
            validated = [row for row in rows if "val/acc" in row]
            best = max(validated, key=lambda row: row["val/acc"], default={})  # the first of equals
            result = {"status": "unfinished", "epochs": len(rows)}
            result["best_epoch"] = int(best["epoch"]) if best else None
            result["metrics"] = {key: best[key] for key in ("val/acc", "val/loss") if best}
        return Job(
            folder=folder,
            overrides=tuple(result.get("overrides") or read_overrides(folder)),
            status=result["status"],
            error=result.get("error"),
            epochs=result["epochs"],
            best_epoch=result["best_epoch"],
            metrics=result["metrics"],
            seconds=sum(row["seconds"] for row in rows) if rows else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}: damaged run folder: {error}") from error


def read_sweep(folder: Path) -> SweepResults:
    """Read and rank the jobs of a sweep, which may still be running.

    Raises:
        ConfigError: if the folder holds no sweep, or a damaged one.
    """
    jobs = [read_job(path) for path in job_folders(folder)]
    if not jobs:
        file = folder / "0/.hydra/overrides.yaml"
        raise ConfigError(f"{folder}: not a sweep's folder ({file} is missing)")
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    varied = tuple(key for key in keys if len({job.values.get(key) for job in jobs}) > 1)
    jobs.sort(key=_job_rank)
    by_setting: dict[tuple[str | None, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        if job.scored:
            by_setting[tuple(job.values.get(key) for key in varied if key != "seed")].append(job)
    groups = sorted((SeedGroup(tuple(group)) for group in by_setting.values()), key=_group_rank)
    return SweepResults(folder, tuple(jobs), varied, tuple(groups))


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdigit() else (sys.maxsize, folder.name)


def _job_rank(job: Job) -> tuple[Any, ...]:
    order = {"finished": 1, "unfinished": 2, "interrupted": 3}.get(job.status, 4)
    score = -job.metrics.get("val/acc", 0.0), job.metrics.get("val/loss", 0.0)
    return 0 if job.scored else order, score, _number(job.folder)


def _group_rank(group: SeedGroup) -> tuple[Any, ...]:
    return -group.mean(), group.mean("val/loss"), _number(group.jobs[0].folder)


def write_files(sweep: SweepResults) -> None:
    """Write ``sweep.csv``, ``sweep.md`` and ``sweep.json`` into the sweep's folder."""
    rows = []
    for job in sweep.jobs:
        row = _job_row(sweep, job)
        row = {"job": row.pop("job"), **row.pop("varied"), **row}
        if sweep.has_seeds:
            group = next((group for group in sweep.groups if job in group.jobs), None)
            row["val/acc_mean"] = group and group.mean()
            row["val/acc_sd"] = group and group.sd()
            row["n"] = group and group.n
        rows.append(row)
    write_csv(sweep.folder / "sweep.csv", list(rows[0]), [list(row.values()) for row in rows])
    write_bytes(sweep.folder / "sweep.md", markdown(sweep).encode())
    write_json(sweep.folder / "sweep.json", as_dict(sweep))


def as_dict(sweep: SweepResults) -> dict[str, Any]:
    """The content of ``sweep.json``."""
    settings = [
        {
            "jobs": group.names,
            "varied": {key: _typed(group.values.get(key)) for key in sweep.without_seed},
            **group.statistics("val"),
        }
        for group in sweep.groups
    ]
    winner: dict[str, Any] | None = None
    if group := sweep.winner:
        winner = {**settings[0], "command": command(sweep), "test": None}
        if group.tested:
            interval = ("test/acc_low", "test/acc_high") if group.n == 1 else ()
            winner["test"] = group.statistics("test")
            winner["test"] |= {key: group.jobs[0].metrics[key] for key in interval}
    return {
        "folder": str(sweep.folder),
        "counts": dict(sweep.counts),
        "varied": list(sweep.varied),
        "jobs": [_job_row(sweep, job) for job in sweep.jobs],
        "settings": settings,
        "winner": winner,
        "tested": [job.name for job in sweep.jobs if "test/acc" in job.metrics],
    }


def _job_row(sweep: SweepResults, job: Job) -> dict[str, Any]:
    return {
        "job": job.name,
        "varied": {key: _typed(job.values.get(key)) for key in sweep.varied},
        "status": job.status,
        "error": job.error,
        "epochs": job.epochs,
        "best_epoch": job.best_epoch,
        "val/acc": job.metrics.get("val/acc"),
        "val/loss": job.metrics.get("val/loss"),
        "seconds": job.seconds,
        "folder": str(job.folder),
    }


def _typed(value: str | None) -> str | float | int | None:
    """The number that a text stands for, or the text."""
    for kind in (int, float):
        try:
            return kind(value or "")
        except ValueError:
            continue
    return value


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their last part where it is unique, by the whole key otherwise."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def readable(value: str) -> str:
    """A value as typed; a long number, such as a sampled one, with three digits."""
    try:
        return value if len(value) <= 7 else f"{float(value):.3g}"
    except ValueError:
        return value


def command(sweep: SweepResults, program: str = "python train.py") -> str:
    """The command that trains the winner again, with the seed of its best job."""
    assert sweep.winner is not None
    overrides = parameter_overrides(sweep.winner.jobs[0].overrides)
    shared = set.intersection(*(set(job.overrides) for job in sweep.jobs))
    overrides += sorted(item for item in shared if item.startswith("test="))
    return f"{program} {shlex.join(overrides)}".strip()


def outcome(sweep: SweepResults) -> list[tuple[str, str]]:
    """The winner and the jobs that did not finish, a name and a text for each line."""
    lines = [("winner", "none: no finished job was validated")]
    if winner := sweep.winner:
        running = sweep.counts["unfinished"] or sweep.counts["interrupted"]
        keys = sweep.without_seed if winner.n > 1 else sweep.parameters
        names = short_names(sweep.varied)
        values = (f"{names[key]} {readable(winner.values.get(key, 'default'))}" for key in keys)
        jobs = f"job{'s' if winner.n > 1 else ''} {', '.join(winner.names)}"
        not_tested = f"none: {sweep.test_error}" if sweep.test_error else "not yet"
        lines = [
            ("best so far" if running else "winner", f"{jobs}  {', '.join(values)}".rstrip()),
            ("validation", _score(winner, "val")),
            ("test", _score(winner, "test") if winner.tested else not_tested),
        ]
    for job in sweep.jobs:
        if job.status != "finished":
            reason = job.error or f"running or interrupted after {job.epochs} epochs"
            lines.append((job.status, f"job {job.name}: {reason}"))
    return lines


def _score(group: SeedGroup, split: str) -> str:
    acc, loss = percent(group.mean(f"{split}/acc")), f"loss {group.mean(f'{split}/loss'):.4f}"
    if (sd := group.sd(f"{split}/acc")) is not None:
        return f"{acc} ± {percent(sd)}  {loss}  mean and standard deviation, n = {group.n}"
    if split == "val":
        return f"{acc}  {loss}"
    low, high = (percent(group.jobs[0].metrics[f"test/acc_{end}"]) for end in ("low", "high"))
    return f"{acc}  {loss}  95 % interval {low} to {high}"


def _tables(sweep: SweepResults) -> list[list[dict[str, Any]]]:
    """The rows of the table of jobs and, where seeds vary, of the table of groups."""

    def varied(values: dict[str, str], keys: tuple[str, ...]) -> dict[str, Any]:
        return {name: readable(values.get(key, "")) for key, name in short_names(keys).items()}

    jobs, groups = [], []
    for job in sweep.jobs:
        metrics = {} if job.status == "failed" else job.metrics
        row = {"job": job.name, **varied(job.values, sweep.varied), "status": job.status}
        row["epoch"] = job.best_epoch if metrics else None
        row |= {key: metrics.get(key) for key in ("val/acc", "val/loss")}
        jobs.append({**row, "seconds": job.seconds, "folder": f"{job.name}/"})
    for group in sweep.groups:
        row = {**varied(group.values, sweep.without_seed), "mean": group.mean(), "sd": group.sd()}
        groups.append({**row, "n": group.n, "jobs": ", ".join(group.names)})
    return [jobs, groups] if sweep.has_seeds else [jobs]


def _cells(row: dict[str, Any]) -> list[str]:
    return ["" if value is None else FORMATS.get(name, str)(value) for name, value in row.items()]


def markdown(sweep: SweepResults) -> str:
    """The content of ``sweep.md``."""
    parts = []
    for rows in _tables(sweep):
        rule = ["--:" if name in NUMERIC else "---" for name in rows[0]]
        lines = [list(rows[0]), rule, *map(_cells, rows)]
        escaped = ([cell.replace("|", "/") for cell in line] for line in lines)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in escaped))
    parts.append("\n".join(f"- {name}: {text}" for name, text in outcome(sweep)))
    if sweep.winner:
        parts.append(f"```bash\n{command(sweep)}\n```")
    if sweep.winner and sweep.varied:
        parts.append("![validation accuracy](sweep.png)")
    return "\n\n".join(parts) + "\n"


def summary(sweep: SweepResults, program: str = "python train.py") -> RenderableType:
    """The tables, the outcome and the commands to continue with, for the console.

    Args:
        sweep: the results.
        program: how training is started, for commands to paste.
    """
    parts: list[RenderableType] = []
    for rows in _tables(sweep):
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in rows[0]:
            grid.add_column(name, justify="right" if name in NUMERIC else "left", no_wrap=True)
        for row in rows[:MAX_ROWS]:
            grid.add_row(*map(Text, _cells(row)))
        # a pipe or a narrow window must not truncate columns
        grid.width = console.measure(grid, options=console.options.update(max_width=1000)).maximum
        hidden = len(rows) - MAX_ROWS
        parts += [grid, f"… and {hidden} more in sweep.csv" if hidden > 0 else ""]
    parts += [Text(f"{name:<12} {text}", style="bold") for name, text in outcome(sweep)]
    commands = [("TensorBoard", f"tensorboard --logdir {shlex.quote(str(sweep.folder))}")]
    if sweep.winner:
        commands.insert(0, ("train again", command(sweep, program)))
    parts += [Text(f"{name:<12} {text}", style="cyan") for name, text in commands]
    return Group(*parts)
