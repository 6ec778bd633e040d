"""The summary of a sweep: tables, outcome and winner, printed and written to files."""

import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lenet_pl.console import console, score
from lenet_pl.files import write_bytes, write_csv, write_json
from lenet_pl.rules import MONITORED
from lenet_pl.sweeps.results import (
    SeedGroup,
    SweepResults,
    job_names,
    readable,
    setting_values,
    short_names,
    typed,
)
from lenet_pl.sweeps.verdict import Verdict, winner_overrides

INTERVAL = "95 % interval"  # of the mean
NUMERIC = {"epoch", *MONITORED, "seconds", "mean", "sd", INTERVAL, "n"}  # columns
MAX_ROWS = 30  # of a table on the console


def write_files(sweep: SweepResults) -> None:
    """Write ``sweep.csv``, ``sweep.md``, ``sweep.json`` and ``sweep.png`` into the folder."""
    from lenet_pl.sweeps.plots import save_figure  # importing matplotlib takes a second

    content = as_dict(sweep)
    means = {n: (g.mean(), g.sd(), len(g.jobs)) for g in sweep.groups for n in g.names}
    rows = []
    for job in content["jobs"]:
        row = {"job": job["job"], **job["varied"], **job}
        del row["varied"]
        if sweep.has_seeds:
            values = means.get(job["job"], (None, None, None))
            names = (f"{sweep.monitor}_mean", f"{sweep.monitor}_sd", "n")
            row |= zip(names, values, strict=True)
        rows.append(row)
    write_csv(sweep.folder / "sweep.csv", list(rows[0]), [list(row.values()) for row in rows])
    write_bytes(sweep.folder / "sweep.md", markdown(sweep).encode())
    write_json(sweep.folder / "sweep.json", content)
    save_figure(sweep)


def as_dict(sweep: SweepResults) -> dict[str, Any]:
    """The content of ``sweep.json``."""
    jobs = [
        {
            "job": job.name,
            "varied": {key: typed(job.values.get(key)) for key in sweep.varied},
            **{key: getattr(job, key) for key in ("status", "error", "epochs", "best_epoch")},
            **{key: job.metrics.get(key) for key in _columns(sweep)},
            "seconds": job.seconds,
            "folder": str(job.folder),
        }
        for job in sweep.jobs
    ]
    verdict = sweep.verdict
    p_values = [None, *verdict.p_values] if verdict else []
    settings = [
        {
            "jobs": group.names,
            "varied": {key: typed(group.values.get(key)) for key in sweep.parameters},
            **group.statistics("val"),
            "p_value": p_value,  # of the comparison with the winner
        }
        for group, p_value in zip(sweep.groups, p_values, strict=True)
    ]
    test = (sweep.winner and sweep.winner.statistics("test")) or None
    winner = sweep.winner and {**settings[0], "command": command(sweep), "test": test}
    return {
        "folder": str(sweep.folder),
        "counts": dict(sweep.counts),
        "varied": list(sweep.varied),
        "jobs": jobs,
        "settings": settings,
        "winner": winner,
        "verdict": verdict and {"sentences": verdict.sentences, "command": next_command(verdict)},
        "tested": [job.name for job in sweep.jobs if "test/acc" in job.metrics],
    }


def command(sweep: SweepResults, program: str = "python train.py") -> str:
    """The command that trains the winner again, with the seed of its best job."""
    return f"{program} {shlex.join(winner_overrides(sweep))}".strip()


def next_command(verdict: Verdict, program: str = "python train.py") -> str | None:
    """The command of the sweep to run next, if there is one to suggest."""
    return f"{program} -m {shlex.join(verdict.next_sweep)}" if verdict.next_sweep else None


def outcome(sweep: SweepResults) -> list[tuple[str, str]]:
    """The winner and the jobs that did not finish: a name and a text for each line."""
    lines = [("winner", "none: no finished job was validated")]
    if winner := sweep.winner:
        name = "winner" if sweep.complete else "best so far"
        not_tested = f"none: {sweep.test_error}" if sweep.test_error else "not yet"
        lines = [
            (name, f"{job_names(winner.names)}  {setting_values(sweep, winner)}".rstrip()),
            ("validation", _score(winner, "val")),
            ("test", _score(winner, "test") or not_tested),
        ]
    for job in sweep.jobs:
        if job.status in ("unfinished", "interrupted", "failed"):
            reason = job.error or f"running or interrupted after {job.epochs} epochs"
            lines.append((job.status, f"job {job.name}: {reason}"))
    return lines


