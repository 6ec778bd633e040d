"""Time that a complete command takes to reach 99 % test accuracy, imports included.

    python benchmarks/time_to_99.py [--seeds 10] [overrides of experiment=fast …]

Each seed is one run of ``train.py``, one after another on all threads. Three times are taken: the
whole command, also relative to merely importing torch and Lightning just before it; training
(``seconds.fit`` in ``result.json``: steps, validation and checkpoints); and the epochs alone. A run
that misses 99 % still counts; the last line says how many reach it.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import IMPORTS, TRAIN, markdown, median_and_range, positive_int, run_python, save

TARGET = 0.99
RECIPE = "experiment=fast"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=positive_int, default=10, help="number of runs")
    parser.add_argument("overrides", nargs="*", help=f"of {RECIPE}, or of another experiment")
    options = parser.parse_args()
    overrides = list(options.overrides)
    if not any(override.startswith("experiment=") for override in overrides):
        overrides.insert(0, RECIPE)

    imports: list[float] = []  # seconds each
    commands: list[float] = []
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            path = Path(folder) / str(seed)
            imports.append(run_python("-c", IMPORTS))
            commands.append(run_python(TRAIN, *overrides, f"seed={seed}", f"hydra.run.dir={path}"))
            results.append(json.loads((path / "result.json").read_text()))
            accuracy = results[-1]["metrics"]["test/acc"]
            print(f"seed {seed}: {accuracy:.2%} after {commands[-1]:.1f} s")

    times = {
        IMPORTS: imports,
        "whole command": commands,
        "training": [result["seconds"]["fit"] for result in results],
        "epochs": [result["epochs"] * result["seconds"]["epoch_median"] for result in results],
    }
    rows = [[name, *median_and_range(seconds, ".1f")] for name, seconds in times.items()]
    ratios = [command / alone for command, alone in zip(commands, imports, strict=True)]
    rows.append(["whole command / imports", *median_and_range(ratios)])
    accuracies = [result["metrics"]["test/acc"] for result in results]
    reached = sum(accuracy >= TARGET for accuracy in accuracies)
    note = (
        f"mean test accuracy {statistics.mean(accuracies):.3%}, "
        f"{min(accuracies):.2%} to {max(accuracies):.2%}; "
        f"{reached} of {len(results)} runs reach {TARGET:.0%}\n"
    )
    save("time_to_99", f"{markdown(['', 'seconds (median)', 'range'], rows)}\n{note}")


if __name__ == "__main__":
    main()
