"""The layer table."""

import torch
from torch import nn

from lenet_pl.console import layer_table


def test_lists_blocks_where_there_are_too_many_layers():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    net, image = nn.Sequential(nn.Flatten(), *blocks), torch.rand(1, 1, 2, 2)
    table = layer_table(net, image)
    assert [row[0] for row in table] == ["0", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1"]
    table = layer_table(net, image, max_rows=4)
    assert table == [
        ("0", "Flatten", "4", 0),
        ("1", "Sequential", "4", 20),
        ("2", "Sequential", "4", 20),
        ("3", "Sequential", "4", 20),
    ]


def test_counts_a_repeated_layer_once_and_lists_other_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            x = x.flatten(1)
            return self.body(self.body(x)) * self.scale.sum()

    table = layer_table(Net(), torch.rand(1, 1, 2, 2))
    assert table == [
        ("body.0", "Linear", "4", 20),
        ("body.1", "ReLU", "4", 0),
        ("body.0", "Linear", "4", 0),
        ("body.1", "ReLU", "4", 0),
        ("scale", "Parameter", "3", 3),
    ]


def test_drops_a_prefix_that_all_names_have():
    net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    assert [row[0] for row in layer_table(net, torch.rand(1, 1, 2, 2))] == ["0", "1"]
