"""Checks of a run's curves and predictions, each with a change to try next."""

import re
import shlex
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

Z = 2.576  # standard errors; chance exceeds them in 1 % of cases
FEW_STEPS = 1000  # LeNet may not have left chance level by then at the default learning rate
MIN_ERRORS = 20  # fewer show no pattern
# data keys that fit every data set, and so survive an override of the group
SHARED_KEYS = {"data.batch_size", "data.eval_batch_size", "data.split_seed", "data.seed"}
# what experiment=small chooses, so that the run's own overrides of it are left out
SMALL = {"augment", "callbacks", "classifier", "data.augment_until", "data.batch_size"}
SMALL |= {"optimizer", "scheduler", "trainer.max_epochs"}
TEXTS = yaml.safe_load((Path(__file__).parent / "templates/findings.yaml").read_text("utf-8"))
ENVIRONMENT = Environment(undefined=StrictUndefined)
ENVIRONMENT.filters.update(percent=percent, count="{:,}".format)


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    title: str  # one sentence
    evidence: str  # the measurements behind it
    advice: str  # what to try
    overrides: tuple[str, ...]  # to try it with, if any
    command: str  # that trains with the overrides; empty if there are none
    kind: str  # problem, hint or good
    exclusive: bool  # whether it makes all other findings meaningless


class Context:
    """The values of an evaluated run that checks and templates use."""

    def __init__(self, evaluation: RunEvaluation) -> None:
        self.evaluation, self.run, self.rows = evaluation, evaluation.run, evaluation.rows
        self.classes, self.result = self.run.classes, self.run.result
        self.val, self.train = evaluation.val.accuracy, evaluation.train
        columns = ("train/loss", "val/loss", "val/acc", "lr")
        self.losses, self.val_losses, self.accuracies, self.rates = (
            [row[name] for row in self.rows] for name in columns
        )
        self.gap, self.errors = self.train.value - self.val.value, self.val.total - self.val.count
        self.matrix = metrics.confusion_matrix(evaluation.val.logits, evaluation.val.labels)
        self.train_size, self.epochs = len(evaluation.data.splits["train"]), len(self.rows)
        self.steps = int(self.run.state["global_step"]) // self.run.epoch  # per epoch, as trained
        self.total, self.longer = self.steps * self.epochs, f"trainer.max_epochs={2 * self.epochs}"
        self.chance = chance = log(len(self.classes))  # the loss of guessing
        unlearnt = min(self.val_losses) < 0.5 * chance and self.val_losses[-1] > 0.9 * chance
        self.collapsed = unlearnt or max(self.accuracies) - self.accuracies[-1] > 0.2
        self.setting = setting = self.run.setting
        self.lr, self.decay = setting("optimizer.lr", 0.0), setting("optimizer.weight_decay", 0.0)
        self.smoothing = setting("loss.label_smoothing", 0.0)
        self.augment, self.scheduler = setting("augment"), setting("scheduler")

    def finding(self, name: str, **variables: Any) -> Finding:
        """A finding with the texts of ``findings.yaml``."""
        values, entry = vars(self) | variables, TEXTS[name]

        def text(template: str) -> str:
            return " ".join(ENVIRONMENT.from_string(template).render(values).split())

        def holds(condition: Any) -> bool:
            return text(f"{{{{ 1 if {condition} }}}}") == "1"

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
        replaced = set(map(override_key, overrides))
        replaced |= SMALL if "experiment=small" in overrides else set()
        own = [
            item
            for item in self.evaluation.overrides
            if (key := override_key(item)) not in replaced
            and (key in SHARED_KEYS or key.partition(".")[0] not in replaced)
        ]
        arguments = [f"resume={self.run.folder}"] if resume else own
        arguments = search_path(self.run.folder) + arguments
        return shlex.join(["lenet-pl", "train", *arguments, *overrides]) if overrides else ""


