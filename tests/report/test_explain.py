"""Feature maps and saliency, against exact values."""

import torch
from torch import nn

from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.report.explain import feature_maps, saliency


def test_feature_maps_are_the_outputs_of_the_convolutions():
    network = PixelNet(LeNet(), 0.13, 0.31).eval()
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    one, two = feature_maps(network, images)
    net = network.net
    with torch.no_grad():
        expected = net.conv1((images / 255 - 0.13) / 0.31)
        assert torch.allclose(one, expected, atol=1e-6)
        assert torch.allclose(two, net.conv2(net.pool1(expected.relu())), atol=1e-5)
    assert (one.shape, two.shape) == ((3, 6, 28, 28), (3, 16, 10, 10))


def test_saliency_of_a_linear_network_is_its_weights():
    linear = nn.Linear(784, 10)
    network = PixelNet(nn.Sequential(nn.Flatten(), linear), 0.5, 0.25).eval()
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    maps = saliency(network, images, torch.tensor([3, 4]), torch.tensor([5, 6]))
    difference = (linear.weight[[3, 4]] - linear.weight[[5, 6]]).detach() / 0.25
    # a pixel and its eight neighbours
    neighbourhood = difference.reshape(2, 28, 28)[:, 10:13, 4:7].mean((1, 2))
    assert torch.allclose(maps[:, 0, 11, 5], neighbourhood, atol=1e-5)
