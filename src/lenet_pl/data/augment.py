"""Training images changed a little, each by a draw of its own, all of a batch at once.

An augmentation takes float images ``[N, C, H, W]`` in [0, 1] and a generator on their device, and
returns new ones of the same shape and range. What comes in from outside an image is 0, the
background. Nothing waits for the device, and nothing loops over images.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


class Affine:
    """Turned, sized and slanted about the centre, then moved; every amount uniform.

    Args:
        degrees: turned by up to this many degrees, either way.
        translate: moved by up to this share of the image's side, along each axis.
        scale: larger or smaller by up to this share: a factor from 1 - scale to 1 + scale.
        shear: upright strokes lean by up to this many degrees, either way.
    """

    def __init__(self, degrees: float, translate: float, scale: float, shear: float) -> None:
        self.degrees = _number("degrees", degrees, 0, 180)
        self.translate = _number("translate", translate, 0, 1)
        self.scale = _number("scale", scale, 0, 0.9)
        self.shear = _number("shear", shear, 0, 80)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(5, len(images), generator=generator, **_kind(images))
        angle, factor, lean, right, down = draws.mul_(2).sub_(1)
        return affine(
            images,
            angle * self.degrees,
            factor * self.scale + 1,
            lean * self.shear,
            right * self.translate,
            down * self.translate,
        )


def affine(
    images: Tensor, degrees: Tensor, factor: Tensor, shear: Tensor, right: Tensor, down: Tensor
) -> Tensor:
    """Images ``[N, C, H, W]``, each sheared, turned and sized about its centre, then moved.

    Bilinear, as ``torchvision.transforms.RandomAffine`` can be.

    Args:
        degrees: ``[N]``, counter-clockwise as one sees it.
        factor: ``[N]``, above 1 is larger.
        shear: ``[N]``, degrees that the top leans to the right by.
        right, down: ``[N]``, shares of the width and of the height.
    """
    # Kornia 0.9.0's warp_affine gives the same images to 1e-5, needs two further packages, and
    # takes 4.8 times as long for 32 of them, 4.1 times for 128 (one thread of a Xeon). All the
    # points come from one matrix product, which takes a twentieth of the time of F.affine_grid
    count, _, height, width = images.shape
    angle, slope = torch.deg2rad(degrees), torch.deg2rad(shear).tan()
    cos, sin = angle.cos() / factor, angle.sin() / factor
    # back from where a pixel is to where it was: the inverse, in closed form, from -1 to 1
    xx, xy = cos + slope * sin, (slope * cos - sin) * (height / width)
    yx, yy = sin * (width / height), cos
    x = -2 * (xx * right + xy * down)
    y = -2 * (yx * right + yy * down)
    inverse = torch.stack((xx, xy, x, yx, yy, y), dim=1).view(2 * count, 3)
    points = inverse @ _points(height, width, **_kind(images))
    return _sample(images, points.view(count, 2, height, width))


class Elastic:
    """Bent, as ink on rubber that is pulled unevenly.

    Every pixel moves by a uniform random amount of -1 to 1 along each axis, smoothed by a
    Gaussian and multiplied by ``alpha``: by 0.16 · alpha / sigma pixels, in the quadratic mean.
    Source: P. Y. Simard, D. Steinkraus and J. C. Platt, "Best practices for convolutional neural
    networks applied to visual document analysis", ICDAR 2003, p. 959 (alpha 34, sigma 4 there).

    Args:
        alpha: how much.
        sigma: standard deviation of the Gaussian, in pixels: how smoothly.
    """

    def __init__(self, alpha: float, sigma: float) -> None:
        self.alpha = _number("alpha", alpha, 0, 1000)
        self.sigma = _number("sigma", sigma, 0.1, 100)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        kind, unit = _kind(images), 2 * self.alpha / 127.5
        noise = _bytes((count, 2, height, width), generator).to(images.dtype).sub_(127.5)
        down, along = (_gaussian(side, self.sigma, **kind) for side in (height, width))
        scaled = torch.stack((down * (unit / width), down * (unit / height)))  # from -1 to 1
        field = scaled @ (noise @ along)
        points = _points(height, width, **kind)[:2].view(2, height, width)
        return _sample(images, field.add_(points))


class Erasing:
    """A rectangle of random pixels over some of the images.

    Source: Z. Zhong, L. Zheng, G. Kang, S. Li and Y. Yang, "Random erasing data augmentation",
    AAAI 2020, Algorithm 1. There a rectangle that does not fit is drawn again; here only those
    that fit are drawn, their aspect uniform in its logarithm, so that wide is as likely as tall.

    Args:
        probability: of an image to be chosen.
        area: lowest and highest share of the image that is erased, before rounding to pixels.
        aspect: lowest and highest height of the rectangle over its width.
    """

    def __init__(self, probability: float, area: Sequence[float], aspect: Sequence[float]) -> None:
        self.probability = _number("probability", probability, 0, 1)
        self.area = _pair("area", area, 0.001, 1)
        self.aspect = _pair("aspect", aspect, 0.01, 100)
        largest = self.area[1]
        if self.aspect[0] > 1 / largest or self.aspect[1] < largest:
            raise ValueError(
                f"area={area}: no rectangle of {largest:g} of a square image and an aspect "
                f"of {aspect} fits into it"
            )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        kind = _kind(images)
        draws = torch.rand(5, count, 1, 1, 1, generator=generator, **kind)
        chosen, area, aspect, top, left = draws
        low, high = self.area
        area = (area * (high - low) + low) * (height * width)
        flattest = (area / width**2).clamp_(min=self.aspect[0])
        tallest = (height**2 / area).clamp_(max=self.aspect[1])
        aspect = flattest * (tallest / flattest) ** aspect
        rows = (area * aspect).sqrt_().round_().clamp_(1, height)
        columns = (area / aspect).sqrt_().round_().clamp_(1, width)
        down = torch.arange(height, **kind).view(-1, 1) - (top * (height - rows + 1)).floor_()
        right = torch.arange(width, **kind) - (left * (width - columns + 1)).floor_()
        inside = (down >= 0) & (down < rows) & (right >= 0) & (right < columns)
        pixels = _bytes(images.shape, generator).to(images.dtype).div_(255)
        return torch.where(inside & (chosen < self.probability), pixels, images)


class Noise:
    """Gaussian noise on every pixel, cut off at black and white.

    Args:
        std: its standard deviation, of pixels in [0, 1].
    """

    def __init__(self, std: float) -> None:
        self.std = _number("std", std, 0, 1)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, **_kind(images))
        return noise.mul_(self.std).add_(images).clamp_(0, 1)


def _kind(images: Tensor) -> dict[str, Any]:
    return {"dtype": images.dtype, "device": images.device}


def _sample(images: Tensor, points: Tensor) -> Tensor:
    """The images between their pixels, at points ``[N, 2, H, W]`` of x and y from -1 to 1."""
    grid = points.permute(0, 2, 3, 1)  # a view: x and y are faster made, and read, apart
    return F.grid_sample(images, grid, align_corners=False).clamp_(0, 1)  # off by a rounding


@lru_cache(maxsize=8)
def _points(height: int, width: int, **kind: Any) -> Tensor:
    """The pixels' centres ``[3, H * W]``: x and y from -1 to 1, and a 1 for the shift."""
    y, x = ((torch.arange(side, **kind) * 2 + 1) / side - 1 for side in (height, width))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows, torch.ones_like(rows))).view(3, -1)


@lru_cache(maxsize=8)
def _gaussian(side: int, sigma: float, **kind: Any) -> Tensor:
    """The matrix ``[side, side]`` that smooths along an axis; beyond the edges there is 0."""
    at = torch.arange(side, **kind)
    reach = math.ceil(6 * sigma)
    total = sum(math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1))
    return (-((at.view(-1, 1) - at) ** 2) / (2 * sigma**2)).exp() / total


def _bytes(shape: Sequence[int], generator: Generator) -> Tensor:
    """Random bytes on the generator's device."""
    device = generator.device
    if device.type != "cpu":
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8, device=device)
    size = math.prod(shape)  # eight with each draw: five times as fast as torch.rand
    eights = torch.empty(-(-size // 8), dtype=torch.int64)
    return eights.random_(-(2**63), None, generator=generator).view(torch.uint8)[:size].view(shape)


def _number(name: str, value: float, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"{name}={value}: must be a number from {low} to {high}")
    return value


def _pair(name: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    try:
        first, second = values
        if low <= first <= second <= high:
            return first, second
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name}={values}: must be two numbers, rising, from {low} to {high}")
