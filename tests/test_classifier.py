"""The step, exactly."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lenet_pl.classifier import Classifier
from lenet_pl.models.lenet import LeNet
from lenet_pl.training import build


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(LeNet(), nn.CrossEntropyLoss(), torch.optim.SGD, mean=0.13, std=0.31).eval()


def test_takes_bytes_and_shares_alike(classifier):
    pixels = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    before = pixels.clone()
    shares = pixels / 255
    kept = shares.clone()
    assert torch.equal(classifier(pixels), classifier(shares))
    assert torch.equal(pixels, before) and torch.equal(shares, kept)
    by_hand = classifier.net((pixels.float() / 255 - 0.13) / 0.31)
    assert torch.equal(classifier(pixels), by_hand)


def test_normalisation_travels_in_the_state_dict(classifier):
    state = classifier.state_dict()
    assert state["mean"] == torch.tensor(0.13) and state["std"] == torch.tensor(0.31)
    assert [name for name in state if name.startswith("net.")] == [
        f"net.{name}" for name in LeNet().state_dict()
    ]


def test_an_epoch_s_metrics_are_those_of_all_its_images(composed, monkeypatch):
    cfg = composed(
        "data=mini", "data.batch_size=999", "trainer.max_epochs=1", "logger=none", "callbacks=none"
    )
    Path(cfg.run_dir).mkdir()
    parts = build(cfg)
    hooks = []
    log = Classifier.log
    monkeypatch.setattr(
        Classifier,
        "log",
        lambda self, *a, **k: (hooks.append(self._current_fx_name), log(self, *a, **k)),
    )
    parts.trainer.fit(parts.classifier, parts.data)
    [row] = parts.history.rows
    logits, labels = parts.classifier.outputs["train"]
    assert len(labels) == 5000
    assert row["train/acc"] == (logits.argmax(1) == labels).sum().item() / 5000
    assert row["train/loss"] == nn.functional.cross_entropy(logits, labels).item()
    logits, labels = parts.classifier.outputs["val"]
    assert torch.equal(labels, parts.data.splits["val"].labels)  # all of them, in order
    assert row["val/acc"] == (logits.argmax(1) == labels).sum().item() / 1000
    # once an epoch, never in a step
    assert hooks == ["on_train_batch_end"] * 2 + ["on_validation_epoch_end"] * 2


def test_the_optimizer_is_the_configured_one(composed):
    cfg = composed("data=mini", "optimizer.lr=0.3", "optimizer.momentum=0.5")
    classifier = instantiate(cfg.classifier, mean=0.0, std=1.0)
    [group] = classifier.configure_optimizers().param_groups
    assert (group["lr"], group["momentum"], len(group["params"])) == (0.3, 0.5, 10)


def test_numbers_too_small_to_matter_are_zero(composed):
    build(composed("data=mini", "logger=none", "callbacks=none"))
    assert torch.tensor(1e-38) / 100 == 0  # 1.2e-38 is the smallest that is not subnormal
