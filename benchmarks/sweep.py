"""Nine short jobs on the shipped digits: one after another, and side by side with joblib.

    python benchmarks/sweep.py [--rounds 3] [--jobs 2] [--epochs 20]

Whole commands are timed, imports and the summary included, in turn, round by round; a ratio is
that of one round's times. Then, of the jobs one after another, the seconds between the end of
one and the first training step of the next.
"""

import argparse
import csv
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
GRID = ["optimizer.lr=0.01,0.03,0.1", "data.batch_size=32,64,128"]


def sweep(folder: Path, *words: str) -> float:
    command = [sys.executable, str(TRAIN), "-m", "data=mini", *GRID, f"hydra.sweep.dir={folder}"]
    started = time.perf_counter()
    subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def pauses(folder: Path) -> list[float]:
    """Seconds from the end of each job to the first training step of the next."""
    jobs = sorted((path.parent for path in folder.glob("*/result.json")), key=lambda p: int(p.name))
    found = []
    for before, after in itertools.pairwise(jobs):
        first_epoch = next(t for t, text in messages(after) if re.match(r"epoch +1/", text))
        with (after / "metrics.csv").open(newline="") as file:
            began = first_epoch - float(next(csv.DictReader(file))["seconds"])
        found.append(began - messages(before)[-1][0])
    return found


def messages(job: Path) -> list[tuple[float, str]]:
    """The seconds and texts in a job's log."""
    lines = re.findall(r"^(\d{4}-.{17}\d) INFO (.*)", (job / "train.log").read_text(), re.MULTILINE)
    return [(datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp(), text) for at, text in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="side by side")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    words = [f"trainer.max_epochs={options.epochs}", "callbacks.early_stopping=null"]
    parallel = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]
    ratios, waits = [], []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one = sweep(Path(folder) / "one", *words)
            waits += pauses(Path(folder) / "one")
            many = sweep(Path(folder) / "many", *words, *parallel)
        ratios.append(one / many)
        print(f"round {number + 1}: {one:.1f} s, {many:.1f} s, {ratios[-1]:.2f} times as fast")
    print(f"{os.cpu_count()} cores, median of {options.rounds}: {statistics.median(ratios):.2f}")
    print(f"between jobs: {statistics.median(waits):.2f} s, {max(waits):.2f} s at most")


if __name__ == "__main__":
    main()
