"""Checks of a run's curves and predictions, each with a change to try next."""

import re
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from math import comb, log, sqrt
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import Environment, StrictUndefined
from torch import Tensor

from lenet_pl import metrics
from lenet_pl.console import percent
from lenet_pl.evaluation.evaluate import RunEvaluation
from lenet_pl.records import hydra_mode, override_key
from lenet_pl.report.explain import convolutions

Z = 2.576  # standard errors; chance exceeds them in 1 % of cases
FEW_STEPS = 1000  # LeNet may not have left chance level by then at the default learning rate
MIN_COUNT = 20  # errors, or images of a class; fewer show no pattern
# data keys that fit every data set, and so survive an override of the group
SHARED_KEYS = {"data.batch_size", "data.eval_batch_size", "data.split_seed", "data.seed"}
# what experiment=small chooses, so that the run's own overrides of it are left out
SMALL = {"augment", "callbacks", "classifier", "data.augment_until", "data.batch_size"}
SMALL |= {"optimizer", "scheduler", "trainer.max_epochs"}
TEXTS = yaml.safe_load((Path(__file__).parent / "templates/findings.yaml").read_text("utf-8"))


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    title: str  # one sentence
    evidence: str  # the measurements behind it
    advice: str  # what to try
    overrides: tuple[str, ...] = ()  # the overrides to try it with, if any
    resume: bool = False  # whether they continue the run instead of starting a new one
    kind: str = "hint"  # or problem, or good
    exclusive: bool = False  # whether it makes all other findings meaningless

    def command(self, evaluation: RunEvaluation) -> str:
        """The command that trains with the overrides; empty if there are none."""
        if not self.overrides:
            return ""
        replaced = set(map(override_key, self.overrides))
        replaced |= SMALL if "experiment=small" in self.overrides else set()
        own = [
            item
            for item in evaluation.overrides
            if (key := override_key(item)) not in replaced
            and (key in SHARED_KEYS or key.partition(".")[0] not in replaced)
        ]
        arguments = [f"resume={evaluation.run.folder}"] if self.resume else own
        return shlex.join(["lenet-pl", "train", *arguments, *self.overrides])


class Context:
    """What the checks and the texts read of an evaluated run."""

    def __init__(self, evaluation: RunEvaluation) -> None:
        self.evaluation, self.run, self.rows = evaluation, evaluation.run, evaluation.rows
        self.classes, self.result = evaluation.run.classes, evaluation.run.result
        self.val, self.train = evaluation.val.accuracy, evaluation.train
        columns = ("train/loss", "val/loss", "val/acc", "lr")
        self.losses, self.val_losses, self.accuracies, self.rates = (
            [row[name] for row in self.rows] for name in columns
        )
        self.gap, self.errors = self.train.value - self.val.value, self.val.total - self.val.count
        self.matrix = metrics.confusion_matrix(evaluation.val.logits, evaluation.val.labels)
        self.train_size, self.epochs = len(evaluation.data.splits["train"]), len(self.rows)
        # optimizer steps per epoch, as trained
        self.steps = int(self.run.state["global_step"]) // self.run.epoch
        self.total = self.steps * self.epochs
        self.chance = chance = log(len(self.classes))  # the loss of guessing
        unlearnt = min(self.val_losses) < 0.5 * chance and self.val_losses[-1] > 0.9 * chance
        self.collapsed = unlearnt or max(self.accuracies) - self.accuracies[-1] > 0.2
        self.longer = f"trainer.max_epochs={2 * self.epochs}"
        self.setting = self.run.setting
        self.lr = float(self.setting("optimizer.lr", 0.0))
        self.decay = self.setting("optimizer.weight_decay", 0.0)
        self.smoothing = self.setting("loss.label_smoothing", 0.0)
        self.augment, self.scheduler = self.setting("augment"), self.setting("scheduler")

    def finding(self, name: str, **variables: Any) -> Finding:
        """A finding with the texts of ``findings.yaml``."""
        environment = Environment(undefined=StrictUndefined)
        environment.filters.update(percent=percent, count="{:,}".format)
        values, entry = vars(self) | variables, TEXTS[name]

        def text(template: str) -> str:
            return " ".join(environment.from_string(template).render(values).split())

        def holds(condition: Any) -> bool:
            expression = environment.compile_expression(str(condition), undefined_to_none=False)
            return bool(expression(values))

        option = next(option for option in entry["try"] if holds(option.get("if", True)))
        return Finding(
            title=text(entry["title"]),
            evidence=text(entry["evidence"]),
            advice=text(option["advice"]),
            overrides=tuple(text(option.get("overrides", "")).split()),
            resume=holds(entry.get("resume", False)),
            kind=text(entry.get("kind", "hint")),
            exclusive=holds(entry.get("exclusive", False)),
        )


def learning_rate_too_high(c: Context) -> Finding | None:
    """The loss diverged, the network stopped learning, accuracy collapsed or the loss jumps."""
    rises = [
        epoch
        for epoch, (before, loss) in enumerate(pairwise(c.losses), 2)
        if 1.2 * before < loss > 0.01  # a smaller loss is that of a few hard images
    ]
    if re.search(r"\b(nan|inf)\b", c.result.get("error") or ""):
        return c.finding("loss_not_finite")
    # an untrained network has up to 1 % more than the loss of chance, and few steps change little
    limit = (1.003 if c.total >= FEW_STEPS else 1.05) * c.chance
    if c.val.value < 1.5 / len(c.classes) and c.losses[-1] > limit:
        return c.finding("stopped_learning")
    if c.collapsed:
        return c.finding("collapsed")
    if len(rises) >= max(2, 0.2 * (c.epochs - 1)):
        return c.finding("unstable", rises=rises)
    return None


