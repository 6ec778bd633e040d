"""``lenet-pl export RUN``: the network in a file that runs without this package."""

import argparse
import json
from pathlib import Path

from lenet_pl.runs import RUN_HELP, open_run


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl export``."""
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    text = "from pixels, uint8 [N, C, H, W], to probabilities; html is a web page to draw on"
    parser.add_argument("--format", required=True, choices=("onnx", "torch", "html"), help=text)
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: in RUN's export/")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def export(options: argparse.Namespace) -> None:
    """Export, verify and print a summary."""
    from lenet_pl.console import console, percent
    from lenet_pl.export.browser import NODE_VERSION
    from lenet_pl.export.export import export as export_run

    result = export_run(open_run(options.run), options.format, options.output)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    split = "test" if result["split"] == "test" else "validation"
    images = f"{result['images']:,} {split} images"
    rows = [
        ("written", f"{result['file']}  {result['size'] / 1024:,.0f} KiB"),
        ("accuracy", f"{percent(result['accuracy'])} on {images}"),
    ]
    if result["checked_with"] is None:
        rows.append(("not verified", f"Node.js {NODE_VERSION} or later was not found"))
    else:
        same = "all" if result["agree"] == result["images"] else f"{result['agree']:,}"
        rows.append(("verified with", f"{result['checked_with']}, against PyTorch"))
        rows.append(("probabilities", f"differ by at most {result['difference']:.1e}"))
        rows.append(("classes", f"the same for {same} of {images}"))
    for name, value in [*rows, *(("note", note) for note in result["notes"])]:
        console.print(f"{name:<15} {value}", soft_wrap=True, markup=False)
