"""A run on one page: how good, where wrong, why, and what next."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lenet_pl.analysis import charts, inside, page, plots
from lenet_pl.analysis.evaluate import (
    calibration,
    confident_mistakes,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    per_class,
    wilson,
)
from lenet_pl.analysis.evidence import Evidence, Shown
from lenet_pl.analysis.figures import Finding
from lenet_pl.analysis.findings import find
from lenet_pl.analysis.mistakes import confused_pairs

MISTAKES, UNCERTAIN = 32, 16  # pictures
PAIRS, PER_PAIR = 6, 8
EXPLAINED = 8  # mistakes whose saliency is shown
DIGITS = 3  # whose feature maps are shown
MAPS = 16  # per convolution

Picture = dict[str, str]


def write_report(evidence: Evidence) -> tuple[Path, list[Finding]]:
    """Write ``RUN/report/index.html`` with its pictures beside it, and into TensorBoard.

    Returns:
        The path of the page, and the findings.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    figures = evidence.figures()
    findings = find(figures)
    pictures, galleries = draw(evidence)
    context = {
        **summary(evidence),
        **galleries,
        "figures": pictures,
        "findings": [
            asdict(f) | {"command": f.command(figures.settings)} for f in findings
        ],
        "train": figures.train,
    }
    html = page.render("report.html.j2", context)
    path = page.write(evidence.run.folder / "report", html, pictures)
    page.add_to_dashboard(evidence.run.folder, pictures, evidence.epoch)
    return path, findings


def summary(evidence: Evidence) -> dict[str, Any]:
    """The words and numbers of the page."""
    run, shown = evidence.run, evidence.shown
    result, share = run.result, shown.share
    recorded = result.get("metrics", {}).get(f"{shown.split}/acc", share.value)
    config = OmegaConf.masked_copy(run.config, [str(key) for key in run.config if key != "hydra"])
    scores = per_class(confusion_matrix(shown.logits, shown.labels))
    return {
        "name": evidence.name,
        "folder": run.folder.as_posix(),
        "checkpoint": run.checkpoint.name,
        "model": type(evidence.network.net).__name__,
        "data": evidence.data.source.name,
        "pooled": bool((result.get("data") or {}).get("pooled")),
        "grey": shown.images.shape[1] == 1,
        "classes": run.classes,
        "shown": shown,
        "share": share,
        "low_high": wilson(share.count, share.total),
        "validation": evidence.val.share,
        "differs": recorded if abs(recorded - share.value) * share.total > 0.5 else None,
        "status": result.get("status", "unfinished"),
        "error": result.get("error"),
        "epoch": evidence.epoch,
        "epochs": len(evidence.rows),
        "stopped_early": result.get("stopped_early", False),
        "parameters": sum(p.numel() for p in evidence.network.net.parameters()),
        "counts": {name: len(split) for name, split in evidence.data.splits.items()},
        "seconds": (result.get("seconds") or {}).get("epoch_median"),
        "overrides": evidence.overrides,
        "ece": expected_calibration_error(shown.logits, shown.labels),
        "likelihood": negative_log_likelihood(shown.logits, shown.labels),
        "scores": list(zip(run.classes, scores, strict=True)),
        "weakest": min(scores, key=lambda score: score.f1).f1,
        "config": OmegaConf.to_yaml(config),
        "versions": result.get("versions") or {},
        "git": result.get("git"),
        "origin": evidence.data.origin,
        "device": result.get("device"),
    }


