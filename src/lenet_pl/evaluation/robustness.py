"""Corrupted copies of test images, which a robust classifier still recognises."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode, functional


def corrupted_copies(images: Tensor, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield a name and a copy of images ``uint8 [N, C, H, W]`` for each corruption.

    Directions and noise are drawn from the seed, so that runs are comparable.
    """
    for name, corrupt in CORRUPTIONS.items():
        yield name, corrupt(images, torch.Generator().manual_seed(seed))


def rotate(images: Tensor, rng: Generator, degrees: float) -> Tensor:
    """Rotate about the centre, to the left or to the right."""
    turn = partial(functional.rotate, interpolation=InterpolationMode.BILINEAR)
    return _change(images, rng, [partial(turn, angle=angle) for angle in (degrees, -degrees)])


def shift(images: Tensor, rng: Generator, pixels: int) -> Tensor:
    """Shift to the right, left, bottom or top, and fill with black."""
    offsets = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)]
    move = partial(functional.affine, angle=0.0, scale=1.0, shear=[0.0, 0.0])
    return _change(images, rng, [partial(move, translate=list(offset)) for offset in offsets])


def blur(images: Tensor, rng: Generator, sigma: float) -> Tensor:
    """Blur with a Gaussian of standard deviation ``sigma`` in pixels."""
    blurred: Tensor = functional.gaussian_blur(images, 2 * round(3 * sigma) + 1, sigma)
    return blurred


def add_noise(images: Tensor, rng: Generator, sigma: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma``, where 1 is the range of the pixels."""
    noise = torch.randn(images.shape, generator=rng) * (255 * sigma)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def _change(
    images: Tensor, rng: Generator, changes: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """Apply to each image one of the changes, drawn at random."""
    drawn = torch.randint(len(changes), (len(images),), generator=rng)
    changed = images.clone()
    for number, change in enumerate(changes):
        changed[drawn == number] = change(images[drawn == number])
    return changed


CORRUPTIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "rotated by 15°": partial(rotate, degrees=15.0),
    "rotated by 30°": partial(rotate, degrees=30.0),
    "shifted by 2 pixels": partial(shift, pixels=2),
    "shifted by 4 pixels": partial(shift, pixels=4),
    "blurred, σ 1 pixel": partial(blur, sigma=1.0),
    "blurred, σ 2 pixels": partial(blur, sigma=2.0),
    "noise, σ 10 %": partial(add_noise, sigma=0.1),
    "noise, σ 30 %": partial(add_noise, sigma=0.3),
}
