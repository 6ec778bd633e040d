"""What happens inside a network on the way from an image to its logits."""

from functools import partial

import torch
from torch import Tensor, nn

from lenet_pl.models.pixelnet import PixelNet

NOISE, COPIES = 0.15, 24  # of the pixels' range, as the paper recommends; copies per image


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """In the order they were made, which for most networks is that of the forward pass."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def feature_maps(network: nn.Module, images: Tensor, count: int = 2) -> list[Tensor]:
    """What the first convolutions put out, before any activation: ``[N, maps, H, W]`` each.

    Args:
        network: ready to predict.
        images: uint8 ``[N, C, H, W]``.
        count: how many convolutions.
    """
    found: dict[int, Tensor] = {}

    def keep(number: int, module: nn.Module, args: tuple, output: Tensor) -> None:
        found[number] = output.float()

    hooks = [
        layer.register_forward_hook(partial(keep, number))
        for number, layer in enumerate(convolutions(network)[:count])
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[number].contiguous() for number in sorted(found)]


def saliency(network: PixelNet, images: Tensor, guesses: Tensor, labels: Tensor) -> Tensor:
    """Where more ink would speak for a guess (above zero) or for the label (below): [N, 1, H, W].

    The gradient, with respect to the pixels, of the guess's logit less the label's, averaged over
    noisy copies of the image and over a pixel's neighbours, since a single gradient is ragged.
    Sources: K. Simonyan, A. Vedaldi,
    A. Zisserman, "Deep inside convolutional networks", ICLR workshop 2014, section 3; D. Smilkov,
    N. Thorat, B. Kim, F. Viégas, M. Wattenberg, "SmoothGrad" (2017), equation 1.

    Args:
        network: ready to predict.
        images: uint8 ``[N, C, H, W]``.
        guesses, labels: int64 ``[N]``.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(images.shape)
    for _ in range(COPIES):
        noise = NOISE * torch.randn(images.shape, generator=generator)
        noisy = (images / 255 + noise).requires_grad_()
        logits = network(noisy)
        lead = logits.gather(1, guesses[:, None]) - logits.gather(1, labels[:, None])
        total += torch.autograd.grad(lead.sum(), noisy)[0]
    mean = total.mean(1, keepdim=True) / COPIES
    return nn.functional.avg_pool2d(mean, 3, stride=1, padding=1, count_include_pad=False)
