"""Photographs and scans of a digit, converted to images like MNIST's."""

import io
import os
import random
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import handwriting
from helpers.photographs import TEST, UNREADABLE, as_jpeg, draw_all, png, seven
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from lenet_pl.data.preprocess import open_image, preprocess
from lenet_pl.errors import DataError


def test_mnist_s_own_digits_are_kept():
    for invert, pixels in ((False, TEST.images), ("auto", TEST.images), (True, 255 - TEST.images)):
        images = [preprocess(Image.fromarray(x[0].numpy()), invert=invert) for x in pixels[:60]]
        error = (torch.stack(images).float() - TEST.images[:60].float()).abs().flatten(1).mean(1)
        assert error.median() < 0.1
        assert error.max() < 12


def test_images_of_28_by_28_that_are_not_centred_are_kept_exactly():
    for x in TEST.images[:50]:
        image = Image.fromarray(x[0].numpy())
        assert torch.equal(preprocess(image, centre=False), x)
        assert torch.equal(preprocess(image, invert=False, centre=False), x)
        assert torch.equal(preprocess(image, invert=True, centre=False), 255 - x)
        inverted = Image.fromarray(255 - x[0].numpy())
        assert torch.equal(preprocess(inverted, centre=False), x)
    assert preprocess(Image.new("L", (90, 50), 255), centre=False).unique().tolist() == [255]


@pytest.mark.parametrize(("size", "box"), [(20, 14), (28, 20), (32, 23), (64, 46)])
def test_sizes(size, box):
    """The digit, its box and its strokes grow with the image."""
    expected = preprocess(seven("L").resize((400, 400)))[0].numpy()
    pixels = preprocess(seven("L").resize((400, 400)), size=size)
    assert pixels.shape == (1, size, size)
    rows, columns = pixels[0].amax(1).nonzero(), pixels[0].amax(0).nonzero()
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 == box
    resized = np.asarray(Image.fromarray(pixels[0].numpy()).resize((28, 28))).astype(int)
    moved = [np.roll(resized, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert min(np.abs(image - expected).mean() for image in moved) < 11
    thin = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(thin).line([(250, 150), (650, 150), (420, 750)], fill=0, width=4)
    covered = (preprocess(thin, size=size) > 127).double().mean()
    assert covered == pytest.approx((preprocess(thin) > 127).double().mean(), rel=0.25)
    page = Image.new("L", (90, 50), 255)
    assert preprocess(page, size=size, centre=False).shape == (1, size, size)
    own = torch.randint(0, 256, (size, size), dtype=torch.uint8)
    kept = preprocess(Image.fromarray(own.numpy()), size=size, invert=False, centre="auto")
    assert torch.equal(kept[0], own)


def test_colour_images_are_resized_only():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image, expected = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)
    colour = partial(preprocess, size=32, channels=3)
    for centre in ("auto", False):
        assert torch.equal(colour(image, centre=centre, invert=centre), expected)
    flags = Image.new("RGB", (300, 100), (200, 40, 90))
    flags.paste((0, 255, 0), (0, 0, 150, 100))
    left, right = colour(flags)[:, :, :15], colour(flags)[:, :, 17:]
    for half, rgb in ((left, (0, 255, 0)), (right, (200, 40, 90))):
        assert torch.equal(half, torch.tensor(rgb).byte()[:, None, None].expand(3, 32, 15))
    # antialiased: the mean of a fine pattern, not a sample of it
    stripes = Image.fromarray(np.tile([[0], [255]], (320, 640)).astype(np.uint8))
    assert (colour(stripes)[:, 1:-1].float() - 127.5).abs().max() <= 2


def test_modes_in_colour():
    colour = partial(preprocess, size=140, channels=3, centre="auto")
    for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "dark on transparent"):
        grey = torch.from_numpy(np.asarray(seven("L")).copy())
        assert (colour(seven(mode)).int() - grey).abs().max() <= 1, mode
    cmyk = Image.new("RGB", (9, 9), (250, 20, 30)).convert("CMYK")
    assert colour(cmyk)[:, 0, 0].tolist() == [250, 20, 30]
    red = Image.new("RGBA", (9, 9), (255, 0, 0, 51))
    assert colour(red)[:, 0, 0].tolist() == [255, 204, 204]  # a fifth of red on white
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    file, image = io.BytesIO(), Image.new("RGB", (140, 140), "red")
    image.paste("blue", (0, 0, 140, 70))
    image.save(file, "PNG", exif=exif)
    turned = colour(open_image(file.getvalue()))
    assert turned[:, 70, 10].tolist() == [255, 0, 0]
    assert turned[:, 70, 130].tolist() == [0, 0, 255]


