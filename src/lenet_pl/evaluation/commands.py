"""``lenet-pl test`` and ``lenet-pl predict``."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from lenet_pl.runs import RUN_HELP

if TYPE_CHECKING:
    from lenet_pl.data.ink import Auto


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=f"{RUN_HELP}, or a file of bare weights")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the network of bare weights (lenet), trained on pixels scaled to [0, 1]",
    )


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model_arguments(parser)
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


def test(options: argparse.Namespace) -> int | None:
    from lenet_pl.evaluation.evaluate import score, summary, write_predictions
    from lenet_pl.evaluation.images import other, own  # these import torch: --help need not wait
    from lenet_pl.evaluation.loading import open_model

    subject = open_model(options.run, options.model)
    if subject.run and not options.data:
        images = own(subject.run, options.split)
    else:
        images = other(options.data or "mnist", options.split, subject, options.root)
    labels = images.labelled.labels
    tested = score(subject, images.labelled.images, labels)
    path = write_predictions(subject, images, tested)
    answer = summary(subject, images, tested) | {"predictions": str(path)}
    if options.robust:
        from lenet_pl.evaluation.robustness import variants

        answer["robust"] = [
            {"images": name, "accuracy": copy.accuracy, "loss": copy.loss}
            for name, changed in variants(images.labelled.images)
            for copy in [score(subject, changed, labels)]
        ]
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _show_test(answer)
    return None


def _show_test(answer: dict[str, Any]) -> None:
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


INVERT: "dict[str, Auto]" = {"auto": "auto", "yes": True, "no": False}


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model_arguments(parser)
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


def predict(options: argparse.Namespace) -> int | None:
    """Answer for every picture that can be read; 1 if some could not, 2 if none could."""
    from lenet_pl.evaluation.loading import open_model
    from lenet_pl.evaluation.predict import predict as predict_images
    from lenet_pl.evaluation.predict import write_grid

    subject = open_model(options.run, options.model)
    seen, failed = predict_images(subject, options.images, INVERT.get(options.invert))
    shares = {picture.name: picture.probabilities.tolist() for picture in seen}
    for name, reason in failed.items():
        print("error:", *f"{name}: {reason}".split(), file=sys.stderr)
    if options.json:
        print(json.dumps(_answer(subject.classes, shares, failed), indent=2))
    elif shares:
        _show_predictions(subject.classes, shares)
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


def _show_predictions(classes: tuple[str, ...], shares: dict[str, list[float]]) -> None:
    from rich.text import Text

    from lenet_pl.console import console, percent, table

    answers = table("picture", "is", "", "or", "", "or", "", left=1)
    for name, row in shares.items():
        best = sorted(range(len(row)), key=lambda c: -row[c])[:3]
        cells = [cell for c in best for cell in (Text(classes[c]), percent(row[c]))]
        answers.add_row(Text(name), *cells)
    console.print(answers, soft_wrap=True)
