"""Test accuracy of a recipe, over seeds: mean, standard deviation and 95 % interval of the mean.

    python benchmarks/accuracy.py [--seeds 10] [--jobs 2] [experiment=best …]

Each seed is a run as ``python train.py`` makes it: the weights of the best epoch by validation
accuracy, tested once. Several run side by side with the threads divided among them; that changes
the time, not the accuracy. The interval is Student's, over runs that differ by seed alone: the
weights they begin with, the order of the images, their augmentation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy.stats import t
from table import count, keep, markdown

TRAIN = Path(__file__).parents[1] / "train.py"


def run(folder: Path, seed: int, words: list[str], threads: int) -> dict:
    """``result.json`` of a run."""
    command = [sys.executable, str(TRAIN), *words, f"seed={seed}", f"hydra.run.dir={folder}"]
    limits = {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    found = json.loads((folder / "result.json").read_text())
    metrics = found["metrics"]
    told = f"test {metrics['test/acc']:.2%}, validation {metrics['val/acc']:.2%}"
    print(f"seed {seed}: {told}", flush=True)
    return found


def runs(words: list[str], seeds: range, jobs: int, threads: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        calls = [pool.submit(run, Path(folder) / str(s), s, words, threads) for s in seeds]
        try:
            return [call.result() for call in calls]
        except RuntimeError as error:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(error))


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, sample standard deviation, and half of the mean's 95 % interval."""
    deviation = statistics.stdev(values)
    half = t.ppf(0.975, len(values) - 1) * deviation / len(values) ** 0.5
    return statistics.mean(values), deviation, half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--jobs", type=count, default=1, help="runs side by side")
    parser.add_argument("overrides", nargs="*", help="of the configuration measured")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds={options.seeds}: must be 2 or more, to tell how they differ")
    if "test=false" in options.overrides:
        parser.error("test=false: the test accuracy is what is measured")
    seeds = range(options.first, options.first + options.seeds)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    found = runs(options.overrides, seeds, options.jobs, threads)
    rows = []
    for name in ("test/acc", "val/acc"):
        values = [one["metrics"][name] for one in found]
        mean, deviation, half = mean_and_interval(values)
        interval = f"{mean - half:.3%} to {mean + half:.3%}"
        spread = f"{min(values):.2%} to {max(values):.2%}"
        rows.append([name, len(values), f"{mean:.3%}", f"{deviation:.3%}", interval, spread])
    head = ["", "seeds", "mean", "standard deviation", "95 % interval of the mean", "from, to"]
    epochs = statistics.mean(one["epochs"] for one in found)
    seconds = statistics.median(one["seconds"]["fit"] for one in found)
    device = found[0]["device"]
    note = (
        f"{epochs:g} epochs, {seconds:.0f} s a run (median) on {device}, {options.jobs} at once\n"
    )
    name = "_".join(["accuracy", *options.overrides]).replace("=", "-").replace("/", "-")
    keep(name, f"{markdown(head, rows)}\n{note}", threads)


if __name__ == "__main__":
    main()
