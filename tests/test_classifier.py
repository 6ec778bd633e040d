"""The training step and the metrics of an epoch, exactly."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lenet_pl.classifier import Classifier
from lenet_pl.config import fit_to_data
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.training import build

MNIST = {"classes": [*"0123456789"], "shape": [1, 28, 28], "class_counts": [10] * 10}


@pytest.fixture
def classifier() -> Classifier:
    classifier = Classifier(
        LeNet(),
        nn.CrossEntropyLoss(),
        torch.optim.SGD,
        scheduler=None,
        decay_biases=True,
        seed=0,
        mean=0.13,
        std=0.31,
    )
    return classifier.eval()


def test_bytes_and_floats_give_the_same_logits(classifier):
    pixels = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    pixels_before = pixels.clone()
    floats = pixels / 255
    floats_before = floats.clone()
    assert torch.equal(classifier(pixels), classifier(floats))
    assert torch.equal(pixels, pixels_before)
    assert torch.equal(floats, floats_before)
    expected = classifier.net((pixels.float() / 255 - 0.13) / 0.31)
    assert torch.equal(classifier(pixels), expected)


def test_the_network_of_a_checkpoint_computes_the_same(classifier):
    network = PixelNet(LeNet()).eval()
    network.load_state_dict(classifier.state_dict())
    pixels = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    for images in (pixels, pixels / 255):
        assert torch.equal(classifier(images), network(images))


def test_normalisation_is_part_of_the_state_dict(classifier):
    state = classifier.state_dict()
    assert state["mean"] == torch.tensor(0.13)
    assert state["std"] == torch.tensor(0.31)
    assert [name for name in state if name.startswith("net.")] == [
        f"net.{name}" for name in LeNet().state_dict()
    ]


def test_metrics_of_an_epoch_cover_all_its_images(composed, monkeypatch):
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
    recalls = [(logits[labels == i].argmax(1) == i).double().mean().item() for i in range(10)]
    assert row["val/balanced_acc"] == pytest.approx(sum(recalls) / 10, rel=1e-12)
    assert row["val/acc"] == (logits.argmax(1) == labels).sum().item() / 1000
    # once per epoch, never in a step
    assert hooks == ["on_train_batch_end"] * 3 + ["on_validation_epoch_end"] * 3


def test_optimizer_as_configured(composed):
    cfg = composed("data=mini", "optimizer.lr=0.3", "optimizer.momentum=0.5")
    classifier = instantiate(fit_to_data(cfg, MNIST).classifier, mean=0.0, std=1.0)
    [group] = classifier.configure_optimizers().param_groups
    assert (group["lr"], group["momentum"], len(group["params"])) == (0.3, 0.5, 10)


def test_subnormal_numbers_are_flushed_to_zero(composed):
    build(composed("data=mini", "logger=none", "callbacks=none"))
    assert torch.tensor(1e-38) / 100 == 0  # 1.2e-38 is the smallest that is not subnormal
