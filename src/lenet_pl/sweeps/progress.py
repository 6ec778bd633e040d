"""The progress of a sweep: a line when a job starts and when it ends."""

import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from lenet_pl.console import console, percent
from lenet_pl.errors import ConfigError
from lenet_pl.records import override_key
from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.results import Job, read_job, readable, short_names

POLL_SECONDS = 0.5  # between checks of the jobs in other processes


def label(plan: Plan, overrides: Iterable[str]) -> str:
    """The varied values of a job as text that a file name may hold: ``lr 0.01, batch_size 64``."""
    values = {override_key(item): item.partition("=")[2] for item in overrides}
    names = short_names(plan.varied).items()
    text = ", ".join(f"{name} {readable(values[key])}" for key, name in names if key in values)
    return re.sub(r"[^\w.,+\- ]+", "-", text)[:120]


def print_line(*parts: str) -> None:
    """Print text that may hold brackets and be longer than the console is wide."""
    console.print("  ".join(filter(None, parts)), markup=False, soft_wrap=True)


def print_start(plan: Plan, name: str, overrides: Iterable[str]) -> None:
    """Print ``job 3  4 of 9  lr 0.01, batch_size 64``."""
    position = f"{int(name) + 1} of {plan.total}" if name.isdigit() and plan.total else ""
    print_line(f"job {name}", position, label(plan, overrides))


def print_end(plan: Plan, folder: Path) -> None:
    """Print the outcome of a job, the jobs done, the best of them and the time left."""
    jobs: dict[str, Job] = {}
    for path in plan.folder.glob("*/result.json"):
        with suppress(ConfigError):  # a job that is about to start again
            jobs[path.parent.name] = read_job(path.parent)
    if folder.name not in jobs:
        return
    ends = {name: time for name, job in jobs.items() if (time := end_time(plan, job.folder))}
    job = jobs[folder.name]
    outcome = [": ".join(filter(None, (job.status, job.error)))]
    if job.scored:
        outcome = [percent(job.metrics["val/acc"]), f"loss {job.metrics['val/loss']:.4f}"]
        outcome += [f"epoch {job.best_epoch} of {job.epochs}", f"{job.seconds or 0:.1f} s"]
    done = sum(job.status == "finished" or name in ends for name, job in jobs.items())
    sweep = [f"{done} of {plan.total} done" if plan.total else f"{done} done"]
    if scores := [(job.metrics["val/acc"], name) for name, job in jobs.items() if job.scored]:
        accuracy, name = max(scores)
        sweep.append(f"best so far {percent(accuracy)} (job {name})")
    if ends and plan.total and done < plan.total:
        seconds = (max(ends.values()) - plan.started) / len(ends) * (plan.total - done)
        sweep.append(f"about {timedelta(seconds=round(seconds))} left")
    varied = label(plan, job.overrides) if plan.threads else ""  # else printed at its start
    earlier = "" if job.name in ends else "earlier"
    print_line(f"job {job.name}", varied, *outcome, earlier, f"·  {', '.join(sweep)}")


def end_time(plan: Plan, folder: Path) -> float | None:
    """When a job ended; None if that was before this start of the sweep."""
    with suppress(FileNotFoundError):  # the job has just restarted
        if (time := (folder / "result.json").stat().st_mtime) >= plan.started:
            return time
    return None


class ParallelProgress(threading.Thread):
    """Prints a line for each job that ends in another process."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.plan = plan
        self.stopped = threading.Event()

    def run(self) -> None:
        reported: set[Path] = set()
        stopped = False
        while not stopped:
            stopped = self.stopped.wait(POLL_SECONDS)  # those that just ended are reported, too
            for folder in sorted(path.parent for path in self.plan.folder.glob("*/result.json")):
                if folder not in reported and end_time(self.plan, folder):
                    reported.add(folder)
                    print_end(self.plan, folder)

    def stop(self) -> None:
        """Report the last jobs and end the thread."""
        self.stopped.set()
        if self.is_alive():
            self.join()
