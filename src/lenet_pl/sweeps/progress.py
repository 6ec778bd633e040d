"""How far a sweep is: a line as each job begins and ends."""

import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lenet_pl.console import console, percent
from lenet_pl.sweeps.plan import Plan
from lenet_pl.sweeps.tables import readable, short_names

POLL = 0.5  # seconds between two looks at the jobs of other processes


def label(plan: Plan, overrides: Iterable[str]) -> str:
    """What varied, as a name that a file can have: ``lr 0.01, batch_size 64``."""
    names = short_names(plan.varied)
    values = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    words = (f"{names[key]} {readable(values[key])}" for key in plan.varied if key in values)
    return re.sub(r"[^\w.,+\- ]+", "-", ", ".join(words))[:120]


def begun(plan: Plan, name: str, overrides: Iterable[str]) -> str:
    """``job 3   4 of 9  lr 0.01, batch_size 64``"""
    place = f"{int(name) + 1} of {plan.total}" if name.isdigit() and plan.total else ""
    return "  ".join(filter(None, (f"job {name}", place, label(plan, overrides))))


def ended(plan: Plan, name: str, result: dict[str, Any]) -> str:
    """How a job went, how many are done, the best so far, and the time left."""
    old = not _fresh(plan, plan.folder / name)
    metrics = result["metrics"]
    if result["status"] == "finished" and "val/acc" in metrics:
        words = f"{percent(metrics['val/acc'])}  loss {metrics['val/loss']:.4f}"
        words += f"  epoch {result['best_epoch']} of {result['epochs']}"
        words += f"  {result['seconds']['fit']:.1f} s"
    else:
        words = ": ".join(filter(None, (result["status"], result["error"])))
    if plan.parallel:  # nothing was said of its beginning
        name += f"  {label(plan, result['overrides'])}"
    return f"job {name}  {words}{'  before' if old else ''}  ·  {standing(plan)}"


def standing(plan: Plan) -> str:
    """``4 of 9 done, best so far 98.30 % (job 1), about 40 s left``"""
    done, ends = 0, []
    best: tuple[float, str] | None = None
    for path in plan.folder.glob("*/result.json"):
        if (result := read_result(path.parent)) is None:
            continue
        if fresh := _fresh(plan, path.parent):
            ends.append(path.stat().st_mtime)
        done += fresh or result["status"] == "finished"
        score = result["metrics"].get("val/acc")
        if result["status"] == "finished" and score and (best is None or score > best[0]):
            best = score, path.parent.name
    words = [f"{done} of {plan.total} done" if plan.total else f"{done} done"]
    if best:
        words.append(f"best so far {percent(best[0])} (job {best[1]})")
    if ends and plan.total and (left := plan.total - done):
        words.append(f"about {duration(pace(ends, plan.started, plan.parallel) * left)} left")
    return ", ".join(words)


def pace(ends: list[float], started: float, parallel: bool) -> float:
    """Seconds to a job; one after another without what came before the first, such as imports."""
    if len(ends) == 1 or parallel:  # those that begin together end together
        return (max(ends) - started) / len(ends)
    return (max(ends) - min(ends)) / (len(ends) - 1)


def read_result(folder: Path) -> dict[str, Any] | None:
    """What ``result.json`` holds; None where there is none, as of a job that begins anew."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _fresh(plan: Plan, folder: Path) -> bool:
    """Whether a job has ended since the sweep was started, this time."""
    try:
        return (folder / "result.json").stat().st_mtime >= plan.started
    except OSError:
        return False


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Watch(threading.Thread):
    """Tells of jobs that end in other processes, from the one that launched them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.plan = plan
        self.told: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(POLL):
            self.look()

    def stop(self) -> None:
        """Tell of the last ones, and end."""
        self._over.set()
        self.join()
        self.look()

    def look(self) -> None:
        for path in sorted(self.plan.folder.glob("*/result.json")):
            name = path.parent.name
            if name in self.told or not _fresh(self.plan, path.parent):
                continue
            if (result := read_result(path.parent)) is None:
                continue
            self.told.add(name)
            console.print(ended(self.plan, name, result), markup=False, soft_wrap=True)
