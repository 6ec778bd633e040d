"""``lenet-pl test`` and ``lenet-pl predict``."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from rich.text import Text

from lenet_pl.console import PlainConsole, console, metric_title, percent, score, table
from lenet_pl.errors import print_error, printable
from lenet_pl.runs import RUN_HELP

INVERT: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl test``."""
    _add_shared_arguments(parser)
    add = parser.add_argument
    add("--split", choices=("test", "val", "train"), default="test", help="default: test")
    add("--data", help="another data set, or a folder with a folder per class")
    add("--root", default="data", help="data root for --data (default: data)")
    add("--robust", action="store_true", help="also rotated, shifted, blurred and noisy copies")


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl predict``."""
    _add_shared_arguments(parser)
    add = parser.add_argument
    text = "an image of one digit, of any size; a folder or glob pattern; - for standard input"
    add("images", metavar="IMAGE", nargs="+", help=text)
    text = "whether strokes are darker than the paper (default: as for the run, or auto)"
    add("--invert", choices=tuple(INVERT), help=text)
    add("--show", action="store_true", help="draw preprocessed images: seen.png")


def _add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help=f"{RUN_HELP}; or a file of bare weights")
    add("--model", help="the network of bare weights (lenet), trained on pixels in [0, 1]")
    add("--json", action="store_true", help="print JSON")


def test(options: argparse.Namespace) -> None:
    """Print the metrics of a network and write its predictions."""
    from lenet_pl.evaluation import evaluate  # imports torch
    from lenet_pl.evaluation.predict import open_model

    run, split = open_model(options.run, options.model), options.split
    if data := options.data or (None if run.epoch else "mnist"):  # bare weights have no data
        predictions = evaluate.predict_other(run, data, split, options.root)
    else:
        predictions = evaluate.predict_split(run, split)
    answer = {
        "run": str(run.folder) if run.epoch else None,
        "weights": str(run.checkpoint),
        "epoch": run.epoch or None,
        "data": predictions.data,
        "split": predictions.split,
        "images": len(predictions.labels),
        **evaluate.compute_metrics(run, predictions),
        "reported": None,
        "predictions": str(evaluate.write_predictions(run, predictions)),
    }
    saved = run.result.get("metrics", {}) if run.checkpoint.stem == "best" else {}
    reported = {name: saved.get(f"{split}/{name}") for name in ("acc", "loss")}
    if predictions.own and None not in reported.values():
        same = reported == {"acc": answer["accuracy"], "loss": answer["loss"]}
        answer["reported"] = {**reported, "same": same}
    if options.robust:
        from lenet_pl.evaluation.robustness import corrupted_copies

        answer["robust"] = []
        for name, copies in corrupted_copies(predictions.images):
            logits = evaluate.predict(run, run.network(), copies)
            values = evaluate.compute_metrics(run, replace(predictions, logits=logits))
            row = {"images": name, "accuracy": values["accuracy"], "loss": values["loss"]}
            answer["robust"].append(row)
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_metrics(answer)


def _print_metrics(answer: dict[str, Any]) -> None:
    epoch = f", epoch {answer['epoch']}" if answer["epoch"] else ""
    images = f"{answer['images']:,} {answer['split']} images".replace("  ", " ")
    title = f"{answer['weights']}{epoch} · {images} · {answer['data']}"
    scores = table("class", "precision", "recall", "F1", "support", left=1)
    for row in answer["scores"]:
        values = (percent(row[name]) for name in ("precision", "recall", "f1"))
        scores.add_row(Text(row["class"]), *values, f"{row['support']:,}")
    accuracy, low, high = (percent(answer[name]) for name in ("accuracy", "low", "high"))
    lines = [
        ("accuracy", f"{accuracy}  95 % interval {low} to {high}"),
        ("misclassified", f"{answer['images'] - answer['correct']:,} of {answer['images']:,}"),
        *((metric_title(x), score(x, y)) for x, y in answer["metrics"].items() if x != "acc"),
        ("loss", f"{answer['loss']:.4f}"),
        ("NLL", f"{answer['nll']:.4f} nats per image"),
        ("calibration error", f"{percent(answer['ece'])} (expected, 15 bins)"),
    ]
    if reported := answer["reported"]:
        difference = f"no: {percent(reported['acc'])}  loss {reported['loss']:.4f}"
        lines.append(("matches result.json", "yes" if reported["same"] else difference))
    lines += [*(("note", note) for note in answer["notes"]), ("predictions", answer["predictions"])]
    summary = (Text(f"{name:<20} {value}") for name, value in lines)
    parts = [Text(title, style="bold"), "", scores, "", *summary]
    if "robust" in answer:
        copies = table("images", "accuracy", "change", "loss", left=1)
        for row in answer["robust"]:
            change = f"{100 * (row['accuracy'] - answer['accuracy']):+.2f}"
            copies.add_row(row["images"], percent(row["accuracy"]), change, f"{row['loss']:.4f}")
        parts += ["", copies]
    console.print(*parts, sep="\n", soft_wrap=True)


def predict(options: argparse.Namespace) -> int | None:
    """Print a prediction for each image; 1 if some cannot be read, 2 if none can."""
    from lenet_pl.evaluation.predict import open_model, predict_images, write_preview

    run = open_model(options.run, options.model)
    images, probabilities, failed = predict_images(run, options.images, INVERT.get(options.invert))
    for name, reason in failed.items():
        print_error(f"{name}: {reason}")
    answer: list[dict[str, Any]] = []
    rows = table("image", "prediction", "", "second", "", "third", "", left=1)
    for name, row in zip(images, probabilities.tolist(), strict=True):
        named = dict(zip(run.classes, row, strict=True))
        ranked = sorted(named, key=named.__getitem__, reverse=True)
        cells = [cell for label in ranked[:3] for cell in (Text(label), percent(named[label]))]
        rows.add_row(Text(printable(name)), *cells)
        answer.append({"picture": name, "prediction": ranked[0], "probabilities": named})
    if options.json:
        answer += [{"picture": name, "error": reason} for name, reason in failed.items()]
        print(json.dumps(answer, indent=2))
    elif answer:
        wide = console if console.is_terminal else PlainConsole(highlight=False, width=10**6)
        wide.print(rows)
    if options.show and images:
        path = write_preview(run, images, probabilities)
        print(f"preprocessed images: {path}", file=sys.stderr)
    return (1 if images else 2) if failed else None
