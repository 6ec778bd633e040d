"""Photographs and scans of a digit, made what the images of MNIST are.

"Size normalized to fit in a 20x20 pixel box while preserving their aspect ratio … centered in a
28x28 image by computing the center of mass of the pixels": Y. LeCun, C. Cortes, C. J. C. Burges,
"The MNIST database of handwritten digits".
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from lenet_pl.data.errors import DataError

Invert = bool | Literal["auto"]

SIDE, BOX = 28, 20
FINE = 4  # strokes are measured and thickened at this many times the final size
# the first of these are known without loading every plugin, and none of them runs a program
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "MPO", "AVIF")
LARGEST = 1024  # pixels a side, in which a digit is looked for
COARSE = 64  # pixels a side, in which the background is measured
FAINT = 12.0  # grey levels, of 255, that ink must differ from its background
# in pixels of the box: of MNIST's digits 5 % have thinner strokes, and half of them
THIN, USUAL = 1.56, 2.2


def open_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Open and decode a picture; a file's content is never trusted to be one.

    Args:
        source: its path, or its bytes.
        name: what to call it in errors; the path, if not given.

    Raises:
        DataError: if it is none, damaged, several in one file, or too large to be decoded.
    """
    file = BytesIO(source) if isinstance(source, bytes) else Path(source)
    name = name or ("picture" if isinstance(source, bytes) else str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:  # which of them is meant?
                raise DataError(f"{name}: {frames} pictures in one file; save the one that counts")
            image.draft(None, (LARGEST, LARGEST))  # a JPEG is decoded no larger than it need be
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, which is not decoded"
        ) from error
    except UnidentifiedImageError as error:
        empty = len(source) == 0 if isinstance(source, bytes) else Path(source).stat().st_size == 0
        told = "an empty file" if empty else f"no picture of a known kind ({', '.join(FORMATS)})"
        raise DataError(f"{name}: {told}") from error
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or f'a damaged picture: {error}'}") from error
    except (ValueError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        raise DataError(f"{name}: a damaged picture: {error}") from error
    image.filename = name  # for those who find nothing in it
    return image


def prepare(image: Image.Image, *, invert: Invert = "auto", centre: bool = True) -> Tensor:
    """A picture of one digit as MNIST's makers would have it: bright ink on black.

    Args:
        image: of any size and mode.
        invert: True where the ink is darker than its background, False where it is brighter,
            ``"auto"`` to find out.
        centre: whether to find the digit, cut it out, fit it into a box of 20 × 20 and put its
            centre of mass in the middle; else the whole picture is resized.

    Returns:
        uint8 ``[1, 28, 28]``.

    Raises:
        DataError: if there is nothing but background, or no such kind of pixels.
    """
    name = getattr(image, "filename", "") or "picture"
    grey = _grey(image, invert, name)
    if not centre:
        dark = invert if invert != "auto" else _ink(grey, invert)[1]
        grey = 255 - grey if dark else grey
        return _bytes(_resize(grey, SIDE, SIDE))
    ink = _digit(_ink(grey, invert)[0])
    if ink is None:
        raise DataError(f"{name}: nothing but background in it")
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    if scale < 1:
        ink = _thicken(_resize(ink, FINE * height, FINE * width))
    ink = _resize(ink, height, width)
    return _bytes(_placed(ink * (255 / ink.max())))


def _grey(image: Image.Image, invert: Invert, name: str) -> Tensor:
    """Float ``[H, W]`` from 0 to 255, upright, opaque, no side above LARGEST."""
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    try:
        if image.mode == "F" or image.mode.startswith("I"):
            image = Image.fromarray(_levels(image, name))
        elif image.has_transparency_data:
            image = _opaque(image.convert("RGBA"), invert)
        else:
            image = image.convert("L")
    except (ValueError, OSError) as error:
        raise DataError(f"{name}: pixels of a kind that is not known ({image.mode})") from error
    image = image.reduce(-(-max(image.size) // LARGEST))
    return torch.from_numpy(np.array(image, dtype=np.float32))


def _levels(image: Image.Image, name: str) -> np.ndarray:
    """Pixels of 16 or 32 bits as float32 from 0 to 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: has pixels that are no numbers")
    if image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "I":
        top = next((top for top in (255.0, 65535.0) if values.max() <= top), values.max())
    else:
        top = next((top for top in (1.0, 255.0) if values.max() <= top), values.max())
    return (values * (255 / top)).clip(0, 255).astype(np.float32)


def _opaque(image: Image.Image, invert: Invert) -> Image.Image:
    """On white, or on black where that is what the ink stands out from."""
    grey, alpha = image.convert("L"), image.getchannel("A")
    if invert == "auto":
        weights = np.asarray(alpha, dtype=np.float64)
        dark = (np.asarray(grey) * weights).sum() <= 127.5 * weights.sum()
    else:
        dark = invert
    return Image.composite(grey, Image.new("L", image.size, 255 if dark else 0), alpha)


def _ink(grey: Tensor, invert: Invert) -> tuple[Tensor, bool]:
    """How far each pixel stands out from its background, and whether the ink is the darker."""
    above = grey - _background(grey, invert)
    dark = bool((above**3).sum() < 0) if invert == "auto" else invert
    return -above if dark else above, dark


def _background(grey: Tensor, invert: Invert) -> Tensor:
    """A surface of second degree through what is no ink: paper in uneven light.

    It begins with the border, where a digit seldom is, and takes in all that lies close.
    """
    height, width = grey.shape
    small = _resize(grey, min(COARSE, height), min(COARSE, width))
    ring = torch.ones_like(small, dtype=torch.bool)
    edge = max(1, min(small.shape) // 16)
    ring[edge:-edge, edge:-edge] = False
    border = small[ring]
    level = border.quantile({"auto": 0.5, True: 0.8, False: 0.2}[invert])
    spread = 4 * (border - level).abs().median().clamp_min(2)
    member = ring & ((small - level).abs() <= spread)
    surface = torch.full_like(small, level.item())
    terms = _terms(*small.shape)
    for _ in range(4):
        if member.sum() < 4 * terms.shape[-1]:
            return torch.full_like(grey, level.item())
        found = torch.linalg.lstsq(terms[member], small[member][:, None]).solution
        surface = (terms @ found)[..., 0]
        off = (small - surface).abs()
        member = off <= 3 * off[member].median().clamp_min(1)
    return (_terms(height, width) @ found)[..., 0]


def _terms(height: int, width: int) -> Tensor:
    """1, x, y, x², xy, y² of each pixel's place in [-1, 1], ``[H, W, 6]``."""
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width)[None].expand(height, width)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)


def _digit(ink: Tensor) -> Tensor | None:
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


def _thicken(ink: Tensor) -> Tensor:
    """Strokes of a usual width, where shrinking to the box would leave them faint."""
    ink = ink / ink.max()
    padded = functional.pad(ink, (1, 1, 1, 1))
    down, right = padded.diff(dim=0)[:, 1:], padded.diff(dim=1)[1:]
    outline = (down**2 + right**2).sqrt().sum()
    width = (
        2 * ink.sum() / outline
    ).item() / FINE  # area is length times width, outline twice that
    if width >= THIN:
        return ink
    reach = round((USUAL - width) * FINE / 2)
    return _window(functional.pad(ink, (reach,) * 4), 2 * reach + 1)


def _placed(ink: Tensor) -> Tensor:
    """In the middle of ``[28, 28]`` by its centre of mass, as far as it does not stick out."""
    whole = torch.zeros(SIDE, SIDE)
    corner = []
    for axis, size in enumerate(ink.shape):
        mass = ink.sum(1 - axis)
        centre = (mass @ torch.arange(size).float() / mass.sum()).item()
        # in MNIST it lies in the middle of the pixel right of and below the picture's own
        corner.append(min(max(round(SIDE / 2 - centre), 0), SIDE - size))
    top, left = corner
    whole[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return whole


def _window(image: Tensor, side: int, mean: bool = False) -> Tensor:
    """The highest (or mean) value around each pixel of ``[H, W]``; ``side`` is odd."""
    pool = functional.avg_pool2d if mean else functional.max_pool2d
    return pool(image[None, None], side, stride=1, padding=side // 2)[0, 0]


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Float ``[height, width]``, antialiased; the same where the size is."""
    resized = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))


def _bytes(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)[None]
