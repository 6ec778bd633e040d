"""Any picture, made grey 28 × 28 the way MNIST was.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits": the
digits were fitted into 20 × 20 keeping their aspect ratio, and their centre of mass was placed in
the middle of 28 × 28.
"""

from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SIDE = 28
BOX = 20
FAINT = 32  # brightness that counts as background


def prepare(image: Image.Image, *, invert: Literal["auto"] | bool, centre: bool) -> Tensor:
    """Light on dark, ``uint8 [1, 28, 28]``.

    Args:
        image: of any size and mode, turned as its EXIF says.
        invert: whether it is dark on light; ``auto`` looks at its border.
        centre: whether to crop to what is drawn, fit that into 20 × 20 and centre it; if not, the
            whole picture is fitted into 28 × 28.
    """
    pixels = _grey(ImageOps.exif_transpose(image))
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    if invert is True or (invert == "auto" and np.median(border) > 127):
        pixels, border = 255 - pixels, 255 - border
    if centre:
        return _centred(pixels.clip(np.median(border)) - np.median(border))
    if pixels.shape == (SIDE, SIDE):
        return torch.from_numpy(pixels.astype(np.uint8)).unsqueeze(0)
    return _paste(_fitted(pixels, SIDE), float(np.median(border)), None)


def _grey(image: Image.Image) -> np.ndarray:
    """Brightness, float [H, W] from 0 to 255; what is transparent is white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 257 if image.mode.startswith("I") else max(1.0, values.max() / 255)
        return np.round(values / scale).clip(0, 255)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("L"), dtype=np.float64)


def _centred(pixels: np.ndarray) -> Tensor:
    rows, columns = (np.flatnonzero((pixels > FAINT).any(axis)) for axis in (1, 0))
    if not len(rows):
        return torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = _fitted(crop, BOX)
    total = max(small.sum(), 1.0)
    middle = [small.sum(1 - axis) @ np.arange(small.shape[axis]) / total for axis in (0, 1)]
    return _paste(small, 0.0, middle)


def _fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float64).clip(0, 255)


def _paste(small: np.ndarray, background: float, middle: list[float] | None) -> Tensor:
    whole = np.full((SIDE, SIDE), background)
    places = []
    for axis, size in enumerate(small.shape):
        free = SIDE - size
        start = free / 2 if middle is None else (SIDE - 1) / 2 - middle[axis]
        places.append(min(max(round(start), 0), free))
    top, left = places
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return torch.from_numpy(whole.round().astype(np.uint8)).unsqueeze(0)
