"""Losses, optimizers and schedules."""

from math import cos, pi
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST, either, rows
from torch import nn

from lenet_pl.classifier import Classifier
from lenet_pl.models.lenet import LeNet
from lenet_pl.optim import CrossEntropyLoss, Muon, OneHotMSE, cosine_factor
from lenet_pl.training import build, train

SHORT = [*FAST, "logger=none", "test=false"]


def test_class_weights_by_hand():
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]]), torch.tensor([0, 1, 1])
    each = -logits.log_softmax(1).gather(1, labels[:, None]).flatten()
    loss = CrossEntropyLoss(label_smoothing=0.0, class_weights=[3, 0.5])
    expected = (3 * each[0] + 0.5 * each[1] + 0.5 * each[2]) / 4
    assert loss(logits, labels).item() == pytest.approx(expected.item())
    assert not loss.state_dict()
    assert loss.double()(logits, labels).item() == pytest.approx(expected.item())  # 64-true
    unweighted = CrossEntropyLoss(label_smoothing=0.0, class_weights=None)
    assert unweighted(logits, labels).item() == pytest.approx(each.mean().item())


def test_one_hot_mse_by_hand():
    logits = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0]])
    loss = OneHotMSE()(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((0.25 + (1.0 + 1.0)) / 6)


def test_muon_keeps_the_singular_vectors_of_an_update():
    torch.manual_seed(0)
    kernel, bias = torch.randn(8, 3, 5, 5), torch.randn(8)
    weights = [nn.Parameter(kernel.clone()), nn.Parameter(bias.clone())]
    # the deviation from 1 that five iterations leave is that of the polynomial itself
    optimizer = Muon(weights, lr=0.5, momentum=0.9, weight_decay=0.1, iterations=5)
    buffers = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        for weight, buffer in zip(weights, buffers, strict=True):
            weight.grad = torch.randn_like(weight)
            buffer.mul_(0.9).add_(weight.grad)
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
    updates = [
        (old * (1 - 0.5 * 0.1) - new.detach()) / 0.5
        for old, new in zip(before, weights, strict=True)
    ]
    nesterov = [w.grad + 0.9 * buffer for w, buffer in zip(weights, buffers, strict=True)]
    torch.testing.assert_close(updates[1], nesterov[1])
    left, _, right = torch.linalg.svd(nesterov[0].flatten(1), full_matrices=False)
    rotated = left.T @ updates[0].flatten(1) @ right.T  # diagonal if the vectors are kept
    assert rotated.diag().min() > 0.68
    assert rotated.diag().max() < 1.21
    assert (rotated - rotated.diag().diag()).abs().max() < 1e-4


def test_muon_updates_of_a_tall_matrix_are_larger():
    weight = nn.Parameter(torch.zeros(16, 4))
    weight.grad = torch.randn(16, 4)
    Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0, iterations=5).step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.68 * 2
    assert values.max() < 1.21 * 2


def test_weight_decay_can_exclude_biases():
    def sgd(groups):
        return torch.optim.SGD(groups, lr=0.1, weight_decay=0.01)

    parts = LeNet(), nn.CrossEntropyLoss(), sgd, None
    classifier = Classifier(*parts, decay_biases=False, seed=0, mean=0.0, std=1.0)
    matrices, vectors = classifier.build_optimizer().param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    assert [p.ndim for p in matrices["params"]] == [4, 4, 4, 2, 2]
    assert [p.ndim for p in vectors["params"]] == [1] * 5
    classifier = Classifier(*parts, decay_biases=True, seed=0, mean=0.0, std=1.0)
    [group] = classifier.build_optimizer().param_groups
    assert group["weight_decay"] == 0.01
    assert len(group["params"]) == 10


def test_cosine_by_hand():
    factors = [cosine_factor(step, total=10, warmup=2, final=0.1) for step in range(12)]
    assert factors[:3] == [1 / 3, 2 / 3, 1.0]
    assert factors[6] == pytest.approx(0.1 + 0.9 * (1 + cos(pi / 2)) / 2)
    assert factors[10] == factors[11] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.accumulate_grad_batches=3", "data.batch_size=512"],
        ["trainer.limit_train_batches=0.3", "data.batch_size=512"],
        ["trainer.limit_train_batches=7", "trainer.accumulate_grad_batches=2"],
    ],
)
def test_a_schedule_ends_with_the_run(composed, overrides):
    overrides = [*overrides, "scheduler=onecycle", "scheduler.warmup=0.5", "trainer.max_epochs=2"]
    cfg = composed(*SHORT, *overrides, "callbacks=none")
    Path(cfg.run_dir).mkdir()
    parts = build(cfg)
    parts.trainer.fit(parts.classifier, parts.data)
    assert parts.trainer.estimated_stepping_batches == parts.trainer.global_step == parts.horizon
    lrs = [row["lr"] for row in parts.history.rows]
    assert min(lrs[:-1]) > 0.01
    assert lrs[-1] == pytest.approx(0.05 / 25 / 10_000)


@either
def test_plateau_lowers_the_learning_rate_after_the_epoch(composed, tmp_path):
    # at this learning rate nothing improves
    overrides = ["scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5"]
    overrides += ["optimizer.lr=1e-6", "trainer.max_epochs=3", "trainer.limit_train_batches=1"]
    train(composed(*SHORT, "callbacks.early_stopping=null", *overrides))
    assert [row["lr"] for row in rows(tmp_path / "run")] == [1e-6, 1e-6, 5e-7]
