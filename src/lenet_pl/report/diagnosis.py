"""Checks of a run's curves and predictions, each with a change to try next."""

import re
import shlex
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import comb, log, sqrt
from typing import Any

import torch
from torch import Tensor

from lenet_pl import metrics
from lenet_pl.console import percent
from lenet_pl.evaluation.evaluate import RunEvaluation
from lenet_pl.records import hydra_mode, override_key
from lenet_pl.report.explain import convolutions

Z = 2.576  # standard errors; chance exceeds them in 1 % of cases
MIN_COUNT = 20  # errors, or images of a class; fewer show no pattern
# data keys that fit every data set, and so survive an override of the group
SHARED_KEYS = {"data.batch_size", "data.eval_batch_size", "data.split_seed", "data.seed"}


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
        own = [
            item
            for item in evaluation.overrides
            if (key := override_key(item)) not in replaced
            and (key in SHARED_KEYS or key.partition(".")[0] not in replaced)
        ]
        arguments = [f"resume={evaluation.run.folder}"] if self.resume else own
        return shlex.join(["lenet-pl", "train", *arguments, *self.overrides])


def suggest(title: str, evidence: str, *options: tuple[Any, str, str], **fields: Any) -> Finding:
    """A finding with the first option (condition, advice, overrides) that applies."""
    advice, overrides = next((advice, text) for applies, advice, text in options if applies)
    return Finding(title, evidence, advice, tuple(overrides.split()), **fields)


problem = partial(suggest, kind="problem")


class Context:
    """What the checks read: an evaluated run and what several checks derive from it."""

    def __init__(self, evaluation: RunEvaluation) -> None:
        self.evaluation, self.run, self.rows = evaluation, evaluation.run, evaluation.rows
        self.classes, self.result = evaluation.run.classes, evaluation.run.result
        columns = ("train/loss", "val/loss", "val/acc", "lr")
        self.losses, self.val_losses, self.accuracies, self.rates = (
            [row[name] for row in self.rows] for name in columns
        )
        self.predictions, self.val = evaluation.val, evaluation.val.accuracy
        self.train, self.gap = evaluation.train, evaluation.train.value - self.val.value
        self.errors = self.val.total - self.val.count
        self.matrix = metrics.confusion_matrix(evaluation.val.logits, evaluation.val.labels)
        self.train_size = len(evaluation.data.splits["train"])
        self.chance_loss = chance = log(len(self.classes))
        unlearnt = min(self.val_losses) < 0.5 * chance and self.val_losses[-1] > 0.9 * chance
        self.collapsed = unlearnt or max(self.accuracies) - self.accuracies[-1] > 0.2
        self.setting = self.run.setting
        self.lr = float(self.setting("optimizer.lr", 0.0))
        self.longer = f"trainer.max_epochs={2 * len(self.rows)}"


def learning_rate_too_high(c: Context) -> Finding | None:
    """The loss diverged, the network stopped learning, accuracy collapsed or the loss jumps."""
    losses, chance, error = c.losses, c.chance_loss, c.result.get("error") or ""
    rises = [
        epoch
        for epoch, (before, loss) in enumerate(pairwise(losses), 2)
        if 1.2 * before < loss > 0.01  # a smaller loss is that of a few hard images
    ]
    divisor, settles = 3, True
    if re.search(r"\b(nan|inf)\b", error):
        symptom, evidence, divisor = "the loss became NaN or infinite", error, 10
    # an untrained network has at most the loss of chance
    elif c.val.value < 1.5 / len(c.classes) and losses[-1] > 1.003 * chance:
        symptom, divisor = "the network stopped learning", 10
        evidence = (
            f"Validation accuracy is {percent(c.val.value)}, and the training loss ended at "
            f"{losses[-1]:.3f}, above the {chance:.3f} of chance"
        )
    elif c.collapsed:
        symptom, best = "accuracy collapsed during training", max(c.accuracies)
        evidence = (
            f"Validation accuracy was {percent(best)} in epoch {c.accuracies.index(best) + 1} and "
            f"{percent(c.accuracies[-1])} in the last, where the loss is {c.val_losses[-1]:.2f} "
            f"(chance: {chance:.2f})"
        )
    elif len(rises) >= max(2, 0.2 * (len(losses) - 1)):
        symptom = "the training loss is unstable"
        listed = ", ".join(map(str, rises[:5])) + " …" * (len(rises) > 5)
        evidence = (
            f"It rose by more than 20 % in {len(rises)} of {len(losses) - 1} epochs ({listed})"
        )
        settles = c.val.value <= 0.9
    else:
        return None
    return problem(
        f"Learning rate too high: {symptom}",
        f"{evidence}; optimizer.lr is {c.lr:g}.",
        (not settles and not c.setting("scheduler"), "Decay it to zero.", "scheduler=cosine"),
        (True, f"Divide it by {divisor}.", f"optimizer.lr={c.lr / divisor:.2g}"),
        exclusive=divisor == 10 or c.val.value < 1.1 / len(c.classes),
    )


