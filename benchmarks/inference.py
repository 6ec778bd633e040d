"""Inference: the evaluation of this project, and the formats it exports, side by side.

    python benchmarks/inference.py RUN [--rounds 7] [--threads 1]

RUN is a run folder, a checkpoint in it, or latest. Everything in one process and in turn, round by
round, with the same number of threads; a ratio is that of one round's times, and what is printed
is the median. First table: the logits of all test images, as ``lenet-pl test`` computes them,
against a bare PyTorch loop over large batches of the same images. Second: probabilities of plain
pixels, a batch at a time, by PyTorch and by the two formats that programs load.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet_pl.export.export import FILES, Probabilities, export, load_onnx, load_torch
from lenet_pl.metrics import predict_logits
from lenet_pl.runs import Run, open_run

Call = Callable[[], object]


def rounds(calls: dict[str, Call], count: int) -> dict[str, list[float]]:
    """Seconds of each call, round by round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(count + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def bare(network: nn.Module, images: Tensor, mean: float, std: float, size: int) -> Tensor:
    """What one would write by hand."""
    with torch.inference_mode():
        return torch.cat([network((x.float() / 255 - mean) / std) for x in images.split(size)])


def table(times: dict[str, list[float]], images: int, calls: int = 1) -> None:
    """Print median and spread in milliseconds per call, and the ratio to the first."""
    first = next(iter(times.values()))
    print("| | ms (median) | from, to | images/s | speed / first |")
    print("|---|---|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        low, median, high = (1e3 * pick(seconds) / calls for pick in (min, statistics.median, max))
        rate = 1e3 * images / median
        digits = 0 if median > 20 else 2
        spread = f"{low:,.{digits}f} to {high:,.{digits}f}"
        print(f"| {name} | {median:,.{digits}f} | {spread} | {rate:,.0f} | {ratio:.2f} |")
    print()


def evaluation(run: Run, images: Tensor, eval_batch: int, count: int) -> None:
    """The evaluation path against loops over the network as built, and as lenet-pl lays it out."""
    network = run.network()
    mean, std = float(network.mean), float(network.std)
    plain = run.network().net.to(memory_format=torch.contiguous_format)
    ours = f"lenet-pl test, batches of {eval_batch:,}"
    bares: dict[str, Call] = {
        f"bare loop{order}, batches of {size:,}": partial(bare, net, images, mean, std, size)
        for net, order in ((plain, ""), (network.net, " in channels_last"))
        for size in (500, 1000, 10_000)
    }
    times = rounds({ours: partial(predict_logits, network, images, eval_batch), **bares}, count)
    by_speed = sorted(bares, key=lambda name: statistics.median(times[name]))
    print(f"{len(images):,} test images, first the fastest of the bare loops\n")
    table({name: times[name] for name in (by_speed[0], ours, *by_speed[1:])}, len(images))


def formats(run: Run, images: Tensor, size: int, count: int) -> None:
    """Side by side at one batch size; a round is as many calls as take a while."""
    batch, repeats = images[:size].clone(), max(1, 500 // size)
    eager = Probabilities(run.network()).eval()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / FILES[name] for name in ("onnx", "torch")}
        for name, file in files.items():
            export(run, name, file)
        named = {
            "PyTorch": eager,
            "torch.export": load_torch(files["torch"].read_bytes())[1],
            "ONNX Runtime": load_onnx(files["onnx"].read_bytes())[1],
        }

    def repeated(network: Callable[[Tensor], Tensor]) -> Call:
        def call() -> None:
            with torch.inference_mode():
                for _ in range(repeats):
                    network(batch)

        return call

    calls = {name: repeated(network) for name, network in named.items()}
    print(f"batch of {size:,}\n")
    table(rounds(calls, count), size, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import onnxruntime  # after the threads are set

    run = open_run(options.run)
    data = run.data()
    images = data.splits["test"].images
    print(f"{platform.machine()}, cpu, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, ", end="")
    print(f"{options.rounds} rounds, {run.config.model._target_.rpartition('.')[2]}\n")
    evaluation(run, images, data.eval_batch_size, options.rounds)
    for size in (1, 1000):
        formats(run, images, size, options.rounds)


if __name__ == "__main__":
    main()
