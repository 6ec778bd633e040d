"""``lenet-pl report RUN``: a page on a run; with a second run, the two side by side."""

import argparse
import json

from rich.text import Text

from lenet_pl.console import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, a checkpoint in it, or latest")
    parser.add_argument("other", metavar="RUN2", nargs="?", help="a second run, to compare")
    parser.add_argument("--json", action="store_true", help="path and findings for a program")


def run(options: argparse.Namespace) -> None:
    from lenet_pl.analysis.evidence import gather
    from lenet_pl.run import open_run

    opened = [open_run(name) for name in (options.run, options.other) if name]
    first = gather(opened[0])
    if options.other:
        return _compare(first, opened[1], options)
    from lenet_pl.analysis.report import write_report

    path, findings = write_report(first)
    settings = first.figures().settings
    shown = first.shown
    if options.json:
        found = {
            "path": str(path),
            "split": shown.split,
            "accuracy": shown.share.value,
            "findings": [
                {
                    "title": finding.title,
                    "evidence": finding.evidence,
                    "advice": finding.advice,
                    "overrides": finding.overrides,
                    "command": finding.command(settings),
                }
                for finding in findings
            ],
        }
        print(json.dumps(found, indent=2))
        return None
    for finding in findings:
        console.print(Text(finding.title, style="bold"), soft_wrap=True)
        console.print(f"  {finding.evidence}", soft_wrap=True, markup=False)
        console.print(f"  {finding.advice}", soft_wrap=True, markup=False)
        console.print(Text(f"  {finding.command(settings)}", style="cyan"), soft_wrap=True)
    console.print(Text(f"\nreport  {path}", style="bold"), soft_wrap=True)
    return None
