"""Classification metrics, from logits ``[N, classes]`` and labels ``int64 [N]``."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor, nn

ROUNDING = 1e-12  # accuracies that differ by less are equal


def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits ``[N, classes]``, on the CPU; their last digits depend on the batch size.

    They are computed on the network's device. Raises FloatingPointError if some are not finite.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        batches = torch.split(images, batch_size)
        logits = torch.cat([network(batch.to(device)) for batch in batches]).cpu()
    if wrong := int((~logits.isfinite()).any(1).sum()):
        raise FloatingPointError(f"the network's outputs are NaN or infinite for {wrong:,} images")
    return logits


def epoch_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The metrics of an epoch besides the loss, float64; logged as ``val/acc`` and so on.

    With several processes, a training metric is the mean over those of the processes.
    """
    return {
        "acc": (logits.argmax(1) == labels).double().mean(),
        "balanced_acc": balanced_accuracy(confusion_matrix(logits, labels)),
    }


@dataclass(frozen=True)
class Proportion:
    """A number of successes out of a number of trials."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The proportion, from 0 to 1."""
        return self.count / self.total


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    J. Am. Stat. Assoc. 22 (1927), p. 209.
    """
    z, proportion = 1.959964, correct / total  # the normal quantile
    square = z * z / total
    centre = (proportion + square / 2) / (1 + square)
    half = z * sqrt(proportion * (1 - proportion) / total + square / total / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts ``int64 [classes, classes]``: rows are labels, columns are predictions."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(matrix: Tensor) -> Tensor:
    """The mean recall of the classes that have images, from a confusion matrix.

    Source: I. Guyon et al., "Design of the 2015 ChaLearn AutoML challenge", IJCNN 2015 ("BAC",
    without its correction for chance).
    """
    support = matrix.sum(1)
    return (matrix.diagonal().double() / support)[support > 0].mean()


class ClassScores(NamedTuple):
    """Precision, recall, F1 and the number of images (support) of one class."""

    precision: float
    recall: float
    f1: float
    support: int


def per_class_scores(matrix: Tensor) -> list[ClassScores]:
    """Scores of each class from a confusion matrix; 0.0 where a denominator is zero."""
    correct, support, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    precision, recall = correct / predicted.clamp_min(1), correct / support.clamp_min(1)
    f1 = 2 * correct / (support + predicted).clamp_min(1)
    return list(map(ClassScores, *(column.tolist() for column in (precision, recall, f1, support))))


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of -ln p(label), in nats."""
    return nn.functional.cross_entropy(logits.double(), labels).item()


class Calibration(NamedTuple):
    """Confidence and accuracy in bins of equal width; both are 0 in an empty bin."""

    edges: Tensor  # float64 [bins + 1]; bin m holds confidences in (edges[m], edges[m + 1]]
    confidence: Tensor  # float64 [bins], mean confidence
    accuracy: Tensor  # float64 [bins]
    counts: Tensor  # int64 [bins], images


def calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Bin the predictions by confidence.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017, section 2.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    edges = torch.arange(bins + 1, dtype=torch.double) / bins
    # rounding can make a confidence slightly larger than 1
    index = torch.bucketize(confidence, edges[1:]).clamp_max(bins - 1)
    counts = torch.bincount(index, minlength=bins)
    mean_confidence, accuracy = (
        torch.bincount(index, values, minlength=bins) / counts.clamp_min(1)
        for values in (confidence, (predicted == labels).double())
    )
    return Calibration(edges, mean_confidence, accuracy, counts)


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, weighted by bin size (Guo et al., equation 3)."""
    _, confidence, accuracy, counts = calibration(logits, labels, bins)
    return float((accuracy - confidence).abs() @ counts.double() / counts.sum())


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> float:
    """Two-sided p-value of the exact test of equal accuracy; takes which are correct, bool ``[N]``.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), p. 153.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n, tail = only_a + only_b, range(min(only_a, only_b))
    # comb(n, k), each from its predecessor: a thousand times faster for 10,000 disagreements
    ways = accumulate(tail, lambda ways, k: ways * (n - k) // (k + 1), initial=1)
    return min(1.0, 2 * sum(ways) / (1 << n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests, which control the probability of any false rejection.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6
    (1979), p. 67.
    """
    values, order = torch.tensor(p_values, dtype=torch.double).sort()
    adjusted = (values * torch.arange(len(values), 0, -1)).clamp_max(1).cummax(0).values
    return adjusted[order.argsort()].tolist()


def t_probability(t: float, df: int) -> float:
    """The probability that Student's t with ``df`` degrees of freedom lies within ±t."""
    angle = atan(t / sqrt(df))  # over which the density is proportional to cos ** (df - 1)
    part, whole = (angle, pi / 2) if df % 2 else (sin(angle), 1.0)
    for n in range(2 + (df + 1) % 2, df, 2):  # integral of cos ** n from that of cos ** (n - 2)
        part = (n - 1) / n * part + cos(angle) ** (n - 1) * sin(angle) / n
        whole *= (n - 1) / n
    return part / whole


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % confidence interval of a mean; None for one value, or if all are equal."""
    df = len(values) - 1
    if df < 1 or not (spread := _spread(values)):
        return None
    # the quantile of t: 12.7 for two values, less for more
    t = bisect(range(13 * 10**12), 0.95, key=lambda t: t_probability(t / 10**12, df)) / 10**12
    half = t * spread / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_t_test(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test of equal means.

    None if it is undefined: for a single pair, or if all differences are equal and nonzero.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    df, mean = len(differences) - 1, fmean(differences)
    if df < 1:
        return None
    if not (spread := _spread(differences)):
        return 1.0 if abs(mean) < ROUNDING else None
    return max(0.0, 1 - t_probability(abs(mean) / spread * sqrt(df + 1), df))


def _spread(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 if the values differ by rounding errors only."""
    spread = stdev(values)
    return spread if spread > ROUNDING else 0.0


def by_confidence(logits: Tensor, selected: Tensor, count: int, descending: bool = True) -> Tensor:
    """Indices of up to ``count`` images of the mask ``selected``, ordered by confidence."""
    indices = selected.nonzero().flatten()
    confidence = logits[indices].softmax(1).amax(1)
    return indices[confidence.argsort(descending=descending, stable=True)][:count]
