"""The claims about the architecture."""

import torch
from helpers.tutorial import TutorialLeNet
from torch import nn

from lenet_pl.describe import layers
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
    rows = layers(net, torch.zeros(1, 1, 28, 28))
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
    assert net.training  # as it was before


def test_a_file_saved_by_the_tutorial_loads_strictly(tmp_path):
    theirs = TutorialLeNet().eval()
    torch.save(theirs.state_dict(), tmp_path / "lenet_mnist_best.pth")
    ours = LeNet().eval()
    ours.load_state_dict(torch.load(tmp_path / "lenet_mnist_best.pth"), strict=True)
    images = torch.rand(16, 1, 28, 28)
    assert torch.equal(ours(images), theirs(images))


def test_a_convolution_that_covers_its_map_is_the_matrix_product():
    torch.manual_seed(0)
    ours, theirs = FullConv2d(3, 7, (4, 5)), nn.Conv2d(3, 7, (4, 5))
    theirs.load_state_dict(ours.state_dict())
    for format in (torch.contiguous_format, torch.channels_last):
        ours.to(memory_format=format), theirs.to(memory_format=format)
        for height, width in ((4, 5), (6, 5), (9, 11)):
            images = torch.rand(2, 3, height, width).to(memory_format=format)
            here, there = ours(images), theirs(images)
            torch.testing.assert_close(here, there)
            for net, maps in ((ours, here), (theirs, there)):
                net.zero_grad()
                maps.square().sum().backward()
            torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
            torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
