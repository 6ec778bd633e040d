"""The progress of a sweep: a line when a job starts and when it ends."""

import re
import threading
from collections.abc import Iterable
from pathlib import Path

from lenet_pl.console import console, percent
from lenet_pl.runs import override_key
from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.results import read_job, readable, short_names

POLL_SECONDS = 0.5  # between two looks at the jobs of other processes


def label(plan: Plan, overrides: Iterable[str]) -> str:
    """The varied values of a job as text that a file name may hold: ``lr 0.01, batch_size 64``."""
    values = {override_key(item): item.partition("=")[2] for item in overrides}
    names = short_names(plan.varied)
    pairs = (f"{names[key]} {readable(values[key])}" for key in plan.varied if key in values)
    return re.sub(r"[^\w.,+\- ]+", "-", ", ".join(pairs))[:120]


def print_start(plan: Plan, name: str, overrides: Iterable[str]) -> None:
    """Print ``job 3  4 of 9  lr 0.01, batch_size 64``."""
    position = f"{int(name) + 1} of {plan.total}" if name.isdigit() and plan.total else ""
    print_line("  ".join(filter(None, (f"job {name}", position, label(plan, overrides)))))


def print_end(plan: Plan, folder: Path) -> None:
    """Print the outcome of a job, followed by :func:`standing`."""
    job = read_job(folder)
    parts = [f"job {job.name}"]
    if plan.parallel:  # no line was printed at its start
        parts.append(label(plan, job.overrides))
    if job.scored:
        parts += [percent(job.metrics["val/acc"]), f"loss {job.metrics['val/loss']:.4f}"]
        parts += [f"epoch {job.best_epoch} of {job.epochs}", f"{job.seconds or 0:.1f} s"]
    else:
        parts.append(": ".join(filter(None, (job.status, job.error))))
    if not _end_time(plan, folder):
        parts.append("earlier")
    print_line(f"{'  '.join(parts)}  ·  {standing(plan)}")


def print_line(text: str) -> None:
    """Print text that may hold brackets and be longer than the console is wide."""
    console.print(text, markup=False, soft_wrap=True)


def standing(plan: Plan) -> str:
    """``4 of 9 done, best so far 98.30 % (job 1), about 40 s left``."""
    jobs = [read_job(path.parent) for path in plan.folder.glob("*/result.json")]
    ends = {job.name: time for job in jobs if (time := _end_time(plan, job.folder))}
    done = sum(job.status == "finished" or job.name in ends for job in jobs)
    parts = [f"{done} of {plan.total} done" if plan.total else f"{done} done"]
    if scores := [(job.metrics["val/acc"], job.name) for job in jobs if job.scored]:
        accuracy, name = max(scores)
        parts.append(f"best so far {percent(accuracy)} (job {name})")
    if ends and plan.total and (left := plan.total - done):
        seconds = seconds_per_job([*ends.values()], plan.started, plan.parallel) * left
        parts.append(f"about {duration(seconds)} left")
    return ", ".join(parts)


def _end_time(plan: Plan, folder: Path) -> float | None:
    """When a job ended; None if that was before this start of the sweep."""
    try:
        time = (folder / "result.json").stat().st_mtime
    except FileNotFoundError:  # the job has just restarted
        return None
    return time if time >= plan.started else None


def seconds_per_job(ends: list[float], started: float, parallel: bool) -> float:
    """Seconds per job, from the times at which jobs ended and the sweep started.

    Sequential jobs are measured from the end of the first, which leaves out imports; parallel
    ones from the start, since those that start together end together.
    """
    if len(ends) == 1 or parallel:
        return (max(ends) - started) / len(ends)
    return (max(ends) - min(ends)) / (len(ends) - 1)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class ParallelProgress(threading.Thread):
    """Prints a line for each job that ends in another process."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.plan = plan
        self.reported: set[Path] = set()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(POLL_SECONDS):
            self.report()

    def stop(self) -> None:
        """Report the last jobs and end the thread."""
        self.stopped.set()
        self.join()
        self.report()

    def report(self) -> None:
        """Print a line for each job that ended since the last call."""
        for folder in sorted(file.parent for file in self.plan.folder.glob("*/result.json")):
            if folder not in self.reported and _end_time(self.plan, folder):
                self.reported.add(folder)
                print_end(self.plan, folder)
