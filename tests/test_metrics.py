"""Metrics, compared with straightforward computations in plain Python."""

from math import comb, exp, log

import pytest
import torch
from scipy import stats

from lenet_pl import metrics
from lenet_pl.rules import MONITORED


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 200 images of four classes, and labels; class 3 is never predicted."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=rng) * 2
    logits[:, 3] = -50
    return logits, torch.randint(0, 4, (200,), generator=rng)


def softmax(row: list[float]) -> list[float]:
    weights = [exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_wilson_interval_of_the_textbook():
    # R. G. Newcombe, Stat. Med. 17 (1998), table I: 81 of 263, method 3
    assert [round(bound, 4) for bound in metrics.wilson_interval(81, 263)] == [0.2553, 0.3662]
    assert metrics.wilson_interval(0, 10)[0] == 0.0
    assert metrics.wilson_interval(10, 10)[1] == pytest.approx(1.0, abs=1e-15)


def test_confusion_matrix_and_scores_equal_counts(scored):
    logits, labels = scored
    predicted = [row.index(max(row)) for row in logits.tolist()]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    matrix = metrics.confusion_matrix(logits, labels)
    for label in range(4):
        assert matrix[label].tolist() == [pairs.count((label, other)) for other in range(4)]
    for c, scores in enumerate(metrics.per_class_scores(matrix)):
        correct = sum(label == guess == c for label, guess in pairs)
        guesses, support = predicted.count(c), labels.tolist().count(c)
        precision = correct / guesses if guesses else 0.0
        recall = correct / support
        f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
        assert scores == (precision, recall, pytest.approx(f1), support)
    assert metrics.per_class_scores(matrix)[3] == (0.0, 0.0, 0.0, labels.tolist().count(3))


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_images(scored):
    # recalls 3/4 and 1/2; the third class has no images, and one wrong prediction
    matrix = torch.tensor([[3, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert metrics.balanced_accuracy(matrix).item() == (3 / 4 + 1 / 2) / 2
    logits, labels = scored
    recalls = [s.recall for s in metrics.per_class_scores(metrics.confusion_matrix(*scored))]
    found = metrics.epoch_metrics(logits, labels)
    assert found["balanced_acc"].item() == pytest.approx(sum(recalls) / 4, rel=1e-12)
    assert found["acc"].item() == (logits.argmax(1) == labels).sum().item() / 200
    assert found["acc"].item() != found["balanced_acc"].item()


def test_every_metric_of_an_epoch_can_be_monitored(scored):
    names = [f"val/{name}" for name in ("loss", *metrics.epoch_metrics(*scored))]
    assert sorted(MONITORED) == sorted(names)


def test_scores_of_a_class_without_images_are_zero():
    scores = metrics.per_class_scores(torch.tensor([[2, 0], [0, 0]]))
    assert scores == [(1.0, 1.0, 1.0, 2), (0.0, 0.0, 0.0, 0)]


def test_negative_log_likelihood_equals_its_definition(scored):
    logits, labels = scored
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = -sum(log(softmax(row)[label]) for row, label in rows) / 200
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_equals_binning_by_hand(scored, bins):
    logits, labels = scored
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        probabilities = softmax(row)
        best = max(probabilities)
        index = next(m for m in range(bins) if m / bins < best <= (m + 1) / bins)
        members[index].append((best, probabilities.index(best) == label))
    calibration = metrics.calibration(logits, labels, bins)
    assert calibration.edges.tolist() == [m / bins for m in range(bins + 1)]
    assert calibration.counts.tolist() == [len(group) for group in members]
    error = 0.0
    for m, group in enumerate(members):
        confidence = sum(best for best, _ in group) / max(1, len(group))
        accuracy = sum(correct for _, correct in group) / max(1, len(group))
        assert calibration.confidence[m].item() == pytest.approx(confidence, rel=1e-12)
        assert calibration.accuracy[m].item() == accuracy
        error += len(group) / 200 * abs(confidence - accuracy)
    assert metrics.expected_calibration_error(logits, labels, bins) == pytest.approx(error)


def test_full_confidence_falls_into_the_last_bin():
    logits, labels = torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    calibration = metrics.calibration(logits, labels, bins=4)
    assert calibration.counts.tolist() == [0, 1, 0, 1]  # a bin includes its upper edge, here 1/2
    assert metrics.expected_calibration_error(logits, labels, 4) == 0.25


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 5), (3, 9), (8, 8), (40, 25)])
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a = torch.tensor([True] * only_a + [False] * only_b + [True, False, True])
    b = torch.tensor([False] * only_a + [True] * only_b + [True, False, True])
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert metrics.mcnemar(a, b) == metrics.mcnemar(b, a) == min(1.0, 2 * tail)


def test_mcnemar_with_ten_thousand_disagreements():
    a = torch.arange(20_000) < 10_000
    assert metrics.mcnemar(a, ~a) == 1.0
    assert metrics.mcnemar(a, torch.zeros_like(a)) == 0.0  # 2 ** -9,999


def test_holm_adjusts_each_p_value_for_those_that_are_not_smaller():
    # 3 · 0.01; then 2 · 0.02; the largest is not below the one before
    assert metrics.holm([0.03, 0.01, 0.02]) == [0.04, 0.03, 0.04]
    assert metrics.holm([0.9, 0.6]) == [1.0, 1.0]
    assert metrics.holm([0.2]) == [0.2]


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 99])
def test_student_distribution_equals_that_of_scipy(df):
    for t in (0.0, 0.1, 1.0, 2.5, 12.7, 300.0):
        expected = 1 - 2 * stats.t.sf(t, df)
        assert metrics.t_probability(t, df) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 30])
def test_interval_of_a_mean_and_paired_t_test_equal_those_of_scipy(n):
    rng = torch.Generator().manual_seed(n)
    a, b = (torch.rand(2, n, generator=rng, dtype=torch.double) / 100 + 0.98).tolist()
    expected = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert metrics.mean_interval(a) == pytest.approx(tuple(expected), rel=1e-12)
    assert metrics.paired_t_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-12)
    assert metrics.paired_t_test(a, b) == metrics.paired_t_test(b, a)


def test_without_spread_there_is_no_interval_and_no_t_test():
    assert metrics.mean_interval([0.98]) is None
    assert metrics.mean_interval([0.98, 0.98, 0.98]) is None
    assert metrics.paired_t_test([0.98], [0.97]) is None
    # the differences are 0.01, but for rounding
    assert metrics.paired_t_test([0.98, 0.99, 0.97], [0.97, 0.98, 0.96]) is None
    assert metrics.paired_t_test([0.98, 0.99], [0.98, 0.99]) == 1.0


def test_logits_are_computed_in_batches_and_in_order():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images = torch.rand(7, 1, 2, 2)
    logits = metrics.predict_logits(net, images, batch_size=3)
    assert logits.shape == (7, 3)
    assert not logits.requires_grad
    assert torch.allclose(logits, net(images))


def test_images_are_ordered_by_confidence():
    logits = torch.tensor([[9.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [5.0, 0.0]])
    selected = torch.tensor([False, True, True, True, True])
    assert metrics.by_confidence(logits, selected, 3).tolist() == [4, 3, 1]
    assert metrics.by_confidence(logits, selected, 9).tolist() == [4, 3, 1, 2]
    assert metrics.by_confidence(logits, selected, 2, descending=False).tolist() == [2, 1]
    assert metrics.by_confidence(logits, ~selected, 9).tolist() == [0]
    assert metrics.by_confidence(logits, selected & ~selected, 9).tolist() == []
