"""Successive halving compared with the full grid, one job after another and with joblib.

    python benchmarks/sweep.py [--rounds 3] [--epochs 20] [--jobs 2] [--short 5] [--data data]
    python benchmarks/sweep.py --only full,halving --rounds 1 --folder outputs/sweep_rounds

Nine jobs train on MNIST, with the default early stopping. In each round, five complete commands run
in turn, imports and summary included. Each round has its own seed, and ratios are computed within a
round. A round takes 20 minutes or more, so it can be measured in parts: a sweep whose result is in
``--folder`` is not run again. The winners are compared by McNemar's test on the validation images,
with the weights of their best epochs.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import TRAIN, markdown, median_and_range, positive_int, run_python, save

from lenet_pl.metrics import mcnemar

GRID = ["optimizer.lr=0.001,0.01,0.1", "data.batch_size=32,64,128"]
PARTS = ("full", "halving", "halving-joblib", "short", "short-joblib")
PAIRS = [("halving", "full"), ("halving-joblib", "full"), ("short-joblib", "short")]
RESULT = "benchmark.json"  # in the folder of a sweep: its arguments and run time


@dataclass(frozen=True)
class Sweep:
    """A measured sweep."""

    folder: Path
    seconds: float

    @property
    def epochs(self) -> int:
        """The epochs trained by all jobs."""
        return sum(job["epochs"] or 0 for job in self.summary["jobs"])

    @property
    def winner(self) -> dict[str, Any]:
        """The best job, as in ``sweep.json``."""
        [name] = self.summary["winner"]["jobs"]
        return next(job for job in self.summary["jobs"] if job["job"] == name)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        return cast("dict[str, Any]", json.loads((self.folder / "sweep.json").read_text()))

    def predictions(self) -> dict[str, np.ndarray]:
        """The winner's predictions for the validation images."""
        with np.load(self.folder / self.winner["job"] / "val_predictions.npz") as file:
            return dict(file)


def overrides(part: str, options: argparse.Namespace, seed: int) -> list[str]:
    """The command line of a sweep, without its folder."""
    epochs = options.short if "short" in part else options.epochs
    arguments = [*(options.overrides or GRID), "classifier=fast", f"seed={seed}", "test=false"]
    arguments.append(f"trainer.max_epochs={epochs}")
    if options.data == "mini":
        arguments.append("data=mini")
    else:
        arguments.append(f"data.root={Path(options.data).absolute()}")
    if "halving" in part:
        arguments.append("hydra/sweeper=halving")
    if "joblib" in part:
        arguments += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]
    return arguments


def measure(folder: Path, arguments: Sequence[str]) -> Sweep:
    """Run a sweep and time it, unless the folder has a result of the same command."""
    record = folder / RESULT
    if record.exists():
        known = json.loads(record.read_text())
        if known["arguments"] == list(arguments):
            return Sweep(folder, known["seconds"])
    shutil.rmtree(folder, ignore_errors=True)  # of another command, or interrupted
    seconds = run_python(TRAIN, "-m", *arguments, f"hydra.sweep.dir={folder}")
    record.write_text(json.dumps({"arguments": list(arguments), "seconds": seconds}))
    return Sweep(folder, seconds)


def p_value(a: Sweep, b: Sweep) -> float:
    """The p-value of McNemar's test between the winners of two sweeps."""
    first, second = a.predictions(), b.predictions()
    if not np.array_equal(first["index"], second["index"]):
        raise SystemExit(f"{a.folder}, {b.folder}: different validation images")
    correct = (torch.from_numpy(x["prediction"] == x["label"]) for x in (first, second))
    return mcnemar(*correct)


def times(rounds: Sequence[dict[str, Sweep]]) -> list[list[object]]:
    """A row for each sweep: its run time in seconds and its epochs."""
    return [
        [
            part,
            *median_and_range([sweeps[part].seconds for sweeps in rounds], ".0f"),
            *median_and_range([sweeps[part].epochs for sweeps in rounds], ".0f"),
        ]
        for part in rounds[0]
    ]


def ratios(rounds: Sequence[dict[str, Sweep]]) -> list[list[object]]:
    """A row for each pair of measured sweeps: the ratio of their run times."""
    return [
        [f"{a} / {b}", *median_and_range([x[a].seconds / x[b].seconds for x in rounds])]
        for a, b in PAIRS
        if {a, b} <= rounds[0].keys()
    ]


def winners(rounds: Sequence[dict[str, Sweep]]) -> list[list[object]]:
    """A row for each round: the winners of both strategies, and McNemar's test."""
    rows = []
    for number, sweeps in enumerate(rounds):
        full, halving = sweeps["full"], sweeps["halving"]
        p = p_value(full, halving)
        outcome = "yes" if p < 0.05 else "no"
        rows.append([number, *map(describe, (full, halving)), f"{p:.2f}", outcome])
    return rows


def describe(sweep: Sweep) -> str:
    """The winner's settings and validation accuracy."""
    values = ", ".join(f"{key.rpartition('.')[2]} {x}" for key, x in sweep.winner["varied"].items())
    return f"{values}: {sweep.winner['val/acc']:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--epochs", type=positive_int, default=20, help="epochs of each job")
    parser.add_argument("--short", type=positive_int, default=5, help="epochs of the short sweeps")
    parser.add_argument("--jobs", type=positive_int, default=2, help="jobs in parallel")
    parser.add_argument("--data", default="data", help="data root of MNIST, or mini")
    parser.add_argument("--only", default=",".join(PARTS), help=f"any of {','.join(PARTS)}")
    parser.add_argument("--folder", type=Path, help="keep sweeps here, and reuse earlier ones")
    parser.add_argument("overrides", nargs="*", help=f"the grid; default: {' '.join(GRID)}")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only={','.join(unknown)}: choose from {', '.join(PARTS)}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        rounds = []
        for seed in range(options.rounds):
            sweeps = {
                x: measure(folder / f"{x}-{seed}", overrides(x, options, seed)) for x in parts
            }
            rounds.append(sweeps)
            print(f"round {seed}:", {part: round(sweep.seconds) for part, sweep in sweeps.items()})
        text = markdown(["sweep", "seconds", "range", "epochs", "range"], times(rounds))
        if rows := ratios(rounds):
            text += "\n" + markdown(["seconds in a round", "median", "range"], rows)
        if {"full", "halving"} <= {*parts}:
            header = ["seed", "winner of full", "winner of halving", "McNemar's p", "different"]
            text += "\n" + markdown(header, winners(rounds))
        save("sweep", f"{text}\n{options.rounds} rounds; seconds and epochs are medians\n")


if __name__ == "__main__":
    main()
