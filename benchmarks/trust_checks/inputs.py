"""Damaged and hostile data files and images."""

import argparse
import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from trust_checks import base
from trust_checks.base import SMALL, Case, quoted, reference, require, run

ITEMS = {
    "data": "a damaged file among the four of a data set; the others stay as they are",
    "images": "a damaged or hostile image, in a class folder or for predict",
}
Damage = Callable[[Path], object]
DEBUG = ["trainer=debug", "logger=none"]
FILES = [f"{p}-{kind}" for p in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    damages = [*DATA]
    for position, name in enumerate(damages[:6] if options.quick else damages):
        for file in FILES if not options.quick else FILES[position % 4 : position % 4 + 1]:
            check = partial(damaged_data, options.mnist, f"{file}-ubyte", name)
            yield Case("data", f"{file}: {name}", check)
    for name in [*IMAGES][:: 4 if options.quick else 1]:
        for use in ("on_error=skip", "on_error=stop", "predict"):
            yield Case("images", f"{name}, {use}", partial(damaged_image, name, use))


# --- files in the format of MNIST


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # a link to the shared file, which must not change
    path.write_bytes(content)


def _with(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: _replace(path, change(path.read_bytes()))


def _set(position: int, value: bytes) -> Damage:
    return _with(lambda old: old[:position] + value + old[position + len(value) :])


def _special(make: Damage) -> Damage:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _bomb(path: Path) -> None:
    member = gzip.compress(bytes(2**24))  # 64 of them are 1 GiB
    path.with_name(f"{path.name}.gz").write_bytes(member * 64)
    path.unlink()


def _beside(path: Path) -> None:
    _replace(path, b"x")
    path.with_name(f"{path.name}.damaged").mkdir()


DATA: dict[str, Damage] = {
    "FIFO": _special(os.mkfifo),
    "gzip bomb": _bomb,
    "folder": _special(Path.mkdir),
    "half": _with(lambda old: old[: len(old) // 2]),
    "HTML": _with(lambda old: b"<!DOCTYPE html><title>404</title>"),
    "empty": _with(lambda old: b""),
    "header only": _with(lambda old: old[:8]),
    "a byte short": _with(lambda old: old[:-1]),
    "a byte long": _with(lambda old: old + b"\0"),
    "first byte": _set(0, b"\1"),
    "type of the values": _set(2, b"\x0d"),
    "number of dimensions": _set(3, b"\xff"),
    "size": _set(4, b"\x7f"),
    "negative size": _set(4, b"\xff\xff\xff\xff"),
    "half of a gzip": _with(lambda old: gzip.compress(old[:100_000], 1)[:5000]),
    "loop of links": _special(lambda path: path.symlink_to(path.name)),
    "endless device": _special(lambda path: path.symlink_to("/dev/zero")),
    "folder named .damaged": _beside,
}


def _fake_data(folder: Path) -> None:
    """Fashion-MNIST's four files with random pixels, which are accepted by header and labels."""
    raw, rng = folder / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = rng.bytes(count * 784)
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(range(10)) * (count // 10)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    words = ["data=fashion_mnist", quoted("data.root", folder), *DEBUG]
    run(folder, *words)  # undamaged, they are accepted


def _copy(mnist: Path, folder: Path) -> None:
    shutil.copytree(mnist / "MNIST", folder / "MNIST")
    run(folder, "data=mnist", quoted("data.root", folder), *DEBUG)


def damaged_data(mnist: Path | None, file: str, damage: str, w: Path) -> None:
    """Without a network, a damaged file is one line; the other files keep their content.

    Args:
        mnist: a folder that has ``MNIST/raw``; None stands for generated files.
        file: the file to damage.
        damage: a key of DATA.
        w: the working folder.
    """
    name, data = ("MNIST", "mnist") if mnist else ("FashionMNIST", "fashion_mnist")
    source = base.once(name, partial(_copy, mnist) if mnist else _fake_data)
    raw = w / "data" / name / "raw"
    raw.mkdir(parents=True)
    for good in (source / name / "raw").glob("*ubyte"):
        os.link(good, raw / good.name)
    DATA[damage](raw / file)
    run(w, f"data={data}", "data.root=data", *DEBUG, status=(2,), seconds=base.LIMIT)
    for good in (source / name / "raw").glob("*ubyte"):
        copy = raw / good.name
        if good.name != file and not good.samefile(copy):
            require(copy.read_bytes() == good.read_bytes(), f"{good.name} has changed")


# --- images


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG whose header may promise any size."""

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


def _write(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def _frames(path: Path) -> None:
    path = path.with_suffix(".gif")
    _good().save(path, save_all=True, append_images=[_good(n) for n in range(1, 50)])


def _half(path: Path) -> None:
    _good().resize((400, 400)).save(path)
    path.write_bytes(path.read_bytes()[:300])


IMAGES: dict[str, Damage] = {
    "FIFO": os.mkfifo,
    "huge size": _write(_png(60_000, 60_000, b"")),
    "huge and black": _write(_png(20_000, 20_000, bytes(20_000 * 20_001))),
    "largest size": _write(_png(2**31 - 1, 2**31 - 1, b"")),
    "no size": _write(_png(0, 0, b"")),
    "long line": _write(_png(5_000_000, 1, bytes(5_000_001))),
    "half": _half,
    "empty": _write(b""),
    "text": _write(b"not an image\n"),
    "HTML": _write(b"<!DOCTYPE html><title>404</title>"),
    "pickle": _write(b"\x80\x04cposix\nsystem\n(S'touch PWNED'\ntR."),
    "folder": Path.mkdir,
    "many frames": _frames,
    "loop of links": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere.png"),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "text bomb": _write(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1zTXt" + zlib.compress(bytes(2**26))),
    "not UTF-8": lambda path: _good().save(os.fsencode(path.parent) + b"/\xff.png", "png"),
    "blank": _write(_png(28, 28, bytes(28 * 29))),
    "palette": lambda path: _good().convert("P").save(path),
    "float": lambda path: _good().convert("F").save(path.with_suffix(".tiff")),
    "CMYK": lambda path: _good().convert("CMYK").save(path.with_suffix(".jpg")),
}


def damaged_image(image: str, use: str, w: Path) -> None:
    """An image is read, or left out and listed, or ends the command in one line."""
    for name in ("a", "b"):
        (w / "images" / name).mkdir(parents=True)
        for number in range(12):
            _good(number).save(w / "images" / name / f"{number}.png")
    path = w / "images" / "a" / "odd.png"
    IMAGES[image](path)
    if use == "predict":
        trained = reference([*SMALL, "data.fraction=0.1", "trainer.max_epochs=2"]).folder
        words = [use, str(trained), str(path if path.exists() else path.parent)]
        run(w, *words, program="lenet-pl", status=(0, 1, 2), seconds=base.LIMIT)
    else:
        words = ["data=folder", "data.root=images", "model.num_classes=2", f"data.{use}", *DEBUG]
        run(w, *words, status=(0, 2), seconds=base.LIMIT)
    require(not list(w.rglob("PWNED")), "the image ran code")
