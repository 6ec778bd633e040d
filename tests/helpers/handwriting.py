"""Photographs of digits drawn by strokes, with lines, specks and shadows on the paper."""

import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[Point]:
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


STROKES: dict[int, list[list[Point]]] = {  # in a box of 1 by 1.5
    0: [arc(0.5, 0.75, 0.42, 0.72, -90, 270)],
    1: [[(0.2, 0.35), (0.55, 0), (0.55, 1.5)]],
    2: [[*arc(0.5, 0.4, 0.4, 0.4, -170, 50), (0.1, 1.5), (0.95, 1.5)]],
    3: [[*arc(0.45, 0.38, 0.38, 0.36, -150, 90), *arc(0.45, 1.1, 0.45, 0.38, -90, 150)]],
    4: [[(0.2, 0), (0.1, 0.85), (0.95, 0.85)], [(0.7, 0.1), (0.7, 1.5)]],
    5: [[(0.9, 0), (0.2, 0), (0.15, 0.65), *arc(0.45, 1.05, 0.45, 0.43, -130, 140)]],
    6: [[(0.75, 0), (0.35, 0.45), *arc(0.5, 1.08, 0.4, 0.4, -170, 190)]],
    7: [[(0.05, 0), (0.95, 0), (0.4, 1.5)]],
    8: [[*arc(0.5, 0.36, 0.34, 0.35, 90, 450), *arc(0.5, 1.1, 0.42, 0.39, -90, 270)]],
    9: [[*arc(0.5, 0.42, 0.38, 0.4, 0, 360), (0.85, 1.5)]],
}
BROKEN: dict[int, list[list[Point]]] = {  # one digit in two pieces
    5: [[(0.2, 0.2), *STROKES[5][0][2:]], [(0.25, 0), (0.9, 0)]],
    4: [[(0.2, 0), (0.1, 0.85), (0.6, 0.85)], [(0.76, 0.1), (0.74, 1.5)]],
    7: [[(0.05, 0), (0.8, 0)], [(0.92, 0.1), (0.4, 1.5)]],
}


def paper(width: int = 500, height: int = 500) -> Image.Image:
    return Image.new("L", (width, height), 235)


def draw(
    page: Image.Image, strokes: list[list[Point]], height: int, left: int, top: int, pen: int = 40
) -> None:
    """Draw strokes about ``height`` pixels high, a sixteenth as wide."""
    draw, radius = ImageDraw.Draw(page), height / 32
    for stroke in strokes:
        points = [(left + x * height / 1.5, top + y * height / 1.5) for x, y in stroke]
        draw.line(points, fill=pen, width=round(2 * radius))
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=pen)


def photograph(page: Image.Image, seed: int, light: np.ndarray | float = 1.0) -> Image.Image:
    """Under uneven light, a little blurred, with noise, as JPEG."""
    width, height = page.size
    pixels = np.asarray(page) * light * np.linspace(1, 0.75, width)
    blurred = Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    noisy = blurred + np.random.default_rng(seed).normal(0, 4, (height, width))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    return Image.open(file)


def shadow(seed: int, softness: float, corner: bool) -> np.ndarray:
    """The light ``[500, 500]`` beside a shadow, or around its corner."""
    rng = random.Random(seed)
    y, x = np.mgrid[0:500, 0:500]
    shade, angle = np.ones((500, 500)), rng.uniform(0, 6.28)
    for turn in (0, rng.uniform(0.8, 2.2))[: 1 + corner]:
        across, down = math.cos(angle + turn), math.sin(angle + turn)
        distance = (x - 250) * across + (y - 250) * down + rng.uniform(-100, 100)
        shade = shade / (1 + np.exp((-distance / softness).clip(-50, 50)))
    return 1 - 0.45 * shade


def ruled(seed: int) -> Image.Image:
    page, rng = paper(), random.Random(seed)
    for top in range(rng.randint(5, 30), 500, 40):
        ImageDraw.Draw(page).line((0, top, 500, top + 8), fill=130, width=2)
    return page


def specks(page: Image.Image, seed: int) -> Image.Image:
    rng = random.Random(seed)
    for _ in range(10):
        x, y = rng.uniform(0, 490), rng.uniform(0, 490)
        ImageDraw.Draw(page).ellipse((x, y, x + 6, y + 6), fill=60)
    return page
