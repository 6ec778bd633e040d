"""Inference speed: evaluation against hand-written loops, and the exported formats.

    python benchmarks/inference.py RUN [--rounds 7] [--threads 1]

RUN is a run folder, a checkpoint in it, or latest. Everything runs in one process on the same
number of threads, in turn in each round; speeds are ratios within a round, summarised by the
median. The first table has the logits of all test images, computed as ``lenet-pl test`` does and
by bare PyTorch loops over large batches. The others have probabilities from plain pixels, one
batch per call, from PyTorch and from the two exported formats that programs can load.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from common import markdown, median_and_range, positive_int, save
from torch import Tensor, nn

from lenet_pl.evaluation.evaluate import predict
from lenet_pl.export.export import export
from lenet_pl.runs import Run, open_run

Call = Callable[[], object]
Times = dict[str, list[float]]  # seconds of a call in each round, by name


def measure(calls: dict[str, Call], rounds: int) -> Times:
    """Time each call once per round, after one round that is not counted."""
    times: Times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def table(times: Times, images: int, repeats: int = 1) -> str:
    """Milliseconds per call and the speed relative to the first row, as Markdown.

    Args:
        times: seconds of each row.
        images: how many a call takes.
        repeats: calls that were timed together.
    """
    first = next(iter(times.values()))
    rows = []
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        milliseconds = [1e3 * value / repeats for value in seconds]
        median = statistics.median(milliseconds)
        cells = median_and_range(milliseconds, ",.0f" if median > 20 else ",.2f")
        rows.append([name, *cells, f"{1e3 * images / median:,.0f}", f"{ratio:.2f}"])
    return markdown(["", "ms (median)", "range", "images/s", "speed / first row"], rows)


def logits(network: nn.Module, images: Tensor, mean: float, std: float, size: int) -> Tensor:
    """A hand-written loop over batches of standardised images."""
    with torch.inference_mode():
        return torch.cat([network((x.float() / 255 - mean) / std) for x in images.split(size)])


def compare_loops(run: Run, images: Tensor, rounds: int) -> str:
    """``lenet-pl test`` against bare loops, with weights in torch's memory format and its own."""
    network = run.network()
    mean, std = float(network.mean), float(network.std)
    contiguous = run.network().net.to(memory_format=torch.contiguous_format)
    loops: dict[str, Call] = {
        f"bare loop{layout}, batches of {size:,}": partial(logits, net, images, mean, std, size)
        for net, layout in ((contiguous, ""), (network.net, " in channels_last"))
        for size in (500, 1000, 10_000)
    }
    evaluation = f"lenet-pl test, batches of {run.config.data.eval_batch_size:,}"
    times = measure({evaluation: partial(predict, run, network, images), **loops}, rounds)
    fastest, *rest = sorted(loops, key=lambda name: statistics.median(times[name]))
    ordered = {name: times[name] for name in (fastest, evaluation, *rest)}
    return f"{len(images):,} test images\n\n{table(ordered, len(images))}"


def compare_formats(run: Run, images: Tensor, size: int, rounds: int) -> str:
    """PyTorch, torch.export and ONNX Runtime on batches of one size."""
    batch, repeats = images[:size].clone(), max(1, 500 // size)
    network = run.network()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        onnx, torch_export = Path(folder) / "model.onnx", Path(folder) / "model.pt2"
        export(run, "onnx", onnx)
        export(run, "torch", torch_export)
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        program = torch.export.load(torch_export).module()

    def repeated(call: Callable[[Tensor], object]) -> Call:
        def calls() -> None:
            with torch.inference_mode():
                for _ in range(repeats):
                    call(batch)

        return calls

    calls = {
        "PyTorch": repeated(lambda x: network(x).softmax(1)),
        "torch.export": repeated(program),
        "ONNX Runtime": repeated(lambda x: session.run(None, {"images": x.numpy()})),
    }
    return f"batches of {size:,}\n\n{table(measure(calls, rounds), size, repeats)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--rounds", type=positive_int, default=7)
    parser.add_argument("--threads", type=positive_int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = open_run(options.run)
    images = run.data().splits["test"].images
    tables = [
        compare_loops(run, images, options.rounds),
        *(compare_formats(run, images, size, options.rounds) for size in (1, 1000)),
    ]
    note = f"{options.rounds} rounds, onnxruntime {onnxruntime.__version__}"
    save("inference", "\n".join([*tables, f"{note}\n"]))


if __name__ == "__main__":
    main()
