"""A network together with the normalisation of its input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Values = float | Sequence[float]


class PixelNet(nn.Module):
    """A network that takes raw pixels; loads the ``state_dict`` of a training checkpoint.

    Args:
        net: maps standardised images ``[N, C, H, W]`` to logits ``[N, classes]``.
        mean, std: of the training pixels, scaled to [0, 1]; a number, or one per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Values = 0.0, std: Values = 1.0) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.register_buffer("mean", per_channel(mean))
        self.register_buffer("std", per_channel(std))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[N, C, H, W]``, uint8 or float in [0, 1], to logits ``[N, classes]``."""
        logits: Tensor = self.net(standardise(images, self.mean, self.std))
        return logits


def per_channel(values: Values) -> Tensor:
    """A scalar tensor, or one ``[C, 1, 1]`` with a value for each channel."""
    tensor = torch.tensor(values)
    return tensor.view(-1, 1, 1) if tensor.ndim else tensor


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Standardise images ``[N, C, H, W]``, uint8 or float in [0, 1]."""
    if images.dtype == torch.uint8:
        images = images.to(mean.dtype).div_(255)
    return (images - mean).div_(std)


def model_name(net: nn.Module) -> str:
    """Return the ``name`` of a network, or its class name if it has none."""
    return str(getattr(net, "name", type(net).__name__))
