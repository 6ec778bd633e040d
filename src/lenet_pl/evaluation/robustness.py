"""Corrupted copies of test images, which a robust classifier still recognises."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine, gaussian_blur, rotate

turn = partial(rotate, interpolation=InterpolationMode.BILINEAR)
shift = partial(affine, angle=0.0, scale=1.0, shear=[0.0, 0.0])  # fills with black
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def add_noise(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma``, where 1 is the range of the pixels."""
    noise = torch.randn(images.shape, generator=Generator().manual_seed(0)) * (255 * sigma)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


# by name, changes of which each image gets one, drawn at random
CORRUPTIONS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "rotated by 15°": [partial(turn, angle=15.0 * sign) for sign in (1, -1)],
    "rotated by 30°": [partial(turn, angle=30.0 * sign) for sign in (1, -1)],
    "shifted by 2 pixels": [partial(shift, translate=[2 * x, 2 * y]) for x, y in DIRECTIONS],
    "shifted by 4 pixels": [partial(shift, translate=[4 * x, 4 * y]) for x, y in DIRECTIONS],
    "blurred, σ 1 pixel": [partial(gaussian_blur, kernel_size=7, sigma=1.0)],
    "blurred, σ 2 pixels": [partial(gaussian_blur, kernel_size=13, sigma=2.0)],
    "noise, σ 10 %": [partial(add_noise, sigma=0.1)],
    "noise, σ 30 %": [partial(add_noise, sigma=0.3)],
}


def corrupted_copies(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield a name and a copy of images ``uint8 [N, C, H, W]`` for each corruption.

    Directions and noise are the same in every call, so that runs are comparable.
    """
    for name, changes in CORRUPTIONS.items():
        drawn = torch.randint(len(changes), (len(images),), generator=Generator().manual_seed(0))
        copies = images.clone()
        for number, change in enumerate(changes):
            copies[drawn == number] = change(images[drawn == number])
        yield name, copies
