"""Photographs and scans: what is made of them, and what the command answers."""

import io
import random
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, PngImagePlugin

from lenet_pl.data.mnist import Mini
from lenet_pl.data.preprocess import open_image, prepare
from lenet_pl.errors import DataError

TEST = Mini().load().test
FLOOR = 0.92  # of 100 drawn digits; seeds 0 to 4 gave 0.94 to 0.99


def drawn(digit: torch.Tensor, rng: random.Random, dark: bool = True) -> Image.Image:
    """A digit ``uint8 [28, 28]`` in another size somewhere on a larger canvas, ink on paper."""
    side = rng.randint(28, 280)
    ink = Image.fromarray(digit.numpy()).resize((side, side), Image.Resampling.BICUBIC)
    width, height = (round(side * rng.uniform(1.2, 2.5)) for _ in range(2))
    canvas = Image.new("L", (width, height))
    canvas.paste(ink, (rng.randint(0, width - side), rng.randint(0, height - side)))
    paper, pen = rng.randint(200, 255), rng.randint(0, 80)
    if not dark:
        paper, pen = pen, paper
    return canvas.point(lambda value: round(paper + (pen - paper) * value / 255))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return open_image(file.getvalue())


def drawn_in_every_way(images: torch.Tensor, seed: int) -> list[Image.Image]:
    """Each digit in another size and position, every other one inverted, two in three JPEG."""
    rng = random.Random(seed)
    canvases = [drawn(image[0], rng, dark=i % 2 == 0) for i, image in enumerate(images)]
    return [as_jpeg(c, rng.randint(40, 95)) if i % 3 else c for i, c in enumerate(canvases)]


def test_mnist_s_own_digits_stay_what_they_are():
    for invert, pixels in ((False, TEST.images), ("auto", TEST.images), (True, 255 - TEST.images)):
        made = [prepare(Image.fromarray(x[0].numpy()), invert=invert) for x in pixels[:60]]
        off = (torch.stack(made).float() - TEST.images[:60].float()).abs().flatten(1).mean(1)
        assert off.median() < 0.1 and off.max() < 12  # grey levels of 255; another digit: 40


def test_not_centred_28_by_28_stays_to_the_byte():
    for x in TEST.images[:50]:
        image = Image.fromarray(x[0].numpy())
        assert torch.equal(prepare(image, centre=False), x)
        assert torch.equal(prepare(image, invert=False, centre=False), x)
        assert torch.equal(prepare(image, invert=True, centre=False), 255 - x)
        inverted = Image.fromarray(255 - x[0].numpy())
        assert torch.equal(prepare(inverted, centre=False), x)
    assert prepare(Image.new("L", (90, 50), 255), centre=False).unique().tolist() == [255]


def test_it_lies_in_the_box_by_its_centre_of_mass():
    for image in drawn_in_every_way(TEST.images[:30], seed=9):
        pixels = prepare(image)[0].double()
        rows, columns = pixels.amax(1).nonzero().flatten(), pixels.amax(0).nonzero().flatten()
        assert max(rows[-1] - rows[0], columns[-1] - columns[0]) == 19
        place = torch.arange(28).double()
        for axis in (0, 1):
            centre = (pixels.sum(1 - axis) @ place / pixels.sum()).item()
            assert 13.4 <= centre <= 14.6  # MNIST's own: 13.5 to 14.5
        assert pixels.max() == 255


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
        case "dark on nothing" | "bright on nothing":
            colour = 0 if mode.startswith("dark") else 255
            ink = Image.new("L", grey.size, colour)
            return Image.merge("LA", (ink, grey.point(lambda value: 255 - value)))
        case "palette with a hole":
            image = grey.quantize(8)
            image.info["transparency"] = int(image.getpixel((0, 0)))
            return image
        case "1":
            return grey.convert("1", dither=Image.Dither.NONE)
        case _:
            return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
        *("dark on nothing", "bright on nothing", "palette with a hole"),
    ],
)
def test_modes(mode):
    expected = prepare(seven("L")).float()
    off = (prepare(seven(mode)).float() - expected).abs().mean()
    assert off < (13 if mode == "1" else 4)  # a bit has no greys, so strokes are thicker
    if mode == "L":
        assert (expected - TEST.images[0].float()).abs().mean() < 8


