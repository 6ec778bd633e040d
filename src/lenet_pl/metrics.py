"""How good a classifier is: figures from logits ``[N, classes]`` and labels ``int64 [N]``."""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn


def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits ``[N, classes]``, on the CPU, of images that the network takes in order.

    Args:
        network: ready to predict, on the device that is to compute.
        images: ``[N, C, H, W]``, on any device.
        batch_size: images per batch. The last digits depend on it, so what is to equal the
            figures of training takes the batches of training, ``data.eval_batch_size``.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        batches = [network(batch.to(device)) for batch in images.split(batch_size)]
    return torch.cat(batches).cpu()


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    J. Am. Stat. Assoc. 22 (1927), p. 209.

    Args:
        correct: successes, 0 to ``total``.
        total: trials, at least one.
        z: quantile of the normal distribution.
    """
    share, square = correct / total, z * z / total
    centre = (share + square / 2) / (1 + square)
    half = z * sqrt(share * (1 - share) / total + square / total / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts ``int64 [classes, classes]``: row the label, column the prediction."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Proportion:
    """A number of successes and the number of trials."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The proportion, from 0 to 1."""
        return self.count / self.total


class ClassScores(NamedTuple):
    """How well one class is told from the others.

    Attributes:
        precision: of the images taken for this class, the share that are of it.
        recall: of the images of this class, the share that were taken for it.
        f1: the harmonic mean of the two.
        support: the images of this class.
    """

    precision: float
    recall: float
    f1: float
    support: int


def per_class_scores(matrix: Tensor) -> list[ClassScores]:
    """Scores of each class from a confusion matrix; a share of no images is 0.0."""
    right, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    counts = zip(right.tolist(), labelled.tolist(), predicted.tolist(), strict=True)
    return [
        ClassScores(
            precision=hits / taken if taken else 0.0,
            recall=hits / support if support else 0.0,
            f1=2 * hits / (support + taken) if support + taken else 0.0,
            support=support,
        )
        for hits, support, taken in counts
    ]


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """The mean of -ln of the probability that each label was given; in nats."""
    return nn.functional.cross_entropy(logits.double(), labels).item()


class Calibration(NamedTuple):
    """What a classifier's confidence is worth, in bins of equal width.

    Attributes:
        edges: float64 ``[bins + 1]``; bin m holds confidences in (edges[m], edges[m + 1]].
        confidence: float64 ``[bins]``, the mean confidence; 0 where the bin is empty.
        accuracy: float64 ``[bins]``, the share of right predictions; 0 where the bin is empty.
        counts: int64 ``[bins]``.
    """

    edges: Tensor
    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


def calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """The reliability diagram's figures.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
    networks", ICML 2017, section 2.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    edges = torch.arange(bins + 1, dtype=torch.double) / bins
    # a confidence of 1 may come out a rounding above it
    place = torch.bucketize(confidence, edges[1:]).clamp_max(bins - 1)
    counts = torch.bincount(place, minlength=bins)
    right = (predicted == labels).double()
    confidence, accuracy = (
        torch.bincount(place, values, minlength=bins) / counts.clamp_min(1)
        for values in (confidence, right)
    )
    return Calibration(edges, confidence, accuracy, counts)


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The distance between confidence and accuracy, averaged over the images.

    Source: Guo et al., ICML 2017, equation 3.
    """
    _, confidence, accuracy, counts = calibration(logits, labels, bins)
    return ((accuracy - confidence).abs() @ counts.double() / counts.sum()).item()


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> float:
    """The p-value of two classifiers being equally good, by the images one of them got wrong.

    The exact two-sided binomial test. Source: Q. McNemar, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12 (1947), p. 153.

    Args:
        correct_a, correct_b: bool ``[N]``, of the same images.
    """
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    trials, fewer = only_a + only_b, min(only_a, only_b)
    ways = term = 1
    for k in range(fewer):
        term = term * (trials - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / 2**trials)


def most_confident_errors(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Indices of the wrong predictions, the most confident first, ``count`` at most."""
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
