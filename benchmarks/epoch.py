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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra import compose, initialize
from matplotlib import pyplot
from omegaconf import DictConfig
from pytorch_lightning import Callback
from table import OUT, count, keep, markdown
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from lenet_pl.build import build
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.split import stratified
from lenet_pl.models.lenet import LeNet

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
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


def by_hand(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = LeNet()
    net.conv3 = nn.Conv2d(16, 120, kernel_size=5)  # ours trains as a matrix product
    net = net.to(device)
    return net, torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)


def loop(batches: Batches, device: torch.device) -> float:
    net, optimizer = by_hand(device)
    started = time.perf_counter()
    for images, labels in batches():
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def graph(batches: Batches, size: int, device: torch.device) -> float:
    """The whole step as a CUDA graph; the last batch, if it is smaller, is left out."""
    net, optimizer = by_hand(device)
    images = torch.zeros(size, 1, 28, 28, device=device)
    labels = torch.zeros(size, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(captured):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for some, theirs in batches():
        if len(theirs) == size:
            images.copy_(some)
            labels.copy_(theirs)
            captured.replay()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def in_memory(data: DigitsDataModule, device: torch.device) -> Batches:
    images, labels = (part.to(device) for part in vars(data.splits["train"]).values())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(labels), device=device).split(data.batch_size):
            yield (images[index].float() / 255 - data.mean) / data.std, labels[index]

    return batches


def dataloader(cfg: DictConfig, data: DigitsDataModule, device: torch.device) -> Batches:
    official = MNIST(cfg.data.root, transform=ToTensor())
    train, _ = stratified(official.targets, [cfg.data.val_size], cfg.data.split_seed)
    subset = Subset(official, train.tolist())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in DataLoader(subset, data.batch_size, shuffle=True):
            yield images.to(device), labels.to(device)

    return batches


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
