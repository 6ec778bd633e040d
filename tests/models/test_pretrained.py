"""Classifiers of torchvision: shapes, weights, frozen layers."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from helpers.runs import FAST, rows
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import get_model

from lenet_pl.classifier import Classifier
from lenet_pl.console import layer_table
from lenet_pl.errors import ConfigError
from lenet_pl.models.pretrained import Pretrained
from lenet_pl.runs import open_run
from lenet_pl.training import build, train

SMALL = ["model=pretrained", "model.name=shufflenet_v2_x0_5"]


def pretrained(name: str, **options: object) -> Pretrained:
    """A network with the options of conf/model/pretrained.yaml where none are given."""
    defaults = {"weights": None, "image_size": None, "freeze": False, "num_classes": 10}
    return Pretrained(name, **(defaults | options))


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v3_small",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "vgg11",
    ],
)
def test_every_family_takes_grey_images(name):
    with torch.device("meta"):  # shapes only
        net, images = pretrained(name, num_classes=7), torch.zeros(2, 1, 28, 28)
        assert net(images).shape == (2, 7)
        table = layer_table(net, images[:1])
    assert sum(row[3] for row in table) == sum(p.numel() for p in net.parameters())
    assert len(table) <= 40


def test_a_vision_transformer_is_built_for_the_image_size():
    with torch.device("meta"):
        net, images = pretrained("vit_b_16", image_size=32), torch.zeros(2, 1, 28, 28)
        assert net(images).shape == (2, 10)
        assert net.backbone.encoder.pos_embedding.shape == (1, 1 + 2 * 2, 768)
        assert pretrained("vit_b_16").image_size == 224
        table = layer_table(net, images[:1])
    assert sum(row[3] for row in table) == sum(p.numel() for p in net.parameters())


def test_grey_images_become_three_equal_channels():
    net, images = pretrained("resnet18").eval(), torch.rand(2, 1, 28, 28)
    assert torch.equal(net(images), net.backbone(images.repeat(1, 3, 1, 1)))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The folder of torch's downloads, empty, without a network to fill it."""

    def urlopen(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    return tmp_path / "hub" / "checkpoints"


def test_default_weights_without_a_network(composed, hub):
    overrides = ["data=mini", *SMALL, "model.weights=DEFAULT"]
    with pytest.raises(ConfigError) as caught:
        build(composed(*overrides))
    file = "shufflenetv2_x0.5-f707e7126e.pth"
    for part in ("model.weights=DEFAULT", "no route", f"{file} into {hub}", "model.weights=null"):
        assert part in str(caught.value)
    original = get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(original.state_dict(), hub / file)  # as the message advises
    net = build(composed(*overrides)).classifier.net
    assert torch.equal(net.backbone.conv1[0].weight, original.conv1[0].weight)
    (hub / file).write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=rf"model.weights=DEFAULT: cannot load .*{file}: "):
        build(composed(*overrides))


def test_default_weights_choose_the_initialisation(hub):
    """Torchvision refuses ``init_weights=True`` with pretrained weights."""
    hub.mkdir(parents=True)
    original = get_model("googlenet", init_weights=False)
    torch.save(original.state_dict(), hub / "googlenet-1378be20.pth")
    net = pretrained("googlenet", weights="DEFAULT")
    assert torch.equal(net.backbone.conv1.conv.weight, original.conv1.conv.weight)


def test_weights_from_a_file(tmp_path):
    original, path = get_model("squeezenet1_1", weights=None), tmp_path / "weights.pth"
    torch.save(original.state_dict(), path)
    net = pretrained("squeezenet1_1", weights=str(path), num_classes=7)
    assert torch.equal(net.backbone.features[0].weight, original.features[0].weight)
    torch.save(net.state_dict(), path)  # like the best.pth of a run with seven classes
    net = pretrained("squeezenet1_1", weights=str(path))
    assert torch.equal(net.backbone.features[0].weight, original.features[0].weight)
    assert net(torch.rand(1, 1, 28, 28)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"^weights=.*: do not fit this network"):
        pretrained("shufflenet_v2_x0_5", weights=str(path))
    with pytest.raises(OSError, match=r"^weights=nowhere.pth: no such file"):
        pretrained("squeezenet1_1", weights="nowhere.pth")


def test_frozen_layers_do_not_change():
    net = pretrained("resnet18", freeze=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    classifier = Classifier(net, nn.CrossEntropyLoss(), torch.optim.SGD, None, True, 0, 0.0, 1.0)
    optimizer = classifier.build_optimizer()
    nn.functional.cross_entropy(net(torch.rand(4, 1, 28, 28)), torch.arange(4)).backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not value.equal(before[name])}
    assert changed == {"backbone.fc.weight", "backbone.fc.bias"}
    assert not net.backbone.bn1.training


def test_a_run_does_not_need_its_pretrained_weights_again(composed, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(get_model("shufflenet_v2_x0_5", weights=None).state_dict(), file)
    overrides = [*FAST, "logger=none", "test=false", "callbacks.early_stopping=null", *SMALL]
    overrides += ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
    overrides += ["data.eval_batch_size=64", f"model.weights={file}"]
    cfg = composed(*overrides, "trainer.max_epochs=1")
    train(cfg)
    file.unlink()
    run = tmp_path / "run"
    (run / ".hydra").mkdir()
    OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
    network = open_run(str(run)).network()
    best = torch.load(run / "best.pth")
    assert all(torch.equal(best[name], value) for name, value in network.net.state_dict().items())
    last = f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    train(composed(*overrides, "trainer.max_epochs=2", last))
    assert len(rows(run)) == 2
