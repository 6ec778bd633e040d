"""Copies of images that a robust classifier still recognises."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional


def variants(images: Tensor, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Rotated, shifted, blurred and noisy copies of ``uint8 [N, C, H, W]``, with a name each.

    Directions and noise are drawn by a seed, so that runs compare.
    """
    for name, change in CHANGES.items():
        yield name, change(images, torch.Generator().manual_seed(seed))


def rotated(images: Tensor, rng: torch.Generator, degrees: float) -> Tensor:
    """Turned about their middle, half of them to the left."""
    turn = partial(functional.rotate, interpolation=InterpolationMode.BILINEAR)
    return _by_direction(images, rng, [lambda x: turn(x, degrees), lambda x: turn(x, -degrees)])


def shifted(images: Tensor, rng: torch.Generator, pixels: int) -> Tensor:
    """Moved up, down, left or right; what comes in is black."""

    def move(x: Tensor, right: int, down: int) -> Tensor:
        return functional.affine(x, 0.0, [right, down], 1.0, [0.0, 0.0])

    steps = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)]
    return _by_direction(images, rng, [partial(move, right=x, down=y) for x, y in steps])


def blurred(images: Tensor, rng: torch.Generator, sigma: float) -> Tensor:
    """By a Gaussian of that many pixels."""
    side = 2 * round(3 * sigma) + 1
    return functional.gaussian_blur(images, [side, side], [sigma, sigma])


def noisy(images: Tensor, rng: torch.Generator, deviation: float) -> Tensor:
    """With Gaussian noise of that share of the range, cut off at black and white."""
    noise = torch.randn(images.shape, generator=rng) * (255 * deviation)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


Change = Callable[[Tensor, torch.Generator], Tensor]

CHANGES: dict[str, Change] = {
    "rotated by 15°": partial(rotated, degrees=15.0),
    "rotated by 30°": partial(rotated, degrees=30.0),
    "shifted by 2 pixels": partial(shifted, pixels=2),
    "shifted by 4 pixels": partial(shifted, pixels=4),
    "blurred, σ 1 pixel": partial(blurred, sigma=1.0),
    "blurred, σ 2 pixels": partial(blurred, sigma=2.0),
    "noise, σ 10 %": partial(noisy, deviation=0.1),
    "noise, σ 30 %": partial(noisy, deviation=0.3),
}


def _by_direction(
    images: Tensor, rng: torch.Generator, moves: list[Callable[[Tensor], Tensor]]
) -> Tensor:
    chosen = torch.randint(len(moves), (len(images),), generator=rng)
    changed = images.clone()
    for direction, move in enumerate(moves):
        there = chosen == direction
        changed[there] = move(images[there])
    return changed
