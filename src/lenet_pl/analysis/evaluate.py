"""How good a classifier is."""

from math import sqrt

import torch
from torch import Tensor


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
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


def confident_mistakes(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Indices of the wrong predictions, the most confident first, ``count`` at most."""
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
