"""The runs and sweeps in a folder, from small files only; torch is not imported."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenet_pl.console import named_score, percent
from lenet_pl.errors import ConfigError, shorten
from lenet_pl.naming import differences, override_values, parameter_overrides
from lenet_pl.records import read_json, read_overrides
from lenet_pl.rules import NATURAL, gain
from lenet_pl.runs import read_outcome

Entry = dict[str, Any]
MARKS = (".hydra", "multirun.yaml", "result.json")  # of the folder of a run or a sweep


def list_folder(root: Path) -> list[Entry]:
    """The runs and sweeps in a folder and below, the newest last."""
    found = []
    for path, folders, files in os.walk(root):
        if mark := next((x for x in MARKS if x in folders + files), None):
            folders.clear()
            found.append((Path(path, mark).lstat().st_mtime_ns, Path(path)))
    entries = [read_entry(folder) for _, folder in sorted(found)]
    describe([entry for entry in entries if "overrides" in entry])
    return entries


def read_entry(folder: Path) -> Entry:
    """The outcome of a run or a sweep; with the status ``damaged`` if it cannot be read."""
    try:
        return read_sweep(folder) if (folder / "multirun.yaml").exists() else read_run(folder)
    except ConfigError as error:
        reason = str(error).removeprefix("damaged run folder: ").replace(f"{folder}/", "")
        return {"folder": str(folder), "status": "damaged", "error": reason}


def read_run(folder: Path) -> Entry:
    """The outcome of a run; ``score`` is the monitored metric of its best epoch."""
    result = read_outcome(folder)
    overrides = result.get("overrides")
    return {
        "folder": str(folder),
        **{key: result.get(key) for key in ("name", "status", "error", "monitor")},
        "score": result["metrics"].get(result["monitor"]),
        "test/acc": result["metrics"].get("test/acc"),
        "overrides": read_overrides(folder) if overrides is None else overrides,
    }


def read_sweep(folder: Path) -> Entry:
    """The outcome of a sweep: how many of its jobs have ended, and the best finished one.

    With several seeds, that need not be a job of the setting with the best mean.
    """
    plan = read_json(folder / "plan.json", {"total?": NATURAL})  # Hydra's own sweeps have none
    jobs = [read_entry(path.parent) for path in sorted(folder.glob("*/.hydra"))]
    describe([job for job in jobs if "overrides" in job])
    ended = sum(job["status"] in ("finished", "pruned", "failed", "damaged") for job in jobs)
    total = max(plan.get("total") or 0, len(jobs))
    finished = [job for job in jobs if job["status"] == "finished" and job["score"] is not None]
    best = max(finished, key=lambda job: gain(job["monitor"], job["score"]), default={})
    return {
        "folder": str(folder),
        "status": "finished" if ended == total else "unfinished",
        "jobs": {"total": total, "ended": ended},
        **{key: best.get(key) for key in ("monitor", "score", "test/acc", "description")},
    }


def describe(runs: Sequence[Entry]) -> None:
    """Add a description: the name of a run, or the values that are not common to all runs."""
    values = [override_values(parameter_overrides(run["overrides"])) for run in runs]
    for run, text in zip(runs, differences(values), strict=True):
        run["description"] = run["name"] or text


def table(entries: Sequence[Entry], width: int = sys.maxsize) -> list[str]:
    """A header, and a line for each entry: score, test accuracy, folder, status and description.

    Status and description are below the folder where they do not fit into the width beside it.
    """
    rows = [("score", "test", "folder", "")]
    for entry in entries:
        score, test, jobs = (entry.get(key) for key in ("score", "test/acc", "jobs"))
        status = entry["status"] if entry["status"] != "finished" else ""
        if jobs:
            status = f"{jobs['ended']} of " * bool(status) + f"{jobs['total']} jobs, best job"
        text = ": ".join(filter(None, (status, entry.get("error") or entry.get("description"))))
        value = "" if score is None else named_score(entry["monitor"], score)
        rows.append((value, "" if test is None else percent(test), entry["folder"], text))
    first, second, third, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for score, test, folder, text in rows:
        start = f"{score:>{first}}  {test:>{second}}  "
        line = f"{start}{folder:<{third}}  {text}".rstrip()
        if text and len(line) > width:
            line = f"{start}{folder}\n{'':{len(start)}}{shorten(text, width - len(start) - 2)}"
        lines.append(line)
    return lines
