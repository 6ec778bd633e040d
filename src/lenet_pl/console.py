"""Console output: the shared console, and the summaries at the start and end of a run."""

import io
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from lenet_pl.errors import printable, protect_output
from lenet_pl.files import display_path

if TYPE_CHECKING:  # torch is slow to import, and the first output does not need it
    from torch import Tensor, nn

Layer = tuple[str, str, str, int]  # name, type, output size, parameters


class PlainConsole(Console):
    """A console that escapes control characters in what it prints."""

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        for segment in super().render(*args, **kwargs):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


# In a notebook, rich would display each line separately and take the output for a terminal.
_terminal = False if "ipykernel" in sys.modules else None
console = PlainConsole(highlight=False, force_jupyter=False, force_terminal=_terminal)
log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log records on the shared console, so that a progress bar stays below them."""

    def __init__(self) -> None:
        super().__init__()
        protect_output()  # also in the workers of a parallel launcher

    def emit(self, record: logging.LogRecord) -> None:
        renderable = getattr(record, "renderable", None)
        if renderable is None:
            prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            renderable = Text(prefix + self.format(record))
        console.print(renderable, soft_wrap=True)


def show(renderable: RenderableType) -> None:
    """Print a table or text, and write it to the log file as plain text."""
    file = io.StringIO()
    plain = PlainConsole(file=file, width=100, no_color=True, force_jupyter=False)
    plain.print(renderable, soft_wrap=True)
    log.info("\n%s", file.getvalue().rstrip(), extra={"renderable": renderable})


def start_summary(
    title: str,
    counts: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    layers: Sequence[Layer],
    notes: Sequence[str],
) -> RenderableType:
    """Summarise the data and the network of a run before it starts.

    ``counts`` has the number of images of each class for each split; the notes are the last lines.
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


def layer_table(net: "nn.Module", image: "Tensor", max_rows: int = 30) -> list[Layer]:
    """List the layers that an image ``[1, C, H, W]`` passes through.

    Blocks of layers are listed instead if there are more than ``max_rows``. A layer that is called
    twice has its parameters the first time only; those outside the layers come last.
    """
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    names = {module: name for name, module in net.named_modules() if name}
    calls: list[Layer] = []

    def record(module: "nn.Module", args: Any, output: Any) -> None:
        if name := names.get(module):
            repeated = any(row[0] == name for row in calls)
            parameters = 0 if repeated else sum(p.numel() for p in module.parameters())
            # an LSTM also returns its states
            output = output[0] if isinstance(output, tuple) else output
            calls.append((name, type(module).__name__, _size(output[0]), parameters))

    training = net.training
    with torch.no_grad(), register_module_forward_hook(record):
        net.eval()(image)
    net.train(training)

    for depth in range(max((row[0].count(".") for row in calls), default=0), -1, -1):
        called = {row[0] for row in calls if row[0].count(".") <= depth}
        blocks = {name for name in called if any(n.startswith(f"{name}.") for n in called)}
        rows = [row for row in calls if row[0] in called - blocks]
        if len(rows) <= max_rows:
            break
    listed = tuple(f"{row[0]}." for row in rows)
    others = [(name, p) for name, p in net.named_parameters() if not name.startswith(listed)]
    rows += [(name, "Parameter", _size(p), p.numel()) for name, p in others]
    while len({row[0].split(".")[0] for row in rows}) == 1 and all("." in row[0] for row in rows):
        rows = [(row[0].partition(".")[2], *row[1:]) for row in rows]  # drop the common prefix
    return rows


def _size(tensor: "Tensor") -> str:
    return " × ".join(map(str, tensor.shape))


def end_summary(
    result: Mapping[str, Any],
    folder: Path,
    program: str,
    extendable: bool = True,
    resumable: bool = True,
) -> RenderableType:
    """Summarise the outcome of a run, and suggest commands to run next.

    A run is not ``extendable`` if its schedule has a fixed length; a job is not ``resumable``.
    """
    status, metrics, shown = result["status"], result["metrics"], display_path(folder)
    lines = _outcome(result) if status in ("finished", "paused") else {status: result["error"]}
    lines["run folder"] = str(shown)
    commands = {}
    if metrics and any(folder.rglob("events.*")):
        logdir = "outputs" if shown.parts[:1] == ("outputs",) else shlex.quote(str(shown))
        commands["see the curves"] = f"tensorboard --logdir {logdir}"
    resume = f"{program} resume={shlex.quote(str(shown))}"
    if resumable and (folder / ".hydra").exists():
        extendable = extendable and (folder / "checkpoints" / "last.ckpt").exists()
        if status != "finished":
            commands["resume"] = resume
        elif metrics and extendable and not result["stopped_early"]:
            commands["train longer"] = f"{resume} trainer.max_epochs={2 * result['epochs']}"
    return Group(
        "",
        *(Text(f"{name:<15} {text}", style="bold") for name, text in lines.items()),
        *(Text(f"{name:<15} {command}", style="cyan") for name, command in commands.items()),
    )


def _outcome(result: Mapping[str, Any]) -> dict[str, str]:
    metrics, monitor = result["metrics"], result["monitor"]
    if not metrics:
        return {"debugged": "one batch each of train, validation and test passed"}
    end = ", stopped early" if result["stopped_early"] else ""
    end = ", then paused" if result["status"] == "paused" else end
    lines = {"best epoch": f"{result['best_epoch']} of {result['epochs']}{end}"}
    lines["validation"] = f"{percent(metrics['val/acc'])}  loss {metrics['val/loss']:.4f}"
    if monitor not in ("val/acc", "val/loss"):
        title = metric_title(monitor.partition("/")[2])
        lines["validation"] += f"  {title} {score(monitor, metrics[monitor])}"
    if "test/acc" in metrics:
        low, high = percent(metrics["test/acc_low"]), percent(metrics["test/acc_high"])
        test = f"{percent(metrics['test/acc'])}  loss {metrics['test/loss']:.4f}"
        lines["test"] = f"{test}  95 % interval {low} to {high}"
    if repeats := result.get("repeats"):
        lines["repeats"] = f"{repeats['run']}: {repeats['difference'] or 'all figures agree'}"
    if result["data"]["pooled"]:
        lines["pooled"] = "with the official test set: not comparable with published results"
    return lines


def percent(fraction: float) -> str:
    """``98.76 %``."""
    return f"{100 * fraction:.2f} %"


def metric_title(name: str) -> str:
    """The name of a metric in prose: ``balanced accuracy`` for ``balanced_acc``."""
    return re.sub(r"\bacc$", "accuracy", name.replace("_", " "))


def score(metric: str, value: float) -> str:
    """The value of a metric: ``98.76 %`` for an accuracy, else ``0.0532``."""
    return percent(value) if metric.endswith("acc") else f"{value:.4f}"


def named_score(metric: str, value: float) -> str:
    """``98.76 %`` for ``val/acc``, ``loss 0.0532`` for ``val/loss``."""
    return f"{metric.partition('/')[2]} {score(metric, value)}".removeprefix("acc ")


def table(*columns: str, left: int) -> Table:
    """Create a table whose first ``left`` columns are left-aligned, the others right-aligned."""
    aligned = (Column(x, justify="left" if i < left else "right") for i, x in enumerate(columns))
    return Table(*aligned, box=None, padding=(0, 1, 0, 0), header_style="dim")