def test_the_digit_fits_into_the_box_and_is_centred_by_mass():
    for image in draw_all(TEST.images[:30], seed=9):
        pixels = preprocess(image)[0].double()
        rows, columns = pixels.amax(1).nonzero().flatten(), pixels.amax(0).nonzero().flatten()
        assert max(rows[-1] - rows[0], columns[-1] - columns[0]) == 19
        position = torch.arange(28).double()
        for axis in (0, 1):
            centre = (pixels.sum(1 - axis) @ position / pixels.sum()).item()
            assert 13.4 <= centre <= 14.6  # MNIST's own: 13.5 to 14.5
        assert pixels.max() == 255


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
        *("dark on transparent", "bright on transparent", "palette with transparency"),
    ],
)
def test_modes(mode):
    expected = preprocess(seven("L")).float()
    error = (preprocess(seven(mode)).float() - expected).abs().mean()
    assert error < (13 if mode == "1" else 4)  # without grey levels strokes are thicker
    if mode == "L":
        assert (expected - TEST.images[0].float()).abs().mean() < 8


def test_exif_orientation_is_applied():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    seven("L").transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=95, exif=exif)
    image = preprocess(open_image(file.getvalue())).float()
    assert (image - preprocess(seven("L")).float()).abs().mean() < 3


def test_uneven_light_specks_and_paper_edges():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:300, 0:400]
    errors = []
    light = 0.35 + 0.65 * x / 400 - 0.3 * ((y / 300 - 0.5) ** 2)
    for i in range(20):
        page = Image.new("L", (400, 300), 230)
        mask = Image.fromarray(TEST.images[i, 0].numpy()).resize((150, 150))
        page.paste(60, (random.Random(i).randint(20, 230), 60), mask)
        draw = ImageDraw.Draw(page)
        for spot in range(8):
            draw.point((30 + 45 * spot, 20 + 3 * spot), 90)
        draw.rectangle((0, 285, 400, 300), fill=40)  # the table below the paper
        photo = np.asarray(page) * light + rng.normal(0, 4, light.shape)
        jpeg = as_jpeg(Image.fromarray(photo.clip(0, 255).astype(np.uint8)), 80)
        errors.append((preprocess(jpeg).float() - TEST.images[i].float()).abs().mean().item())
    assert sum(errors) / 20 < 13
    assert max(errors) < 30


def similarity(one: torch.Tensor, two: torch.Tensor) -> float:
    """The cosine of two images, one of them moved by up to a pixel."""
    moved = [two.roll((y, x), (1, 2)).flatten() for y in (-1, 0, 1) for x in (-1, 0, 1)]
    rows = torch.stack(moved).float()
    return torch.cosine_similarity(one.flatten().float(), rows).max().item()


@cache
def clean(digit: int) -> torch.Tensor:
    page = handwriting.paper()
    handwriting.draw(page, handwriting.STROKES[digit], 220, 150, 120)
    return preprocess(page)


@pytest.mark.parametrize("kind", ["soft", "hard", "soft corner", "ruled", "specks", "desk"])
def test_what_is_on_the_paper_beside_the_digit_is_left_out(kind):
    for digit, strokes in handwriting.STROKES.items():
        page, light = handwriting.paper(), 1.0
        if kind == "ruled":
            page = handwriting.ruled(digit)
        elif kind == "specks":
            page = handwriting.specks(page, digit)
        elif kind == "desk":
            ImageDraw.Draw(page).rectangle((0, 460, 500, 500), fill=50)
            ImageDraw.Draw(page).rectangle((470, 0, 500, 500), fill=50)
        else:
            softness = 2 if kind == "hard" else 15
            light = handwriting.shadow(digit, softness, "corner" in kind)
        handwriting.draw(page, strokes, 220, 150, 120)
        image = preprocess(handwriting.photograph(page, digit, light), single=True)
        assert similarity(clean(digit), image) > 0.85, digit


def test_a_small_digit_on_a_large_page():
    for digit, strokes in handwriting.STROKES.items():
        page = handwriting.paper(1600, 1200)
        handwriting.draw(page, strokes, 90, 300 + 90 * digit, 1000 - 80 * digit)
        image = preprocess(handwriting.photograph(page, digit), single=True)
        assert similarity(clean(digit), image) > 0.85, digit


