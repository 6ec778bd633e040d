"""What the benchmarks share: processes to time, tables of results and the machine measured on."""

import argparse
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

TRAIN = str(Path(__file__).parents[1] / "train.py")
OUTPUTS = Path("outputs/benchmarks")
IMPORTS = "import torch, pytorch_lightning"  # a baseline for the time of a command
PACKAGES = ("torch", "pytorch-lightning", "hydra-core")


def run_python(*arguments: str, threads: int | None = None) -> float:
    """Run Python in a separate process and exit with its output if it fails.

    Args:
        arguments: what follows ``python`` on the command line.
        threads: OpenMP threads of the process; None leaves the number to the environment.

    Returns:
        Seconds from start to exit, imports included.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds


def positive_int(text: str) -> int:
    """An argparse type for whole numbers above zero."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return number


def median_and_range(values: Sequence[float], spec: str = ".2f") -> list[str]:
    """Two table cells, such as ``5.31`` and ``5.05 to 6.22``; ``spec`` formats the numbers."""
    low, median, high = (f"{pick(values):{spec}}" for pick in (min, statistics.median, max))
    return [median, f"{low} to {high}"]


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def save(name: str, text: str, threads: int | None = None) -> None:
    """Print results with their command and machine, and write them to ``OUTPUTS/name.md``.

    Args:
        name: stem of the file.
        text: the results, as Markdown.
        threads: what each measured process ran with; by default, PyTorch's in this process.
    """
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    report = f"`{command}`\n\n{_machine(threads)}\n\n{text}"
    path = OUTPUTS / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    print(f"\n{report}\nsaved to {path}")


def _machine(threads: int | None) -> str:
    """Processor, accelerator, threads and versions on one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{_processor()}, {os.cpu_count()} cores{gpu}, {threads or torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
