"""``lenet-pl report RUN``: a page on a run; with a second run, the two side by side."""

import argparse
import json
from typing import Any

from rich.text import Text

from lenet_pl.console import console
from lenet_pl.errors import ConfigError
from lenet_pl.runs import RUN_HELP


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("other", metavar="RUN2", nargs="?", help="a second run, to compare")
    parser.add_argument("--json", action="store_true", help="path and findings for a program")


def report(options: argparse.Namespace) -> None:
    from lenet_pl.evaluation.evidence import evaluate_run
    from lenet_pl.runs import open_run

    opened = [open_run(name) for name in (options.run, options.other) if name]
    if len({found.checkpoint.resolve() for found in opened}) < len(opened):
        raise ConfigError(f"{options.run} and {options.other} are the same run: name two")
    first = evaluate_run(opened[0])
    if len(opened) == 2:
        same = opened[0].config.data == opened[1].config.data
        answer, lines = _comparison(first, evaluate_run(opened[1], first.data if same else None))
    else:
        answer, lines = _report(first)
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        for line in (*lines, Text(f"report  {answer['path']}", style="bold")):
            console.print(line, soft_wrap=True)


def _report(evidence: Any) -> tuple[dict[str, Any], list[Text]]:
    from lenet_pl.report.summary import write_report

    path, findings = write_report(evidence)
    found = []
    lines = []
    for finding in findings:
        command = finding.command(evidence.figures().settings)
        found.append(
            {
                "title": finding.title,
                "evidence": finding.evidence,
                "advice": finding.advice,
                "overrides": finding.overrides,
                "command": command,
            }
        )
        lines += [
            Text(finding.title, style="bold"),
            Text(f"  {finding.evidence}"),
            Text(f"  {finding.advice}" + ("" if command else "\n")),
        ]
        if command:
            lines.append(Text(f"  {command}\n", style="cyan"))
    shown = evidence.shown
    accuracy = shown.accuracy.value
    answer = {"path": str(path), "split": shown.split, "accuracy": accuracy, "findings": found}
    return answer, lines


def _comparison(first: Any, second: Any) -> tuple[dict[str, Any], list[Text]]:
    from lenet_pl.report.compare import write_comparison

    path, found, verdict = write_comparison(first, second)
    counts = f"only {first.name} is right {found.only_first} times, only {second.name} "
    lines = [Text(verdict, style="bold"), Text(f"  {counts}{found.only_second} times\n")]
    return {"path": str(path), "verdict": verdict, **found._asdict()}, lines
