"""One training epoch: this project against two loops written by hand.

    python benchmarks/epoch.py [--rounds 5] [--batch-sizes 32 128] [--data mnist|mini]

All in one process and in turn, round by round; a ratio is that of one round's times, and what is
printed is the median. The loops: *in memory*, over the same uint8 tensors, contiguous and with
plain SGD; *DataLoader*, torchvision's MNIST with ToTensor, as most examples have it.
"""

import argparse
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hydra import compose, initialize
from omegaconf import DictConfig
from pytorch_lightning import Callback
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from lenet_pl.build import build
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.split import stratified
from lenet_pl.models.lenet import LeNet


class Stopwatch(Callback):
    """Seconds from the first training step of the epoch to the last, validation left out."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.started


def ours(cfg: DictConfig) -> float:
    parts = build(cfg)
    stopwatch = Stopwatch()
    parts.trainer.callbacks.append(stopwatch)
    parts.trainer.fit(parts.classifier, parts.data)
    return stopwatch.seconds


def loop(batches: Callable, device: torch.device) -> float:
    net = LeNet().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    started = time.perf_counter()
    for images, labels in batches():
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_memory(data: DigitsDataModule, device: torch.device) -> float:
    images, labels = (part.to(device) for part in vars(data.splits["train"]).values())

    def batches():
        for index in torch.randperm(len(labels), device=device).split(data.batch_size):
            yield (images[index].float() / 255 - data.mean) / data.std, labels[index]

    return loop(batches, device)


def dataloader(cfg: DictConfig, data: DigitsDataModule, device: torch.device) -> float:
    official = MNIST(cfg.data.root, transform=ToTensor())
    train, _ = stratified(official.targets, [cfg.data.val_size], cfg.data.split_seed)
    subset = Subset(official, train.tolist())

    def batches():
        for images, labels in DataLoader(subset, data.batch_size, shuffle=True):
            yield images.to(device), labels.to(device)

    return loop(batches, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--data", default="mnist", choices=["mnist", "mini"])
    parser.add_argument("overrides", nargs="*", help="of the configuration measured")
    options = parser.parse_args()
    rows = []
    for batch_size in options.batch_sizes:
        times: dict[str, list[float]] = {"ours": [], "in memory": [], "DataLoader": []}
        with tempfile.TemporaryDirectory() as folder:
            with initialize(version_base="1.3", config_path="../conf"):
                overrides = [f"data={options.data}", f"data.batch_size={batch_size}"]
                fixed = ["trainer.max_epochs=1", f"run_dir={folder}"]
                cfg = compose("config", [*overrides, *fixed, *options.overrides])
            parts = build(cfg)
            data, device = parts.data, parts.trainer.strategy.root_device
            for _ in range(options.rounds):
                times["ours"].append(ours(cfg))
                times["in memory"].append(in_memory(data, device))
                if options.data == "mnist":
                    times["DataLoader"].append(dataloader(cfg, data, device))
        for name, seconds in times.items():
            if not seconds:
                continue
            ratio = statistics.median(a / b for a, b in zip(times["ours"], seconds, strict=True))
            median = statistics.median(seconds)
            rate = len(data.splits["train"]) / median
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            rows.append(
                f"| {batch_size} | {name} | {median:.2f} | {spread} | {rate:,.0f} | {ratio:.2f} |"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{platform.machine()}, {device.type}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, {options.rounds} rounds, peak memory {peak:.0f} MiB\n")
    print("| batch | loop | seconds (median) | from, to | images/s | ours / this |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
