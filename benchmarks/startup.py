"""Time from the command to its first training step, against importing torch and Lightning.

    python benchmarks/startup.py [--rounds 7] [overrides …]

Both are complete processes, run in turn in each round. Printed are the median of each, and the
median of the differences within a round.
"""

import argparse
import tempfile
from pathlib import Path

from common import IMPORTS, TRAIN, markdown, median_and_range, positive_int, run_python, save

# runs a script up to the end of its first optimizer step
FIRST_STEP = """
import os, runpy, sys
import torch

def hook(step):
    def only_step(*args, **kwargs):
        step(*args, **kwargs)
        os._exit(0)
    return only_step

torch.optim.Optimizer.profile_hook_step = staticmethod(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=7)
    parser.add_argument("overrides", nargs="*", help="configuration overrides of the run")
    options = parser.parse_args()
    imports, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            run_dir = f"hydra.run.dir={Path(folder) / str(number)}"
            seconds = (
                run_python("-c", IMPORTS),
                run_python("-c", FIRST_STEP, TRAIN, *options.overrides, run_dir),
            )
            if number:  # the first round fills the disk cache and is not counted
                imports.append(seconds[0])
                steps.append(seconds[1])
    differences = [step - alone for alone, step in zip(imports, steps, strict=True)]
    rows = [
        [IMPORTS, *median_and_range(imports)],
        ["first step", *median_and_range(steps)],
        ["difference", *median_and_range(differences)],
    ]
    save("startup", markdown(["", "seconds (median)", "range"], rows))


if __name__ == "__main__":
    main()
