"""Two runs side by side: which is better, is it luck, and on which images."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenet_pl import plots
from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evidence import RunEvaluation, SplitPredictions
from lenet_pl.metrics import (
    confusion_matrix,
    expected_calibration_error,
    mcnemar,
    negative_log_likelihood,
    per_class_scores,
    wilson_interval,
)
from lenet_pl.report import page
from lenet_pl.report.differing import differences
from lenet_pl.report.images import describe

ALPHA = 0.05
PICTURES = 24  # of each kind


class Disagreement(NamedTuple):
    """How many images both runs get right, only one of them, or neither; McNemar's p."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float


def common(
    first: RunEvaluation, second: RunEvaluation
) -> tuple[SplitPredictions, SplitPredictions]:
    """The split on which both runs were evaluated: test, if both were tested.

    Raises:
        ConfigError: if the images are not the same.
    """
    tested = first.test and second.test
    a, b = (first.test, second.test) if tested else (first.val, second.val)
    assert a and b
    same = a.images.shape == b.images.shape and torch.equal(a.images, b.images)
    if not same or not torch.equal(a.labels, b.labels):
        raise ConfigError(
            f"{first.run.folder} and {second.run.folder}: their {a.meaning} images are not the "
            "same (data, data.val_size and data.split_seed decide which they are)"
        )
    return a, b


def disagreement(a: SplitPredictions, b: SplitPredictions) -> Disagreement:
    """Count where two runs agree, and test whether they are equally good."""
    return Disagreement(
        both=int((a.correct & b.correct).sum()),
        only_first=int((a.correct & ~b.correct).sum()),
        only_second=int((~a.correct & b.correct).sum()),
        neither=int((~a.correct & ~b.correct).sum()),
        p=mcnemar(a.correct, b.correct),
    )


def verdict(found: Disagreement, names: tuple[str, str]) -> str:
    """The comparison in a sentence."""
    first, second = found.only_first, found.only_second
    if first == second:
        return "Both are right equally often."
    better, worse = names if first > second else names[::-1]
    if found.p < ALPHA:
        return f"{better} is better than {worse}, beyond chance (p = {_p(found.p)})."
    return (
        f"{better} is right more often, but it may be chance (p = {_p(found.p)}): not a reason "
        f"to prefer it."
    )


def write_comparison(first: RunEvaluation, second: RunEvaluation) -> tuple[Path, Disagreement, str]:
    """Write ``RUN/report/against-RUN2/index.html``, its pictures beside it.

    Returns:
        The path of the page, where the runs disagree, and the verdict in a sentence.

    Raises:
        ConfigError: if the runs were evaluated on different images, or nothing can be written.
    """
    a, b = common(first, second)
    found, names = disagreement(a, b), (first.name, second.name)
    classes = first.run.classes
    curves = {
        "A": (first.rows, first.epoch),
        "B": (second.rows, second.epoch),
    }
    made = {
        "curves-loss": plots.curves(curves, "loss"),
        "curves-accuracy": plots.curves(curves, "acc"),
        "confusion-first": plots.confusion(confusion_matrix(a.logits, a.labels), classes),
        "confusion-second": plots.confusion(confusion_matrix(b.logits, b.labels), classes),
    }
    pictures = {name: plots.png(figure) for name, figure in made.items()}
    scores = [per_class_scores(confusion_matrix(shown.logits, shown.labels)) for shown in (a, b)]
    sentence = verdict(found, names)
    context = {
        "figures": pictures,
        "grey": a.images.shape[1] == 1,
        "names": names,
        "folders": [run.run.folder.as_posix() for run in (first, second)],
        "meaning": a.meaning,
        "named": bool(a.files),
        "split": a.split,
        "total": len(a.labels),
        "verdict": sentence,
        "found": found,
        "p": _p(found.p),
        "rows": table(first, second, a, b),
        "settings": differences(first.run.config, second.run.config),
        "recalls": [
            (name, one.recall, two.recall, two.recall - one.recall, one.support)
            for name, one, two in zip(classes, *scores, strict=True)
        ],
        "only_first": describe(b, classes, most_confident(b, a.correct & ~b.correct)),
        "only_second": describe(a, classes, most_confident(a, b.correct & ~a.correct)),
    }
    place = "against-" + re.sub(r"[^\w.-]+", "-", second.name)
    html = page.render("compare.html.j2", context)
    path = page.write(first.run.folder / "report" / place, html, pictures)
    return path, found, sentence


def table(
    first: RunEvaluation, second: RunEvaluation, a: SplitPredictions, b: SplitPredictions
) -> list[tuple[str, ...]]:
    """Rows of what is measured, for the first run, the second, and the second less the first."""
    rows: list[tuple[str, ...]] = []

    def add(name: str, values: tuple[float, float], form: str, scale: float = 1) -> None:
        digits = int(form.partition(".")[2][0])
        # of the values as they are shown, so that the columns agree
        one, two = (round(scale * value, digits) for value in values)
        unit = " %" if scale == 100 else ""
        difference = format(two - one, "+" + form)
        # what rounds to nothing has no sign
        difference = difference if difference.strip("+-0.") else "0"
        points = " points" if unit else ""
        rows.append((name, format(one, form) + unit, format(two, form) + unit, difference + points))

    add(f"{a.meaning} accuracy", (a.accuracy.value, b.accuracy.value), ".2f", 100)
    ends = [wilson_interval(shown.accuracy.count, shown.accuracy.total) for shown in (a, b)]
    intervals = [f"{percent(low)} to {percent(high)}" for low, high in ends]
    rows.append(("95 % interval", *intervals, ""))
    if a.split == "test":
        add(
            "validation accuracy", (first.val.accuracy.value, second.val.accuracy.value), ".2f", 100
        )
    add("training images that are right", (first.train.value, second.train.value), ".2f", 100)
    add("negative log-likelihood", _both(negative_log_likelihood, a, b), ".4f")
    add("expected calibration error", _both(expected_calibration_error, a, b), ".4f")
    add("best epoch", (first.epoch, second.epoch), ".0f")
    add("epochs", (len(first.rows), len(second.rows)), ".0f")
    sizes = [sum(p.numel() for p in run.network.net.parameters()) for run in (first, second)]
    add("parameters", (sizes[0], sizes[1]), ",.0f")
    seconds = [sum(row.get("seconds", 0.0) for row in run.rows) for run in (first, second)]
    add("seconds of training", (seconds[0], seconds[1]), ",.0f")
    return rows


def most_confident(shown: SplitPredictions, chosen: Tensor) -> Tensor:
    """Indices of the chosen images that this run is most confident of, the first ones first."""
    indices = chosen.nonzero().flatten()
    confidence = shown.logits[indices].softmax(1).amax(1)
    return indices[confidence.argsort(descending=True, stable=True)][:PICTURES]


def _both(measure: Any, a: SplitPredictions, b: SplitPredictions) -> tuple[float, float]:
    return measure(a.logits, a.labels), measure(b.logits, b.labels)


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