def test_what_the_exif_says_is_up_is_up():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    seven("L").transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=95, exif=exif)
    made = prepare(open_image(file.getvalue())).float()
    assert (made - prepare(seven("L")).float()).abs().mean() < 3


def test_uneven_light_paper_specks_and_edges():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:300, 0:400]
    off = []
    light = 0.35 + 0.65 * x / 400 - 0.3 * ((y / 300 - 0.5) ** 2)
    for i in range(20):
        page = Image.new("L", (400, 300), 230)
        ink = Image.fromarray(TEST.images[i, 0].numpy()).resize((150, 150))
        page.paste(60, (random.Random(i).randint(20, 230), 60), ink)
        draw = ImageDraw.Draw(page)
        for spot in range(8):
            draw.point((30 + 45 * spot, 20 + 3 * spot), 90)
        draw.rectangle((0, 285, 400, 300), fill=40)  # the table below the paper
        photo = np.asarray(page) * light + rng.normal(0, 4, light.shape)
        made = prepare(as_jpeg(Image.fromarray(photo.clip(0, 255).astype(np.uint8)), 80))
        off.append((made.float() - TEST.images[i].float()).abs().mean().item())
    assert sum(off) / 20 < 13 and max(off) < 30  # a pixel to the side is 20, another digit 45


def test_thin_strokes_do_not_fade():
    page = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(page).line([(250, 150), (650, 150), (420, 750)], fill=0, width=4)
    made = prepare(page)
    assert (made > 200).sum() >= 40 and (made > 0).sum() <= 130


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_is_refused(value):
    noise = np.random.default_rng(0).normal(value, 3, (200, 200)).clip(0, 255).astype(np.uint8)
    for image in (Image.new("L", (50, 40), value), Image.new("L", (1, 1)), Image.fromarray(noise)):
        with pytest.raises(DataError, match="nothing but background in it"):
            prepare(image)


def bomb() -> bytes:
    """A PNG that says it is 50,000 by 50,000."""
    size = (50_000).to_bytes(4, "big") * 2
    parts = [b"IHDR" + size + bytes((8, 0, 0, 0, 0)), b"IDAT" + zlib.compress(bytes(9)), b"IEND"]
    chunks = [
        (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
        for part in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def animation() -> bytes:
    file = io.BytesIO()
    seven("L").save(file, "GIF", save_all=True, append_images=[Image.new("L", (140, 140))])
    return file.getvalue()


def long_text() -> bytes:
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 2_000_000, zip=True)
    seven("L").save(file, "PNG", pnginfo=text)
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    seven("L").save(file, "PNG")
    return file.getvalue()


BAD = {
    "empty.png": (lambda: b"", "an empty file"),
    "cut.png": (lambda: png()[:900], "a damaged picture: image file is truncated"),
    "text.png": (lambda: b"no picture", "no picture of a known kind (PNG, JPEG"),
    "page.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a"),
    "bomb.png": (bomb, "more than 89,478,485 pixels, which is not decoded"),
    "moving.gif": (animation, "2 pictures in one file; save the one that counts"),
    "text_bomb.png": (long_text, "a damaged picture: Decompressed data too large"),
}


@pytest.mark.parametrize("name", BAD)
def test_pictures_that_are_none(tmp_path, name):
    content, told = BAD[name]
    (tmp_path / name).write_bytes(content())
    for source, called in ((tmp_path / name, f"{tmp_path / name}"), (content(), "picture")):
        with pytest.raises(DataError) as caught:
            open_image(source)
        assert str(caught.value).startswith(f"{called}: {told}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.png: No such file or directory"):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("error", [TypeError("not\n a tag"), KeyError("tag"), RecursionError()])
def test_whatever_a_decoder_raises_is_a_damaged_picture(monkeypatch, error):
    def fail(self):
        raise error

    whole = open_image(png())
    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", fail)
        with pytest.raises(DataError, match=r"^a.png: a damaged picture: \S.*$"):
            open_image(png(), "a.png")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(DataError, match=r"^pixels that cannot be read \(L: .*$"):
        prepare(whole.copy())
