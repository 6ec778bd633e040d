"""The recurrent network."""

import torch

from lenet_pl.console import layer_table
from lenet_pl.models.lstm import LSTM


def test_output_shape_and_layer_table():
    for net, classes, shape in (
        (LSTM(128, 2, True, 0.1, num_classes=10, channels=1, size=28), 10, (1, 28, 28)),
        (LSTM(16, 1, False, 0.5, num_classes=7, channels=3, size=32), 7, (3, 32, 32)),
    ):
        images = torch.rand(3, *shape)
        assert net(images).shape == (3, classes)
        parameters = sum(p.numel() for p in net.parameters())
        assert sum(row[3] for row in layer_table(net, images[:1])) == parameters


def test_reads_rows_from_the_top():
    net = LSTM(8, 1, False, 0.0, num_classes=10, channels=1, size=28).eval()
    image = torch.rand(1, 1, 28, 28)
    state = torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)
    for row in image[0, 0]:
        _, state = net.lstm(row[None, None], state)
    assert torch.allclose(net(image), net.fc(state[0][0]), atol=1e-6)
