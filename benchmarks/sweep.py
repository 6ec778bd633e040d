"""A sweep of nine short jobs: one after another, and in parallel with joblib.

    python benchmarks/sweep.py [--rounds 3] [--jobs 2] [--epochs 20]

The jobs train on the digits that ship with the package. Both sweeps are complete commands,
imports and summary included, run in turn in each round; the speed-up is the ratio within a round.
For the jobs that run one after another, the pause from the end of a job to the first training
step of the next is measured too.
"""

import argparse
import csv
import itertools
import re
import statistics
import tempfile
from datetime import datetime
from pathlib import Path

from common import TRAIN, markdown, median_and_range, positive_int, run_python, save

GRID = ["optimizer.lr=0.01,0.03,0.1", "data.batch_size=32,64,128"]


def pauses(folder: Path) -> list[float]:
    """Seconds from the end of each job to the first training step of the next."""
    jobs = sorted((path.parent for path in folder.glob("*/result.json")), key=lambda p: int(p.name))
    seconds = []
    for job, following in itertools.pairwise(jobs):
        first_epoch = next(at for at, text in log_lines(following) if re.match(r"epoch +1/", text))
        with (following / "metrics.csv").open(newline="") as file:
            started = first_epoch - float(next(csv.DictReader(file))["seconds"])
        seconds.append(started - log_lines(job)[-1][0])
    return seconds


def log_lines(job: Path) -> list[tuple[float, str]]:
    """Time stamp, in seconds, and text of each line that a job logged."""
    lines = re.findall(r"^(\d{4}-.{17}\d) INFO (.*)", (job / "train.log").read_text(), re.MULTILINE)
    return [(datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp(), text) for at, text in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--jobs", type=positive_int, default=2, help="jobs in parallel")
    parser.add_argument("--epochs", type=positive_int, default=20, help="epochs of each job")
    options = parser.parse_args()
    sweep = [TRAIN, "-m", "data=mini", *GRID, f"trainer.max_epochs={options.epochs}"]
    sweep.append("callbacks.early_stopping=null")
    joblib = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]

    serial, parallel, between = [], [], []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, many = Path(folder) / "serial", Path(folder) / "parallel"
            serial.append(run_python(*sweep, f"hydra.sweep.dir={one}"))
            parallel.append(run_python(*sweep, *joblib, f"hydra.sweep.dir={many}"))
            between += pauses(one)
        print(f"round {number + 1}: {serial[-1]:.1f} s, in parallel {parallel[-1]:.1f} s")
    rows = [
        ["one after another", *median_and_range(serial, ".1f")],
        [f"{options.jobs} in parallel", *median_and_range(parallel, ".1f")],
        ["pause between jobs", *median_and_range(between)],
    ]
    speed_up = statistics.median(a / b for a, b in zip(serial, parallel, strict=True))
    table = markdown(["", "seconds (median)", "range"], rows)
    save("sweep", f"{table}\n{speed_up:.2f} times as fast in parallel (median)\n")


if __name__ == "__main__":
    main()
