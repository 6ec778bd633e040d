"""Images of any size and mode, made ready for a network; photographs of digits, like MNIST's."""

import os
import warnings
from collections.abc import Iterator
from errno import EFBIG
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from lenet_pl.errors import DataError, one_line
from lenet_pl.files import read_regular

Auto = bool | Literal["auto"]  # "auto" decides for each image

MAX_BYTES = 2**28  # of an image file
BOX = 20 / 28  # of the side of an image
SCALE = 4  # strokes are measured and thickened at this multiple of the final size
MAX_SIDE = 1024  # of the image in which a digit is searched
COARSE_SIDE = 64  # of the image in which the background is fitted
MIN_CONTRAST = 12.0  # grey levels of 255 between the digit and its background
# stroke widths in pixels of MNIST's box of 20: the 5th percentile and the median of MNIST's digits
THIN, USUAL = 1.56, 2.2
NO_DIGIT = "no digit in it, only background"
# the first ones are recognised without loading every plugin, and none of them runs a program
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
    *(".avif", ".heic", ".heif", ".jp2", ".jxl"),  # not decoded, but not silently ignored
}


def image_files(folder: Path) -> Iterator[Path]:
    """Files with the suffix of an image, in subfolders too, except what systems leave behind.

    Links to folders are followed, and each folder is entered once since links may form cycles.
    """
    entered = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        for name in files:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


