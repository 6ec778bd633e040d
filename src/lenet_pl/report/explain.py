"""Feature maps and saliency of a network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lenet_pl.models.pixelnet import PixelNet


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a network, in order of definition."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs ``[N, maps, H, W]`` of the first two convolutions, before any activation."""
    layers = convolutions(network)[:2]
    outputs: dict[nn.Module, Tensor] = {}

    def store(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in layers:
            outputs[module] = output.float().contiguous()

    with torch.no_grad(), register_module_forward_hook(store):
        network(images)
    return [outputs[layer] for layer in layers if layer in outputs]


def saliency(network: PixelNet, images: Tensor, predicted: Tensor, labels: Tensor) -> Tensor:
    """Where brighter pixels favour the prediction (positive) or the label: ``[N, 1, H, W]``.

    The gradient of the prediction's logit minus the label's, averaged over 24 copies of each
    image with 15 % noise, and over 3 × 3 pixels.

    Sources: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep inside convolutional networks", ICLR
    workshop 2014, section 3; D. Smilkov, N. Thorat, B. Kim, F. Viégas, M. Wattenberg,
    "SmoothGrad" (2017), equation 1.
    """
    generator, copies = torch.Generator().manual_seed(0), 24
    total = torch.zeros(images.shape)
    for _ in range(copies):
        noise = 0.15 * torch.randn(images.shape, generator=generator)
        noisy = (images / 255 + noise).requires_grad_()
        logits = network(noisy)
        margin = logits.gather(1, predicted[:, None]) - logits.gather(1, labels[:, None])
        total += torch.autograd.grad(margin.sum(), noisy)[0]
    mean = total.mean(1, keepdim=True) / copies
    return nn.functional.avg_pool2d(mean, 3, stride=1, padding=1, count_include_pad=False)
