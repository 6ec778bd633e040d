"""What a person reads: one console, and the tables at the start and the end of a run."""

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

# plain text in a notebook too, where a display of its own for each line tears tables apart, and
# whose output calls itself a terminal
notebook = "ipykernel" in sys.modules
console = Console(highlight=False, force_jupyter=False, force_terminal=False if notebook else None)
log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log records through the one console, so that a progress bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        said = getattr(record, "renderable", None)
        if said is None:
            prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            said = Text(prefix + self.format(record))
        console.print(said, soft_wrap=True)


def say(renderable: RenderableType) -> None:
    """Show a table or a text, and keep it as plain text in the log file."""
    plain = Console(file=io.StringIO(), width=100, no_color=True, force_jupyter=False)
    plain.print(renderable, soft_wrap=True)
    text = plain.file.getvalue().rstrip()  # type: ignore[attr-defined]
    log.info("\n%s", text, extra={"renderable": renderable})


def start_summary(
    title: str,
    counts: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    layers: Sequence[tuple[str, str, str, int]],
    notes: Sequence[str],
) -> RenderableType:
    """What is about to be trained, on what.

    Args:
        title: the first line.
        counts: for each split, the images of each class.
        classes: their names.
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
    result: Mapping[str, Any], folder: Path, extendable: bool = True, resumable: bool = True
) -> RenderableType:
    """How a run went, and what one would run next.

    Args:
        result: what ``result.json`` holds.
        folder: the run folder.
        extendable: whether it could train longer, which a schedule that has ended forbids.
        resumable: whether it can go on by itself, which a job of a sweep cannot.
    """
    metrics, rows = result["metrics"], []
    if result["status"] == "finished" and not metrics:
        rows.append(("debugged", "a batch each of train, validation and test went through"))
    elif result["status"] == "finished":
        early = ", stopped early" if result["stopped_early"] else ""
        rows.append(("best epoch", f"{result['best_epoch']} of {result['epochs']}{early}"))
        rows.append(("validation", _score(metrics, "val")))
        if "test/acc" in metrics:
            low, high = percent(metrics["test/acc_low"]), percent(metrics["test/acc_high"])
            rows.append(("test", f"{_score(metrics, 'test')}  95 % interval {low} to {high}"))
        if result["data"]["pooled"]:
            rows.append(("pooled", "with the official test set: compare with no published figure"))
    else:
        rows.append((result["status"], result["error"]))
    rows.append(("run folder", str(folder)))

    program = "python train.py" if Path(sys.argv[0]).name == "train.py" else "lenet-pl train"
    commands = []
    if metrics and any(folder.rglob("events.*")):
        logdir = "outputs" if folder.parts[:1] == ("outputs",) else folder
        commands.append(("see the curves", f"tensorboard --logdir {logdir}"))
    needed = (folder / "checkpoints" / "last.ckpt", folder / ".hydra")
    resumable = resumable and all(path.exists() for path in needed)
    if metrics and resumable and extendable and not result["stopped_early"]:
        longer = f"trainer.max_epochs={2 * result['epochs']}"
        commands.append(("train longer", f"{program} resume={shlex.quote(str(folder))} {longer}"))
    elif result["status"] != "finished" and resumable:
        commands.append(("go on", f"{program} resume={shlex.quote(str(folder))}"))

    lines = [Text(f"{name:<15} {value}", style="bold") for name, value in rows]
    lines += [Text(f"{purpose:<15} {command}", style="cyan") for purpose, command in commands]
    return Group("", *lines)


def percent(share: float) -> str:
    """``98.76 %``"""
    return f"{100 * share:.2f} %"


def _score(metrics: Mapping[str, float], stage: str) -> str:
    return f"{percent(metrics[f'{stage}/acc'])}  loss {metrics[f'{stage}/loss']:.4f}"


def table(*columns: str, left: int) -> Table:
    """A table whose first columns are words and whose others are numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right")
    return table