def draw(evidence: Evidence) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The pictures as PNG files by name, and the galleries as they stand in the page."""
    shown, classes = evidence.shown, evidence.run.classes
    matrix = confusion_matrix(shown.logits, shown.labels)
    curves = {evidence.name: (evidence.rows, evidence.epoch)}
    made = {
        "curves-loss": charts.curves(curves, "loss"),
        "curves-accuracy": charts.curves(curves, "acc"),
        "confusion": plots.confusion(matrix, classes),
        "confusion-shares": plots.confusion(matrix, classes, shares=True),
        "reliability": charts.reliability(calibration(shown.logits, shown.labels)),
    }
    if len({row["lr"] for row in evidence.rows}) > 1:
        made["learning-rate"] = charts.learning_rate(evidence.rows)

    wrong = confident_mistakes(shown.logits, shown.labels, MISTAKES)
    unsure = least_certain(shown, UNCERTAIN)
    pairs = []
    for a, b, count in confused_pairs(matrix)[:PAIRS]:
        found = confident_mistakes(shown.logits, shown.labels, len(shown.labels))
        label, guess = shown.labels[found], shown.guesses[found]
        either = ((label == a) & (guess == b)) | ((label == b) & (guess == a))
        chosen = found[either][:PER_PAIR]
        pairs.append(
            {
                "first": classes[a],
                "second": classes[b],
                "count": count,
                "there": int(matrix[a, b]),
                "back": int(matrix[b, a]),
                "chosen": chosen,
                "pictures": describe(shown, classes, chosen),
            }
        )
    galleries = {
        "mistakes": describe(shown, classes, wrong),
        "uncertain": describe(shown, classes, unsure),
        "pairs": pairs,
    }
    chosen = torch.cat([pair["chosen"] for pair in pairs]) if pairs else wrong[:0]
    for name, indices in (("mistakes", wrong), ("uncertain", unsure), ("pairs", chosen)):
        if len(indices):
            captions = [
                f"{classes[label]} → {classes[guess]}"
                for label, guess in zip(shown.labels[indices], shown.guesses[indices], strict=True)
            ]
            made[name] = plots.gallery(shown.images[indices], captions)
    made |= look_inside(evidence, wrong[:EXPLAINED])
    return {name: plots.png(figure) for name, figure in made.items()}, galleries


def look_inside(evidence: Evidence, wrong: Tensor) -> dict[str, Any]:
    """Filters and feature maps, where there are convolutions, and the saliency of mistakes."""
    shown, network, classes = evidence.shown, evidence.network, evidence.run.classes
    made = {}
    if layers := inside.convolutions(network):
        made["filters"] = plots.filters(layers[0].weight.detach().float())
        wanted = torch.linspace(0, len(classes) - 1, DIGITS).long().unique()
        right = [(shown.right & (shown.labels == c)).nonzero().flatten()[:1] for c in wanted]
        digits = torch.cat(right) if any(map(len, right)) else torch.arange(1)
        for number, maps in enumerate(inside.feature_maps(network, shown.images[digits]), 1):
            count = min(maps.shape[1], MAPS)
            rows: list[Tensor] = []
            for image, found in zip(shown.images[digits], maps[:, :count], strict=True):
                rows += [_ink(image), *plots.signed(found[:, None])]
            made[f"features-{number}"] = plots.tiles(rows, columns=count + 1)
    if len(wrong):
        labels, guesses = shown.labels[wrong], shown.guesses[wrong]
        heat = inside.saliency(network, shown.images[wrong], guesses, labels)
        captions = [
            f"{classes[label]} → {classes[guess]}"
            for label, guess in zip(labels, guesses, strict=True)
        ]
        made["saliency"] = plots.tiles(
            [*map(_ink, shown.images[wrong]), *plots.signed(heat)],
            columns=len(wrong),
            captions=[*captions, *[""] * len(wrong)],
        )
    return made


def least_certain(shown: Shown, count: int) -> Tensor:
    """Indices of the right predictions, the least confident first, ``count`` at most."""
    confidence = shown.logits.softmax(1).amax(1)
    right = shown.right.nonzero().flatten()
    return right[confidence[right].argsort(stable=True)][:count]


def describe(shown: Shown, classes: tuple[str, ...], indices: Tensor) -> list[Picture]:
    """Pictures with what is to be read below them."""
    best, second = shown.logits[indices].softmax(1).topk(2)[0].T
    runner_up = shown.logits[indices].topk(2).indices[:, 1]
    return [
        {
            "source": page.thumbnail(shown.images[i]),
            "label": classes[shown.labels[i]],
            "guess": classes[shown.guesses[i]],
            "confidence": f"{best[n]:.0%}",
            "second": f"{classes[runner_up[n]]} {second[n]:.0%}",
            "index": f"{int(shown.indices[i]):,}",
        }
        for n, i in enumerate(indices.tolist())
    ]


def _ink(image: Tensor) -> Tensor:
    return (255 - image if image.shape[0] == 1 else image) / 255


