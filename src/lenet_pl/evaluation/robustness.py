"""Corrupted copies of test images, which a robust classifier still recognises."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine, gaussian_blur, rotate

turn = partial(rotate, interpolation=InterpolationMode.BILINEAR)


def shifts(pixels: int) -> list[Callable[[Tensor], Tensor]]:
    """Shifts to the right, left, bottom and top, which fill with black."""
    offsets = [pixels, 0], [-pixels, 0], [0, pixels], [0, -pixels]
    return [partial(affine, angle=0.0, translate=xy, scale=1.0, shear=[0.0, 0.0]) for xy in offsets]


def add_noise(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma``, where 1 is the range of the pixels."""
    noise = torch.randn(images.shape, generator=Generator().manual_seed(0)) * (255 * sigma)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


# each image gets one of the changes, drawn at random
CORRUPTIONS: dict[str, Sequence[Callable[[Tensor], Tensor]]] = {
    "rotated by 15°": [partial(turn, angle=15.0), partial(turn, angle=-15.0)],
    "rotated by 30°": [partial(turn, angle=30.0), partial(turn, angle=-30.0)],
    "shifted by 2 pixels": shifts(2),
    "shifted by 4 pixels": shifts(4),
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
        rng = Generator().manual_seed(0)
        drawn = torch.randint(len(changes), (len(images),), generator=rng)
        copies = images.clone()
        for number, change in enumerate(changes):
            copies[drawn == number] = change(images[drawn == number])
        yield name, copies