def test_a_digit_that_touches_the_border():
    for digit, strokes in handwriting.STROKES.items():
        page = handwriting.paper()
        handwriting.draw(page, strokes, 220, 150, 120)
        tight = page.crop(ImageOps.invert(page).point(lambda x: x * (x > 100)).getbbox())
        image = preprocess(ImageOps.expand(tight, (0, 0, 90, 0), 235), single=True)
        assert similarity(clean(digit), image) > 0.9, digit


@pytest.mark.parametrize("seed", range(4))
def test_paper_without_a_digit(seed):
    for page, light in (
        (handwriting.ruled(seed), 1.0),
        (handwriting.paper(), handwriting.shadow(seed, 15, corner=True)),
        (handwriting.paper(), handwriting.shadow(seed, 15, corner=False)),
    ):
        with pytest.raises(DataError, match="no digit found, only background"):
            preprocess(handwriting.photograph(page, seed, light))


@pytest.mark.parametrize(("left", "top"), [(190, 0), (300, 0), (0, 320)])
def test_several_digits(left, top):
    page = handwriting.paper()
    handwriting.draw(page, handwriting.STROKES[6], 140, 60, 20)
    handwriting.draw(page, handwriting.STROKES[9], 140, 60 + left, 20 + top)
    photograph = handwriting.photograph(page, 0)
    with pytest.raises(DataError, match="contains several digits; crop it to one"):
        preprocess(photograph, single=True)
    preprocess(photograph)


@pytest.mark.parametrize("digit", handwriting.BROKEN)
def test_a_digit_in_two_pieces(digit):
    page = handwriting.paper()
    handwriting.draw(page, handwriting.BROKEN[digit], 220, 150, 120)
    image = preprocess(handwriting.photograph(page, 0), single=True)
    assert similarity(clean(digit), image) > 0.8


def test_thin_strokes_do_not_fade():
    page = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(page).line([(250, 150), (650, 150), (420, 750)], fill=0, width=4)
    image = preprocess(page)
    assert (image > 200).sum() >= 40
    assert (image > 0).sum() <= 130


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_is_rejected(value):
    noise = np.random.default_rng(0).normal(value, 3, (200, 200)).clip(0, 255).astype(np.uint8)
    for image in (Image.new("L", (50, 40), value), Image.new("L", (1, 1)), Image.fromarray(noise)):
        with pytest.raises(DataError, match="no digit found, only background"):
            preprocess(image)


MESSAGES = {
    "empty.png": "an empty file",
    "cut.png": "a damaged image: image file is truncated",
    "text.png": "no image of a known format (PNG, JPEG",
    "page.eps": "no image of a",
    "bomb.png": "more than 89,478,485 pixels, which is not decoded",
    "moving.gif": "2 images in one file; save one of them alone",
    "text_bomb.png": "a damaged image: Decompressed data too large",
}


def test_every_unreadable_image_has_a_message():
    assert MESSAGES.keys() == UNREADABLE.keys()


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_images(tmp_path, name):
    content = UNREADABLE[name]()
    (tmp_path / name).write_bytes(content)
    for source, shown in ((tmp_path / name, f"{tmp_path / name}"), (content, "image")):
        with pytest.raises(DataError) as caught:
            open_image(source)
        assert str(caught.value).startswith(f"{shown}: {MESSAGES[name]}")


def test_a_file_that_is_not_regular(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path(os.devnull)):
        with pytest.raises(DataError, match=rf"{path}: not a regular file"):
            open_image(path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    seven("L").save(tmp_path / "a.png")
    assert open_image(tmp_path / "link.png").size == seven("L").size


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(DataError, match=r"a.png: larger than 256 MiB"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_fewer_than_16_bits_in_16(bits):
    values = np.asarray(seven("L")).astype(np.uint16)
    image = Image.fromarray(values * ((2**bits - 1) // 255))
    assert (preprocess(image).float() - preprocess(seven("L")).float()).abs().mean() < 4


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none.png: No such file or directory"):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("error", [TypeError("not\n a tag"), KeyError("tag"), RecursionError()])
def test_whatever_a_decoder_raises_means_a_damaged_image(monkeypatch, error):
    def fail(self):
        raise error

    image = open_image(png())
    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", fail)
        with pytest.raises(DataError, match=r"^a.png: a damaged image: \S.*$"):
            open_image(png(), "a.png")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(DataError, match=r"^pixels that cannot be read \(L: .*$"):
        preprocess(image.copy())
