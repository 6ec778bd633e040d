"""From plain pixels to what a network is trained on."""

import torch
from torch import Tensor, nn


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels less their mean, over their standard deviation.

    Args:
        images: ``[N, C, H, W]``, either uint8 or float in [0, 1].
        mean, std: scalars, of pixels scaled to [0, 1]; of the type that is wanted.
    """
    if images.dtype == torch.uint8:
        images = images.to(mean.dtype).div_(255)
    return (images - mean).div_(std)


class PixelNet(nn.Module):
    """A trained network behind its normalisation, which is what leaves a run folder.

    Its state dict has the names of the classifier's in a checkpoint.

    Args:
        net: takes standardised images ``[N, C, H, W]``, returns logits ``[N, classes]``.
        mean, std: of the training pixels, scaled to [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[N, C, H, W]``, either uint8 or float in [0, 1]."""
        return self.net(standardise(images, self.mean, self.std))


def model_name(net: nn.Module) -> str:
    """A network's name: its own attribute, or the name of its class."""
    return str(getattr(net, "name", type(net).__name__))
