"""Drawings of shapes, as a small data set of one's own: a folder of PNG files per class."""

import random
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

# by the number of corners; 0 for a circle
SHAPES = {"circle": 0, "triangle": 3, "square": 4, "pentagon": 5, "star": 10}
SIDE = 100  # pixels


def draw(name: str, rng: random.Random) -> Image.Image:
    """A dark outline on light paper, of random position, size, tilt and stroke."""
    image = Image.new("L", (SIDE, SIDE), rng.randint(220, 255))
    radius, ink, stroke = rng.uniform(18, 36), rng.randint(0, 60), rng.randint(2, 7)
    x, y = (rng.uniform(radius + 6, SIDE - radius - 6) for _ in range(2))
    corners, tilt = SHAPES[name] or 72, rng.uniform(-0.25, 0.25) - pi / 2
    points = []
    for i in range(corners):
        r = radius * rng.uniform(0.92, 1.08) if corners < 72 else radius
        r *= 0.45 if name == "star" and i % 2 else 1
        angle = tilt + 2 * pi * (i + (name == "square") / 2) / corners
        points.append((x + r * cos(angle), y + r * sin(angle)))
    ImageDraw.Draw(image).line(
        [*points, points[0], points[1]], fill=ink, width=stroke, joint="curve"
    )
    return image


def draw_folder(root: Path, *counts: int, seed: int = 0) -> Path:
    """Draw a folder for each class, with this many drawings, for ``data=folder``."""
    rng = random.Random(seed)
    for name, count in zip(SHAPES, counts, strict=False):
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw(name, rng).save(root / name / f"{number:03}.png")
    return root