def too_few_steps(c: Context) -> Finding | None:
    """The run ended before the network could learn the training images."""
    if c.result.get("error") or c.total >= FEW_STEPS or c.train.value >= 0.9:
        return None
    small = c.train_size <= 1000 and "experiment=small" not in c.evaluation.overrides
    enough = max(2 * c.epochs, 3 * FEW_STEPS // c.steps)
    values = {"size": c.setting("data.batch_size"), "small": small, "enough": enough}
    return c.finding("too_few_steps", **values)


def learning_rate_too_low(c: Context) -> Finding | None:
    """The loss never left chance level, or it falls steadily and is far from converged."""
    losses = c.losses
    ratios = [after / before for before, after in pairwise(losses)]
    warming_up = c.rates[0] < 0.9 * max(c.rates)
    if c.result.get("error") or warming_up or c.steps < 50 or max(ratios, default=0) > 1.02:
        return None
    stuck = losses[-1] > 0.9 * c.chance
    slow_start = losses[0] > 0.5 * c.chance and c.rows[0]["train/acc"] < 0.5
    unconverged = len(losses) >= 4 and max(ratios) < 0.95 and c.val.value < 0.8
    if stuck or (slow_start and unconverged):
        return c.finding("learning_rate_too_low", stuck=stuck)
    return None


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
    if (
        ended_too_early(c)
        or too_few_steps(c)
        or learning_rate_too_low(c)
        or learning_rate_too_high(c)
    ):
        return None
    convolutional = bool(convolutions(c.evaluation.network))
    return c.finding("underfitting", error=error, convolutional=convolutional)


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
        best = c.result.get("best_epoch") or c.run.epoch
        if patience is None or best < c.epochs - 1:
            return None
        return c.finding("stopped_too_early", best=best, patience=patience)
    back, annealed = max(1, c.epochs // 4), rates[-1] < 0.1 * max(*rates, c.lr)
    if c.epochs == 1 and not annealed:
        return c.finding("one_epoch")
    if annealed or c.epochs < 2 or last > min(losses) or last >= 0.97 * losses[-1 - back]:
        return None
    scheduled = len({round(rate, 9) for rate in rates}) > 1  # for this number of epochs
    swept = hydra_mode(c.run.folder) == "MULTIRUN"
    return c.finding("still_improving", back=back, scheduled=scheduled, swept=swept)


def concentrated_errors(c: Context) -> Finding | None:
    """A few pairs of classes, or one class, have more errors than chance explains."""
    pairs = confused_pairs(c.matrix)[:3]
    even = len(pairs) / max(1, comb(len(c.classes), 2))
    fraction = sum(count for *_, count in pairs) / max(1, c.errors)
    # evenly spread errors exceed this in 1 % of simulations, with 4 to 100 classes
    if c.errors < MIN_COUNT or fraction <= max(1 / 3, even + 1.8 / sqrt(c.errors)):
        pairs = []
    scores = metrics.per_class_scores(c.matrix)
    worst = min(range(len(scores)), key=lambda i: scores[i].recall if scores[i].support else 1.0)
    score, correct = scores[worst], int(c.matrix[worst, worst])
    rest = (c.val.count - correct) / max(1, c.val.total - score.support)  # recall of the others
    # 2.81 standard errors: 5 % false alarms among ten classes
    upper = max(metrics.wilson_interval(correct, score.support, 2.81)[1], score.recall + 0.02)
    weak = score.support >= MIN_COUNT and rest >= upper
    if not pairs and not weak:
        return None
    times, other = map(int, c.matrix.clone().fill_diagonal_(0)[worst].max(0))
    values = {"worst": worst, "score": score, "correct": correct, "other": other, "times": times}
    evidence = {"pairs": pairs, "fraction": fraction, "weak": weak, "rest": rest}
    return c.finding("concentrated_errors", **evidence, **values)


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Pairs of classes and how often one was predicted as the other, the most frequent first."""
    both = (matrix + matrix.T).triu(1)
    pairs = [(a, b, int(both[a, b])) for a, b in both.nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])


def miscalibration(c: Context) -> Finding | None:
    """Confidence differs from accuracy by more than a calibrated network's would."""
    logits, labels = c.evaluation.val.logits, c.evaluation.val.labels
    error = metrics.expected_calibration_error(logits, labels)
    confidence = logits.double().softmax(1).amax(1)
    if error < 0.01 or error < chance_calibration_error(confidence):
        return None
    excess = confidence.mean().item() - c.val.value
    # on mini, label smoothing of 0.006 lowered confidence by 0.03, hence a sixth
    smoother = round(max(0.0, c.smoothing + excess / 6), 3)
    values = {"confidence": confidence.mean().item(), "over": excess > 0, "smoother": smoother}
    return c.finding("miscalibration", error=error, **values)


def chance_calibration_error(confidence: Tensor) -> float:
    """The 99 % quantile of the calibration error if the float64 ``[N]`` confidences were exact.

    Source: J. Bröcker, L. A. Smith, "Increasing the reliability of reliability diagrams",
    Weather and Forecasting 22 (2007), p. 651: consistency resampling.
    """
    generator = torch.Generator().manual_seed(0)
    index = (confidence * 15).ceil().long().clamp(1, 15) - 1
    drawn = torch.rand(200, len(confidence), generator=generator, dtype=torch.double)
    excess = (drawn < confidence).double() - confidence
    gaps = torch.zeros(200, 15, dtype=torch.double).index_add_(1, index, excess)
    return gaps.abs().sum(1).quantile(0.99).item() / len(confidence)


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
            finding = replace(finding, advice="As above.", overrides=())
        findings.append(finding)
    return findings or [c.finding("no_problems")]
