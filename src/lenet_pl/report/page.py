"""The page about a run, as one file: images are data URIs, and there are no scripts."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice, zip_longest
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
ENVIRONMENT = Environment(
    loader=PackageLoader("lenet_pl.report"), undefined=StrictUndefined,
    autoescape=True, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
ENVIRONMENT.globals["score"] = score
ENVIRONMENT.filters |= {
    "percent": percent,
    "metric": metric_title,
    "parameter_count": lambda network: sum(p.numel() for p in network.parameters()),
    "uri": lambda png: "data:image/png;base64," + b64encode(png).decode(),
    "width": lambda png: int.from_bytes(png[16:20]) * 100 // plots.FILE_DPI,  # CSS pixels
}


def write_report(evaluation: RunEvaluation) -> dict[str, Any]:
    """Write ``RUN/report/index.html``, with its figures as PNG files and in TensorBoard.

    Returns the path of the page, the split, its accuracy and the findings, for JSON.
    """
    run, shown, rows = evaluation.run, evaluation.shown, evaluation.rows
    computed, findings = compute_metrics(run, shown), diagnose(evaluation)
    matrix, curves = torch.tensor(computed["matrix"]), {"": (rows, run.epoch)}
    errors = metrics.by_confidence(shown.logits, ~shown.correct, 32)
    uncertain = metrics.by_confidence(shown.logits, shown.correct, 16, descending=False)
    figures = {
        "curves-loss": plots.curves(curves, "loss"),
        "curves-accuracy": plots.curves(curves, "acc"),
        "confusion": plots.confusion_matrix(matrix, run.classes),
        "reliability": plots.reliability(metrics.calibration(shown.logits, shown.labels)),
        **explain(evaluation, errors[:8]),
    }
    if len({row["lr"] for row in rows}) > 1:
        figures["learning-rate"] = plots.learning_rate(rows)
    cards = {}
    for name, indices in (("mistakes", errors), ("uncertain", uncertain)):
        cards[name] = list(image_cards(shown, run.classes, indices))
        if captions := [card["caption"] for card in cards[name]]:
            figures[name] = plots.image_grid(shown.images[indices], captions)
    context = {
        "evaluation": evaluation,
        "shown": shown,
        "findings": findings,
        **cards,
        "cells": cell_cards(shown, run.classes),
        "most_errors": most_errors(matrix),
        "pairs": confused_pairs(matrix)[:6],
        "metrics": computed,
        "model": model_name(evaluation.network.net),
        "monitor": monitored_metric(run.config).replace("val/", "validation "),
        "confidence": shown.logits.double().softmax(1).amax(1).mean().item(),
        "config": OmegaConf.to_yaml(run.config),
    }
    path = write_page(run.folder / "report", "report.html.j2", figures, context)
    add_to_tensorboard(run.folder, figures, run.epoch)
    keys = ("title", "evidence", "advice", "overrides", "command")
    return {
        "path": path,
        "split": shown.split,
        "accuracy": computed["accuracy"],
        "findings": [{key: getattr(finding, key) for key in keys} for finding in findings],
    }


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
    members: dict[tuple[int, int], list[int]] = {pair: [] for pair in pairs}
    for i in order.tolist():
        members[pairs[i]].append(i)
    # if not all fit: the first image of every cell, then the second, those of large cells first
    rounds = zip_longest(*sorted(members.values(), key=len, reverse=True))
    chosen = [i for round in islice(rounds, CELL_IMAGES) for i in round if i is not None]
    cells: dict[tuple[int, int], list[dict[str, Any]]] = {pair: [] for pair in members}
    size = 0
    for i, card in zip(chosen, image_cards(shown, classes, torch.tensor(chosen)), strict=False):
        if (size := size + len(card["png"])) > CELL_BYTES:
            break
        cells[pairs[i]].append(card)
    return cells


def most_errors(*matrices: Tensor) -> int:
    """The largest count of confusion matrices off their diagonals, at least 1."""
    return max(1, *(int(matrix.clone().fill_diagonal_(0).max()) for matrix in matrices))


def image_cards(
    predictions: SplitPredictions, classes: Sequence[str], indices: Tensor
) -> Iterator[dict[str, Any]]:
    """Yield images with their label, the two most probable classes and their file or index."""
    best_two = map(Tensor.tolist, predictions.logits[indices].softmax(1).topk(2))
    for i, (p, q), (first, second) in zip(indices.tolist(), *best_two, strict=True):
        label = classes[int(predictions.labels[i])]
        yield {
            "png": thumbnail(predictions.images[i]),
            "label": label,
            "caption": f"{label} → {classes[first]}",
            "confidence": f"{100 * p:.0f} %",
            "second": f"{classes[second]} {100 * q:.0f} %",
            "id": predictions.files[i] if predictions.files else f"image {predictions.indices[i]}",
        }


def thumbnail(image: Tensor) -> bytes:
    """A PNG file of an image ``uint8 [C, H, W]``, reduced if large; greyscale is inverted."""
    pixels = (255 - image[0]) if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(file := BytesIO(), format="png")
    return file.getvalue()


def write_page(
    folder: Path, template: str, figures: Mapping[str, Figure], context: Mapping[str, Any]
) -> str:
    """Write ``index.html`` from a template, its figures as PNG files beside it; return its path."""
    images = {name: plots.png(figure) for name, figure in figures.items()}
    page = ENVIRONMENT.get_template(template).render(context, figures=images)
    contents = {f"{name}.png": png for name, png in images.items()} | {"index.html": page.encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for old in {file.name for file in folder.glob("*.png")} - contents.keys():
        (folder / old).unlink()  # of an earlier report
    for name, content in contents.items():
        files.write_bytes(folder / name, content)
    return str(folder / "index.html")


def add_to_tensorboard(folder: Path, figures: Mapping[str, Figure], epoch: int) -> None:
    """Add figures to a run's TensorBoard log, if it has one; they replace those added earlier."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    for earlier in [*folder.rglob(f"events.*{SUFFIX}")]:
        earlier.unlink()
    events = folder.rglob("events.out.tfevents.*")  # a sweep's job has a subfolder
    if newest := max(events, key=lambda path: path.stat().st_mtime, default=None):
        with SummaryWriter(str(newest.parent), filename_suffix=SUFFIX) as writer:
            for name, figure in figures.items():
                pixels = plots.rgb_array(figure)
                writer.add_image(f"report/{name}", pixels, epoch, dataformats="HWC")
