"""What a person reads: one console, and the summaries at the start and the end of a run."""

import io
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# In a notebook, rich would display each line separately, and the output passes for a terminal.
_notebook = "ipykernel" in sys.modules
console = Console(highlight=False, force_jupyter=False, force_terminal=False if _notebook else None)
log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log records through the one console, so that a progress bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        renderable = getattr(record, "renderable", None)
        if renderable is None:
            prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            renderable = Text(prefix + self.format(record))
        console.print(renderable, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """Print a table or text, and write it as plain text to the log file."""
    file = io.StringIO()
    plain = Console(file=file, width=100, no_color=True, force_jupyter=False)
    plain.print(renderable, soft_wrap=True)
    log.info("\n%s", file.getvalue().rstrip(), extra={"renderable": renderable})


def start_summary(
    title: str,
    counts: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    layers: Sequence[tuple[str, str, str, int]],
    notes: Sequence[str],
) -> RenderableType:
    """The data and the network of a run that is about to start.

    Args:
        title: the first line.
        counts: for each split, the number of images of each class.
        classes: the class names.
        layers: name, type, output size and parameters, in the order of the forward pass.
        notes: lines below the tables.
    """
    data = table("class", *counts, left=1)
    for name, *numbers in zip(classes, *counts.values(), strict=True):
        data.add_row(Text(name), *(f"{number:,}" for number in numbers))
    data.add_row("total", *(f"{sum(numbers):,}" for numbers in counts.values()))
    model = table("layer", "type", "output", "parameters", left=2)
    for name, kind, size, parameters in layers:
        model.add_row(name, kind, size, f"{parameters:,}" if parameters else "")
    model.add_row("total", "", "", f"{sum(layer[3] for layer in layers):,}")
    side_by_side = Table.grid(padding=(0, 4))
    side_by_side.add_row(data, model)
    return Group(Text(title, style="bold"), "", side_by_side, "", *map(Text, notes), "")


def end_summary(
    result: Mapping[str, Any],
    folder: Path,
    program: str,
    extendable: bool = True,
    resumable: bool = True,
) -> RenderableType:
    """How a run went, and the commands one would run next.

    Args:
        result: the content of ``result.json``.
        folder: the run folder.
        program: the command that trains.
        extendable: whether it can train longer, which a schedule that has ended rules out.
        resumable: whether it can be resumed by itself, which a job of a sweep cannot.
    """
    metrics = result["metrics"]
    lines = [*_outcome(result), ("run folder", str(folder))]
    commands = []
    if metrics and any(folder.rglob("events.*")):
        logdir = "outputs" if folder.parts[:1] == ("outputs",) else shlex.quote(str(folder))
        commands.append(("see the curves", f"tensorboard --logdir {logdir}"))
    resume = f"{program} resume={shlex.quote(str(folder))}"
    needed = (folder / "checkpoints" / "last.ckpt", folder / ".hydra")
    resumable = resumable and all(path.exists() for path in needed)
    if metrics and resumable and extendable and not result["stopped_early"]:
        commands.append(("train longer", f"{resume} trainer.max_epochs={2 * result['epochs']}"))
    elif result["status"] != "finished" and resumable:
        commands.append(("resume", resume))
    return Group(
        "",
        *(Text(f"{name:<15} {text}", style="bold") for name, text in lines),
        *(Text(f"{name:<15} {command}", style="cyan") for name, command in commands),
    )


def _outcome(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics = result["metrics"]
    if result["status"] != "finished":
        return [(result["status"], result["error"])]
    if not metrics:
        return [("debugged", "one batch each of train, validation and test passed")]
    early = ", stopped early" if result["stopped_early"] else ""
    lines = [("best epoch", f"{result['best_epoch']} of {result['epochs']}{early}")]
    lines.append(("validation", _score(metrics, "val")))
    if "test/acc" in metrics:
        low, high = percent(metrics["test/acc_low"]), percent(metrics["test/acc_high"])
        lines.append(("test", f"{_score(metrics, 'test')}  95 % interval {low} to {high}"))
    if result["data"]["pooled"]:
        lines.append(("pooled", "with the official test set: not comparable to published results"))
    return lines


def _score(metrics: Mapping[str, float], stage: str) -> str:
    return f"{percent(metrics[f'{stage}/acc'])}  loss {metrics[f'{stage}/loss']:.4f}"


def percent(fraction: float) -> str:
    """``98.76 %``."""
    return f"{100 * fraction:.2f} %"


def table(*columns: str, left: int) -> Table:
    """A table whose first ``left`` columns are text and whose others are numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right")
    return table
