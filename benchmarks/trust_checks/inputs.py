"""Damaged and hostile data files and images."""

import argparse
import gzip
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lenet_pl.data.mnist import FashionMNIST, encode_idx
from trust_checks import base
from trust_checks.base import SMALL, Case, quoted, reference, require, run
from trust_checks.damages import ANY_FILE, Damage, change, flip, instead, link, write

ITEMS = {
    "data": "one of a data set's four files is damaged; the others must not change",
    "images": "a damaged or hostile image, in a class folder or for predict",
}
DEBUG = ["trainer=debug", "logger=none"]
FILES = [f"{p}-{kind}" for p in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    damages = [*DATA]
    for position, name in enumerate(damages[::3] if options.quick else damages):
        for file in FILES if not options.quick else FILES[position % 4 : position % 4 + 1]:
            check = partial(damaged_data, options.mnist, f"{file}-ubyte", name)
            yield Case("data", f"{file}: {name}", check)
    for name in [*IMAGES][:: 4 if options.quick else 1]:
        for use in ("on_error=skip", "on_error=stop", "predict"):
            yield Case("images", f"{name}, {use}", partial(damaged_image, name, use))


# --- files in the format of MNIST


def _bomb(path: Path) -> None:
    member = gzip.compress(bytes(2**24))  # 64 of them are 1 GiB
    path.with_name(f"{path.name}.gz").write_bytes(member * 64)


def _beside(path: Path) -> None:
    write("x")(path)
    path.with_name(f"{path.name}.damaged").mkdir()


def _header(position: int, value: bytes) -> Damage:
    return change(lambda old: old[:position] + value + old[position + len(value) :])


DATA: dict[str, Damage] = {
    **ANY_FILE,
    "gzip bomb": instead(_bomb),
    "header only": change(lambda old: old[:8]),
    "a byte short": change(lambda old: old[:-1]),
    "a byte long": change(lambda old: old + b"\0"),
    "first byte": _header(0, b"\1"),
    "type of the values": _header(2, b"\x0d"),
    "number of dimensions": _header(3, b"\xff"),
    "size": _header(4, b"\x7f"),
    "negative size": _header(4, b"\xff\xff\xff\xff"),
    "a pixel or label": flip(0.5),
    "half of a gzip": change(lambda old: (packed := gzip.compress(old, 1))[: len(packed) // 2]),
    "folder named .damaged": _beside,
}


def _fake_data(folder: Path) -> None:
    """Random pixels and labels in the four files of Fashion-MNIST."""
    raw, rng = folder / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(encode_idx(pixels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(encode_idx(np.arange(count) % 10))
    words = ["data=fashion_mnist", quoted("data.root", folder), *DEBUG]
    run(folder, *words, hook=partial(_expect, raw))  # undamaged, they are accepted


def _expect(raw: Path) -> None:
    """Replace Fashion-MNIST's checksums by those of the generated files, in this process."""
    FashionMNIST.files = tuple(
        replace(file, md5=hashlib.md5((raw / file.name).read_bytes()).hexdigest())
        for file in FashionMNIST.files
    )


def _copy(mnist: Path, folder: Path) -> None:
    shutil.copytree(mnist / "MNIST", folder / "MNIST")
    run(folder, "data=mnist", quoted("data.root", folder), *DEBUG)


def damaged_data(mnist: Path | None, file: str, damage: str, w: Path) -> None:
    """Without a network, a damaged file is reported in one line; the other files do not change.

    Args:
        mnist: a folder that has ``MNIST/raw``; None for generated files.
        file: the file to damage.
        damage: a key of DATA.
        w: the working folder.
    """
    name, data = ("MNIST", "mnist") if mnist else ("FashionMNIST", "fashion_mnist")
    source = base.once(name, partial(_copy, mnist) if mnist else _fake_data) / name / "raw"
    raw = w / "data" / name / "raw"
    raw.mkdir(parents=True)
    for good in source.glob("*ubyte"):
        os.link(good, raw / good.name)
    DATA[damage](raw / file)
    words = [f"data={data}", "data.root=data", *DEBUG]
    hook = None if mnist else partial(_expect, source)
    run(w, *words, hook=hook, status=(2,), seconds=base.LIMIT)
    for good in source.glob("*ubyte"):
        copy = raw / good.name
        if good.name != file and not good.samefile(copy):
            require(copy.read_bytes() == good.read_bytes(), f"{good.name} has changed")


# --- images


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG whose header may declare any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _good(seed: int = 0) -> Image.Image:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:23, 12 + seed % 4 : 16] = 255
    return Image.fromarray(pixels)


def _saved(suffix: str, mode: str = "L", **options: Any) -> Damage:
    return instead(lambda path: _good().convert(mode).save(path.with_suffix(suffix), **options))


def _odd_bytes(path: Path) -> None:
    _good().save(os.fsencode(path.parent) + b"/\xff.png", "png")


IMAGES: dict[str, Damage] = {
    **ANY_FILE,
    "huge size": write(_png(60_000, 60_000, b"")),
    "huge and black": write(_png(20_000, 20_000, bytes(20_000 * 20_001))),
    "largest size": write(_png(2**31 - 1, 2**31 - 1, b"")),
    "no size": write(_png(0, 0, b"")),
    "long line": write(_png(5_000_000, 1, bytes(5_000_001))),
    "text": write("not an image\n"),
    "pickle": write(b"\x80\x04cposix\nsystem\n(S'touch PWNED'\ntR."),
    "many frames": _saved(".gif", save_all=True, append_images=[*map(_good, range(1, 50))]),
    "broken link": link("nowhere.png"),
    "text bomb": write(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1zTXt" + zlib.compress(bytes(2**26))),
    "not UTF-8": instead(_odd_bytes),
    "blank": write(_png(28, 28, bytes(28 * 29))),
    "palette": _saved(".png", "P"),
    "float": _saved(".tiff", "F"),
    "CMYK": _saved(".jpg", "CMYK"),
}


def damaged_image(image: str, use: str, w: Path) -> None:
    """An image is read, skipped and listed, or reported in one line that ends the command."""
    for name in ("a", "b"):
        (w / "images" / name).mkdir(parents=True)
        for number in range(12):
            _good(number).save(w / "images" / name / f"{number}.png")
    path = w / "images" / "a" / "odd.png"
    _good().resize((400, 400)).save(path)
    IMAGES[image](path)
    if use == "predict":
        trained = reference([*SMALL, "data.fraction=0.1", "trainer.max_epochs=2"]).folder
        words = [use, str(trained), str(path if path.exists() else path.parent)]
        run(w, *words, program="lenet-pl", status=(0, 1, 2), seconds=base.LIMIT)
    else:
        words = ["data=folder", "data.root=images", f"data.{use}", *DEBUG]
        run(w, *words, status=(0, 2), seconds=base.LIMIT)
    require(not list(w.rglob("PWNED")), "the image ran code")
