"""``lenet-pl sweep DIR``: summarise a sweep, even while its jobs are running."""

import argparse
import json
from pathlib import Path

from lenet_pl.console import console
from lenet_pl.errors import ConfigError
from lenet_pl.files import display_path
from lenet_pl.records import hydra_mode
from lenet_pl.runs import program_name
from lenet_pl.sweeps.results import Sweep, job_folders
from lenet_pl.sweeps.summary import Summary


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl sweep``."""
    parser.add_argument("folder", help="a sweep's folder, or latest")
    parser.add_argument("--json", action="store_true", help="print sweep.json instead of a table")


def sweep(options: argparse.Namespace) -> int:
    """Summarise the jobs so far, without testing any; return 1 if a job failed, 0 otherwise."""
    folder = Path(options.folder)
    if options.folder == "latest":
        sweeps = sorted(Path("outputs/sweeps").glob("*/*/multirun.yaml"))
        if not sweeps:
            raise ConfigError("latest: outputs/sweeps holds no sweep")
        folder = sweeps[-1].parent
    jobs = job_folders(folder)
    if any(hydra_mode(job) == "RUN" for job in jobs):
        raise ConfigError(f"{folder}: holds single runs, not the jobs of a sweep")
    summary = Summary(Sweep(display_path(folder)))
    summary.write_files()
    if options.json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        console.print(summary.text(program_name()), soft_wrap=True)
    return int(summary.sweep.counts["failed"] > 0)
