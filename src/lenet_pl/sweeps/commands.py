"""The summary of a sweep, printed and written to files at its end or by ``lenet-pl sweep DIR``."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from lenet_pl.console import console, named_score, score
from lenet_pl.errors import ConfigError
from lenet_pl.files import display_path, write_bytes, write_csv, write_json
from lenet_pl.naming import readable, typed
from lenet_pl.records import hydra_mode, search_path
from lenet_pl.rules import MONITORED
from lenet_pl.runs import program_name
from lenet_pl.sweeps.results import AT_RUNG, Setting, Sweep, job_folders, job_names
from lenet_pl.sweeps.verdict import judge, winner_overrides

INTERVAL = "95 % interval"  # of the mean
NUMERIC = {"epoch", *MONITORED, "seconds", "mean", "sd", INTERVAL, "n"}  # columns
PYTHON = "python train.py"


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl sweep``."""
    parser.add_argument("folder", help="a sweep's folder, or latest")
    parser.add_argument("--json", action="store_true", help="print sweep.json instead of a table")


def sweep(options: argparse.Namespace) -> int:
    """Summarise the jobs so far, without testing any; return 1 if a job failed, 0 otherwise."""
    folder = Path(options.folder)
    if options.folder == "latest":
        sweeps = sorted(Path("outputs/sweeps").glob("*/*/multirun.yaml"))
        if not sweeps:
            raise ConfigError("latest: outputs/sweeps holds no sweep")
        folder = sweeps[-1].parent
    if any(hydra_mode(job) == "RUN" for job in job_folders(folder)):
        raise ConfigError(f"{folder}: holds single runs, not the jobs of a sweep")
    summary = Summary(Sweep(display_path(folder)))
    summary.write_files()
    if options.json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        console.print(summary.text(program_name()), soft_wrap=True)
    return int(summary.sweep.counts["failed"] > 0)


