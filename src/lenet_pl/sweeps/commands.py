"""``lenet-pl sweep DIR``: the table of a sweep, also while its jobs still run."""

import argparse
import json
from pathlib import Path

from lenet_pl.console import console
from lenet_pl.errors import ConfigError
from lenet_pl.files import display_path
from lenet_pl.runs import hydra_mode
from lenet_pl.sweeps.files import as_dict, write
from lenet_pl.sweeps.results import job_folders, read_sweep
from lenet_pl.sweeps.tables import table


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a sweep's folder, or latest")
    parser.add_argument("--json", action="store_true", help="print sweep.json instead of a table")


def sweep(options: argparse.Namespace) -> int:
    """Sum up what is there; the test set is not looked at.

    Returns:
        1 if a job failed, 0 otherwise.
    """
    folder = _find(options.folder)
    if any(hydra_mode(job) == "RUN" for job in job_folders(folder)):
        raise ConfigError(f"{folder}: holds single runs, not the jobs of a sweep")
    sweep = read_sweep(display_path(folder))
    try:
        write(sweep)
        from lenet_pl.sweeps.plots import save_picture  # matplotlib takes a second

        save_picture(sweep)
    except OSError as error:
        raise ConfigError(f"{sweep.folder}: cannot write there ({error.strerror})") from error
    if options.json:
        print(json.dumps(as_dict(sweep), indent=2))
    else:
        console.print(table(sweep), soft_wrap=True)
    return int(sweep.counts["failed"] > 0)


def _find(name: str) -> Path:
    if name != "latest":
        return Path(name)
    sweeps = sorted(Path("outputs/sweeps").glob("*/*/multirun.yaml"))
    if not sweeps:
        raise ConfigError("sweep latest: outputs/sweeps holds no sweep")
    return sweeps[-1].parent
