"""The page that compares two runs: which is better, is it chance, and on which images."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lenet_pl import metrics, plots
from lenet_pl.config import flatten
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import RunEvaluation, compute_metrics
from lenet_pl.report.page import image_cards, write_page


def write_comparison(first: RunEvaluation, second: RunEvaluation) -> dict[str, Any]:
    """Write ``RUN/report/against-RUN2/index.html``, with its figures as PNG files beside it.

    The runs are compared on the test split if both were tested, else on the validation split.
    Returns, for JSON, the path, the verdict, how many images both, one or neither of the runs
    classify correctly, and the p-value of McNemar's test. Raises ConfigError if the runs were
    evaluated on different images.
    """
    classes, a, b = first.run.classes, first.test, second.test
    if not a or not b:
        a, b = first.val, second.val
    if not torch.equal(a.images, b.images) or not torch.equal(a.labels, b.labels):
        raise ConfigError(
            f"{first.run.folder} and {second.run.folder}: their {a.meaning} images are not the "
            "same; data, data.val_size and data.split_seed select them"
        )
    outcome = 2 * (~a.correct).long() + (~b.correct).long()
    names = ("both", "only_first", "only_second", "neither")  # runs that are correct
    counts = dict(zip(names, torch.bincount(outcome, minlength=4).tolist(), strict=True))
    p = metrics.mcnemar(a.correct, b.correct)
    folder = first.run.folder / "report" / re.sub(r"[^\w.-]+", "-", f"against-{second.run.name}")
    answer = {
        "path": str(folder / "index.html"),
        "verdict": verdict(counts, p, first.run.name, second.run.name),
        **counts,
        "p": p,
    }
    computed = [compute_metrics(first.run, a), compute_metrics(second.run, b)]
    matrices = [torch.tensor(values["matrix"]) for values in computed]
    curves = {"A": (first.rows, first.run.epoch), "B": (second.rows, second.run.epoch)}
    context = {
        "figures": {
            "curves-loss": plots.curves(curves, "loss"),
            "curves-accuracy": plots.curves(curves, "acc"),
            "confusion-first": plots.confusion_matrix(matrices[0], classes),
            "confusion-second": plots.confusion_matrix(matrices[1], classes),
        },
        "runs": (first, second),
        "shown": a,
        "answer": answer,
        "metrics": computed,
        "settings": config_diff(first.run.config, second.run.config),
        "only_first": image_cards(b, classes, metrics.by_confidence(b.logits, outcome == 1, 24)),
        "only_second": image_cards(a, classes, metrics.by_confidence(a.logits, outcome == 2, 24)),
    }
    write_page(folder, "compare.html.j2", context)
    return answer


def verdict(counts: Mapping[str, int], p: float, first: str, second: str) -> str:
    """Which run is more accurate, and whether significantly so, in one sentence."""
    difference = counts["only_first"] - counts["only_second"]
    if not difference:
        return "Both runs are equally accurate."
    better, worse = (first, second) if difference > 0 else (second, first)
    if p < 0.05:
        return f"{better} is significantly more accurate than {worse} (p = {p:.2g})."
    return f"{better} is more accurate than {worse}, but not significantly (p = {p:.2g})."


def config_diff(first: DictConfig, second: DictConfig) -> list[tuple[str, str, str]]:
    """The configuration keys whose values differ, with both values."""
    a, b = (flatten(OmegaConf.to_container(config)) for config in (first, second))
    keys = sorted({**a, **b}.keys() - {"run_dir", "ckpt_path", "repeat"})  # of any two runs
    return [(k, str(a.get(k)), str(b.get(k))) for k in keys if str(a.get(k)) != str(b.get(k))]
