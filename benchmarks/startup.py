"""From the command to its first training step, against importing torch and Lightning alone.

    python benchmarks/startup.py [--rounds 7] [overrides …]

Whole processes in turn, round by round. What is printed is the median of each, and of the
difference within a round.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import count, keep, markdown

ROOT = Path(__file__).parents[1]
IMPORTS = "import torch, pytorch_lightning"
# train.py up to the end of its first optimizer step
FIRST_STEP = """
import os, runpy, sys
import torch

def hook(step):
    def last(*args, **kwargs):
        step(*args, **kwargs)
        os._exit(0)
    return last

torch.optim.Optimizer.profile_hook_step = staticmethod(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def seconds(*command: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("overrides", nargs="*", help="of the configuration measured")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"import torch, pytorch_lightning": [], "first step": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):  # the first fills the disk's cache
            run = f"hydra.run.dir={Path(folder) / str(number)}"
            alone = seconds("-c", IMPORTS)
            step = seconds("-c", FIRST_STEP, str(ROOT / "train.py"), *options.overrides, run)
            if number:
                for kept, value in zip(times.values(), (alone, step), strict=True):
                    kept.append(value)
    imports, steps = times.values()
    times["difference"] = [b - a for a, b in zip(imports, steps, strict=True)]
    rows = [
        [name, f"{statistics.median(s):.2f}", f"{min(s):.2f} to {max(s):.2f}"]
        for name, s in times.items()
    ]
    keep("startup", markdown(["", "seconds (median)", "from, to"], rows))


if __name__ == "__main__":
    main()
