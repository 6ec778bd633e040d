"""Augmentation of float images ``[N, C, H, W]`` in [0, 1] on their device, with zeros around.

The files in ``conf/augment`` describe the arguments.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample


class Affine:
    """Random rotation, scaling and shear about the centre, then a shift; all uniform."""

    def __init__(self, degrees: float, translate: float, scale: float, shear: float) -> None:
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(5, len(images), generator=generator, **_options(images))
        angle, factor, slant, right, down = draws.mul_(2).sub_(1)
        degrees, factor, shear = angle * self.degrees, factor * self.scale + 1, slant * self.shear
        return affine(images, degrees, factor, shear, right * self.translate, down * self.translate)


def affine(
    images: Tensor,  # float [N, C, H, W], interpolated bilinearly
    degrees: Tensor,  # [N], counter-clockwise as displayed
    factor: Tensor,  # [N], above 1 enlarges
    shear: Tensor,  # [N], slant to the right in degrees
    right: Tensor,  # [N], as a fraction of the width
    down: Tensor,  # [N], as a fraction of the height
) -> Tensor:
    """Shear, rotate and scale each image about its centre, then shift it."""
    # Kornia 0.9.0's warp_affine gives the same images to 1e-5, needs two further packages, and
    # takes 4.8 times as long for 32 of them, 4.1 times for 128 (one thread of a Xeon). All
    # points come from one matrix product, which takes a twentieth of the time of affine_grid
    count, _, height, width = images.shape
    angle, slope = torch.deg2rad(degrees), torch.deg2rad(shear).tan()
    cos, sin = angle.cos() / factor, angle.sin() / factor
    # the inverse map in closed form: from output to input coordinates, both from -1 to 1
    xx, xy = cos + slope * sin, (slope * cos - sin) * (height / width)
    yx, yy = sin * (width / height), cos
    x = -2 * (xx * right + xy * down)
    y = -2 * (yx * right + yy * down)
    inverse = torch.stack((xx, xy, x, yx, yy, y), dim=1).view(2 * count, 3)
    points = inverse @ _points(height, width, **_options(images))
    return _sample(images, points.view(count, 2, height, width))


class Elastic:
    """Random smooth distortion.

    Every pixel moves by a uniform random amount from -1 to 1 along each axis, smoothed by a
    Gaussian of ``sigma`` pixels and multiplied by ``alpha``: by 0.16 · alpha / sigma pixels in
    the root mean square. Source: P. Y. Simard, D. Steinkraus and J. C. Platt, "Best practices for
    convolutional neural networks applied to visual document analysis", ICDAR 2003, p. 959.
    """

    def __init__(self, alpha: float, sigma: float) -> None:
        self.alpha, self.sigma = alpha, sigma

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        options, unit = _options(images), 2 * self.alpha / 127.5
        noise = _random_bytes((count, 2, height, width), generator).to(images.dtype).sub_(127.5)
        vertical, horizontal = (_gaussian(side, self.sigma, **options) for side in (height, width))
        # x and y displacements in units of half the image, as grid_sample takes them
        scaled = torch.stack((vertical * (unit / width), vertical * (unit / height)))
        field = scaled @ (noise @ horizontal)
        points = _points(height, width, **options)[:2].view(2, height, width)
        return _sample(images, field.add_(points))


class Flip:
    """Mirrors some images left to right."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(len(images), 1, 1, 1, generator=generator, **_options(images))
        return torch.where(draws < self.probability, images.flip(3), images)


class Erasing:
    """Replaces a random rectangle of some images by random pixels.

    Source: Z. Zhong, L. Zheng, G. Kang, S. Li and Y. Yang, "Random erasing data augmentation",
    AAAI 2020, Algorithm 1. It draws again if a rectangle does not fit; here only those that fit
    are drawn, with the logarithm of the aspect uniform, so that wide is as likely as tall.
    """

    def __init__(self, probability: float, area: Sequence[float], aspect: Sequence[float]) -> None:
        self.probability, self.area, self.aspect = probability, area, aspect
        largest = area[1]
        if aspect[0] > 1 / largest or aspect[1] < largest:
            raise ValueError(
                f"area={area}: no rectangle of {largest:g} of a square image and an aspect "
                f"of {aspect} fits into it"
            )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        options = _options(images)
        draws = torch.rand(5, count, 1, 1, 1, generator=generator, **options)
        chosen, area, aspect, top, left = draws
        low, high = self.area
        area = (area * (high - low) + low) * (height * width)
        flattest = (area / width**2).clamp_(min=self.aspect[0])
        tallest = (height**2 / area).clamp_(max=self.aspect[1])
        aspect = flattest * (tallest / flattest) ** aspect
        rows = (area * aspect).sqrt_().round_().clamp_(1, height)
        columns = (area / aspect).sqrt_().round_().clamp_(1, width)
        y = torch.arange(height, **options).view(-1, 1) - (top * (height - rows + 1)).floor_()
        x = torch.arange(width, **options) - (left * (width - columns + 1)).floor_()
        rectangle = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        pixels = _random_bytes(images.shape, generator).to(images.dtype).div_(255)
        return torch.where(rectangle & (chosen < self.probability), pixels, images)


class Noise:
    """Adds Gaussian noise of standard deviation ``std`` to every pixel and clips to [0, 1]."""

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, **_options(images))
        return noise.mul_(self.std).add_(images).clamp_(0, 1)


def _options(images: Tensor) -> dict[str, Any]:
    return {"dtype": images.dtype, "device": images.device}


def _sample(images: Tensor, points: Tensor) -> Tensor:
    """Interpolate the images at points ``[N, 2, H, W]``, x and y from -1 to 1."""
    grid = points.permute(0, 2, 3, 1)  # a view: separate planes of x and y are faster to compute
    return grid_sample(images, grid, align_corners=False).clamp_(0, 1)  # of rounding errors


@lru_cache(maxsize=8)
def _points(height: int, width: int, **options: Any) -> Tensor:
    """The centres of the pixels ``[3, H * W]``: x and y from -1 to 1, and a 1 for the shift."""
    y, x = ((torch.arange(side, **options) * 2 + 1) / side - 1 for side in (height, width))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows, torch.ones_like(rows))).view(3, -1)


@lru_cache(maxsize=8)
def _gaussian(side: int, sigma: float, **options: Any) -> Tensor:
    """The matrix ``[side, side]`` that smooths along an axis, with zeros beyond the border."""
    position = torch.arange(side, **options)
    reach = math.ceil(6 * sigma)
    total = sum(math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1))
    return (-((position.view(-1, 1) - position) ** 2) / (2 * sigma**2)).exp() / total


def _random_bytes(shape: Sequence[int], generator: Generator) -> Tensor:
    """Uniform uint8 values on the generator's device."""
    device = generator.device
    if device.type != "cpu":
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8, device=device)
    size = math.prod(shape)  # eight bytes per draw: five times as fast as torch.rand
    draws = torch.empty(-(-size // 8), dtype=torch.int64)
    return draws.random_(-(2**63), None, generator=generator).view(torch.uint8)[:size].view(shape)