class Summary:
    """The results of a sweep and the verdict on them, as text and as files."""

    def __init__(self, sweep: Sweep, test_error: str | None = None) -> None:
        self.sweep, self.test_error = sweep, test_error  # why the winner could not be tested
        self.verdict = judge(sweep)
        # the commands that train the winner again, and that start the next sweep
        start = [*PYTHON.split(), *search_path(sweep.jobs[0].folder)]
        self.command = shlex.join([*start, *winner_overrides(sweep)]) if sweep.winner else None
        following = self.verdict.next_sweep
        self.next_command = shlex.join([*start, "-m", *following]) if following else None

    def write_files(self) -> None:
        """Write ``sweep.csv``, ``sweep.md``, ``sweep.json`` and ``sweep.png`` into the folder."""
        from lenet_pl.sweeps.plots import save_figure  # importing matplotlib takes a second

        content, metric, folder = self.as_dict(), self.sweep.monitor, self.sweep.folder
        columns = {f"{metric}_mean": metric, f"{metric}_sd": f"{metric}_sd", "n": "n"}
        means = {name: setting for setting in content["settings"] for name in setting["jobs"]}
        rows = [{"job": job["job"], **job["varied"], **job} for job in content["jobs"]]
        for row in rows:
            del row["varied"]
            if self.sweep.has_seeds:
                row |= {key: means.get(row["job"], {}).get(columns[key]) for key in columns}
        write_csv(folder / "sweep.csv", list(rows[0]), [list(row.values()) for row in rows])
        write_bytes(folder / "sweep.md", self.markdown().encode())
        write_json(folder / "sweep.json", content)
        save_figure(self.sweep)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        sweep, winner, verdict = self.sweep, self.sweep.winner, self.verdict
        jobs = [
            {
                "job": job.name,
                "varied": {key: typed(job.values.get(key)) for key in sweep.varied},
                **{key: getattr(job, key) for key in ("status", "error", "epochs", "best_epoch")},
                **{key: job.metrics.get(key) for key in sweep.shown},
                "seconds": job.seconds,
                "folder": str(job.folder),
            }
            for job in sweep.jobs
        ]
        settings = [
            {
                "jobs": setting.names,
                "varied": {key: typed(setting.values.get(key)) for key in sweep.parameters},
                **setting.statistics("val"),
                "p_value": p_value,
            }
            for setting, p_value in zip(sweep.ranked, verdict.p_values, strict=True)
        ]
        test = {"command": self.command, "test": winner and (winner.statistics("test") or None)}
        return {
            "folder": str(sweep.folder),
            "counts": dict(sweep.counts),
            "varied": sweep.varied,
            "jobs": jobs,
            "settings": settings,
            "winner": winner and settings[0] | test,
            "verdict": winner and {"sentences": verdict.sentences, "command": self.next_command},
            "tested": [job.name for job in sweep.jobs if "test/acc" in job.metrics],
        }

    def outcome(self) -> list[tuple[str, str]]:
        """The winner and the jobs that did not finish: a name and a text for each line."""
        sweep, lines = self.sweep, [("winner", "none: no finished job was validated")]
        if winner := sweep.winner:
            not_tested = f"none: {self.test_error}" if self.test_error else "not yet"
            title = "winner" if sweep.complete else "best so far"
            lines = [
                (title, f"{job_names(winner.names)}  {sweep.describe(winner)}".rstrip()),
                ("validation", _scores(winner, "val")),
                ("test", _scores(winner, "test") or not_tested),
            ]
        for job in sweep.jobs:
            if job.status in ("unfinished", "interrupted", "failed"):
                reason = job.error or f"running or interrupted after {job.epochs} epochs"
                lines.append((job.status, f"job {job.name}: {reason}"))
        return lines

    def tables(self) -> list[list[list[str]]]:
        """The table of jobs and, where seeds vary, of their means; the first row is the header."""
        sweep, metric = self.sweep, self.sweep.monitor
        header = ["job", *sweep.short.values(), "status", "epoch", *sweep.shown]
        jobs = [[*header, "seconds", "folder"]]
        for job in sweep.jobs:
            at = f" at {job.epochs}" if job.status in AT_RUNG else ""
            values = (readable(job.values.get(key, "")) for key in sweep.varied)
            scores = [""] * (1 + len(sweep.shown))
            if job.validated:
                scores = [str(job.best_epoch), *(score(x, job.metrics[x]) for x in sweep.shown)]
            seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
            jobs.append([job.name, *values, job.status + at, *scores, seconds, f"{job.name}/"])
        names = [sweep.short[key] for key in sweep.parameters]
        means = [[*names, "mean", "sd", INTERVAL, "n", "jobs"]]
        for setting in sweep.ranked:
            line = [readable(setting.values.get(key, "")) for key in sweep.parameters]
            sd, ends = setting.sd(metric), setting.interval(metric) or ()
            line += [score(metric, setting.mean(metric)), "" if sd is None else score(metric, sd)]
            line.append(" to ".join(score(metric, end) for end in ends))
            means.append([*line, str(len(setting.jobs)), ", ".join(setting.names)])
        return [jobs, means] if sweep.has_seeds else [jobs]

    def markdown(self) -> str:
        """The content of ``sweep.md``."""
        parts = []
        for header, *rows in self.tables():
            rule = ["--:" if name in NUMERIC else "---" for name in header]
            escaped = ([cell.replace("|", "/") for cell in line] for line in (header, rule, *rows))
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in escaped))
        parts.append("\n".join(f"- {name}: {text}" for name, text in self.outcome()))
        if self.sweep.winner:
            parts.append(" ".join(self.verdict.sentences))
            commands = filter(None, [self.command, self.next_command])
            parts.append("\n".join(["```bash", *commands, "```"]))
            if self.sweep.varied:
                parts.append("![validation accuracy](sweep.png)")
        return "\n\n".join(parts) + "\n"

    def text(self, program: str) -> RenderableType:
        """The tables, the outcome and commands to paste, for the console."""
        parts = []
        for table in self.tables():
            columns = list(zip(*table, strict=True))
            formats = [f"{'>' if x[0] in NUMERIC else '<'}{max(map(len, x))}" for x in columns]
            header, *rows = ("  ".join(map(format, row, formats)).rstrip() for row in table)
            parts += [Text(header, style="dim"), *map(Text, rows), Text()]
        lines = self.outcome()
        for number, sentence in enumerate(self.verdict.sentences):
            lines.append(("" if number else "verdict", sentence))
        parts += [Text(f"{name:<12} {text}", style="bold") for name, text in lines]
        commands = {
            "train again": self.command,
            "next sweep": self.next_command,
            "TensorBoard": f"tensorboard --logdir {shlex.quote(str(self.sweep.folder))}",
            "to continue": None if self.sweep.complete else self.sweep.command,
        }
        for name, command in commands.items():
            if command:
                text = command.replace(PYTHON, program, 1)
                parts.append(Text(f"{name:<12} {text}", style="cyan"))
        return Group(*parts)


def _scores(setting: Setting, split: str) -> str:
    """``98.96 %  loss 0.0442``, with standard deviations and an interval where there are any."""
    if not (values := setting.statistics(split)):
        return ""
    best, parts = setting.jobs[0].monitor if split == "val" else "test/acc", []
    for metric in dict.fromkeys((f"{split}/acc", f"{split}/loss", best)):
        parts.append(named_score(metric, values[metric]))
        if (sd := values.get(f"{metric}_sd")) is not None:
            parts[-1] += f" ± {score(metric, sd)}"
    interval = INTERVAL
    if values["n"] > 1:
        parts.append(f"mean and standard deviation, n = {values['n']}")
        interval += " of the mean"
    low, high = values.get(f"{best}_low"), values.get(f"{best}_high")
    if low is not None and high is not None:
        parts.append(f"{interval} {score(best, low)} to {score(best, high)}")
    return "  ".join(parts)
