"""Test accuracy of a recipe over several seeds: mean, standard deviation and 95 % interval.

    python benchmarks/accuracy.py [--seeds 10] [--jobs 2] [experiment=best …]

Each seed is one run of ``train.py``: the weights of the epoch with the best validation accuracy,
tested once. Runs that differ only in their seed differ in initial weights, image order and
augmentation. With ``--jobs`` they run side by side and divide the threads among them, which
changes the time but not the accuracy. The interval is Student's, for the mean.
"""

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import TRAIN, markdown, positive_int, run_python, save
from scipy.stats import t


def run_seeds(overrides: list[str], seeds: range, jobs: int, threads: int) -> list[dict[str, Any]]:
    """Train once per seed and return the ``result.json`` of each run."""

    def run(seed: int) -> dict[str, Any]:
        path = Path(folder) / str(seed)
        arguments = [*overrides, f"seed={seed}", f"hydra.run.dir={path}"]
        run_python(TRAIN, *arguments, threads=threads)
        result = json.loads((path / "result.json").read_text())
        test, val = (result["metrics"][f"{split}/acc"] for split in ("test", "val"))
        print(f"seed {seed}: test {test:.2%}, validation {val:.2%}", flush=True)
        return result

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, seeds))


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, sample standard deviation and half the width of the mean's 95 % interval."""
    deviation = statistics.stdev(values)
    half_width = t.ppf(0.975, len(values) - 1) * deviation / len(values) ** 0.5
    return statistics.mean(values), deviation, half_width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=positive_int, default=1, help="runs side by side")
    parser.add_argument("overrides", nargs="*", help="configuration overrides of all runs")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds={options.seeds}: must be at least 2 to give a standard deviation")
    if "test=false" in options.overrides:
        parser.error("test=false: this benchmark measures the test accuracy")

    seeds = range(options.first, options.first + options.seeds)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    results = run_seeds(options.overrides, seeds, options.jobs, threads)

    rows = []
    for name in ("test/acc", "val/acc"):
        values = [result["metrics"][name] for result in results]
        mean, deviation, half = mean_and_interval(values)
        interval = f"{mean - half:.3%} to {mean + half:.3%}"
        spread = f"{min(values):.2%} to {max(values):.2%}"
        rows.append([name, len(values), f"{mean:.3%}", f"{deviation:.3%}", interval, spread])
    header = ["", "seeds", "mean", "standard deviation", "95 % interval of the mean", "range"]
    epochs = statistics.mean(result["epochs"] for result in results)
    seconds = statistics.median(result["seconds"]["fit"] for result in results)
    note = (
        f"{epochs:g} epochs, {seconds:.0f} s per run (median) on {results[0]['device']}, "
        f"{options.jobs} at a time\n"
    )
    name = "_".join(["accuracy", *options.overrides]).replace("=", "-").replace("/", "-")
    save(name, f"{markdown(header, rows)}\n{note}", threads)


if __name__ == "__main__":
    main()
