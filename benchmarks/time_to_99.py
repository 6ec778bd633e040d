"""How long a whole command takes to a test accuracy of 99 %, imports and all.

    python benchmarks/time_to_99.py [--seeds 10] [overrides of experiment=fast …]

Each seed is a command of its own, one after another with all threads. Three clocks: the command
from start to end; the training (``seconds.fit`` in ``result.json``: steps, validation,
checkpoints); the epochs alone. An accuracy below the mark is counted, not left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import count, keep, markdown

TRAIN = Path(__file__).parents[1] / "train.py"
MARK = 0.99
RECIPE = "experiment=fast"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=count, default=10)
    parser.add_argument("overrides", nargs="*", help="of experiment=fast, or another experiment")
    options = parser.parse_args()
    recipe = [] if any(w.startswith("experiment=") for w in options.overrides) else [RECIPE]
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            place = Path(folder) / str(seed)
            words = [*recipe, *options.overrides, f"seed={seed}", f"hydra.run.dir={place}"]
            started = time.perf_counter()
            command = [sys.executable, str(TRAIN), *words]
            done = subprocess.run(command, stdout=subprocess.DEVNULL)
            if done.returncode:
                sys.exit(done.returncode)
            whole = time.perf_counter() - started
            found.append(json.loads((place / "result.json").read_text()) | {"whole": whole})
            accuracy = found[-1]["metrics"]["test/acc"]
            print(f"seed {seed}: {accuracy:.2%} after {whole:.1f} s")
    clocks = {
        "whole command": [one["whole"] for one in found],
        "training": [one["seconds"]["fit"] for one in found],
        "epochs": [one["epochs"] * one["seconds"]["epoch_median"] for one in found],
    }
    rows = [
        [name, f"{statistics.median(s):.1f}", f"{min(s):.1f} to {max(s):.1f}"]
        for name, s in clocks.items()
    ]
    accuracies = [one["metrics"]["test/acc"] for one in found]
    reached = sum(accuracy >= MARK for accuracy in accuracies)
    note = (
        f"test accuracy {statistics.mean(accuracies):.3%} on average of {len(found)} seeds, from "
        f"{min(accuracies):.2%} to {max(accuracies):.2%}; {reached} of them reach {MARK:.0%}\n"
    )
    keep("time_to_99", f"{markdown(['', 'seconds (median)', 'from, to'], rows)}\n{note}")


if __name__ == "__main__":
    main()
