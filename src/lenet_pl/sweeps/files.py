"""What is kept of a sweep: CSV, Markdown and JSON in its folder."""

import csv
import io
from typing import Any

from lenet_pl import files
from lenet_pl.sweeps.results import Job, Setting, Sweep
from lenet_pl.sweeps.tables import command, markdown


def write(sweep: Sweep) -> None:
    """Write ``sweep.csv``, ``sweep.md`` and ``sweep.json`` into the sweep's folder."""
    rows = [_csv_row(sweep, job) for job in sweep.jobs]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(sweep.folder / "sweep.csv", text.getvalue().encode())
    files.write_bytes(sweep.folder / "sweep.md", markdown(sweep).encode())
    files.write_json(sweep.folder / "sweep.json", as_dict(sweep))


def as_dict(sweep: Sweep) -> dict[str, Any]:
    """The sweep in plain types, for ``sweep.json``."""
    winner = sweep.winner
    return {
        "folder": str(sweep.folder),
        "counts": dict(sweep.counts),
        "varied": list(sweep.varied),
        "jobs": [_job_dict(sweep, job) for job in sweep.jobs],
        "settings": [_setting_dict(sweep, setting) for setting in sweep.settings],
        "winner": winner
        and {
            **_setting_dict(sweep, winner),
            "command": command(sweep),
            "test": _test_dict(winner),
        },
        "tested": [job.name for job in sweep.jobs if "test/acc" in job.metrics],
    }


def _setting_dict(sweep: Sweep, setting: Setting) -> dict[str, Any]:
    keys = [key for key in sweep.varied if key != "seed"]
    return {
        "jobs": [job.name for job in setting.jobs],
        "varied": {key: typed(setting.jobs[0].overrides.get(key)) for key in keys},
        **_figures(setting, "val"),
    }


def _test_dict(winner: Setting) -> dict[str, Any] | None:
    metrics = winner.jobs[0].metrics
    if not all("test/acc" in job.metrics for job in winner.jobs):
        return None
    interval = {name: metrics[name] for name in ("test/acc_low", "test/acc_high")}
    return _figures(winner, "test") | (interval if winner.n == 1 else {})


def _figures(setting: Setting, stage: str) -> dict[str, Any]:
    return {
        f"{stage}/acc": setting.mean(f"{stage}/acc"),
        f"{stage}/acc_sd": setting.sd(f"{stage}/acc"),
        f"{stage}/loss": setting.mean(f"{stage}/loss"),
        "n": setting.n,
    }


def typed(value: str | None) -> str | float | int | None:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(value or "")
        except ValueError:
            continue
    return value


def _job_dict(sweep: Sweep, job: Job) -> dict[str, Any]:
    return {
        "job": job.name,
        "varied": {key: typed(job.overrides.get(key)) for key in sweep.varied},
        "status": job.status,
        "error": job.error,
        "epochs": job.epochs,
        "best_epoch": job.best_epoch,
        "val/acc": job.metrics.get("val/acc"),
        "val/loss": job.metrics.get("val/loss"),
        "seconds": job.seconds,
        "folder": str(job.folder),
    }


def _csv_row(sweep: Sweep, job: Job) -> dict[str, Any]:
    row = _job_dict(sweep, job)
    row = {"job": row.pop("job"), **row.pop("varied"), **row}
    if sweep.seeds:
        mine = next((setting for setting in sweep.settings if job in setting.jobs), None)
        row |= {
            "val/acc_mean": mine and mine.mean(),
            "val/acc_sd": mine and mine.sd(),
            "n": mine and mine.n,
        }
    return row
