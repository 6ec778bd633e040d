"""Images of digits as people take them, and files that are no such images."""

import io
import random
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from lenet_pl.data.mnist import Mini
from lenet_pl.data.preprocess import open_image

TEST = Mini().load().test


def draw(digit: torch.Tensor, rng: random.Random, dark: bool) -> Image.Image:
    """A digit ``uint8 [28, 28]`` in a random size somewhere on a larger sheet of paper."""
    side = rng.randint(28, 280)
    mask = Image.fromarray(digit.numpy()).resize((side, side), Image.Resampling.BICUBIC)
    width, height = (round(side * rng.uniform(1.2, 2.5)) for _ in range(2))
    canvas = Image.new("L", (width, height))
    canvas.paste(mask, (rng.randint(0, width - side), rng.randint(0, height - side)))
    paper, pen = rng.randint(200, 255), rng.randint(0, 80)
    if not dark:
        paper, pen = pen, paper
    return canvas.point(lambda value: round(paper + (pen - paper) * value / 255))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return open_image(file.getvalue())


def draw_all(images: torch.Tensor, seed: int) -> list[Image.Image]:
    """Each digit in another size and position, every other one inverted, two in three JPEG."""
    rng = random.Random(seed)
    drawn = [draw(image[0], rng, dark=i % 2 == 0) for i, image in enumerate(images)]
    return [as_jpeg(x, rng.randint(40, 95)) if i % 3 else x for i, x in enumerate(drawn)]


def seven(mode: str) -> Image.Image:
    """The first test digit, a seven, dark on light and 140 pixels wide."""
    grey = Image.fromarray(255 - TEST.images[0, 0].numpy()).resize((140, 140))
    levels = np.asarray(grey)
    match mode:
        case "I;16":
            return Image.fromarray(levels.astype(np.uint16) * 257)
        case "I":
            return Image.fromarray(levels.astype(np.int32) * 257)
        case "F":
            return Image.fromarray(levels.astype(np.float32) / 255)
        case "dark on transparent" | "bright on transparent":
            strokes = Image.new("L", grey.size, 0 if mode.startswith("dark") else 255)
            return Image.merge("LA", (strokes, grey.point(lambda value: 255 - value)))
        case "palette with transparency":
            image = grey.quantize(8)
            image.info["transparency"] = int(image.getpixel((0, 0)))
            return image
        case "1":
            return grey.convert("1", dither=Image.Dither.NONE)
        case _:
            return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


def png() -> bytes:
    file = io.BytesIO()
    seven("L").save(file, "PNG")
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG whose header claims 50,000 by 50,000 pixels."""
    size = (50_000).to_bytes(4, "big") * 2
    parts = [b"IHDR" + size + bytes((8, 0, 0, 0, 0)), b"IDAT" + zlib.compress(bytes(9)), b"IEND"]
    chunks = [
        (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
        for part in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _animation() -> bytes:
    file = io.BytesIO()
    seven("L").save(file, "GIF", save_all=True, append_images=[Image.new("L", (140, 140))])
    return file.getvalue()


def _long_text() -> bytes:
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 2_000_000, zip=True)
    seven("L").save(file, "PNG", pnginfo=text)
    return file.getvalue()


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "cut.png": lambda: png()[:900],
    "text.png": lambda: b"not an image",
    "page.eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "bomb.png": _bomb,
    "moving.gif": _animation,
    "text_bomb.png": _long_text,
}
