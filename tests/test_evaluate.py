"""How good a run is: the figures against others' arithmetic, and the command."""

from math import comb, exp, log

import pytest
import torch

from lenet_pl.analysis import evaluate


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 200 images of four classes, and labels; nothing is taken for class 3."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=rng) * 2
    logits[:, 3] = -50
    return logits, torch.randint(0, 4, (200,), generator=rng)


def softmax(row: list[float]) -> list[float]:
    weights = [exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_confusion_precision_recall_f1_by_counting(scored):
    logits, labels = scored
    predicted = [row.index(max(row)) for row in logits.tolist()]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    matrix = evaluate.confusion_matrix(logits, labels)
    for label in range(4):
        assert matrix[label].tolist() == [pairs.count((label, other)) for other in range(4)]
    for c, found in enumerate(evaluate.per_class(matrix)):
        right = sum(label == guess == c for label, guess in pairs)
        taken, support = predicted.count(c), labels.tolist().count(c)
        precision = right / taken if taken else 0.0
        recall = right / support
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        assert found == (precision, recall, pytest.approx(f1), support)
    assert evaluate.per_class(matrix)[3] == (0.0, 0.0, 0.0, labels.tolist().count(3))


def test_a_class_of_no_images_scores_nothing():
    scores = evaluate.per_class(torch.tensor([[2, 0], [0, 0]]))
    assert scores == [(1.0, 1.0, 1.0, 2), (0.0, 0.0, 0.0, 0)]


def test_likelihood_by_hand(scored):
    logits, labels = scored
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = -sum(log(softmax(row)[label]) for row, label in rows) / 200
    assert evaluate.negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_by_hand(scored, bins):
    logits, labels = scored
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shares = softmax(row)
        best = max(shares)
        place = next(m for m in range(bins) if m / bins < best <= (m + 1) / bins)
        members[place].append((best, shares.index(best) == label))
    found = evaluate.calibration(logits, labels, bins)
    assert found.edges.tolist() == [m / bins for m in range(bins + 1)]
    assert found.counts.tolist() == [len(group) for group in members]
    error = 0.0
    for m, group in enumerate(members):
        mean = sum(best for best, _ in group) / max(1, len(group))
        share = sum(right for _, right in group) / max(1, len(group))
        assert found.confidence[m].item() == pytest.approx(mean, rel=1e-12)
        assert found.accuracy[m].item() == share
        error += len(group) / 200 * abs(mean - share)
    assert evaluate.expected_calibration_error(logits, labels, bins) == pytest.approx(error)


def test_full_confidence_falls_into_the_last_bin():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 0.0]])
    found = evaluate.calibration(logits, torch.tensor([0, 1]), bins=4)
    assert found.counts.tolist() == [0, 1, 0, 1]  # 1/2 belongs to the bin that it closes
    assert evaluate.expected_calibration_error(logits, torch.tensor([0, 1]), 4) == 0.25


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (0, 5), (3, 9), (8, 8), (40, 25)])
def test_mcnemar_by_the_binomial(only_a, only_b):
    a = torch.tensor([True] * only_a + [False] * only_b + [True, False, True])
    b = torch.tensor([False] * only_a + [True] * only_b + [True, False, True])
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert evaluate.mcnemar(a, b) == evaluate.mcnemar(b, a) == min(1.0, 2 * tail)


def test_mcnemar_of_ten_thousand_disagreements():
    a = torch.arange(20_000) < 10_000
    assert evaluate.mcnemar(a, ~a) == 1.0
    assert evaluate.mcnemar(a, torch.zeros_like(a)) == 0.0  # 2 ** -9,999


def test_logits_are_those_of_the_network_in_batches():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images = torch.rand(7, 1, 2, 2)
    found = evaluate.predict_logits(net, images, batch_size=3)
    assert found.shape == (7, 3) and not found.requires_grad
    assert torch.allclose(found, net(images))
