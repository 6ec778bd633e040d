"""The architecture is the tutorial's, layer by layer."""

import pytest
import torch
from helpers.tutorial import TutorialLeNet
from torch import nn

from lenet_pl.console import layer_table
from lenet_pl.models.lenet import FullConv2d, LeNet


def test_parameters_of_each_layer():
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in LeNet().named_children()}
    assert counts == {
        "conv1": 156,
        "pool1": 0,
        "conv2": 2_416,
        "pool2": 0,
        "conv3": 48_120,
        "relu": 0,
        "flatten": 0,
        "fc1": 10_164,
        "fc2": 850,
    }
    assert sum(counts.values()) == 61_706


def test_output_size_of_each_layer():
    net = LeNet()
    rows = layer_table(net, torch.zeros(1, 1, 28, 28))
    assert [(name, size) for name, _, size, _ in rows] == [
        ("conv1", "6 × 28 × 28"),
        ("relu", "6 × 28 × 28"),
        ("pool1", "6 × 14 × 14"),
        ("conv2", "16 × 10 × 10"),
        ("relu", "16 × 10 × 10"),
        ("pool2", "16 × 5 × 5"),
        ("conv3", "120 × 1 × 1"),
        ("relu", "120 × 1 × 1"),
        ("flatten", "120"),
        ("fc1", "84"),
        ("relu", "84"),
        ("fc2", "10"),
    ]
    assert sum(row[3] for row in rows) == 61_706
    assert net.training  # the mode is restored


def test_loads_weights_saved_by_the_tutorial_strictly(tmp_path):
    tutorial = TutorialLeNet().eval()
    torch.save(tutorial.state_dict(), tmp_path / "lenet_mnist_best.pth")
    net = LeNet().eval()
    net.load_state_dict(torch.load(tmp_path / "lenet_mnist_best.pth"), strict=True)
    images = torch.rand(16, 1, 28, 28)
    assert torch.equal(net(images), tutorial(images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_full_convolution_equals_a_convolution(memory_format):
    torch.manual_seed(0)
    full, plain = FullConv2d(3, 7, (4, 5)), nn.Conv2d(3, 7, (4, 5))
    plain.load_state_dict(full.state_dict())
    full.to(memory_format=memory_format)
    plain.to(memory_format=memory_format)
    images = torch.rand(2, 3, 4, 5).to(memory_format=memory_format)
    outputs, expected = full(images), plain(images)
    torch.testing.assert_close(outputs, expected)
    for maps in (outputs, expected):
        maps.square().sum().backward()
    torch.testing.assert_close(full.weight.grad, plain.weight.grad)
    torch.testing.assert_close(full.bias.grad, plain.bias.grad)


def test_other_sizes_and_channels():
    assert LeNet(num_classes=3, channels=3, size=32)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert LeNet(size=32).conv1.padding == (0, 0)  # as in the paper
    with pytest.raises(ValueError, match=r"size=64: LeNet takes 28 or 32; resize"):
        LeNet(size=64)
