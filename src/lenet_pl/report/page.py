"""The page about a run, as one file: images are data URIs, and there are no scripts."""

from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from lenet_pl import files, metrics, plots
from lenet_pl.config import monitored_metric
from lenet_pl.console import metric_title, percent, score
from lenet_pl.evaluation.evaluate import RunEvaluation, SplitPredictions, compute_metrics
from lenet_pl.models.pixelnet import model_name
from lenet_pl.report.diagnosis import confused_pairs, diagnose
from lenet_pl.report.explain import convolutions, feature_maps, saliency

SUFFIX = ".report"  # of the TensorBoard event file that a report writes
THUMBNAIL = 144  # pixels of the longer side: sharp on high-resolution screens
# the images that the cells of a confusion matrix link to
CELL_IMAGES, CELL_BYTES = 24, 2**21


def write_report(evaluation: RunEvaluation) -> dict[str, Any]:
    """Write ``RUN/report/index.html``, with its figures as PNG files and in TensorBoard.

    Returns the path of the page, the split, its accuracy and the findings, for JSON.
    """
    run, shown, findings = evaluation.run, evaluation.shown, diagnose(evaluation)
    computed = compute_metrics(run, shown)
    matrix = torch.tensor(computed["matrix"])
    drawn = draw(evaluation, matrix)
    context = {
        "evaluation": evaluation,
        "shown": shown,
        "findings": findings,
        "cells": cell_cards(shown, run.classes),
        "most_errors": most_errors(matrix),
        "pairs": confused_pairs(matrix)[:6],
        "metrics": computed,
        "model": model_name(evaluation.network.net),
        "monitor": monitored_metric(run.config).replace("val/", "validation "),
        "confidence": shown.logits.double().softmax(1).amax(1).mean().item(),
        "config": OmegaConf.to_yaml(run.config),
    }
    path = write_page(run.folder / "report", "report.html.j2", context | drawn)
    add_to_tensorboard(run.folder, drawn["figures"], run.epoch)
    keys = ("title", "evidence", "advice", "overrides", "command")
    answer = [{key: getattr(finding, key) for key in keys} for finding in findings]
    measured = {"split": shown.split, "accuracy": computed["accuracy"]}
    return {"path": str(path), **measured, "findings": answer}


def draw(evaluation: RunEvaluation, matrix: Tensor) -> dict[str, Any]:
    """The ``figures`` by name, and the images of the page by section."""
    shown, classes, rows = evaluation.shown, evaluation.run.classes, evaluation.rows
    curves = {"": (rows, evaluation.run.epoch)}
    figures = {
        "curves-loss": plots.curves(curves, "loss"),
        "curves-accuracy": plots.curves(curves, "acc"),
        "confusion": plots.confusion_matrix(matrix, classes),
        "reliability": plots.reliability(metrics.calibration(shown.logits, shown.labels)),
    }
    if len({row["lr"] for row in rows}) > 1:
        figures["learning-rate"] = plots.learning_rate(rows)
    errors = metrics.by_confidence(shown.logits, ~shown.correct, 32)
    uncertain = metrics.by_confidence(shown.logits, shown.correct, 16, descending=False)
    cards = {}
    for name, indices in (("mistakes", errors), ("uncertain", uncertain)):
        cards[name] = image_cards(shown, classes, indices)
        if captions := [card["caption"] for card in cards[name]]:
            figures[name] = plots.image_grid(shown.images[indices], captions)
    return {**cards, "figures": figures | explain(evaluation, errors[:8])}


