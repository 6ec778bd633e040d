"""What people read of a sweep: tables and the outcome, on a console and as Markdown."""

import shlex
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lenet_pl.console import percent
from lenet_pl.sweeps.results import Setting, Sweep, parameters

NUMBERS = {"epoch", "val/acc", "val/loss", "seconds", "n", "mean", "sd"}
SHOWN = 30  # rows on the console


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their last word, where that names one of them only."""
    keys = list(keys)
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if [*last.values()].count(name) == 1 else key for key, name in last.items()}


def table(sweep: Sweep, program: str = "python train.py") -> RenderableType:
    """The whole answer for a console: jobs, settings where there are seeds, winner, next steps."""
    parts: list[RenderableType] = [_Table(*_jobs(sweep)), ""]
    if sweep.seeds:
        parts += [_Table(*_settings(sweep)), ""]
    lines = [Text(f"{name:<12} {value}", style="bold") for name, value in outcome(sweep)]
    if sweep.winner:
        lines.append(Text(f"{'again':<12} {command(sweep, program)}", style="cyan"))
    logs = f"tensorboard --logdir {shlex.quote(str(sweep.folder))}"
    lines.append(Text(f"{'curves':<12} {logs}", style="cyan"))
    return Group(*parts, *lines)


def outcome(sweep: Sweep) -> list[tuple[str, str]]:
    """The end of the story in a few lines: a name and what there is to say."""
    lines = []
    if winner := sweep.winner:
        best = winner.jobs[0]
        names = short_names(sweep.varied)
        varied = ", ".join(
            f"{names[key]} {readable(best.overrides.get(key, 'default'))}"
            for key in sweep.parameters
            if key != "seed" or winner.n == 1
        )
        which = f"job {best.name}" if winner.n == 1 else f"jobs {_job_names(winner)}"
        running = sweep.counts["unfinished"] or sweep.counts["interrupted"]
        name = "best so far" if running else "winner"
        lines.append((name, f"{which}  {varied}".rstrip()))
        lines.append(("validation", _figure(winner, "val")))
        missing = f"none: {sweep.untested}" if sweep.untested else "not yet"
        tested = all("test/acc" in job.metrics for job in winner.jobs)
        lines.append(("test", _figure(winner, "test") if tested else missing))
    else:
        lines.append(("winner", "none: no job has finished"))
    for job in sweep.jobs:
        if job.status != "finished":
            reason = job.error or f"runs or was cut off; epochs so far: {job.epochs}"
            lines.append((job.status, f"job {job.name}: {reason}"))
    return lines


def command(sweep: Sweep, program: str = "python train.py") -> str:
    """What trains the winner again, ready to paste; of several seeds, the best one."""
    assert sweep.winner is not None
    words = parameters(sweep.winner.jobs[0].words)
    everywhere = set.intersection(*(set(job.words) for job in sweep.jobs))
    words += sorted(word for word in everywhere if word.startswith("test="))  # as was asked for
    return f"{program} {shlex.join(words)}".strip()


def markdown(sweep: Sweep) -> str:
    """The tables and the outcome as Markdown."""
    parts = [_markdown_table(*_jobs(sweep))]
    if sweep.seeds:
        parts.append(_markdown_table(*_settings(sweep)))
    parts.append("\n".join(f"- {name}: {value}" for name, value in outcome(sweep)))
    if sweep.winner:
        parts.append(f"```bash\n{command(sweep)}\n```")
    if sweep.varied and sweep.winner:
        parts.append("![validation accuracy](sweep.png)")
    return "\n\n".join(parts) + "\n"


def _jobs(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    header = ["job", *short_names(sweep.varied).values(), "status", "epoch", "val/acc"]
    rows = []
    for job in sweep.jobs:
        scores = job.metrics if job.status != "failed" else {}
        rows.append(
            [
                job.name,
                *(readable(job.overrides.get(key, "")) for key in sweep.varied),
                job.status,
                f"{job.best_epoch or ''}" if scores else "",
                percent(scores["val/acc"]) if "val/acc" in scores else "",
                f"{scores['val/loss']:.4f}" if "val/loss" in scores else "",
                f"{job.seconds:.1f}" if job.seconds is not None else "",
                job.folder.name + "/",
            ]
        )
    return [*header, "val/loss", "seconds", "folder"], rows


def _settings(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    keys = [key for key in sweep.varied if key != "seed"]
    rows = [
        [
            *(readable(setting.jobs[0].overrides.get(key, "")) for key in keys),
            percent(setting.mean()),
            "" if (sd := setting.sd()) is None else percent(sd),
            str(setting.n),
            _job_names(setting),
        ]
        for setting in sweep.settings
    ]
    return [*short_names(keys).values(), "mean", "sd", "n", "jobs"], rows


def _figure(setting: Setting, stage: str) -> str:
    """``98.12 %  loss 0.0612``, of several seeds their mean, standard deviation and number."""
    accuracy = percent(setting.mean(f"{stage}/acc"))
    loss = f"loss {setting.mean(f'{stage}/loss'):.4f}"
    if (sd := setting.sd(f"{stage}/acc")) is not None:
        return f"{accuracy} ± {percent(sd)}  {loss}  mean and standard deviation, n = {setting.n}"
    metrics = setting.jobs[0].metrics
    if stage == "test":
        low, high = percent(metrics["test/acc_low"]), percent(metrics["test/acc_high"])
        return f"{accuracy}  {loss}  95 % interval {low} to {high}"
    return f"{accuracy}  {loss}"


def _job_names(setting: Setting) -> str:
    return ", ".join(job.name for job in setting.jobs)


def readable(text: str) -> str:
    """A number that a search drew has more digits than one reads."""
    try:
        return text if len(text) <= 7 else f"{float(text):.3g}"
    except ValueError:
        return text


class _Table:
    """The first rows of a table, as wide as it is: a pipe or a narrow window cuts no figures."""

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in header:
            justify: JustifyMethod = "right" if name in NUMBERS else "left"
            self.table.add_column(name, justify=justify, no_wrap=True)
        for row in rows[:SHOWN]:
            self.table.add_row(*(Text(cell) for cell in row))
        self.hidden = max(0, len(rows) - SHOWN)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = Measurement.get(console, options.update(max_width=1000), self.table).maximum
        yield from console.render(self.table, options.update(width=wide, max_width=wide))
        if self.hidden:
            yield Text(f"… and {self.hidden} more in sweep.csv")


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["--:" if name in NUMBERS else "---" for name in header], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
