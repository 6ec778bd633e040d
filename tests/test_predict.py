"""Photographs and scans: what is made of them, and what the command answers."""

import io
import json
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, PngImagePlugin

from lenet_pl.data.mnist import MNIST, Mini
from lenet_pl.data.preprocess import open_image, prepare
from lenet_pl.errors import DataError

TEST = Mini().load().test
FLOOR = 0.92  # of 100 drawn digits; seeds 0 to 4 gave 0.94 to 0.99


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A finished run that may be written into."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("tested") / "run")


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


def test_drawn_digits_are_recognised(lenet_pl, run, tmp_path):
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(drawn_in_every_way(TEST.images[:100], seed=0)):
        image.save(tmp_path / "drawn" / f"{i:03}.png")
    status, said, errors = lenet_pl("predict", run, "drawn", "--json")
    assert (status, errors) == (0, "")
    found = [int(answer["prediction"]) for answer in json.loads(said)]
    assert (torch.tensor(found) == TEST.labels[:100]).double().mean() >= FLOOR


def test_the_answer(lenet_pl, run, tmp_path):
    seven("L").save(tmp_path / "a [b].png")
    seven("RGBA").save(tmp_path / "b.png")
    status, said, errors = lenet_pl("predict", run, "*.png", "a [b].png", "--show")
    assert status == 0
    lines = said.splitlines()
    assert len(lines) == 3 and "a [b].png" in lines[1] and " 7 " in lines[1]
    assert lines[1].count("%") == 3
    assert errors == f"what the network saw: {run / 'seen.png'}\n"
    assert Image.open(run / "seen.png").size == (2 * 144, 174)
    answers = json.loads(lenet_pl("predict", run, "b.png", "--json")[1])
    assert answers[0]["picture"] == "b.png" and answers[0]["prediction"] == "7"
    assert list(answers[0]["probabilities"]) == list(MNIST.classes)
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)


def test_invert_is_done_as_told(lenet_pl, run, tmp_path):
    seven("L").save(tmp_path / "dark.png")
    shares = [
        json.loads(lenet_pl("predict", run, "dark.png", "--json", "--invert", choice)[1])[0]
        for choice in ("auto", "yes", "no")
    ]
    assert shares[0] == shares[1]
    assert shares[2] != shares[1]


def test_standard_input(lenet_pl, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png())))
    status, said, _ = lenet_pl("predict", run, "-", "--json")
    answer = json.loads(said)[0]
    assert (status, answer["picture"], answer["prediction"]) == (0, "-", "7")


def test_one_bad_picture_does_not_stop_the_others(lenet_pl, run, tmp_path):
    for name, (content, _) in BAD.items():
        (tmp_path / name).write_bytes(content())
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "nothing").mkdir()
    words = ["good.png", *BAD, "none.png", "nothing", "no*.jpg"]
    status, said, errors = lenet_pl("predict", run, *words)
    assert status == 1
    assert "good.png" in said and len(said.splitlines()) == 2
    lines = errors.splitlines()
    told = [f"{name}: {told}" for name, (_, told) in BAD.items()]
    told += ["none.png: there is no such file", "nothing: a folder without a picture"]
    told.append("no*.jpg: matches no file")
    assert len(lines) == len(told)
    assert all(line.startswith(f"error: {start}") for line, start in zip(lines, told, strict=True))
    status, said, errors = lenet_pl("predict", run, *words[1:])
    assert (status, said) == (2, "") and errors.splitlines() == lines
    answers = json.loads(lenet_pl("predict", run, *words, "--json")[1])
    assert [list(answer)[1] for answer in answers] == ["prediction"] + ["error"] * len(told)


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


def test_a_folder_is_searched_as_one_to_train_on(lenet_pl, run, tmp_path):
    for place in ("mine/inner", "mine/__MACOSX", "mine/.cache"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.png").write_bytes(png())
    (tmp_path / "mine" / "._a.png").write_bytes(b"left by a system")
    status, said, errors = lenet_pl("predict", run, "mine", "--json")
    assert (status, errors) == (0, "")
    assert [answer["picture"] for answer in json.loads(said)] == ["mine/inner/a.png"]


def test_no_run(lenet_pl, tmp_path):
    (tmp_path / "good.png").write_bytes(png())
    status, said, errors = lenet_pl("predict", "nowhere", "good.png")
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: nowhere: there is no such folder")


def test_weights_of_the_tutorial_s_script(lenet_pl, run, tmp_path):
    shutil.copy(run / "best.pth", tmp_path / "weights.pth")
    (tmp_path / "good.png").write_bytes(png())
    words = ["weights.pth", "good.png", "--model", "lenet", "--show"]
    status, said, errors = lenet_pl("predict", *words)
    assert (status, errors) == (0, "what the network saw: weights-seen.png\n")
    assert (tmp_path / "weights-seen.png").is_file() and "good.png" in said


def test_a_prediction_imports_little_beside_torch(run, tmp_path):
    (tmp_path / "good.png").write_bytes(png())
    script = (
        "import sys\n"
        "from lenet_pl import cli\n"
        f"sys.argv = ['lenet-pl', 'predict', {str(run)!r}, {str(tmp_path / 'good.png')!r}]\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    slow = {"pytorch_lightning", "torchvision", "matplotlib", "tensorboard", "scipy", "pandas"}
    assert loaded & (slow | {"torch._dynamo", "rich.progress"}) == set()


@pytest.mark.download
def test_a_model_of_99_percent_recognises_drawn_digits(command, lenet_pl, tmp_path):
    root, run = tmp_path / "data", tmp_path / "run"
    words = ["optimizer.lr=0.02", "optimizer.nesterov=true", "data.batch_size=64"]
    done = command(*words, "trainer.max_epochs=6", f"data.root={root}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    test = MNIST(str(root)).load().test
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(drawn_in_every_way(test.images[:100], seed=1)):
        image.save(tmp_path / "drawn" / f"{i:03}.png")
    answers = json.loads(lenet_pl("predict", run, "drawn", "--json")[1])
    found = torch.tensor([int(answer["prediction"]) for answer in answers])
    assert (found == test.labels[:100]).sum() >= 97
