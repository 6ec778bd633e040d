"""The pictures of a report."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lenet_pl import plots
from lenet_pl.evaluation.evidence import RunEvaluation, SplitPredictions
from lenet_pl.metrics import calibration, confusion_matrix, most_confident_errors
from lenet_pl.report import explain as inside
from lenet_pl.report import page
from lenet_pl.report.mistakes import confused_pairs

MISTAKES, UNCERTAIN = 32, 16  # pictures
PAIRS, PER_PAIR = 6, 8
EXPLAINED = 8  # mistakes whose saliency is shown
DIGITS = 3  # whose feature maps are shown
MAPS = 16  # per convolution

Picture = dict[str, str]


def draw(evidence: RunEvaluation) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The pictures as PNG files by name, and the galleries as they stand in the page."""
    shown, classes = evidence.shown, evidence.run.classes
    matrix = confusion_matrix(shown.logits, shown.labels)
    curves = {evidence.name: (evidence.rows, evidence.epoch)}
    made = {
        "curves-loss": plots.curves(curves, "loss"),
        "curves-accuracy": plots.curves(curves, "acc"),
        "confusion": plots.confusion(matrix, classes),
        "confusion-shares": plots.confusion(matrix, classes, shares=True),
        "reliability": plots.reliability(calibration(shown.logits, shown.labels)),
    }
    if len({row["lr"] for row in evidence.rows}) > 1:
        made["learning-rate"] = plots.learning_rate(evidence.rows)

    wrong = most_confident_errors(shown.logits, shown.labels, MISTAKES)
    unsure = least_certain(shown, UNCERTAIN)
    pairs = most_confused(shown, matrix)
    chosen = torch.cat([indices for *_, indices in pairs]) if pairs else wrong[:0]
    for name, indices in (("mistakes", wrong), ("uncertain", unsure), ("pairs", chosen)):
        if len(indices):
            made[name] = plots.gallery(shown.images[indices], _captions(shown, classes, indices))
    galleries = {
        "mistakes": describe(shown, classes, wrong),
        "uncertain": describe(shown, classes, unsure),
        "pairs": [
            {
                "first": classes[a],
                "second": classes[b],
                "count": count,
                "there": int(matrix[a, b]),
                "back": int(matrix[b, a]),
                "pictures": describe(shown, classes, indices),
            }
            for a, b, count, indices in pairs
        ],
    }
    made |= look_inside(evidence, wrong[:EXPLAINED])
    return {name: plots.png(figure) for name, figure in made.items()}, galleries


def look_inside(evidence: RunEvaluation, wrong: Tensor) -> dict[str, Figure]:
    """Filters and feature maps, where there are convolutions, and the saliency of mistakes."""
    shown, network, classes = evidence.shown, evidence.network, evidence.run.classes
    made: dict[str, Figure] = {}
    if layers := inside.convolutions(network):
        made["filters"] = plots.filters(layers[0].weight.detach().float())
        wanted = torch.linspace(0, len(classes) - 1, DIGITS).long().unique()
        right = [(shown.correct & (shown.labels == c)).nonzero().flatten()[:1] for c in wanted]
        digits = torch.cat(right) if any(map(len, right)) else torch.arange(1)
        for number, maps in enumerate(inside.feature_maps(network, shown.images[digits]), 1):
            count = min(maps.shape[1], MAPS)
            drawn: list[Tensor] = []
            for image, found in zip(shown.images[digits], maps[:, :count], strict=True):
                drawn += [_ink(image), *plots.signed(found[:, None])]
            made[f"features-{number}"] = plots.tiles(drawn, columns=count + 1)
    if len(wrong):
        labels, guesses = shown.labels[wrong], shown.predicted[wrong]
        heat = inside.saliency(network, shown.images[wrong], guesses, labels)
        captions = _captions(shown, classes, wrong)
        made["saliency"] = plots.tiles(
            [*map(_ink, shown.images[wrong]), *over(plots.signed(heat), shown.images[wrong])],
            columns=len(wrong),
            captions=[*captions, *[""] * len(wrong)],
        )
    return made


def most_confused(shown: SplitPredictions, matrix: Tensor) -> list[tuple[int, int, int, Tensor]]:
    """Two classes, how often either was taken for the other, and the surest such images."""
    wrong = most_confident_errors(shown.logits, shown.labels, len(shown.labels))
    label, guess = shown.labels[wrong], shown.predicted[wrong]
    found = []
    for a, b, count in confused_pairs(matrix)[:PAIRS]:
        either = ((label == a) & (guess == b)) | ((label == b) & (guess == a))
        found.append((a, b, count, wrong[either][:PER_PAIR]))
    return found


def over(colours: Tensor, images: Tensor) -> Tensor:
    """Colours ``[N, 3, H, W]`` with the ink of the images as a shadow in them."""
    shadow = 0.3 * images.float().mean(1, keepdim=True) / 255
    return colours * (1 - shadow)


def least_certain(shown: SplitPredictions, count: int) -> Tensor:
    """Indices of the right predictions, the least confident first, ``count`` at most."""
    confidence = shown.logits.softmax(1).amax(1)
    right = shown.correct.nonzero().flatten()
    return right[confidence[right].argsort(stable=True)][:count]


def describe(shown: SplitPredictions, classes: Sequence[str], indices: Tensor) -> list[Picture]:
    """Pictures with what is to be read below them."""
    probabilities, ranked = shown.logits[indices].softmax(1).topk(2)
    described = []
    for i, (best, second), (guess, other) in zip(
        indices.tolist(), probabilities.tolist(), ranked.tolist(), strict=True
    ):
        described.append(
            {
                "source": page.thumbnail(shown.images[i]),
                "label": classes[int(shown.labels[i])],
                "guess": classes[guess],
                "confidence": f"{100 * best:.0f} %",
                "second": f"{classes[other]} {100 * second:.0f} %",
                "place": shown.files[i] if shown.files else f"image {int(shown.indices[i])}",
            }
        )
    return described


def _captions(shown: SplitPredictions, classes: Sequence[str], indices: Tensor) -> list[str]:
    labels, guesses = shown.labels[indices].tolist(), shown.predicted[indices].tolist()
    return [f"{classes[a]} → {classes[b]}" for a, b in zip(labels, guesses, strict=True)]


def _ink(image: Tensor) -> Tensor:
    return (255 - image if image.shape[0] == 1 else image) / 255
