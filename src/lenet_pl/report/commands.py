"""``lenet-pl report RUN [RUN2]``: write a page about a run, or one that compares two runs."""

import argparse
import json
from functools import partial

from lenet_pl.console import console
from lenet_pl.errors import ConfigError
from lenet_pl.runs import RUN_HELP, open_run


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl report``."""
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("other", metavar="RUN2", nargs="?", help="a second run, to compare")
    parser.add_argument("--json", action="store_true", help="print path and findings as JSON")


def report(options: argparse.Namespace) -> None:
    """Write the page, and print its path with the findings or the verdict."""
    from lenet_pl.evaluation.evaluate import evaluate_run  # imports torch
    from lenet_pl.report.compare import write_comparison
    from lenet_pl.report.page import write_report

    runs = [open_run(name) for name in (options.run, options.other) if name is not None]
    if len({run.checkpoint.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"{options.run} and {options.other} are the same run: name two")
    first = evaluate_run(runs[0])
    if len(runs) == 1:
        answer = write_report(first)
    else:
        answer = write_comparison(first, evaluate_run(runs[1], first.data))
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    write = partial(console.print, soft_wrap=True, markup=False)
    for finding in answer.get("findings", ()):
        write(finding["title"], style="bold")
        write(f"  {finding['evidence']}\n  {finding['advice']}")
        write(f"  {finding['command']}\n" if finding["command"] else "", style="cyan")
    if "verdict" in answer:
        write(answer["verdict"], style="bold")
        write(f"  images that only {runs[0].name} classifies correctly: {answer['only_first']}")
        write(f"  images that only {runs[1].name} does: {answer['only_second']}\n")
    write(f"report  {answer['path']}", style="bold")
