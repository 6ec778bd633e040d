"""Ink told from its background: where a digit is in a picture, and how thick its strokes are."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

Auto = bool | Literal["auto"]  # yes, no, or what each picture itself tells

COARSE = 64  # pixels a side, in which the background is measured
FAINT = 12.0  # grey levels, of 255, that ink must differ from its background
# in pixels of the box of 20: of MNIST's digits 5 % have thinner strokes, and half of them
THIN, USUAL = 1.56, 2.2


def stands_out(grey: Tensor, invert: Auto) -> tuple[Tensor, bool]:
    """How far each pixel stands out from its background, and whether the ink is the darker."""
    above = grey - _surface(_background(grey, invert), *grey.shape)
    dark = bool((above.round() ** 3).sum() < 0) if invert == "auto" else invert
    return -above if dark else above, dark


def _background(grey: Tensor, invert: Auto) -> Tensor:
    """The factors of a surface through what is no ink: paper in uneven light.

    It begins with the border, where a digit seldom is, and takes in all that lies close.
    """
    height, width = grey.shape
    small = resize(grey, min(COARSE, height), min(COARSE, width))
    ring = torch.ones_like(small, dtype=torch.bool)
    edge = max(1, min(small.shape) // 16)
    ring[edge:-edge, edge:-edge] = False
    border = small[ring]
    level = border.quantile({"auto": 0.5, True: 0.8, False: 0.2}[invert])
    spread = 4 * (border - level).abs().median().clamp_min(2)
    member = ring & ((small - level).abs() <= spread)
    factors = functional.pad(level[None], (0, 5))
    y, x = _grid(*small.shape)
    terms = torch.stack(torch.broadcast_tensors(x**0 * y**0, x, y, x * x, x * y, y * y), dim=-1)
    for _ in range(4):
        if member.sum() < 4 * len(factors):
            break
        factors = torch.linalg.lstsq(terms[member], small[member][:, None]).solution[:, 0]
        off = (small - _surface(factors, *small.shape)).abs()
        member = off <= 3 * off[member].median().clamp_min(1)
    return factors


def _surface(factors: Tensor, height: int, width: int) -> Tensor:
    """The sum of 1, x, y, x², xy, y² by their factors, ``[H, W]``; places are in [-1, 1]."""
    one, by_x, by_y, by_xx, by_xy, by_yy = factors
    y, x = _grid(height, width)
    return (one + by_x * x + by_xx * x * x) + (by_y * y + by_yy * y * y) + by_xy * x * y


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]


def cut_out(ink: Tensor) -> Tensor | None:
    """The part of the picture that the digit fills, all else in it 0; None if there is none."""
    noise = ink.abs().quantile(0.25).item() / 0.3186  # the deviation, if it is a normal one
    smooth = _window(ink, 3, mean=True)
    peak = smooth.max().item()
    if peak < max(FAINT, 5 * noise):
        return None
    kept = _main_parts(smooth > max(0.35 * peak, 3 * noise))
    ink = ink * (kept & (ink > max(0.04 * peak, 3 * noise)))
    rows, columns = ink.amax(1).nonzero().flatten(), ink.amax(0).nonzero().flatten()
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _main_parts(mask: Tensor) -> Tensor:
    """What lies in or next to the large connected parts: no specks, and no edge of the paper."""
    step = -(-max(mask.shape) // COARSE)
    height, width = mask.shape
    coarse = functional.max_pool2d(mask[None, None].float(), step, ceil_mode=True)[0, 0]
    label = torch.arange(1.0, coarse.numel() + 1).reshape(coarse.shape) * coarse
    while True:  # the highest number of each part spreads through it
        spread = _window(label, 3) * coarse
        if torch.equal(spread, label):
            break
        label = spread
    numbers, members = label[label > 0].unique(return_counts=True)
    sizes = dict(zip(numbers.tolist(), members.tolist(), strict=True))
    border = {
        *label[0].tolist(),
        *label[-1].tolist(),
        *label[:, 0].tolist(),
        *label[:, -1].tolist(),
    }
    inside = {number: size for number, size in sizes.items() if number not in border}
    if inside and max(inside.values()) >= 0.1 * max(sizes.values()):
        sizes = inside
    least = 0.08 * max(sizes.values())
    large = torch.tensor([number for number, size in sizes.items() if size >= least])
    near = _window(torch.isin(label, large).float(), 3)
    whole = near.repeat_interleave(step, 0).repeat_interleave(step, 1)
    return whole[:height, :width] > 0


def thicken(ink: Tensor, fine: int) -> Tensor:
    """Strokes of a usual width, where shrinking to the box would leave them faint."""
    ink = ink / ink.max()
    padded = functional.pad(ink, (1, 1, 1, 1))
    down, right = padded.diff(dim=0)[:, 1:], padded.diff(dim=1)[1:]
    outline = (down**2 + right**2).sqrt().sum()
    width = (
        2 * ink.sum() / outline
    ).item() / fine  # area is length times width, outline twice that
    if width >= THIN:
        return ink
    reach = round((USUAL - width) * fine / 2)
    thick = _window(functional.pad(ink, (reach,) * 4), 2 * reach + 1)
    return (thick * thick.sum() / (thick**2).sum()).clamp_max(1)  # hair lines vary in brightness


def _window(image: Tensor, side: int, mean: bool = False) -> Tensor:
    """The highest (or mean) value around each pixel of ``[H, W]``; ``side`` is odd."""
    pool = functional.avg_pool2d if mean else functional.max_pool2d
    return pool(image[None, None], side, stride=1, padding=side // 2)[0, 0]


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Float ``[height, width]``, antialiased; the same where the size is."""
    resized = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))