def learning_rate_too_low(c: Context) -> Finding | None:
    """The loss never left chance level, or it falls steadily and is far from converged."""
    losses, chance = c.losses, c.chance_loss
    steps = -(-c.train_size // c.setting("data.batch_size"))  # per epoch
    ratios = [after / before for before, after in pairwise(losses)]
    warming_up = c.rates[0] < 0.9 * max(c.rates)
    if c.result.get("error") or warming_up or steps < 50 or max(ratios, default=0) > 1.02:
        return None
    stuck = losses[-1] > 0.9 * chance
    slow_start = losses[0] > 0.5 * chance and c.rows[0]["train/acc"] < 0.5
    unconverged = len(losses) >= 4 and max(ratios) < 0.95 and c.val.value < 0.8
    if not stuck and not (slow_start and unconverged):
        return None
    factor = 10 if stuck else 2
    return suggest(
        f"Learning rate {'too' if stuck else 'possibly too'} low",
        f"The training loss averaged {losses[0]:.2f} over the first {steps:,} steps, where chance "
        f"gives {chance:.2f}, and has decreased smoothly since, to {losses[-1]:.2f}; validation "
        f"accuracy is {percent(c.val.value)}; optimizer.lr is {c.lr:g}.",
        (True, f"Multiply it by {factor}.", f"optimizer.lr={c.lr * factor:.2g}"),
        kind="problem" if stuck else "hint",
        exclusive=stuck,
    )


def one_class(c: Context) -> Finding | None:
    """Nearly every image gets the same prediction."""
    predicted = c.matrix.sum(0)
    fraction, majority = (int(n.max()) / c.val.total for n in (predicted, c.matrix.sum(1)))
    # a fifth of the way from always predicting the majority class to perfect
    if fraction <= 0.8 or c.val.value > majority + 0.2 * (1 - majority) or c.collapsed:
        return None
    name = c.classes[int(predicted.argmax())]
    return problem(
        f"Predicts {name} for almost everything: barely trained",
        f"{percent(fraction)} of the validation images are predicted as {name}, and "
        f"{percent(c.val.value)} are correct.",
        (True, "Train for more epochs.", c.longer),
        exclusive=True,
    )


def underfitting(c: Context) -> Finding | None:
    """Even training images are misclassified, though training has converged."""
    error = 1 - c.train.value
    if error < 0.01 or c.gap > 0.25 * error:
        return None
    if ended_too_early(c) or learning_rate_too_low(c) or learning_rate_too_high(c):
        return None
    smoothing, decay = c.setting("loss.label_smoothing"), c.setting("optimizer.weight_decay", 0.0)
    return problem(
        "Underfitting: even training images are misclassified",
        f"Training error is {percent(error)}, and validation accuracy is {100 * abs(c.gap):.2f} "
        f"points {'lower' if c.gap > 0 else 'higher'} than training accuracy: the model needs "
        "more capacity or training, not regularisation.",
        (smoothing, "Remove label smoothing.", "loss.label_smoothing=0.0"),
        (decay > 1e-3, "Reduce weight decay.", "optimizer.weight_decay=0.0001"),
        (not convolutions(c.evaluation.network), "Use convolutions.", "model=lenet"),
        (c.setting("augment"), "Train longer: augmented images take more epochs.", c.longer),
        (c.setting("scheduler"), "Use an adaptive optimizer.", "optimizer=adam"),
        (True, "Use a learning-rate schedule.", "scheduler=onecycle"),
    )


def overfitting(c: Context) -> Finding | None:
    """Training accuracy is well above validation accuracy."""
    if z_score(c.train, c.val) < Z or c.gap < max(0.005, 0.5 * (1 - c.val.value)):
        return None
    evidence = (
        f"Training accuracy is {percent(c.train.value)}, validation accuracy "
        f"{percent(c.val.value)}: a gap of {100 * c.gap:.2f} points."
    )
    lowest, last = min(c.val_losses), c.val_losses[-1]
    if last > 1.2 * lowest:
        evidence += (
            f" Validation loss was lowest in epoch {c.val_losses.index(lowest) + 1} and is "
            f"{100 * (last / lowest - 1):.0f} % higher in the last."
        )
    per_class, source = c.train_size / len(c.classes), c.evaluation.data.source
    few, decay = per_class < 1000, c.setting("optimizer.weight_decay", 0.0)
    if few:
        evidence += f" There are only {per_class:,.0f} training images per class."
    part, subset = c.setting("data.fraction", 1.0) < 1, source.name != source.family
    pretrained = "model=pretrained model.weights=DEFAULT"
    return problem(
        "Overfitting: training accuracy is well above validation accuracy",
        evidence,
        (few and part, "Train on all of the data.", "data.fraction=1.0"),
        (few and subset, "Train on the full data set.", f"data={source.family}"),
        (few and not c.setting("model.weights"), "Fine-tune a pretrained network.", pretrained),
        (not c.setting("augment"), "Augment the training images.", "augment=affine"),
        (decay < 5e-4, "Increase weight decay.", "optimizer.weight_decay=0.0005"),
        (True, "Use label smoothing.", "loss.label_smoothing=0.1"),
    )


def ended_too_early(c: Context) -> Finding | None:
    """Validation loss was still falling, or accuracy was still rising at early stopping."""
    losses, rates, epochs = c.val_losses, c.rates, len(c.rows)
    if c.result.get("stopped_early"):
        patience = c.setting("callbacks.early_stopping.patience")
        best = c.result.get("best_epoch") or c.evaluation.epoch
        if patience is None or best < epochs - 1:
            return None
        return suggest(
            "Stopped early while accuracy was still rising",
            f"Early stopping ended training after epoch {epochs}, but the best validation "
            f"accuracy, {percent(max(c.accuracies))}, was reached in epoch {best}.",
            (True, "Double the patience.", f"callbacks.early_stopping.patience={2 * patience}"),
        )
    back = max(1, epochs // 4)
    annealed = rates[-1] < 0.1 * max(rates)
    if annealed or epochs < 2 or losses[-1] > min(losses) or losses[-1] > 0.97 * losses[-1 - back]:
        return None
    scheduled = len({round(rate, 9) for rate in rates}) > 1  # for this number of epochs
    return suggest(
        "Still improving when training ended",
        f"Validation loss was lowest in the last epoch, {losses[-1]:.4f}, "
        f"{100 * (1 - losses[-1] / losses[-1 - back]):.0f} % below that of epoch {epochs - back}.",
        (True, "Train for twice the epochs; a schedule is stretched to them.", c.longer),
        resume=not scheduled and hydra_mode(c.run.folder) != "MULTIRUN",
    )


def concentrated_errors(c: Context) -> Finding | None:
    """A few pairs of classes, or one class, have more errors than chance explains."""
    pairs, evidence = confused_pairs(c.matrix)[:3], []
    errors, even = max(1, c.errors), len(pairs) / max(1, comb(len(c.classes), 2))
    fraction = sum(count for *_, count in pairs) / errors
    # evenly spread errors exceed this in 1 % of simulations, with 4 to 100 classes
    if errors >= MIN_COUNT and fraction > max(1 / 3, even + 1.8 / sqrt(errors)):
        names = ", ".join(f"{c.classes[a]} and {c.classes[b]} ({count})" for a, b, count in pairs)
        part = f"{100 * fraction:.0f} % of the {errors} validation errors"
        evidence.append(f"Most confused: {names}, {part}.")
    scores = metrics.per_class_scores(c.matrix)
    worst = min(range(len(scores)), key=lambda i: scores[i].recall if scores[i].support else 1.0)
    correct, total = int(c.matrix[worst, worst]), scores[worst].support
    rest = (c.val.count - correct) / max(1, c.val.total - total)
    # 2.81 standard errors: 5 % false alarms among ten classes
    upper = max(metrics.wilson_interval(correct, total, 2.81)[1], scores[worst].recall + 0.02)
    if total >= MIN_COUNT and rest >= upper:
        times, other = map(int, c.matrix.clone().fill_diagonal_(0)[worst].max(0))
        evidence.append(
            f"Class {c.classes[worst]} has recall {percent(correct / total)} ({correct} of {total} "
            f"validation images), the others {percent(rest)}; it is most often predicted as "
            f"{c.classes[other]} ({times} times)."
        )
    if not evidence:
        return None
    return suggest(
        "Errors are concentrated in a few classes",
        " ".join(evidence),
        (not c.setting("augment"), "Augment the training images.", "augment=affine"),
        (True, "Train longer, on more augmented images.", c.longer),
    )


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Pairs of classes and how often one was predicted as the other, the most frequent first."""
    both = (matrix + matrix.T).triu(1)
    pairs = [(a, b, int(both[a, b])) for a, b in both.nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])


def miscalibration(c: Context) -> Finding | None:
    """Confidence differs from accuracy by more than a calibrated network's would."""
    error = metrics.expected_calibration_error(c.predictions.logits, c.predictions.labels)
    confidence = c.predictions.logits.double().softmax(1).amax(1)
    if error < 0.01 or error < chance_calibration_error(confidence):
        return None
    mean, smoothing = confidence.mean().item(), c.setting("loss.label_smoothing", 0.0)
    over = mean > c.val.value
    # on mini, label smoothing of 0.006 lowered confidence by 0.03, hence a sixth
    changed = round(max(0.0, smoothing + (mean - c.val.value) / 6), 3)
    return suggest(
        f"{'Overconfident' if over else 'Underconfident'}: predictions are not calibrated",
        f"Mean confidence is {percent(mean)}, accuracy {percent(c.val.value)}; the expected "
        f"calibration error is {error:.3f} (validation).",
        (over or smoothing, "Adjust label smoothing.", f"loss.label_smoothing={changed:g}"),
        (True, "Train for more epochs.", c.longer),
    )


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
    val = c.predictions
    (best, second), (first, other) = (x.T for x in val.logits.double().softmax(1).topk(2))
    ambiguous = (second > 0.3).nonzero().flatten()
    ambiguous = ambiguous[(best - second)[ambiguous].argsort(stable=True)]
    if c.val.value < 0.9 or len(ambiguous) < 3:
        return None
    where = "In all files, training then test" if c.run.pooled else "In the training file"
    images = val.files or val.indices.tolist()
    names = ", ".join(
        f"{images[i]} ({c.classes[first[i]]} or {c.classes[other[i]]})"
        for i in ambiguous[:6].tolist()
    )
    wrong = int((~val.correct[ambiguous]).sum())
    return suggest(
        "Some images may be ambiguous or mislabelled",
        f"{len(ambiguous)} validation images have two classes above 30 %, and {wrong} of them are "
        f"among the {c.errors} errors. {'Files' if val.files else where}: {names}.",
        (True, "Inspect them; cross-validation lists suspicious labels.", "data.suspect_folds=5"),
    )


def split_mismatch(c: Context) -> Finding | None:
    """Validation and test accuracy differ."""
    test = c.evaluation.shown.accuracy
    z = z_score(c.val, test)
    if abs(z) < Z:
        return None
    return suggest(
        f"Test accuracy is {'lower' if z > 0 else 'higher'} than validation accuracy",
        f"Validation {percent(c.val.value)} of {c.val.total:,}, test {percent(test.value)} of "
        f"{test.total:,}: {abs(z):.1f} standard errors apart.",
        (True, "Nothing to tune: report test accuracy, and keep selecting by validation.", ""),
    )


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
    learning_rate_too_high, learning_rate_too_low, one_class, underfitting, overfitting,
    ended_too_early, concentrated_errors, miscalibration, ambiguous_images, split_mismatch,
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
    if findings:
        return findings
    return [
        suggest(
            "No problems found",
            f"{percent(c.train.value)} of training and {percent(c.val.value)} of validation images "
            "are classified correctly, and no check found a problem.",
            (not c.setting("scheduler"), "Try a learning-rate schedule.", "scheduler=onecycle"),
            (not c.setting("augment"), "Try augmentation.", "augment=affine"),
            (True, "Try another seed, to see how much results vary.", "seed=1"),
            kind="good",
        )
    ]