def learning_rate_too_high(c: Context) -> Finding | None:
    """The loss diverged, the network stopped learning, accuracy collapsed or the loss jumps."""
    if re.search(r"\b(nan|inf)\b", c.result.get("error") or ""):
        return c.finding("loss_not_finite")
    # an untrained network has up to 1 % more than the loss of chance, and few steps change little
    limit = (1.003 if c.total >= FEW_STEPS else 1.05) * c.chance
    if c.val.value < 1.5 / len(c.classes) and c.losses[-1] > limit:
        return c.finding("stopped_learning")
    if c.collapsed:
        return c.finding("collapsed")
    changes = enumerate(pairwise(c.losses), 2)
    # a loss below 0.01 is that of a few hard images
    rises = [epoch for epoch, (before, loss) in changes if 1.2 * before < loss > 0.01]
    unstable = len(rises) >= max(2, 0.2 * (c.epochs - 1))
    return c.finding("unstable", rises=rises) if unstable else None


def too_few_steps(c: Context) -> Finding | None:
    """The run ended before the network could learn the training images."""
    if c.result.get("error") or c.total >= FEW_STEPS or c.train.value >= 0.9:
        return None
    small = c.train_size <= 1000 and "experiment=small" not in c.evaluation.overrides
    enough, size = max(2 * c.epochs, 3 * FEW_STEPS // c.steps), c.setting("data.batch_size")
    return c.finding("too_few_steps", size=size, small=small, enough=enough)


def learning_rate_too_low(c: Context) -> Finding | None:
    """The loss never left chance level, or it falls steadily and is far from converged."""
    losses, ratios = c.losses, [after / before for before, after in pairwise(c.losses)]
    warming_up = c.rates[0] < 0.9 * max(c.rates)
    if c.result.get("error") or warming_up or c.steps < 50 or max(ratios, default=0) > 1.02:
        return None
    stuck = losses[-1] > 0.9 * c.chance
    slow_start = losses[0] > 0.5 * c.chance and c.rows[0]["train/acc"] < 0.5
    slow = slow_start and len(losses) >= 4 and max(ratios) < 0.95 and c.val.value < 0.8
    return c.finding("learning_rate_too_low", stuck=stuck) if stuck or slow else None


def one_class(c: Context) -> Finding | None:
    """Nearly every image gets the same prediction."""
    predicted = c.matrix.sum(0)
    fraction, majority = (int(n.max()) / c.val.total for n in (predicted, c.matrix.sum(1)))
    # a fifth of the way from always predicting the majority class to perfect
    if fraction <= 0.8 or c.val.value > majority + 0.2 * (1 - majority) or c.collapsed:
        return None
    return c.finding("one_class", fraction=fraction, most=c.classes[int(predicted.argmax())])


def underfitting(c: Context) -> Finding | None:
    """Even training images are misclassified, though training has converged."""
    error = 1 - c.train.value
    if error < 0.01 or c.gap > 0.25 * error:
        return None
    others = (ended_too_early, too_few_steps, learning_rate_too_low, learning_rate_too_high)
    if any(check(c) for check in others):
        return None
    convolutional = bool(convolutions(c.evaluation.network))
    counts = c.run.state[DATA_KEY]["class_counts"]
    weighted = c.run.config.loss.get("class_weights", "no such key") is not None
    unequal = max(counts) > 4 * min(counts) and not weighted
    return c.finding("underfitting", error=error, convolutional=convolutional, unequal=unequal)


def overfitting(c: Context) -> Finding | None:
    """Training accuracy is well above validation accuracy."""
    if z_score(c.train, c.val) < Z or c.gap < max(0.005, 0.5 * (1 - c.val.value)):
        return None
    per_class, fraction = c.train_size / len(c.classes), c.setting("data.fraction", 1.0)
    amount = {"per_class": per_class, "few": per_class < 1000, "fraction": fraction}
    return c.finding("overfitting", **amount, weights=c.setting("model.weights"))


def ended_too_early(c: Context) -> Finding | None:
    """Validation loss was still falling, or accuracy was still rising at early stopping."""
    losses, rates, last = c.val_losses, c.rates, c.val_losses[-1]
    if c.result.get("stopped_early"):
        patience = c.setting("callbacks.early_stopping.patience")
        best = c.accuracies.index(max(c.accuracies)) + 1
        rising = patience is not None and best >= c.epochs - 1
        return c.finding("stopped_too_early", best=best, patience=patience) if rising else None
    back = max(1, c.epochs // 4)
    if rates[-1] < 0.1 * max(*rates, c.lr):  # annealed
        return None
    if c.epochs == 1:
        return c.finding("one_epoch")
    if last > min(losses) or last >= 0.97 * losses[-1 - back]:
        return None
    scheduled = len({round(rate, 9) for rate in rates}) > 1  # for this number of epochs
    swept = hydra_mode(c.run.folder) == "MULTIRUN"
    return c.finding("still_improving", back=back, scheduled=scheduled, swept=swept)


def concentrated_errors(c: Context) -> Finding | None:
    """A few pairs of classes have more errors than chance explains."""
    pairs = confused_pairs(c.matrix)[:3]
    even = len(pairs) / max(1, comb(len(c.classes), 2))
    fraction = sum(count for *_, count in pairs) / max(1, c.errors)
    # evenly spread errors exceed this in 1 % of simulations, with 4 to 100 classes
    if c.errors < MIN_ERRORS or fraction <= max(1 / 3, even + 1.8 / sqrt(c.errors)):
        return None
    return c.finding("concentrated_errors", pairs=pairs, fraction=fraction)


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Pairs of classes and how often one was predicted as the other, the most frequent first."""
    both = (matrix + matrix.T).triu(1)
    pairs = [(a, b, int(both[a, b])) for a, b in both.nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])


def miscalibration(c: Context) -> Finding | None:
    """Mean confidence differs from accuracy by more than a calibrated network's would."""
    logits, labels = c.evaluation.val.logits, c.evaluation.val.labels
    error = metrics.expected_calibration_error(logits, labels)
    confidence = logits.double().softmax(1).amax(1)
    excess = confidence.mean().item() - c.val.value
    deviation = (confidence * (1 - confidence)).sum().sqrt().item() / c.val.total
    if error < 0.01 or abs(excess) < Z * deviation:
        return None
    # on mini, label smoothing of 0.006 lowered confidence by 0.03, hence a sixth
    smoother = round(max(0.0, c.smoothing + excess / 6), 3)
    values = {"confidence": confidence.mean().item(), "over": excess > 0, "smoother": smoother}
    return c.finding("miscalibration", error=error, **values)


def ambiguous_images(c: Context) -> Finding | None:
    """An accurate network gives two classes a high probability."""
    val = c.evaluation.val
    (best, second), (first, other) = (x.T for x in val.logits.double().softmax(1).topk(2))
    ambiguous = (second > 0.3).nonzero().flatten()
    ambiguous = ambiguous[(best - second)[ambiguous].argsort(stable=True)]
    if c.val.value < 0.9 or len(ambiguous) < 3:
        return None
    names = val.files or val.indices.tolist()
    images = [(names[i], c.classes[first[i]], c.classes[other[i]]) for i in ambiguous.tolist()]
    wrong = int((~val.correct[ambiguous]).sum())
    return c.finding("ambiguous_images", images=images, wrong=wrong, files=bool(val.files))


def split_mismatch(c: Context) -> Finding | None:
    """Validation and test accuracy differ."""
    test = c.evaluation.shown.accuracy
    z = z_score(c.val, test)
    return c.finding("split_mismatch", test=test, z=z) if abs(z) >= Z else None


def z_score(first: metrics.Proportion, second: metrics.Proportion) -> float:
    """The difference of two proportions in standard errors.

    Source: the pooled two-proportion test; A. Agresti, "Categorical Data Analysis" (2002), p. 77.
    """
    pooled = (first.count + second.count) / (first.total + second.total)
    error = sqrt(pooled * (1 - pooled) * (1 / first.total + 1 / second.total))
    return (first.value - second.value) / error if error else 0.0


# The most urgent first. Those that suggest overrides read training and validation only, so that
# following them does not tune on the test set.
CHECKS = (
    learning_rate_too_high, too_few_steps, learning_rate_too_low, one_class, underfitting,
    overfitting, ended_too_early, concentrated_errors, miscalibration, ambiguous_images,
    split_mismatch,
)  # fmt: skip


def diagnose(c: Context) -> list[Finding]:
    """The findings of all checks, the most urgent first, or one that says that all is well."""
    findings: list[Finding] = []
    for finding in filter(None, (check(c) for check in CHECKS)):
        if finding.exclusive:
            return [finding]
        if finding.overrides and finding.overrides in {other.overrides for other in findings}:
            finding = replace(finding, advice="As above.", overrides=(), command="")
        findings.append(finding)
    return findings or [c.finding("no_problems")]
