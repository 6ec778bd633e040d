"""Photographs and scans of a digit, made what the images of MNIST are.

"Size normalized to fit in a 20x20 pixel box while preserving their aspect ratio … centered in a
28x28 image by computing the center of mass of the pixels": Y. LeCun, C. Cortes, C. J. C. Burges,
"The MNIST database of handwritten digits".
"""

import os
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lenet_pl.data.ink import Auto, cut_out, resize, stands_out, thicken
from lenet_pl.errors import DataError

SIDE, BOX = 28, 20
FINE = 4  # strokes are measured and thickened at this many times the final size
LARGEST = 1024  # pixels a side, in which a digit is looked for
# the first of these are known without loading every plugin, and none of them runs a program
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".webp",
    ".pgm",
    ".ppm",
}


def image_files(folder: Path) -> Iterator[Path]:
    """What is named as a picture, in folders within too, less what systems and archivers leave.

    Links to folders are followed, and each folder is entered once: links may go round in circles.
    """
    entered = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            inner.clear()
            continue
        entered.add(real)
        inner[:] = [name for name in inner if not name.startswith((".", "__"))]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def open_image(source: str | Path | bytes, name: str = "") -> Image.Image:
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
        raise DataError(
            f"{name}: {error.strerror or f'a damaged picture: {_line(error)}'}"
        ) from error
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise DataError(f"{name}: a damaged picture: {_line(error)}") from error
    return image


def prepare(image: Image.Image, *, invert: Auto = "auto", centre: Auto = True) -> Tensor:
    """A picture of one digit as MNIST's makers would have it: bright ink on black.

    Args:
        image: of any size and mode.
        invert: True where the ink is darker than its background, False where it is brighter,
            ``"auto"`` to find out.
        centre: whether to find the digit, cut it out, fit it into a box of 20 × 20 and put its
            centre of mass in the middle; else the whole picture is resized. ``"auto"`` leaves
            pictures of 28 × 28 as they are.

    Returns:
        uint8 ``[1, 28, 28]``.

    Raises:
        DataError: if there is nothing but background, or pixels that cannot be read; it does not
            name the picture, which has no name here.
    """
    try:
        return _prepared(image, invert, image.size != (SIDE, SIDE) if centre == "auto" else centre)
    except DataError:
        raise
    except Exception as error:  # some pixels are decoded only now
        raise DataError(f"pixels that cannot be read ({image.mode}: {_line(error)})") from error


def _prepared(image: Image.Image, invert: Auto, centre: bool) -> Tensor:
    grey = _grey(image, invert)
    ink, dark = stands_out(grey, invert)
    if not centre:
        return _bytes(resize(255 - grey if dark else grey, SIDE, SIDE))
    digit = cut_out(ink)
    if digit is None:
        raise DataError("nothing but background in it")
    scale = BOX / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    if scale < 1:
        digit = thicken(resize(digit, FINE * height, FINE * width), FINE)
    digit = resize(digit, height, width)
    return _bytes(_placed(digit * (255 / digit.max())))


def _grey(image: Image.Image, invert: Auto) -> Tensor:
    """Float ``[H, W]`` from 0 to 255, upright, opaque, no side above LARGEST."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_levels(image))
    elif image.has_transparency_data:
        image = _opaque(image.convert("RGBA"), invert)
    else:
        image = image.convert("L")
    image = image.reduce(-(-max(image.size) // LARGEST))
    return torch.from_numpy(np.array(image, dtype=np.float32))


def _levels(image: Image.Image) -> np.ndarray:
    """Pixels of 16 or 32 bits as float32 from 0 to 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("has pixels that are no numbers")
    if image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "I":
        top = next((top for top in (255.0, 65535.0) if values.max() <= top), values.max())
    else:
        top = next((top for top in (1.0, 255.0) if values.max() <= top), values.max())
    return (values * (255 / top)).clip(0, 255).astype(np.float32)


def _opaque(image: Image.Image, invert: Auto) -> Image.Image:
    """On white, or on black where that is what the ink stands out from."""
    grey, alpha = image.convert("L"), image.getchannel("A")
    if invert == "auto":
        weights = np.asarray(alpha, dtype=np.float64)
        dark = (np.asarray(grey) * weights).sum() <= 127.5 * weights.sum()
    else:
        dark = invert
    return Image.composite(grey, Image.new("L", image.size, 255 if dark else 0), alpha)


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _bytes(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)[None]
