"""Images of any size and mode, made ready for a network; photographs of digits, like MNIST's."""

import warnings
from functools import partial
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from lenet_pl.errors import DataError, one_line
from lenet_pl.files import read_regular

Auto = bool | Literal["auto"]  # "auto" decides for each image

MAX_BYTES = 2**28  # of an image file
BOX = 20 / 28  # of the side of an image
SCALE = 4  # strokes are measured and thickened at this multiple of the final size
MAX_SIDE = 1024  # of the image that is resized
SEARCH_SIDE, COARSE_SIDE = 128, 64  # of the images in which strokes are searched and connected
MARGIN = 8  # in pixels of the first of them, for strokes that touch the border
MIN_CONTRAST = 12.0  # grey levels of 255 between the digit and its background
# stroke widths in pixels of MNIST's box of 20: the 5th percentile and the median of MNIST's digits
THIN, USUAL = 1.56, 2.2
NO_DIGIT = "no digit found, only background"
# the first ones are recognised without loading every plugin, and none of them runs a program
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")


def open_image(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Open and decode an image, from a path or the content of a file, which is not trusted.

    Raises DataError if it is no image, damaged, several images in one file, or too large; the error
    begins with ``name``, by default the path.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        content = source if isinstance(source, bytes) else read_regular(Path(source), MAX_BYTES + 1)
        if not content:
            raise DataError("an empty file")
        if len(content) > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES // 2**20} MiB")
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(content), formats=FORMATS)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{frames} images in one file; save one of them alone")
            image.draft(None, (MAX_SIDE, MAX_SIDE))  # decode a JPEG no larger than needed
            image.load()
    except Exception as error:  # decoders raise anything for a damaged file
        raise DataError(f"{name}: {_problem(error)}") from error
    return image


def _problem(error: Exception) -> str:
    """What is wrong with an image that could not be opened."""
    match error:
        case DataError():
            return str(error)
        case Image.DecompressionBombWarning() | Image.DecompressionBombError():
            return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, which is not decoded"
        case UnidentifiedImageError():
            return f"no image of a known format ({', '.join(FORMATS)})"
        case OSError(strerror=str(reason)):
            return reason
    return f"a damaged image: {one_line(error)}"


def preprocess(
    image: Image.Image,
    *,
    size: int = 28,  # the side of the result; the box of a digit is 20/28 of it
    channels: int = 1,  # 1 for grey; 3 for colour: RGB, which is resized only
    invert: Auto = "auto",  # whether the strokes are darker than the background
    centre: Auto = True,  # False only resizes to a square; "auto" centres images of another size
    single: bool = False,  # whether to refuse several digits, which would be cropped together
) -> Tensor:
    """Convert an image of any size and mode to uint8 ``[channels, size, size]``.

    Images in grey become like MNIST's: bright strokes on black, centred. Source: Y. LeCun,
    C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits": "size normalized to fit
    in a 20x20 pixel box while preserving their aspect ratio … centered in a 28x28 image by
    computing the center of mass of the pixels". Raises DataError, without the image's name, if
    there is no digit or pixels cannot be read.
    """
    try:
        if channels == 3:
            small = _decode(image, "RGB", True).resize((size, size), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(small, dtype=np.float32))  # [H, W] if deep and grey
            return _to_bytes(pixels.reshape(size, size, -1).permute(2, 0, 1).expand(3, -1, -1))
        grey = torch.from_numpy(np.array(_decode(image, "L", invert), dtype=np.float32))
        dark = _has_dark_strokes(grey) if invert == "auto" else invert
        bright = 255 - grey if dark else grey
        if not centre or (centre == "auto" and image.size == (size, size)):
            return _to_bytes(_resize(bright, size, size)[None])
        digit = _crop_digit(bright, max(2 * size, SEARCH_SIDE), single)
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


