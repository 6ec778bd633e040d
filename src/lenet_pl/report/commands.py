"""``lenet-pl report RUN [RUN2]``: write a page about a run, or one that compares two runs."""

import argparse
import json

from rich.text import Text

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

    runs = [open_run(name) for name in (options.run, options.other) if name]
    if len({run.checkpoint.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"{options.run} and {options.other} are the same run: name two")
    first = evaluate_run(runs[0])
    lines = []
    if len(runs) == 1:
        answer = write_report(first)
        for finding in answer["findings"]:
            lines += [
                Text(finding["title"], style="bold"),
                Text(f"  {finding['evidence']}\n  {finding['advice']}"),
                Text(f"  {finding['command']}\n" if finding["command"] else "", style="cyan"),
            ]
    else:
        second = evaluate_run(runs[1], first.data)
        answer = write_comparison(first, second)
        lines = [
            Text(answer["verdict"], style="bold"),
            Text(f"  images that only {first.name} classifies correctly: {answer['only_first']}"),
            Text(f"  images that only {second.name} does: {answer['only_second']}\n"),
        ]
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    for line in (*lines, Text(f"report  {answer['path']}", style="bold")):
        console.print(line, soft_wrap=True)
