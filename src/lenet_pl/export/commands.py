"""``lenet-pl export RUN``: the network as a file that runs anywhere."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from lenet_pl.runs import RUN_HELP


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--format",
        required=True,
        choices=("onnx", "torch", "html"),
        help="an ONNX model, a torch.export program, or one page to draw on; all but the page "
        "take plain pixels, uint8 [N, C, H, W], and return probabilities [N, classes]",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where to (default: export/ in the run folder)"
    )
    parser.add_argument("--json", action="store_true", help="the answer for a program to read")


def export(options: argparse.Namespace) -> int | None:
    from lenet_pl.console import console, percent
    from lenet_pl.evaluation.evidence import MEANING
    from lenet_pl.export.export import Refused  # imports torch: --help need not wait
    from lenet_pl.export.export import export as export_run
    from lenet_pl.runs import open_run

    try:
        done = export_run(open_run(options.run), options.format, options.output)
    except Refused as error:
        print("error:", error, file=sys.stderr)
        return 1
    if options.json:
        answer = dataclasses.asdict(done) | {"file": str(done.file)}
        print(json.dumps(answer, indent=2))
        return None
    same = "all" if done.agree == done.images else f"{done.agree:,} of {done.images:,}"
    count = f"{done.images:,} {MEANING[done.split]} images"
    for name, value in (
        ("written", f"{done.file}  {done.size / 1024:,.0f} KiB"),
        ("checked with", f"{done.checked_with}, against PyTorch, on {count}"),
        ("probabilities", f"differ by {done.difference:.1e} at most"),
        ("classes", f"the same for {same}"),
        ("accuracy", f"{percent(done.accuracy)} of these images"),
        *(("note", note) for note in done.notes),
    ):
        console.print(f"{name:<15} {value}", soft_wrap=True, markup=False)
    return None
