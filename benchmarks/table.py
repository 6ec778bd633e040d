"""Tables of figures, printed and kept, with what they were measured on and by."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

OUT = Path("outputs/benchmarks")
PACKAGES = ("torch", "pytorch-lightning", "hydra-core")


def machine(threads: int | None = None) -> str:
    """Processor and accelerator, threads, and versions, in a line."""
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


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 on")
    return number


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def keep(name: str, text: str, threads: int | None = None) -> None:
    """Print a table with its command and machine, and write it to ``OUT``."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    whole = f"`{command}`\n\n{machine(threads)}\n\n{text}"
    print(f"\n{whole}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.md").write_text(whole)
    print(f"kept in {OUT / name}.md")
