"""What a run's curves and predictions show, and a change to try next."""

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from math import comb, log, sqrt
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
FINDINGS = yaml.safe_load((Path(__file__).parent / "templates/findings.yaml").read_text("utf-8"))
ENVIRONMENT = Environment(undefined=StrictUndefined)
ENVIRONMENT.filters.update(percent=percent, count="{:,}".format)


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


class Diagnosis:
    """The measurements of an evaluated run, for the conditions and texts of ``findings.yaml``."""

    def __init__(self, evaluation: RunEvaluation) -> None:
        self.evaluation, self.run, self.rows = evaluation, evaluation.run, evaluation.rows
        self.classes, self.result, val = self.run.classes, self.run.result, evaluation.val
        self.train, self.val, self.test = evaluation.train, val.accuracy, evaluation.shown.accuracy
        self.gap, self.errors = self.train.value - self.val.value, self.val.total - self.val.count
        self.z_gap, self.z_test = z_score(self.train, self.val), z_score(self.val, self.test)
        self.failed, self.stopped_early = map(self.result.get, ("error", "stopped_early"))
        self.not_finite = re.search(r"\b(nan|inf)\b", self.failed or "")

        # settings and data
        self.setting = setting = self.run.setting
        self.lr, self.decay = setting("optimizer.lr", 0.0), setting("optimizer.weight_decay", 0.0)
        self.smoothing = setting("loss.label_smoothing", 0.0)
        self.augment, self.scheduler = setting("augment"), setting("scheduler")
        self.convolutional = bool(convolutions(evaluation.network))
        self.batch_size = setting("data.batch_size")
        self.patience = setting("callbacks.early_stopping.patience")
        self.train_size = len(evaluation.data.splits["train"])
        self.per_class = self.train_size / len(self.classes)
        self.few = self.per_class < 1000
        counts = self.run.state[DATA_KEY]["class_counts"]
        weighted = self.run.config.loss.get("class_weights", "no such key") is not None
        self.unequal = max(counts) > 4 * min(counts) and not weighted

        # curves
        columns = ("train/loss", "val/loss", "val/acc", "lr")
        self.losses, self.val_losses, self.accuracies, self.rates = (
            [row[name] for row in self.rows] for name in columns
        )
        self.best, self.epochs = max(self.accuracies), len(self.rows)
        self.best_epoch = self.accuracies.index(self.best) + 1
        self.steps = int(self.run.state["global_step"]) // self.run.epoch  # per epoch, as trained
        self.total, self.longer = self.steps * self.epochs, f"trainer.max_epochs={2 * self.epochs}"
        self.chance = chance = log(len(self.classes))  # the loss of guessing
        self.stuck = self.losses[-1] > 0.9 * chance
        unlearnt = min(self.val_losses) < 0.5 * chance and self.val_losses[-1] > 0.9 * chance
        self.collapsed = unlearnt or self.best - self.accuracies[-1] > 0.2
        changes = list(pairwise(self.losses))
        # a loss below 0.01 is that of a few hard images
        self.rises = [n for n, (old, new) in enumerate(changes, 2) if 1.2 * old < new > 0.01]
        ratios = (new / old for old, new in changes if old)
        self.slowest = max(ratios, default=0)  # smallest fall of the training loss in an epoch
        self.back = max(1, self.epochs // 4)  # epochs over which validation loss should fall
        self.annealed = self.rates[-1] < 0.1 * max(*self.rates, self.lr)
        self.scheduled = len({round(rate, 9) for rate in self.rates}) > 1

        # predictions
        matrix = metrics.confusion_matrix(val.logits, val.labels)
        self.most = self.classes[int(matrix.sum(0).argmax())]  # predicted most often
        self.fraction, self.majority = (int(matrix.sum(i).max()) / self.val.total for i in (0, 1))
        self.pairs = confused_pairs(matrix)[:3]
        self.concentration = sum(count for *_, count in self.pairs) / max(1, self.errors)
        even = len(self.pairs) / max(1, comb(len(self.classes), 2))
        # evenly spread errors exceed this in 1 % of simulations, with 4 to 100 classes
        self.concentration_by_chance = max(1 / 3, even + 1.8 / sqrt(max(1, self.errors)))
        self.ece = metrics.expected_calibration_error(val.logits, val.labels)
        probabilities = val.logits.double().softmax(1)
        confidence = probabilities.amax(1)
        self.confidence = confidence.mean().item()
        self.excess = self.confidence - self.val.value
        # the standard error of a calibrated network's accuracy
        self.deviation = (confidence * (1 - confidence)).sum().sqrt().item() / self.val.total
        (first, second), (label, other) = (x.T for x in probabilities.topk(2))
        order = (first - second).argsort(stable=True)
        ambiguous, names = order[second[order] > 0.3].tolist(), val.files or val.indices.tolist()
        self.ambiguous = [
            (names[i], self.classes[label[i]], self.classes[other[i]]) for i in ambiguous
        ]
        self.ambiguous_errors = int((~val.correct[ambiguous]).sum())

    def check(self, name: str, found: Collection[str] = ()) -> Finding | None:
        """A finding of ``findings.yaml`` if it holds, given the names of those found before."""
        entry, values = FINDINGS[name], vars(self) | {"found": found}

        def text(template: str) -> str:
            return " ".join(ENVIRONMENT.from_string(template).render(values).split())

        def holds(condition: Any) -> bool:
            return text(f"{{{{ 1 if {condition} }}}}") == "1"

        if not holds(entry["when"]):
            return None
        option = next(option for option in entry["try"] if holds(option.get("if", True)))
        overrides = tuple(text(option.get("overrides", "")).split())
        return Finding(
            title=text(entry["title"]),
            evidence=text(entry["evidence"]),
            advice=text(option["advice"]),
            overrides=overrides,
            command=self.command(overrides, holds(entry.get("resume", False))),
            kind=text(entry.get("kind", "hint")),
            exclusive=holds(entry.get("exclusive", False)),
        )

    def command(self, overrides: tuple[str, ...], resume: bool = False) -> str:
        """The command that trains like the run, or continues it, with other overrides, if any."""
        if not overrides:
            return ""
        replaced = set(map(override_key, overrides))
        replaced |= SMALL if "experiment=small" in overrides else set()
        own = [
            item
            for item in self.evaluation.overrides
            if (key := override_key(item)) not in replaced
            and (key in SHARED_KEYS or key.partition(".")[0] not in replaced)
        ]
        if resume and hydra_mode(self.run.folder) != "MULTIRUN":  # a sweep's job cannot be resumed
            own = [f"resume={self.run.folder}"]
        return shlex.join(["lenet-pl", "train", *search_path(self.run.folder), *own, *overrides])


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
    diagnosis, findings = Diagnosis(evaluation), dict[str, Finding]()
    for name in FINDINGS:
        if (finding := diagnosis.check(name, findings.keys())) is None:
            continue
        if finding.exclusive:
            return [finding]
        if finding.overrides and finding.overrides in {x.overrides for x in findings.values()}:
            finding = replace(finding, advice="As above.", overrides=(), command="")
        findings[name] = finding
    return list(findings.values())
