"""Normalisation in front of a network."""

import torch
from torch import nn

from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet, model_name


def test_uint8_and_float_pixels_give_equal_logits():
    network = PixelNet(LeNet(), 0.13, 0.31).eval()
    pixels = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    original = pixels.clone()
    expected = network.net((pixels.float() / 255 - 0.13) / 0.31)
    assert torch.equal(network(pixels), expected)
    assert torch.equal(network(pixels / 255), expected)
    assert torch.equal(pixels, original)


def test_state_dict_has_the_names_of_a_checkpoint():
    state = PixelNet(LeNet(), 0.13, 0.31).state_dict()
    assert list(state) == ["mean", "std", *(f"net.{name}" for name in LeNet().state_dict())]
    assert state["mean"] == torch.tensor(0.13)


def test_model_name_is_the_attribute_or_the_class():
    net = nn.Linear(1, 1)
    assert model_name(net) == "Linear"
    net.name = "resnet18"
    assert model_name(net) == "resnet18"
