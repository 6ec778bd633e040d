"""Time of a training epoch: both classifiers of this project and two hand-written loops.

    python benchmarks/epoch.py [--rounds 5] [--batch-sizes 32,128,512] [--data mnist|mini]
    python benchmarks/epoch.py --growth [--rounds 3]

All loops run in one process, in turn in each round. Ratios are computed within each round and
then summarised by the median, which cancels slow drift of the machine. The hand-written loops
train the same network with plain SGD: *in memory* over the same uint8 tensors, and *DataLoader*
over torchvision's MNIST with ``ToTensor``, as most examples do. ``--growth`` instead plots how
the time grows with the batch size and with the number of images.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from by_hand import dataloader, in_memory, seconds_of_epoch
from common import OUTPUTS, markdown, median_and_range, positive_int, save
from hydra import compose, initialize
from matplotlib import pyplot
from omegaconf import DictConfig
from pytorch_lightning import Callback

from lenet_pl.training import build

CLASSIFIERS = ("plain", "fast")
PLOTTED = (*CLASSIFIERS, "in memory")
Times = dict[str, list[float]]  # seconds of an epoch in each round, by loop


class Stopwatch(Callback):
    """Seconds from the first training step of an epoch to the last, without validation."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started


def train_epoch(cfg: DictConfig) -> float:
    """Train for one epoch with this project and return its seconds."""
    parts = build(cfg)
    stopwatch = Stopwatch()
    parts.trainer.callbacks.append(stopwatch)
    parts.trainer.fit(parts.classifier, parts.data)
    return stopwatch.seconds


def measure(overrides: list[str], rounds: int, use_dataloader: bool = False) -> tuple[Times, int]:
    """Time an epoch of every loop.

    Returns:
        The times, and the number of training images.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize(version_base="1.3", config_path="../conf"),
    ):
        overrides = [*overrides, "trainer.max_epochs=1", "callbacks=none", "logger=none"]
        overrides.append(f"run_dir={folder}")
        cfgs = {c: compose("config", [f"classifier={c}", *overrides]) for c in CLASSIFIERS}
        parts = build(cfgs["plain"])
        data, device = parts.data, parts.trainer.strategy.root_device
        loops: dict[str, Callable[[], float]] = {
            name: partial(train_epoch, cfg) for name, cfg in cfgs.items()
        }
        loops["in memory"] = partial(seconds_of_epoch, in_memory(data, device), device)
        if use_dataloader:
            batches = dataloader(cfgs["plain"], data, device)
            loops["DataLoader"] = partial(seconds_of_epoch, batches, device)
        times: Times = {name: [] for name in loops}
        for _ in range(rounds):
            for name, loop in loops.items():
                times[name].append(loop())
    return times, len(data.splits["train"])


def median_ratio(times: Times, loop: str, reference: str) -> str:
    """The median over the rounds of one loop's time over another's; empty without the latter."""
    if reference not in times:
        return ""
    pairs = zip(times[loop], times[reference], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def compare(options: argparse.Namespace) -> None:
    """Save a table of all loops at each batch size."""
    imported = peak_memory()
    rows = []
    for size in options.batch_sizes:
        overrides = [f"data={options.data}", f"data.batch_size={size}", *options.overrides]
        times, images = measure(overrides, options.rounds, use_dataloader=options.data == "mnist")
        for name, seconds in times.items():
            rate = f"{images / statistics.median(seconds):,.0f}"
            ratios = [median_ratio(times, name, other) for other in ("in memory", "DataLoader")]
            rows.append([size, name, *median_and_range(seconds), rate, *ratios])
    header = ["batch", "loop", "seconds (median)", "range", "images/s"]
    header += ["/ in memory", "/ DataLoader"]
    note = (
        f"{options.rounds} rounds; memory {imported:.0f} MiB after the imports, "
        f"{peak_memory():.0f} MiB at most"
    )
    if torch.cuda.is_available():
        note += f", on the GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    save("epoch", f"{markdown(header, rows)}\n{note}\n")


def peak_memory() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(options: argparse.Namespace) -> None:
    """Save a table and a plot of the time against the batch size and the number of images."""
    sizes, fractions = [8, 16, 32, 64, 128, 256, 512, 1024], [0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
    rows = []
    for size, fraction in [*((size, 0.2) for size in sizes), *((128, f) for f in fractions)]:
        overrides = [f"data={options.data}", f"data.batch_size={size}", f"data.fraction={fraction}"]
        times, images = measure([*overrides, *options.overrides], options.rounds)
        costs = [1e6 * statistics.median(times[name]) / images for name in PLOTTED]
        rows.append([size, images, *(round(cost) for cost in costs)])
    header = ["batch", "images", *(f"{name}, µs per image" for name in PLOTTED)]
    save("growth", markdown(header, rows))
    plot_growth(rows[: len(sizes)], rows[len(sizes) :], OUTPUTS / "growth.png")


def plot_growth(by_size: list[list[int]], by_images: list[list[int]], path: Path) -> None:
    """Plot rows of batch size, number of images and microseconds per image of each loop."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    sizes, ticks = [row[0] for row in by_size], [25, 50, 100, 200, 400]
    for column, name in enumerate(PLOTTED, start=2):
        left.plot(sizes, [row[column] for row in by_size], "o-", label=name)
        seconds = [row[1] * row[column] / 1e6 for row in by_images]
        right.plot([row[1] for row in by_images], seconds, "o-")
    left.set(xscale="log", yscale="log", xlabel="batch size", ylabel="µs per image")
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set_yticks(ticks, [str(tick) for tick in ticks])
    left.minorticks_off()
    right.set(xlabel="training images", ylabel="seconds per epoch, batches of 128")
    right.set_ylim(bottom=0)
    left.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def batch_sizes(text: str) -> list[int]:
    """An argparse type for lists such as ``32,128``."""
    return [positive_int(size) for size in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--batch-sizes", default=[32, 128, 512], type=batch_sizes)
    parser.add_argument("--data", default="mnist", choices=["mnist", "mini"])
    parser.add_argument("--growth", action="store_true", help="plot the growth with batch and data")
    parser.add_argument("overrides", nargs="*", help="configuration overrides of all runs")
    options = parser.parse_args()
    growth(options) if options.growth else compare(options)


if __name__ == "__main__":
    main()
