"""One training epoch: this project, plain and fast, against two loops written by hand.

    python benchmarks/epoch.py [--rounds 5] [--batch-sizes 32,128,512] [--data mnist|mini]
    python benchmarks/epoch.py --growth [--rounds 3]

All in one process and in turn, round by round; a ratio is that of one round's times, and what is
printed is the median. The loops by hand: *in memory*, over the same uint8 tensors, contiguous and
with plain SGD, every layer as torch has it; *DataLoader*, torchvision's MNIST with ToTensor, as
most examples have it; on a GPU also *CUDA graph*, the whole step captured and replayed. With
--growth, how the cost grows with the batch and with the data, as a plot.
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
from by_hand import dataloader, graph, in_memory, loop
from hydra import compose, initialize
from matplotlib import pyplot
from omegaconf import DictConfig
from pytorch_lightning import Callback
from table import OUT, count, keep, markdown

from lenet_pl.training import build

OURS = ("plain", "fast")
DRAWN = (*OURS, "in memory")


class Stopwatch(Callback):
    """Seconds from the first training step of the epoch to the last, validation left out."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started


def ours(cfg: DictConfig) -> float:
    parts = build(cfg)
    stopwatch = Stopwatch()
    parts.trainer.callbacks.append(stopwatch)
    parts.trainer.fit(parts.classifier, parts.data)
    return stopwatch.seconds


def measure(words: list[str], rounds: int, loops: list[str]) -> tuple[dict[str, list[float]], int]:
    """Seconds of an epoch, loop by loop, and its images."""
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize(version_base="1.3", config_path="../conf"),
    ):
        fixed = ["trainer.max_epochs=1", f"run_dir={folder}", "callbacks=none", "logger=none"]
        cfgs = {name: compose("config", [f"classifier={name}", *words, *fixed]) for name in OURS}
        parts = build(cfgs["plain"])
        data, device = parts.data, parts.trainer.strategy.root_device
        calls: dict[str, Callable[[], float]] = {n: partial(ours, c) for n, c in cfgs.items()}
        calls["in memory"] = partial(loop, in_memory(data, device), device)
        if "DataLoader" in loops:
            calls["DataLoader"] = partial(loop, dataloader(cfgs["plain"], data, device), device)
        if device.type == "cuda":
            batches = in_memory(data, device)
            calls["CUDA graph"] = partial(graph, batches, data.batch_size, device)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(call())
    return times, len(data.splits["train"])


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> str:
    if theirs not in times:
        return ""
    pairs = zip(times[ours], times[theirs], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def epochs(options: argparse.Namespace) -> None:
    before = peak()
    rows = []
    loops = [*DRAWN, *(["DataLoader"] if options.data == "mnist" else [])]
    for size in options.batch_sizes:
        words = [f"data={options.data}", f"data.batch_size={size}", *options.overrides]
        times, images = measure(words, options.rounds, loops)
        for name, seconds in times.items():
            median = statistics.median(seconds)
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            ratios = [ratio(times, name, other) for other in ("in memory", "DataLoader")]
            rows.append([size, name, f"{median:.2f}", spread, f"{images / median:,.0f}", *ratios])
    head = ["batch", "loop", "seconds (median)", "from, to", "images/s"]
    head += ["/ in memory", "/ DataLoader"]
    note = (
        f"{options.rounds} rounds; memory {before:.0f} MiB after the imports, {peak():.0f} at most"
    )
    if torch.cuda.is_available():
        note += f", on the GPU {torch.cuda.max_memory_allocated() / 2**20:.0f}"
    keep("epoch", f"{markdown(head, rows)}\n{note}\n")


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(options: argparse.Namespace) -> None:
    """Microseconds per image against the batch, seconds of an epoch against the data."""
    sizes, fractions = [8, 16, 32, 64, 128, 256, 512, 1024], [0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
    grid = [(size, 0.2) for size in sizes] + [(128, fraction) for fraction in fractions]
    rows = []
    for size, fraction in grid:
        words = [f"data={options.data}", f"data.batch_size={size}", f"data.fraction={fraction}"]
        times, images = measure([*words, *options.overrides], options.rounds, list(DRAWN))
        costs = [1e6 * statistics.median(times[name]) / images for name in DRAWN]
        rows.append([size, images, *(round(cost) for cost in costs)])
    keep("growth", markdown(["batch", "images", *(f"{n}, µs per image" for n in DRAWN)], rows))
    draw(rows[: len(sizes)], rows[len(sizes) :], OUT / "growth.png")


def draw(by_size: list[list], by_images: list[list], path: Path) -> None:
    """Rows of batch size, images, and microseconds per image of each loop."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    sizes, ticks = [row[0] for row in by_size], [25, 50, 100, 200, 400]
    for column, name in enumerate(DRAWN, start=2):
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


def sizes(text: str) -> list[int]:
    """``32,128``, for argparse."""
    return [count(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--batch-sizes", default=[32, 128, 512], type=sizes)
    parser.add_argument("--data", default="mnist", choices=["mnist", "mini"])
    parser.add_argument("--growth", action="store_true", help="with batch and data, as a plot")
    parser.add_argument("overrides", nargs="*", help="of the configuration measured")
    options = parser.parse_args()
    growth(options) if options.growth else epochs(options)


if __name__ == "__main__":
    main()
