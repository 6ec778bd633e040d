"""``lenet-pl test RUN``: how good a network is, in figures."""

import argparse
import json
from typing import Any

from lenet_pl.commands import add_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, bare=True)
    parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="default: test"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="another data set: its name, or a folder with a folder of pictures for each class",
    )
    parser.add_argument(
        "--root", default="data", help="where data sets lie that --data names (default: data)"
    )
    parser.add_argument(
        "--robust", action="store_true", help="also on rotated, shifted, blurred and noisy copies"
    )
    parser.add_argument("--json", action="store_true", help="the answer for a program to read")


def run(options: argparse.Namespace) -> int | None:
    from lenet_pl.analysis.images import other, own  # these import torch: --help need not wait
    from lenet_pl.analysis.subject import open_subject
    from lenet_pl.analysis.testing import score, summary, write_predictions

    subject = open_subject(options.run, options.model)
    if subject.run and not options.data:
        images = own(subject.run, options.split)
    else:
        images = other(options.data or "mnist", options.split, subject, options.root)
    labels = images.labelled.labels
    tested = score(subject, images.labelled.images, labels)
    path = write_predictions(subject, images, tested)
    answer = summary(subject, images, tested) | {"predictions": str(path)}
    if options.robust:
        from lenet_pl.analysis.robust import variants

        answer["robust"] = [
            {"images": name, "accuracy": copy.accuracy, "loss": copy.loss}
            for name, changed in variants(images.labelled.images)
            for copy in [score(subject, changed, labels)]
        ]
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _show(answer)
    return None


def _show(answer: dict[str, Any]) -> None:
    """The tables a person reads."""
    from rich.text import Text

    from lenet_pl.console import console, percent, table

    of = f" of {answer['split']}" if answer["split"] else ""
    epoch = f", epoch {answer['epoch']}" if answer["epoch"] else ""
    title = f"{answer['weights']}{epoch} · {answer['images']:,} images{of} · {answer['data']}"
    scores = table("class", "precision", "recall", "F1", "support", left=1)
    for row in answer["scores"]:
        shares = (percent(row[name]) for name in ("precision", "recall", "f1"))
        scores.add_row(Text(row["class"]), *shares, f"{row['support']:,}")
    lines = [
        (
            "accuracy",
            f"{percent(answer['accuracy'])}  95 % interval {percent(answer['low'])} "
            f"to {percent(answer['high'])}",
        ),
        ("mistakes", f"{answer['images'] - answer['correct']:,} of {answer['images']:,}"),
        ("loss", f"{answer['loss']:.4f}"),
        ("likelihood", f"{answer['nll']:.4f} nats an image, negative and log"),
        ("calibration", f"{percent(answer['ece'])} expected error of the confidence"),
    ]
    if reported := answer["reported"]:
        told = f"{percent(reported['acc'])}  loss {reported['loss']:.4f}"
        lines.append(("training said", "the same" if reported["same"] else told))
    lines += [("note", note) for note in answer["notes"]]
    lines.append(("predictions", answer["predictions"]))
    console.print(Text(title, style="bold"), "", scores, "", sep="\n", soft_wrap=True)
    for name, value in lines:
        console.print(Text(f"{name:<15} {value}"), soft_wrap=True)
    if "robust" in answer:
        copies = table("images", "accuracy", "change", "loss", left=1)
        for row in answer["robust"]:
            change = 100 * (row["accuracy"] - answer["accuracy"])
            copies.add_row(
                row["images"], percent(row["accuracy"]), f"{change:+.2f}", f"{row['loss']:.4f}"
            )
        console.print("", copies, sep="\n", soft_wrap=True)
