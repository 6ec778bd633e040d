"""``lenet-pl predict RUN IMAGE…``: which digit is in a picture."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lenet_pl.commands import add_run

if TYPE_CHECKING:
    from lenet_pl.data.ink import Auto

INVERT: "dict[str, Auto]" = {"auto": "auto", "yes": True, "no": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, bare=True)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a picture of one digit, of any size; a folder or a pattern of them; - for "
        "standard input",
    )
    parser.add_argument(
        "--invert",
        choices=tuple(INVERT),
        help="whether the ink is darker than the paper (default: as the run has it, or auto)",
    )
    parser.add_argument(
        "--show", action="store_true", help="write what the network saw to seen.png beside it"
    )
    parser.add_argument("--json", action="store_true", help="the answer for a program to read")


def run(options: argparse.Namespace) -> int | None:
    """Answer for every picture that can be read; 1 if some could not, 2 if none could."""
    from lenet_pl.analysis.predict import predict, write_grid  # import torch: --help need not wait
    from lenet_pl.analysis.subject import open_subject

    subject = open_subject(options.run, options.model)
    seen, failed = predict(subject, options.images, INVERT.get(options.invert))
    shares = {picture.name: picture.probabilities.tolist() for picture in seen}
    for name, reason in failed.items():
        print("error:", *f"{name}: {reason}".split(), file=sys.stderr)
    if options.json:
        print(json.dumps(_answer(subject.classes, shares, failed), indent=2))
    elif shares:
        _show(subject.classes, shares)
    if options.show and seen:
        print(f"what the network saw: {write_grid(subject, seen)}", file=sys.stderr)
    if failed:
        return 1 if seen else 2
    return None


def _answer(
    classes: tuple[str, ...], shares: dict[str, list[float]], failed: dict[str, str]
) -> list[dict[str, object]]:
    told: list[dict[str, object]] = [
        {
            "picture": name,
            "prediction": classes[row.index(max(row))],
            "probabilities": dict(zip(classes, row, strict=True)),
        }
        for name, row in shares.items()
    ]
    return told + [{"picture": name, "error": reason} for name, reason in failed.items()]


def _show(classes: tuple[str, ...], shares: dict[str, list[float]]) -> None:
    from rich.text import Text

    from lenet_pl.console import console, percent, table

    answers = table("picture", "is", "", "or", "", "or", "", left=1)
    for name, row in shares.items():
        best = sorted(range(len(row)), key=lambda c: -row[c])[:3]
        cells = [cell for c in best for cell in (Text(classes[c]), percent(row[c]))]
        answers.add_row(Text(name), *cells)
    console.print(answers, soft_wrap=True)
