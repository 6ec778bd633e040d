"""The runs and sweeps in a folder, from small files only; torch is not imported."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenet_pl.console import named_score, percent
from lenet_pl.errors import ConfigError
from lenet_pl.naming import differences, override_values, parameter_overrides
from lenet_pl.records import read_json, read_overrides
from lenet_pl.rules import NATURAL, gain
from lenet_pl.runs import read_outcome

Entry = dict[str, Any]


def list_folder(root: Path) -> list[Entry]:
    """The runs and sweeps in a folder and below, the newest last.

    A folder that cannot be read has the status ``damaged``, and the reason as its error.
    """
    found = []
    for path, folders, files in os.walk(root):
        marks = [x for x in (".hydra", "multirun.yaml", "result.json") if x in (*folders, *files)]
        if marks:
            folders.clear()
            found.append((Path(path, marks[0]).stat().st_mtime_ns, Path(path), marks[0]))
    entries = []
    for _, folder, mark in sorted(found):
        try:
            entries.append(read_sweep(folder) if mark == "multirun.yaml" else read_run(folder))
        except ConfigError as error:
            reason = str(error).removeprefix("damaged run folder: ").replace(f"{folder}/", "")
            entries.append({"folder": str(folder), "status": "damaged", "error": reason})
    _describe([entry for entry in entries if "overrides" in entry])
    return entries


def _describe(runs: Sequence[Entry]) -> None:
    """Name the values that differ between runs, for those without a name."""
    values = [override_values(parameter_overrides(run["overrides"])) for run in runs]
    for run, text in zip(runs, differences(values), strict=True):
        run["description"] = run["name"] or text


def read_run(folder: Path) -> Entry:
    """The outcome of a run; ``score`` is the monitored metric of its best epoch."""
    result = read_outcome(folder)
    metrics, monitor, overrides = result["metrics"], result["monitor"], result.get("overrides")
    return {
        "folder": str(folder),
        "name": result.get("name"),
        "status": result["status"],
        "error": result.get("error"),
        "monitor": monitor,
        "score": metrics.get(monitor),
        "test/acc": metrics.get("test/acc"),
        "overrides": read_overrides(folder) if overrides is None else overrides,
    }


def read_sweep(folder: Path) -> Entry:
    """The outcome of a sweep: how many of its jobs have ended, and the best finished one."""
    plan = read_json(folder / "plan.json", {"total?": NATURAL}) or {}  # Hydra's own has none
    jobs = [read_run(path.parent) for path in folder.glob("*/.hydra")]
    _describe(jobs)
    done = sum(job["status"] in ("finished", "pruned", "failed") for job in jobs)
    total = max(plan.get("total") or 0, len(jobs))
    finished = [job for job in jobs if job["status"] == "finished" and job["score"] is not None]
    best = max(finished, key=lambda job: gain(job["monitor"], job["score"]), default={})
    return {
        "folder": str(folder),
        "jobs": {"total": total, "ended": done},
        "status": "finished" if done == total else "unfinished",
        **{key: best.get(key) for key in ("monitor", "score", "test/acc", "description")},
    }


def table(entries: Sequence[Entry]) -> list[str]:
    """A line for each entry: folder, score, test accuracy, status and what it is called."""
    rows = [("folder", "score", "test", "")]
    for entry in entries:
        score, test, error = (entry.get(key) for key in ("score", "test/acc", "error"))
        jobs = entry.get("jobs")
        status = f"{jobs['ended']} of {jobs['total']} jobs" if jobs else entry["status"]
        notes = ("" if status == "finished" else status, error or entry.get("description"))
        rows.append(
            (
                entry["folder"],
                "" if score is None else named_score(entry["monitor"], score),
                "" if test is None else percent(test),
                ": ".join(filter(None, notes)),
            )
        )
    first, second, third, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{a:<{first}}  {b:>{second}}  {c:>{third}}  {d}".rstrip() for a, b, c, d in rows]