def _decode(image: Image.Image, mode: str, dark: Auto) -> Image.Image:
    """Convert to ``mode`` (F from 0 to 255 if deep), upright, no side above MAX_SIDE.

    Transparent images are composited on white, or on black if the strokes are bright.
    """
    image = ImageOps.exif_transpose(image)
    deep = image.mode == "F" or image.mode.startswith("I")
    own = image.mode[0] if deep else "RGBA" if image.has_transparency_data else mode
    image = image.convert(own).reduce(-(-max(image.size) // MAX_SIDE))
    if deep:
        return Image.fromarray(_scale_levels(image))
    if own == mode:
        return image
    opaque, alpha = image.convert(mode), image.getchannel("A")
    if dark == "auto":
        weights = np.asarray(alpha, dtype=np.float64)
        dark = bool((np.asarray(opaque) * weights).sum() <= 127.5 * weights.sum())
    return Image.composite(opaque, Image.new(mode, image.size, "white" if dark else 0), alpha)


def _scale_levels(image: Image.Image) -> np.ndarray:
    """Pixels of 16 or 32 bits as float32 from 0 to 255; some cameras use 10 or 12 bits of 16."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("has pixels that are not numbers")
    limits = (1.0, 255.0) if image.mode == "F" else (255.0, 1023.0, 4095.0, 65535.0)
    highest = values.max()
    white = next((limit for limit in limits if highest <= limit), highest)
    return (values * (255 / white)).clip(0, 255).astype(np.float32)


def _has_dark_strokes(grey: Tensor) -> bool:
    """Whether the strokes are darker than the background, most of what is around them."""
    small = _shrink(grey, COARSE_SIDE)
    around = _window(small, 2 * (max(small.shape) // 4) + 1, mean=True)
    return bool(((small - around).round() ** 3).sum() < 0)


def _crop_digit(bright: Tensor, side: int, single: bool) -> Tensor:
    """Crop to the bright strokes and set all else to 0; DataError if there are none.

    No side of the result is longer than ``side``.
    """
    small = _shrink(bright, SEARCH_SIDE)
    strokes = _find_strokes(small)
    # strokes that are cut off at the border need a margin, which shadows and lines do not get
    border = _border(small)
    padded = functional.pad(small, (MARGIN,) * 4, value=border.quantile(0.25).item())
    more = _find_strokes(padded)
    reached = _border(more[MARGIN:-MARGIN, MARGIN:-MARGIN]) > 0.35 * more.max()
    jump = (border - border.roll(2)).max().item()
    sharp = jump > max(0.25 * more.max().item(), 2 * MIN_CONTRAST)
    if strokes.norm() < 0.2 * more.norm() and reached.float().mean() < 0.2 and sharp:
        margin = round(MARGIN * max(bright.shape) / max(small.shape))
        bright = functional.pad(bright, (margin,) * 4, value=border.quantile(0.25).item())
        strokes = more
    if strokes.any():  # search again, in more detail
        strokes = _find_strokes(_shrink(_crop(bright, strokes, MARGIN // 2), side))
    if not strokes.any():
        raise DataError(NO_DIGIT)
    digit = _crop(strokes, strokes)
    if single and _are_several(digit):
        raise DataError("contains several digits; crop it to one")
    return digit


def _crop(image: Tensor, strokes: Tensor, margin: int = 0) -> Tensor:
    """Crop to what is not 0 in ``strokes``, the same image in any size, with a margin."""
    scale, ranges = max(image.shape) / max(strokes.shape), []
    for used in strokes.nonzero(as_tuple=True):
        first, last = int(used.min()) - margin, int(used.max()) + 1 + margin
        ranges.append(slice(max(0, int(scale * first)), ceil(scale * last)))
    return image[*ranges].contiguous()


def _border(image: Tensor) -> Tensor:
    """The pixels at the border, clockwise."""
    return torch.cat((image[0], image[1:, -1], image[-1, :-1].flip(0), image[1:-1, 0].flip(0)))


def _are_several(strokes: Tensor) -> bool:
    """Whether cropped strokes are several digits; one may be in pieces, as a 5 with a bar apart."""
    height, width = strokes.shape
    if width > 1.7 * height:  # the widest of MNIST's digits: 1.65
        return True
    for image, limit in ((strokes, 0.05 if width > 1.1 * height else 0.15), (strokes.T, 0.35)):
        used = image.amax(0).nonzero().flatten()
        gap, i = functional.pad(used.diff() - 1, (0, 1)).max(0)
        parts = image[:, : used[i] + 1], image[:, used[i] + 1 :]
        size = max(int(part.amax(1).count_nonzero()) for part in parts)
        mass = sorted(part.sum() for part in parts)
        if gap >= max(2, limit * size) and mass[0] > 0.25 * mass[1]:
            return True
    return False


def _find_strokes(bright: Tensor) -> Tensor:
    """The contrast of the main strokes with their background, and 0 elsewhere."""
    detail = (bright - _window(bright, 3, mean=True)).abs()
    noise = detail.quantile(0.25).item() / 0.3186  # the deviation of normal noise
    contrast = bright - _background(bright)
    smooth = _window(contrast, 3, mean=True)
    peak = smooth.max().item()
    if peak < max(MIN_CONTRAST, 5 * noise):
        return torch.zeros_like(bright)
    main = _main_components(contrast * (smooth > max(0.35 * peak, 3 * noise)))
    return contrast * (main & (contrast > max(0.04 * peak, 3 * noise)))


def _background(bright: Tensor) -> Tensor:
    """Each pixel's background level: the highest level that connects it to the border.

    What crosses the border is background, such as shadows, ruled lines and edges of the paper, and
    so is what is wider than a third of the image. Source: L. Vincent, "Morphological grayscale
    reconstruction in image analysis", IEEE Trans. Image Processing 2 (1993), p. 176.
    """
    wide = 2 * (max(bright.shape) // 6) + 1
    level = _window(-_window(-bright, wide), wide)
    for edge in (0, -1):
        level[edge], level[:, edge] = bright[edge], bright[:, edge]
    while not torch.equal(spread := _window(level, 3).minimum(bright), level):
        level = spread
    return level


def _main_components(strokes: Tensor) -> Tensor:
    """Mask of the large connected components and their surroundings, without specks."""
    step = -(-max(strokes.shape) // COARSE_SIDE)
    total = functional.avg_pool2d(strokes[None], step, ceil_mode=True, divisor_override=1)[0]
    coarse = (total > 0).float()
    labels = torch.arange(1.0, coarse.numel() + 1).reshape(coarse.shape) * coarse
    # the highest label of each component spreads through it
    while not torch.equal(spread := _window(labels, 3) * coarse, labels):
        labels = spread
    component = labels.long()
    mass = torch.bincount(component.flatten(), total.flatten())
    main = mass[component] >= 0.08 * mass.max()
    near = _window(main.float(), 3).repeat_interleave(step, 0).repeat_interleave(step, 1)
    return near[: strokes.shape[0], : strokes.shape[1]] > 0


def _shrink(image: Tensor, side: int) -> Tensor:
    """Resize so that no side is longer than ``side``."""
    scale = min(1, side / max(image.shape))
    return _resize(image, *(max(1, round(length * scale)) for length in image.shape))


def _thicken(digit: Tensor, pixel: float) -> Tensor:
    """Widen strokes, which would become faint, to the usual width; ``pixel`` is one of MNIST's."""
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
    pool = (
        partial(functional.avg_pool2d, count_include_pad=False) if mean else functional.max_pool2d
    )
    half = side // 2
    columns = pool(image[None], (side, 1), 1, (half, 0))
    return pool(columns, (1, side), 1, (0, half))[0]


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
