"""The progress of a sweep: a line when a job starts and when it ends."""

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

from lenet_pl.console import console, named_score, score
from lenet_pl.errors import ConfigError
from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.results import Job, ended

POLL_SECONDS = 0.5  # between checks of jobs in other processes


def print_line(*parts: str) -> None:
    """Print text as it is: without markup, and without wrapping at the width of the console."""
    console.print("  ".join(filter(None, parts)), markup=False, soft_wrap=True)


class Progress:
    """Prints a line for each job that ends, in any process, in the order in which they end."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.lock = plan, threading.Lock()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.begin(plan.jobs)

    def begin(self, names: Iterable[str], epochs: int | None = None) -> None:
        """Start counting the jobs that train up to a rung, or to their end."""
        with self.lock:
            self.names, self.epochs = list(names), epochs
            # the jobs of a search are known once they have started
            folders = [self.plan.folder / name for name in self.names or self.plan.existing]
            self.total = len(self.names) or self.plan.total
            self.before = self.done = sum(ended(folder, epochs) for folder in folders)
            self.times, self.began = self._end_times(), time.time()

    def start(self, name: str, overrides: Iterable[str]) -> None:
        """Print ``job 3  4 of 9  lr 0.01, batch_size 64``."""
        known = name in self.names  # those of a search are not
        position = f"{self.names.index(name) + 1} of {self.total}" if known else ""
        print_line(f"job {name}", position, self.plan.describe(overrides))

    def _end_times(self) -> dict[str, float]:
        times = {}
        for file in self.plan.folder.glob("*/result.json"):
            with suppress(FileNotFoundError):  # the job has just been restarted
                times[file.parent.name] = file.stat().st_mtime
        return dict(sorted(times.items(), key=lambda item: item[1]))

    def update(self) -> None:
        """Print a line for each job that has ended since the last call."""
        with self.lock:
            before, self.times = self.times, self._end_times()
            jobs: list[Job] = []
            for name, end in self.times.items() if self.times != before else ():
                try:
                    jobs.append(Job(self.plan.folder / name))
                except ConfigError:  # damaged, so the job starts again
                    continue
                # otherwise restarted, or pruned at a rung
                if end != before.get(name) and jobs[-1].status not in ("unfinished", "pruned"):
                    self._print_end(jobs[-1], jobs)

    def _print_end(self, job: Job, jobs: Sequence[Job]) -> None:
        """Print the outcome of a job, the number of jobs done, the best one and the time left."""
        scores = [": ".join(filter(None, (job.status, job.error)))]
        if job.status == "interrupted":
            return print_line(f"job {job.name}", *scores)
        if job.validated:
            scores = [named_score(metric, job.metrics[metric]) for metric in job.shown]
            scores += [f"epoch {job.best_epoch} of {job.epochs}", f"{job.seconds or 0:.1f} s"]
        self.done += 1
        counted = [f"{self.done} of {self.total} done" if self.total else f"{self.done} done"]
        best = min(jobs, key=lambda job: job.rank[2:])
        if best.validated:
            value = score(best.monitor, best.metrics[best.monitor])
            counted.append(f"best so far {value} (job {best.name})")
        if self.total and self.done < self.total:
            pace = (time.time() - self.began) / (self.done - self.before)
            seconds = round(pace * (self.total - self.done))
            rung = f" to epoch {self.epochs}" if self.epochs else ""
            counted.append(f"about {timedelta(seconds=seconds)} left{rung}")
        varied = self.plan.describe(job.overrides) if self.plan.threads else ""  # else at its start
        print_line(f"job {job.name}", varied, *scores, f"·  {', '.join(counted)}")

    def _poll(self) -> None:
        while not self.stopped.wait(POLL_SECONDS):
            self.update()

    def stop(self) -> None:
        """Stop polling, and print the remaining lines."""
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()
        self.update()