def cell_cards(
    shown: SplitPredictions, classes: Sequence[str]
) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Images of the cells of the confusion matrix, by label and prediction.

    They are the most confident errors and the least confident correct predictions: up to 24 of a
    cell, or fewer if the page would become too large.
    """
    confidence = shown.logits.softmax(1).amax(1)
    order = torch.where(shown.correct, confidence, -confidence).argsort(stable=True)
    pairs = list(zip(shown.labels.tolist(), shown.predicted.tolist(), strict=True))
    counts, numbers = Counter(pairs), defaultdict[tuple[int, int], Iterator[int]](count)
    # if not all fit: the first image of every cell, then the second, those of large cells first
    ranks = sorted((next(numbers[pairs[i]]), -counts[pairs[i]], i) for i in order.tolist())
    chosen = [i for number, _, i in ranks if number < CELL_IMAGES]
    cards = image_cards(shown, classes, torch.tensor(chosen))
    sizes = accumulate(len(card["png"]) for card in cards)
    cells: dict[tuple[int, int], list[dict[str, Any]]] = {pair: [] for pair in counts}
    for i, card, size in zip(chosen, cards, sizes, strict=True):
        if size <= CELL_BYTES:
            cells[pairs[i]].append(card)
    return cells


def explain(evaluation: RunEvaluation, errors: Tensor) -> dict[str, Figure]:
    """Draw filters and feature maps of the first convolutions, and the saliency of errors."""
    shown, network, figures = evaluation.shown, evaluation.network, dict[str, Figure]()
    if layers := convolutions(network):
        figures["filters"] = plots.filters(layers[0].weight.detach().float())
        images = shown.images[torch.linspace(0, len(shown.images) - 1, 3).long()]
        for number, maps in enumerate(feature_maps(network, images), 1):
            rows = zip(images, maps[:, :16, None], strict=True)
            grid = [tile for image, row in rows for tile in (image, *plots.signed_colours(row))]
            figures[f"features-{number}"] = plots.image_grid(grid, columns=len(grid) // len(images))
    if len(errors):
        images = shown.images[errors]
        maps = saliency(network, images, shown.predicted[errors], shown.labels[errors])
        shadow = 1 - 0.3 * images.float().mean(1, keepdim=True) / 255
        grid = [*images, *(plots.signed_colours(maps) * shadow)]
        cards = image_cards(shown, evaluation.run.classes, errors)
        captions = [card["caption"] for card in cards] + [""] * len(errors)
        figures["saliency"] = plots.image_grid(grid, captions, columns=len(errors))
    return figures


def most_errors(*matrices: Tensor) -> int:
    """The largest count of confusion matrices off their diagonals, at least 1."""
    return max(1, *(int(matrix.clone().fill_diagonal_(0).max()) for matrix in matrices))


def image_cards(
    predictions: SplitPredictions, classes: Sequence[str], indices: Tensor
) -> list[dict[str, Any]]:
    """Images with their label, the two most probable classes and their file or index."""
    best_two = map(Tensor.tolist, predictions.logits[indices].softmax(1).topk(2))
    return [
        {
            "png": thumbnail(predictions.images[i]),
            "label": (label := classes[int(predictions.labels[i])]),
            "caption": f"{label} → {classes[first]}",
            "confidence": f"{100 * p:.0f} %",
            "second": f"{classes[second]} {100 * q:.0f} %",
            "id": predictions.files[i] if predictions.files else f"image {predictions.indices[i]}",
        }
        for i, (p, q), (first, second) in zip(indices.tolist(), *best_two, strict=True)
    ]


def thumbnail(image: Tensor) -> bytes:
    """A PNG file of an image ``uint8 [C, H, W]``, reduced if large; greyscale is inverted."""
    pixels = (255 - image[0]) if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(file := BytesIO(), format="png")
    return file.getvalue()


def write_page(folder: Path, template: str, context: Mapping[str, Any]) -> Path:
    """Write a template filled with a context, and the context's figures as PNG files beside it."""
    figures = {name: plots.png(figure) for name, figure in context["figures"].items()}
    environment = Environment(
        loader=PackageLoader("lenet_pl.report"), undefined=StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        percent=percent,
        metric=metric_title,
        parameter_count=lambda network: sum(p.numel() for p in network.parameters()),
        uri=lambda png: "data:image/png;base64," + b64encode(png).decode(),
        width=lambda png: int.from_bytes(png[16:20]) * 100 // plots.FILE_DPI,  # CSS pixels
    )
    greyscale = context["shown"].images.shape[1] == 1
    values = {**context, "figures": figures, "greyscale": greyscale, "score": score}
    contents = {f"{name}.png": png for name, png in figures.items()}
    contents["index.html"] = environment.get_template(template).render(values).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for old in {file.name for file in folder.glob("*.png")} - contents.keys():
        (folder / old).unlink()  # of an earlier report
    for name, content in contents.items():
        files.write_bytes(folder / name, content)
    return folder / "index.html"


def add_to_tensorboard(folder: Path, figures: Mapping[str, Figure], epoch: int) -> None:
    """Add figures to a run's TensorBoard log, if it has one; they replace those added earlier."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    for earlier in [*folder.rglob(f"events.*{SUFFIX}")]:
        earlier.unlink()
    # a sweep's job has a subfolder
    events = sorted(folder.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if events:
        with SummaryWriter(str(events[-1].parent), filename_suffix=SUFFIX) as writer:
            for name, figure in figures.items():
                pixels = plots.rgb_array(figure)
                writer.add_image(f"report/{name}", pixels, epoch, dataformats="HWC")
