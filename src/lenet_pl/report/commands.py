"""``lenet-pl report`` and ``lenet-pl list``."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from lenet_pl.console import console, percent
from lenet_pl.errors import ConfigError
from lenet_pl.runs import RUN_HELP, open_run

MAX_RUNS = 6  # as many colours can be told apart


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl report``."""
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    text = f"up to {MAX_RUNS - 1} other runs, to compare"
    parser.add_argument("others", metavar="RUN2", nargs="*", help=text)
    parser.add_argument("--json", action="store_true", help="print path and findings as JSON")


def report(options: argparse.Namespace) -> None:
    """Write a page about a run, or one that compares several; print its path and the outcome."""
    from lenet_pl.evaluation.evaluate import evaluate_run  # imports torch
    from lenet_pl.report.compare import write_comparison
    from lenet_pl.report.page import write_report

    names = [options.run, *options.others]
    if len(names) > MAX_RUNS:
        raise ConfigError(f"{len(names)} runs: name up to {MAX_RUNS}")
    runs = [open_run(name) for name in names]
    if len({run.checkpoint.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"{', '.join(names)}: name each run once")
    first = evaluate_run(runs[0])
    others = [evaluate_run(run, first.data) for run in runs[1:]]
    answer = write_comparison([first, *others]) if others else write_report(first)
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    write = partial(console.print, soft_wrap=True, markup=False)
    for finding in answer.get("findings", ()):
        write(finding["title"], style="bold")
        write(f"  {finding['evidence']}\n  {finding['advice']}")
        write(f"  {finding['command']}\n" if finding["command"] else "", style="cyan")
    if "verdict" in answer:
        width = max(len(run["name"]) for run in answer["runs"])
        for run in answer["runs"]:
            write(f"{run['name']:<{width}}  {percent(run['accuracy'])}  {run['folder']}")
        write(f"\n{answer['verdict']}\n", style="bold")
    write(f"report  {answer['path']}", style="bold")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl list``."""
    parser.add_argument("folder", nargs="?", default="outputs", help="default: outputs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def list(options: argparse.Namespace) -> None:
    """Print a line for each run and each sweep, the newest last."""
    from lenet_pl.report.listing import list_folder, table

    if not (folder := Path(options.folder)).is_dir():
        raise ConfigError(f"{folder}: no such folder")
    entries = list_folder(folder)
    if options.json:
        print(json.dumps(entries, indent=2))
    elif not entries:
        console.print(f"{folder}: no runs", markup=False)
    else:
        width = console.width if console.is_terminal else sys.maxsize  # pipes get whole lines
        console.print("\n".join(table(entries, width)), markup=False, soft_wrap=True)
