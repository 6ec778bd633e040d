"""The multilayer perceptron."""

import torch

from lenet_pl.console import layer_table
from lenet_pl.models.mlp import MLP


def test_parameters():
    net = MLP([512, 256], 0.2, num_classes=10, channels=1, size=28)
    expected = 785 * 512 + 513 * 256 + 257 * 10
    assert sum(p.numel() for p in net.parameters()) == expected


def test_output_shape_and_layer_table():
    for net, classes, shape in (
        (MLP([512, 256], 0.2, num_classes=10, channels=1, size=28), 10, (1, 28, 28)),
        (MLP([], 0.0, num_classes=7, channels=3, size=32), 7, (3, 32, 32)),
    ):
        images = torch.rand(3, *shape)
        assert net(images).shape == (3, classes)
        parameters = sum(p.numel() for p in net.parameters())
        assert sum(row[3] for row in layer_table(net, images[:1])) == parameters