def _score(group: SeedGroup, split: str) -> str:
    if not (values := group.statistics(split)):
        return ""
    ranked = group.monitor if split == "val" else "test/acc"
    parts, several = [], len(group.jobs) > 1
    for metric in dict.fromkeys((f"{split}/acc", f"{split}/loss", ranked)):
        sd, name = values.get(f"{metric}_sd"), metric.partition("/")[2]
        spread = "" if sd is None else f" ± {score(metric, sd)}"
        parts.append(
            f"{'' if name == 'acc' else f'{name} '}{score(metric, values[metric])}{spread}"
        )
    if several:
        parts.append(f"mean and standard deviation, n = {values['n']}")
    if interval := _range(ranked, (values.get(f"{ranked}_low"), values.get(f"{ranked}_high"))):
        parts.append(f"95 % interval{' of the mean' if several else ''} {interval}")
    return "  ".join(parts)


def _range(metric: str, ends: Sequence[float | None] | None) -> str:
    """``98.76 % to 98.90 %``; empty without an interval."""
    return " to ".join(score(metric, end) for end in ends or () if end is not None)


def _columns(sweep: SweepResults) -> list[str]:
    """The metrics in the table of jobs."""
    return list(dict.fromkeys(["val/acc", "val/loss", sweep.monitor]))


def _tables(sweep: SweepResults) -> list[list[list[str]]]:
    """The table of jobs and, where seeds vary, of their means; the first row is the header."""
    monitor, scores = sweep.monitor, ("epoch", *_columns(sweep))
    jobs = [["job", *short_names(sweep.varied).values(), "status", *scores, "seconds", "folder"]]
    for job in sweep.jobs:
        at = f" at {job.epochs}" if job.status in ("pruned", "paused") else ""
        values = (readable(job.values.get(key, "")) for key in sweep.varied)
        line = [job.name, *values, job.status + at]
        if job.validated and job.status != "failed":
            line += [str(job.best_epoch), *(score(x, job.metrics[x]) for x in scores[1:])]
        else:
            line += [""] * len(scores)
        jobs.append([*line, "" if job.seconds is None else f"{job.seconds:.1f}", f"{job.name}/"])
    groups = [[*short_names(sweep.parameters).values(), "mean", "sd", INTERVAL, "n", "jobs"]]
    for group in sweep.groups:
        line = [readable(group.values.get(key, "")) for key in sweep.parameters]
        moments = (group.mean(), group.sd())
        line += ["" if value is None else score(monitor, value) for value in moments]
        line += [_range(monitor, group.interval()), str(len(group.jobs)), ", ".join(group.names)]
        groups.append(line)
    return [jobs, groups] if sweep.has_seeds else [jobs]


def markdown(sweep: SweepResults) -> str:
    """The content of ``sweep.md``."""
    parts = []
    for header, *rows in _tables(sweep):
        rule = ["--:" if name in NUMERIC else "---" for name in header]
        escaped = ([cell.replace("|", "/") for cell in line] for line in (header, rule, *rows))
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in escaped))
    parts.append("\n".join(f"- {name}: {text}" for name, text in outcome(sweep)))
    if verdict := sweep.verdict:
        parts.append(" ".join(verdict.sentences))
        commands = [command(sweep), next_command(verdict)]
        parts.append("\n".join(["```bash", *filter(None, commands), "```"]))
    if sweep.winner and sweep.varied:
        parts.append("![validation accuracy](sweep.png)")
    return "\n\n".join(parts) + "\n"


def summary(sweep: SweepResults, program: str = "python train.py") -> RenderableType:
    """The tables, the outcome and commands to paste, for the console."""
    parts: list[RenderableType] = []
    for header, *rows in _tables(sweep):
        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in header:
            grid.add_column(name, justify="right" if name in NUMERIC else "left", no_wrap=True)
        for row in rows[:MAX_ROWS]:
            grid.add_row(*map(Text, row))
        # a pipe or a narrow window must not truncate columns
        grid.width = console.measure(grid, options=console.options.update(max_width=1000)).maximum
        hidden = len(rows) - MAX_ROWS
        parts += [grid, f"… and {hidden} more in sweep.csv" if hidden > 0 else ""]
    lines, commands = outcome(sweep), []
    if verdict := sweep.verdict:
        first, *others = verdict.sentences
        lines += [("verdict", first), *(("", sentence) for sentence in others)]
        commands.append(("train again", command(sweep, program)))
        if following := next_command(verdict, program):
            commands.append(("next sweep", following))
    commands.append(("TensorBoard", f"tensorboard --logdir {shlex.quote(str(sweep.folder))}"))
    if sweep.command and not sweep.complete:
        commands.append(("to continue", sweep.command))
    parts += [Text(f"{name:<12} {text}", style="bold") for name, text in lines]
    parts += [Text(f"{name:<12} {text}", style="cyan") for name, text in commands]
    return Group(*parts)
