"""What a run's curves and predictions show, and a change to try next."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from torch import Tensor

from lenet_pl import metrics
from lenet_pl.console import percent
from lenet_pl.evaluation.evaluate import RunEvaluation
from lenet_pl.records import DATA_KEY, hydra_mode, override_key, search_path
from lenet_pl.report.explain import convolutions

# data keys that fit every data set, and so survive an override of the group
SHARED_KEYS = {"data.batch_size", "data.eval_batch_size", "data.split_seed", "data.seed"}
# what experiment=small chooses, so that the run's own overrides of it are left out
SMALL = {"augment", "callbacks", "classifier", "data.augment_until", "data.batch_size"}
SMALL |= {"optimizer", "scheduler", "trainer.max_epochs"}
ENVIRONMENT = Environment(undefined=StrictUndefined)
ENVIRONMENT.filters.update(percent=percent, count="{:,}".format)
expression = partial(ENVIRONMENT.compile_expression, undefined_to_none=False)
RULES = (Path(__file__).parent / "templates/findings.yaml").read_text("utf-8")
TERMS, FINDINGS = yaml.safe_load_all(RULES)
TERMS = {name: expression(text) for name, text in TERMS.items()}


@dataclass(frozen=True)
class Finding:
    """A conclusion about a run."""

    title: str  # one sentence
    evidence: str  # the measurements behind it
    advice: str  # what to try
    overrides: tuple[str, ...]  # to try it with, if any
    command: str  # that trains with the overrides; empty if there are none
    kind: str  # problem, hint or good
    exclusive: bool  # whether it makes all other findings meaningless


def measure(evaluation: RunEvaluation) -> dict[str, Any]:
    """Measurements of an evaluated run, and the terms of ``findings.yaml``, computed from them."""
    run, val = evaluation.run, evaluation.val
    accuracy, classes = val.accuracy, run.classes
    # epochs from the second, with the training loss before and after
    changes = list(enumerate(pairwise(row["train/loss"] for row in evaluation.rows), 2))
    matrix = metrics.confusion_matrix(val.logits, val.labels)
    probabilities = val.logits.double().softmax(1)
    confidence = probabilities.amax(1)
    (first, second), (label, other) = (x.T for x in probabilities.topk(2))
    order = (first - second).argsort(stable=True)
    ambiguous, names = order[second[order] > 0.3].tolist(), val.files or val.indices.tolist()
    values = {
        "evaluation": evaluation,
        "found": dict[str, Finding](),  # the findings so far
        "z_gap": z_score(evaluation.train, accuracy),
        "z_test": z_score(accuracy, evaluation.shown.accuracy),
        "not_finite": re.search(r"\b(nan|inf)\b", run.result.get("error") or ""),
        "convolutional": bool(convolutions(evaluation.network)),
        "class_counts": run.state[DATA_KEY]["class_counts"],  # of training images
        "chance": log(len(classes)),  # the loss of guessing
        # a loss below 0.01 is that of a few hard images
        "rises": [epoch for epoch, (old, new) in changes if 1.2 * old < new > 0.01],
        # the smallest fall of the training loss in an epoch
        "slowest": max((new / old for _, (old, new) in changes if old), default=0),
        "most": classes[int(matrix.sum(0).argmax())],  # predicted most often
        "fraction": int(matrix.sum(0).max()) / accuracy.total,  # of the predictions
        "majority": int(matrix.sum(1).max()) / accuracy.total,  # of the most frequent class
        "pairs": confused_pairs(matrix)[:3],
        "ece": metrics.expected_calibration_error(val.logits, val.labels),
        "confidence": confidence.mean().item(),
        # the standard error of a calibrated network's accuracy
        "deviation": (confidence * (1 - confidence)).sum().sqrt().item() / accuracy.total,
        "ambiguous": [(names[i], classes[label[i]], classes[other[i]]) for i in ambiguous],
        "ambiguous_errors": int((~val.correct[ambiguous]).sum()),
    }
    for name, term in TERMS.items():
        values[name] = term(values)
    return values


def check(name: str, values: Mapping[str, Any]) -> Finding | None:
    """A finding of ``findings.yaml`` if it holds for these measurements and terms."""
    entry = FINDINGS[name]

    def text(template: str) -> str:
        return " ".join(ENVIRONMENT.from_string(template).render(values).split())

    def holds(condition: Any) -> bool:
        return bool(expression(str(condition))(values))

    if not holds(entry["when"]):
        return None
    option = next(option for option in entry["try"] if holds(option.get("if", True)))
    overrides, resume = text(option.get("overrides", "")).split(), holds(entry.get("resume", False))
    return Finding(
        title=text(entry["title"]),
        evidence=text(entry["evidence"]),
        advice=text(option["advice"]),
        overrides=tuple(overrides),
        command=command(values["evaluation"], overrides, resume),
        kind=text(entry.get("kind", "hint")),
        exclusive=holds(entry.get("exclusive", False)),
    )


def command(evaluation: RunEvaluation, overrides: Sequence[str], resume: bool = False) -> str:
    """The command that trains like the run, or continues it, with other overrides, if any."""
    if not overrides:
        return ""
    folder, replaced = evaluation.run.folder, set(map(override_key, overrides))
    replaced |= SMALL if "experiment=small" in overrides else set()
    own = [
        item
        for item in evaluation.overrides
        if (key := override_key(item)) not in replaced
        and (key in SHARED_KEYS or key.partition(".")[0] not in replaced)
    ]
    if resume and hydra_mode(folder) != "MULTIRUN":  # a sweep's job cannot be resumed
        own = [f"resume={folder}"]
    return shlex.join(["lenet-pl", "train", *search_path(folder), *own, *overrides])


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Pairs of classes and how often one was predicted as the other, the most frequent first."""
    both = (matrix + matrix.T).triu(1)
    pairs = [(a, b, int(both[a, b])) for a, b in both.nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])


def z_score(first: metrics.Proportion, second: metrics.Proportion) -> float:
    """The difference of two proportions in standard errors.

    Source: the pooled two-proportion test; A. Agresti, "Categorical Data Analysis" (2002), p. 77.
    """
    pooled = (first.count + second.count) / (first.total + second.total)
    error = sqrt(pooled * (1 - pooled) * (1 / first.total + 1 / second.total))
    return (first.value - second.value) / error if error else 0.0


def diagnose(evaluation: RunEvaluation) -> list[Finding]:
    """The findings, the most urgent first, or one that says that all is well."""
    values = measure(evaluation)
    findings = values["found"]
    for name in FINDINGS:
        if (finding := check(name, values)) is None:
            continue
        if finding.exclusive:
            return [finding]
        if finding.overrides and finding.overrides in {x.overrides for x in findings.values()}:
            finding = replace(finding, advice="As above.", overrides=(), command="")
        findings[name] = finding
    return list(findings.values())
