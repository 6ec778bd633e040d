"""The multilayer perceptron."""

import torch

from lenet_pl.console import layer_table
from lenet_pl.models.mlp import MLP


def test_parameters():
    net = MLP([512, 256], 0.2, num_classes=10)
    expected = 785 * 512 + 513 * 256 + 257 * 10
    assert sum(p.numel() for p in net.parameters()) == expected


def test_output_shape_and_layer_table():
    images = torch.rand(3, 1, 28, 28)
    for net, classes in (
        (MLP([512, 256], 0.2, num_classes=10), 10),
        (MLP([], 0.0, num_classes=7), 7),
    ):
        assert net(images).shape == (3, classes)
        parameters = sum(p.numel() for p in net.parameters())
        assert sum(row[3] for row in layer_table(net, images[:1])) == parameters