def open_image(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Open and decode an image, whose content is not trusted.

    Args:
        source: path or content of a file.
        name: of the image in errors; by default the path.

    Raises:
        DataError: if it is no image, damaged, several images in one file, or too large.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else b""
    try:
        if not isinstance(source, bytes):
            content = read_regular(Path(source), MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(EFBIG, f"larger than {MAX_BYTES // 2**20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(content), formats=FORMATS)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.draft(None, (MAX_SIDE, MAX_SIDE))  # decode a JPEG no larger than needed
            if frames == 1:
                image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        problem = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, which is not decoded"
        raise DataError(f"{name}: {problem}") from error
    except UnidentifiedImageError as error:
        known = f"no image of a known format ({', '.join(FORMATS)})"
        raise DataError(f"{name}: {known if content else 'an empty file'}") from error
    except Exception as error:  # decoders raise anything for a damaged file
        strerror = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{name}: {strerror or f'a damaged image: {one_line(error)}'}") from error
    if frames > 1:
        raise DataError(f"{name}: {frames} images in one file; save one of them alone")
    return image


def preprocess(
    image: Image.Image,
    *,
    size: int = 28,
    channels: int = 1,
    invert: Auto = "auto",
    centre: Auto = True,
) -> Tensor:
    """Convert an image to colour, or to grey like MNIST's: bright strokes on black, centred.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits":
    "size normalized to fit in a 20x20 pixel box while preserving their aspect ratio … centered in
    a 28x28 image by computing the center of mass of the pixels".

    Args:
        image: of any size and mode.
        size: the side of the result; the box of a digit is 20/28 of it.
        channels: 1 for grey, or 3 for colour: RGB, which is resized only.
        invert: True if the strokes are darker than the background, False if they are brighter,
            ``"auto"`` to decide by the image.
        centre: whether to crop and centre the digit, or else only to resize the image to a square,
            whatever its aspect ratio; ``"auto"`` centres all images of another size.

    Returns:
        uint8 ``[channels, size, size]``.

    Raises:
        DataError: if there is no digit or pixels cannot be read; without the image's name.
    """
    try:
        if channels == 3:
            return _to_colour(image, size)
        grey = torch.from_numpy(np.array(_decode(image, "L", invert), dtype=np.float32))
        above = grey - _surface(_fit_background(grey, invert), *grey.shape)
        dark = bool((above.round() ** 3).sum() < 0) if invert == "auto" else invert
        if not centre or (centre == "auto" and image.size == (size, size)):
            return _to_bytes(_resize(255 - grey if dark else grey, size, size)[None])
        digit = _crop_digit(-above if dark else above)
        scale = round(BOX * size) / max(digit.shape)
        height, width = (max(1, round(side * scale)) for side in digit.shape)
        if scale < 1:
            digit = _thicken(_resize(digit, SCALE * height, SCALE * width), SCALE * size / 28)
        digit = _resize(digit, height, width)
        return _to_bytes(_centre(digit * (255 / digit.max()), size)[None])
    except DataError:
        raise
    except Exception as error:  # some pixels are decoded only now
        raise DataError(f"pixels that cannot be read ({image.mode}: {one_line(error)})") from error


def _to_colour(image: Image.Image, size: int) -> Tensor:
    small = _decode(image, "RGB", True).resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small, dtype=np.float32))  # [H, W] if it is deep and grey
    return _to_bytes(pixels.reshape(size, size, -1).permute(2, 0, 1).expand(3, -1, -1))


def _decode(image: Image.Image, mode: str, dark: Auto) -> Image.Image:
    """Convert to ``mode`` (F from 0 to 255 if deep), upright, opaque, no side above MAX_SIDE."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    deep = image.mode == "F" or image.mode.startswith("I")
    own = image.mode[0] if deep else "RGBA" if image.has_transparency_data else mode
    image = image.convert(own).reduce(-(-max(image.size) // MAX_SIDE))
    if deep:
        return Image.fromarray(_scale_levels(image))
    return _opaque(image, mode, dark) if own == "RGBA" else image


def _scale_levels(image: Image.Image) -> np.ndarray:
    """Pixels of 16 or 32 bits as float32 from 0 to 255; some cameras use 10 or 12 bits of 16."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("has pixels that are not numbers")
    limits = (1.0, 255.0) if image.mode == "F" else (255.0, 1023.0, 4095.0, 65535.0)
    highest = values.max()
    white = next((limit for limit in limits if highest <= limit), highest)
    return (values * (255 / white)).clip(0, 255).astype(np.float32)


def _opaque(image: Image.Image, mode: str, dark: Auto) -> Image.Image:
    """Composite on white, or on black if the strokes are bright."""
    opaque, alpha = image.convert(mode), image.getchannel("A")
    if dark == "auto":
        weights = np.asarray(alpha, dtype=np.float64)
        dark = bool((np.asarray(opaque) * weights).sum() <= 127.5 * weights.sum())
    return Image.composite(opaque, Image.new(mode, image.size, "white" if dark else 0), alpha)


def _fit_background(grey: Tensor, invert: Auto) -> Tensor:
    """Fit the coefficients of a quadratic surface to the background: paper in uneven light.

    The fit begins with the border, where a digit seldom is, and takes in all pixels close to it.
    """
    height, width = grey.shape
    small = _resize(grey, min(COARSE_SIDE, height), min(COARSE_SIDE, width))
    border = torch.ones_like(small, dtype=torch.bool)
    edge = max(1, min(small.shape) // 16)
    border[edge:-edge, edge:-edge] = False
    level = small[border].quantile({"auto": 0.5, True: 0.8, False: 0.2}[invert])
    spread = 4 * (small[border] - level).abs().median().clamp_min(2)
    inliers = border & ((small - level).abs() <= spread)
    coefficients = functional.pad(level[None], (0, 5))
    y, x = _grid(*small.shape)
    terms = torch.stack(torch.broadcast_tensors(x**0 * y**0, x, y, x * x, x * y, y * y), dim=-1)
    for _ in range(4):
        if inliers.sum() < 4 * len(coefficients):
            break
        solution = torch.linalg.lstsq(terms[inliers], small[inliers][:, None]).solution
        coefficients = solution[:, 0]
        residuals = (small - _surface(coefficients, *small.shape)).abs()
        inliers = residuals <= 3 * residuals[inliers].median().clamp_min(1)
    return coefficients


def _surface(coefficients: Tensor, height: int, width: int) -> Tensor:
    """The polynomial in 1, x, y, x², xy, y² on ``[H, W]``, with x and y from -1 to 1."""
    one, by_x, by_y, by_xx, by_xy, by_yy = coefficients.unbind()
    y, x = _grid(height, width)
    return (one + by_x * x + by_xx * x * x) + (by_y * y + by_yy * y * y) + by_xy * x * y


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]


def _crop_digit(contrast: Tensor) -> Tensor:
    """Crop to the digit and set everything else to 0; DataError if there is none."""
    noise = contrast.abs().quantile(0.25).item() / 0.3186  # the deviation of normal noise
    smooth = _window(contrast, 3, mean=True)
    peak = smooth.max().item()
    if peak < max(MIN_CONTRAST, 5 * noise):
        raise DataError(NO_DIGIT)
    mask = _main_components(smooth > max(0.35 * peak, 3 * noise))
    digit = contrast * (mask & (contrast > max(0.04 * peak, 3 * noise)))
    rows, columns = digit.amax(1).nonzero().flatten(), digit.amax(0).nonzero().flatten()
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _main_components(mask: Tensor) -> Tensor:
    """Keep the large connected components and their surroundings: no specks, no paper edges."""
    step = -(-max(mask.shape) // COARSE_SIDE)
    height, width = mask.shape
    coarse = functional.max_pool2d(mask[None, None].float(), step, ceil_mode=True)[0, 0]
    labels = torch.arange(1.0, coarse.numel() + 1).reshape(coarse.shape) * coarse
    # the highest label of each component spreads through it
    while not torch.equal(spread := _window(labels, 3) * coarse, labels):
        labels = spread
    numbers, counts = labels[labels > 0].unique(return_counts=True)
    border = torch.cat((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    interior = ~torch.isin(numbers, border)
    if interior.any() and counts[interior].max() >= 0.1 * counts.max().item():
        numbers, counts = numbers[interior], counts[interior]
    large = numbers[counts >= 0.08 * counts.max().item()]
    near = _window(torch.isin(labels, large).float(), 3)
    return near.repeat_interleave(step, 0).repeat_interleave(step, 1)[:height, :width] > 0


def _thicken(digit: Tensor, pixel: float) -> Tensor:
    """Widen thin strokes, which shrinking to the box would make faint, to the usual width.

    ``pixel`` is the size of one of MNIST's.
    """
    digit = digit / digit.max()
    padded = functional.pad(digit, (1, 1, 1, 1))
    vertical, horizontal = padded.diff(dim=0)[:, 1:], padded.diff(dim=1)[1:]
    outline = (vertical**2 + horizontal**2).sqrt().sum()
    # the area is length times width, and the outline twice the length
    width = (2 * digit.sum() / outline).item() / pixel
    if width >= THIN:
        return digit
    reach = round((USUAL - width) * pixel / 2)
    thick = _window(functional.pad(digit, (reach,) * 4), 2 * reach + 1)
    return (thick * thick.sum() / (thick**2).sum()).clamp_max(1)  # hairlines vary in brightness


def _window(image: Tensor, side: int, mean: bool = False) -> Tensor:
    """The maximum (or mean) around each pixel of ``[H, W]``; ``side`` is odd."""
    pool = functional.avg_pool2d if mean else functional.max_pool2d
    return pool(image[None, None], side, stride=1, padding=side // 2)[0, 0]


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize float ``[H, W]`` with antialiasing."""
    resized = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))


def _centre(digit: Tensor, side: int) -> Tensor:
    """Put the centre of mass in the middle of ``[side, side]``, as far as the digit fits."""
    padding: list[int] = []
    for axis, size in enumerate(digit.shape):
        mass = digit.sum(1 - axis)
        centre = (mass @ torch.arange(size).float() / mass.sum()).item()
        # MNIST's middle is the centre of pixel 14, to the right of and below the exact one
        before = min(max(round(side / 2 - centre), 0), side - size)
        padding = [before, side - size - before, *padding]
    return functional.pad(digit, padding)


def _to_bytes(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)
