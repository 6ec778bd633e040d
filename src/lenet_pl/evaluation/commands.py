"""``lenet-pl test`` and ``lenet-pl predict``."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from lenet_pl.errors import print_error, printable
from lenet_pl.runs import RUN_HELP

INVERT: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl test``."""
    _add_shared_arguments(parser)
    splits = ("test", "val", "train")
    parser.add_argument("--split", choices=splits, default="test", help="default: test")
    parser.add_argument("--data", help="another data set, or a folder with a folder per class")
    parser.add_argument("--root", default="data", help="data root for --data (default: data)")
    text = "also evaluate on rotated, shifted, blurred and noisy copies"
    parser.add_argument("--robust", action="store_true", help=text)


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl predict``."""
    _add_shared_arguments(parser)
    text = "an image of one digit, of any size; a folder or glob pattern; - for standard input"
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=text)
    text = "whether strokes are darker than the paper (default: as for the run, or auto)"
    parser.add_argument("--invert", choices=tuple(INVERT), help=text)
    parser.add_argument("--show", action="store_true", help="draw preprocessed images: seen.png")


def _add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=f"{RUN_HELP}; or a file of bare weights")
    text = "the network of bare weights (lenet), trained on pixels scaled to [0, 1]"
    parser.add_argument("--model", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def test(options: argparse.Namespace) -> None:
    """Print the metrics of a network and write its predictions."""
    from lenet_pl.evaluation import evaluate
    from lenet_pl.evaluation.loading import open_model

    model = open_model(options.run, options.model)
    run = model.run
    if run and not options.data:
        images = evaluate.run_images(run, options.split)
    else:
        data = options.data or "mnist"
        images = evaluate.other_images(data, options.split, model, options.root)
    predictions = evaluate.predict_split(run, model.network, images)
    metrics = evaluate.compute_metrics(run, predictions)
    named_scores = zip(model.classes, metrics["scores"], strict=True)
    answer = {
        "run": str(run.folder) if run else None,
        "weights": str(run.checkpoint) if run else options.run,
        "epoch": run.epoch if run else None,
        "data": images.data,
        "split": images.split,
        "images": len(images.labels),
        "notes": images.notes + evaluate.missing_note(model.classes, metrics["scores"]),
        **metrics,
        "scores": [{"class": name, **scores._asdict()} for name, scores in named_scores],
        "reported": None,
        "predictions": str(evaluate.write_predictions(model, predictions)),
    }
    best = run and images.own and run.checkpoint.stem == "best"
    saved = run.result.get("metrics", {}) if run and best else {}
    acc, loss = (saved.get(f"{images.split}/{name}") for name in ("acc", "loss"))
    if acc is not None:
        same = (acc, loss) == (metrics["accuracy"], metrics["loss"])
        answer["reported"] = {"acc": acc, "loss": loss, "same": same}
    if options.robust:
        from lenet_pl.evaluation.robustness import corrupted_copies

        answer["robust"] = []
        for name, copies in corrupted_copies(images.images):
            corrupted = replace(images, images=copies)
            predictions = evaluate.predict_split(run, model.network, corrupted)
            metrics = evaluate.compute_metrics(run, predictions)
            row = {"images": name, **{key: metrics[key] for key in ("accuracy", "loss")}}
            answer["robust"].append(row)
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_metrics(answer)


def _print_metrics(answer: dict[str, Any]) -> None:
    from rich.text import Text

    from lenet_pl.console import console, metric_title, percent, score, table

    epoch = f", epoch {answer['epoch']}" if answer["epoch"] else ""
    images = f"{answer['images']:,} {answer['split']} images".replace("  ", " ")
    title = f"{answer['weights']}{epoch} · {images} · {answer['data']}"
    scores = table("class", "precision", "recall", "F1", "support", left=1)
    for row in answer["scores"]:
        values = (percent(row[name]) for name in ("precision", "recall", "f1"))
        scores.add_row(Text(row["class"]), *values, f"{row['support']:,}")
    interval = f"95 % interval {percent(answer['low'])} to {percent(answer['high'])}"
    lines = [
        ("accuracy", f"{percent(answer['accuracy'])}  {interval}"),
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
    from rich.text import Text

    from lenet_pl.console import PlainConsole, console, percent, table
    from lenet_pl.evaluation.loading import open_model
    from lenet_pl.evaluation.predict import predict_images, write_preview

    model = open_model(options.run, options.model)
    predictions, failed = predict_images(model, options.images, INVERT.get(options.invert))
    for name, reason in failed.items():
        print_error(f"{name}: {reason}")
    answer: list[dict[str, Any]] = []
    rows = table("image", "prediction", "", "second", "", "third", "", left=1)
    for prediction in predictions:
        probabilities = dict(zip(model.classes, prediction.probabilities.tolist(), strict=True))
        ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
        cells = [x for name in ranked[:3] for x in (Text(name), percent(probabilities[name]))]
        name = printable(prediction.name)
        room = console.width - 51 if console.is_terminal else len(name)  # beside three digits
        rows.add_row(Text(name if len(name) <= room else f"…{name[1 - room :]}"), *cells)
        names = {"picture": prediction.name, "prediction": ranked[0]}
        answer.append({**names, "probabilities": probabilities})
    if options.json:
        answer += [{"picture": name, "error": reason} for name, reason in failed.items()]
        print(json.dumps(answer, indent=2))
    elif answer:
        wide = console if console.is_terminal else PlainConsole(highlight=False, width=10**6)
        wide.print(rows)
    if options.show and predictions:
        print(f"preprocessed images: {write_preview(model, predictions)}", file=sys.stderr)
    if failed:
        return 1 if predictions else 2
    return None
