"""The user's own images, from folders to tensors."""

import gzip
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data import data_module
from helpers.runs import FAST
from PIL import Image

from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.folder import Folder, image_files
from lenet_pl.data.mnist import MNIST, Mini, encode_idx
from lenet_pl.data.source import RawDataset
from lenet_pl.errors import UserError
from lenet_pl.training import build, train

CLASSES = ("cat", "dog", "eel")


def source(size=28, channels=1, invert="auto", centre="auto"):
    """A folder source without its root."""
    return partial(Folder, size=size, channels=channels, invert=invert, centre=centre)


def load(root: Path, **options) -> DigitsDataModule:
    return data_module(source(), str(root), **options)


@pytest.fixture
def exported(tmp_path) -> tuple[Path, Path]:
    """Some of the shipped digits, as images and as the files they came from."""
    raw = Mini().load()
    folder, files = tmp_path / "images", tmp_path / "files"
    files.mkdir()
    arrays = []
    for split, count in (("train", 1500), ("test", 400)):
        data = getattr(raw, split)
        images, labels = data.images[:count, 0].numpy(), data.labels[:count].numpy()
        arrays += [images, labels]
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / str(label) / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=1)
    for file, array in zip(MNIST.files, arrays, strict=True):
        (files / f"{file.name}.gz").write_bytes(gzip.compress(encode_idx(array), 1))
    return folder, files


def test_exported_digits_are_the_same_data(exported):
    folder, files = exported
    ours, mini = load(folder, val_size=200), data_module(Mini, str(files), val_size=200)
    assert (ours.digest, ours.split_digest) == (mini.digest, mini.split_digest)
    assert (ours.mean, ours.std, ours.classes) == (mini.mean, mini.std, mini.classes)
    for name, split in mini.splits.items():
        assert torch.equal(ours.splits[name].images, split.images)
        assert torch.equal(ours.splits[name].labels, split.labels)
        assert torch.equal(ours.indices[name], mini.indices[name])
    assert ours.files["val"][3] == (
        f"train/{ours.splits['val'].labels[3]}/{ours.indices['val'][3]:05}.png"
    )
    assert mini.files == {}


def digits(count: int = 12) -> list[np.ndarray]:
    """The shipped digits 0, 1 and 2, ``count`` of each."""
    train = Mini().load().train
    indices = [(train.labels == digit).nonzero().flatten()[:count] for digit in range(3)]
    return [train.images[i, 0].numpy() for index in indices for i in index]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of twelve images each, side by side."""
    root = tmp_path / "images"
    fill(root)
    return root


def read(root: Path, **options) -> RawDataset:
    return source(**options)(str(root)).load()


def fill(root: Path, count: int = 12) -> None:
    for i, image in enumerate(digits(count)):
        path = root / CLASSES[i // count] / f"{i % count}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_without_an_official_split_it_is_7_2_1(folder):
    data = load(folder)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 25,
        "val": 7,
        "test": 4,
    }
    assert data.classes == CLASSES
    facts = data.facts()
    assert (facts["split"], facts["pooled"]) == ([7, 2, 1], False)
    assert facts["classes"] == list(CLASSES)
    assert facts["name"] == "folder"
    assert torch.cat([*data.indices.values()]).sort().values.tolist() == list(range(36))
    assert data.files["test"][0].split("/")[0] == CLASSES[data.splits["test"].labels[0]]
    halves = load(folder, split=[1, 1, 1])
    assert [len(split) for split in halves.splits.values()] == [12, 12, 12]


def test_the_folders_of_mnist_png(tmp_path):
    fill(tmp_path / "training", 3)
    fill(tmp_path / "testing", 1)
    assert [len(split) for split in read(tmp_path).splits().values()] == [9, 3]


def test_files_that_are_not_images_are_left_out_under_a_printable_name(folder):
    os.mkfifo(folder / "cat" / "pipe.png")
    (Path(os.fsdecode(os.fsencode(folder / "cat") + b"/\x1b\xe9.png"))).touch()
    assert read(folder).broken == {
        "cat/pipe.png": "not a regular file",
        r"cat/\x1b\udce9.png": "an empty file",
    }


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_an_official_validation_split_is_kept(tmp_path, name):
    for split, count in (("train", 8), (name, 3), ("Test", 2)):
        fill(tmp_path / split, count)
    data = load(tmp_path)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [24, 9, 6]
    assert data.indices["val"].tolist() == list(range(9))
    assert not data.facts()["pooled"]
    assert data.facts()["split"] is None
    pooled = load(tmp_path, split=[7, 2, 1])
    assert [len(split) for split in pooled.splits.values()] == [27, 8, 4]
    assert pooled.facts()["pooled"]
    parents = {
        int(i): file.split("/")[0]
        for split, indices in pooled.indices.items()
        for i, file in zip(indices, pooled.files[split], strict=True)
    }
    assert [parents[i] for i in range(39)] == ["train"] * 24 + [name] * 9 + ["Test"] * 6


def test_validation_images_are_held_out_of_train(tmp_path):
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 2)
    data = load(tmp_path, val_size=0.1)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [27, 3, 6]
    assert torch.bincount(data.splits["val"].labels).tolist() == [1, 1, 1]


def variants(image: np.ndarray) -> dict[str, Image.Image]:
    """A digit four times as large, as different software stores it."""
    grey = Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)
    paper = Image.eval(grey, lambda value: 255 - value)
    strokes = Image.new("RGBA", grey.size, "black")
    strokes.putalpha(grey)
    rotated = grey.transpose(Image.Transpose.ROTATE_90)
    exif = rotated.getexif()
    exif[0x0112] = 6  # to be rotated clockwise by 90 degrees
    rotated.info["exif"] = exif.tobytes()
    return {
        "grey.png": grey,
        "grey.bmp": grey,
        "deep.png": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "deep.tif": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "colour.TIFF": grey.convert("RGB"),
        "press.tiff": paper.convert("CMYK"),
        "palette.png": grey.convert("P"),
        "paper.jpg": paper,
        "transparent.png": strokes,
        "rotated.jpeg": rotated,
    }


def test_any_mode_and_size_becomes_the_same_digit(tmp_path):
    for name, image in zip(CLASSES, digits(1), strict=True):
        (tmp_path / name / "inner").mkdir(parents=True)
        for file, variant in variants(image).items():
            options = {"quality": 95} if file.endswith(("jpg", "jpeg")) else {}
            exif = {"exif": variant.info["exif"]} if "exif" in variant.info else {}
            variant.save(tmp_path / name / "inner" / file, **options, **exif)
        (tmp_path / name / "notes.txt").write_text("not an image")
        (tmp_path / name / ".hidden.png").write_text("not an image")
    raw = read(tmp_path)
    assert raw.broken == {}
    assert raw.ignored == [f"{name}/notes.txt" for name in CLASSES]
    assert len(raw.train) == 30
    assert raw.files["train"][:3] == [f"{name}/inner/colour.TIFF" for name in CLASSES]
    assert raw.train.labels.tolist() == [0, 1, 2] * 10  # by file name, then by class
    images = raw.train.images.float()
    for label, original in enumerate(digits(1)):
        group = images[raw.train.labels == label].flatten(1)
        # a centre between two pixels may be rounded to either
        shifts = [np.roll(original, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        shifted = torch.tensor(np.stack(shifts)).float().flatten(1)
        for row in group:
            assert torch.nn.functional.cosine_similarity(row, shifted).max() > 0.9
            assert (row - group[0]).abs().mean() < 6


def test_options_for_inversion_and_centring(folder):
    light = read(folder).train.images
    dark = read(folder, invert=True).train.images
    assert torch.equal(dark, 255 - light)
    assert torch.equal(read(folder, invert=False, centre=False).train.images, light)
    centred = read(folder, centre=True).train.images
    assert centred.shape == light.shape
    assert not torch.equal(centred, light)
    rows = centred.float().sum((1, 3))
    middle = (rows @ torch.arange(28.0)) / rows.sum(1)
    assert (middle - 14).abs().max() <= 0.75


def flat(root: Path) -> None:
    """Three classes of images that differ in colour only."""
    for i, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for j in range(6):
            Image.new("RGB", (48, 30 + j), tuple(150 * (i == k) + j for k in range(3))).save(
                root / name / f"{j}.png"
            )


def test_colour_and_size(tmp_path):
    flat(tmp_path)
    raw = read(tmp_path, size=32, channels=3)
    assert (raw.train.images.shape, raw.classes) == ((18, 3, 32, 32), ("blue", "green", "red"))
    means = raw.train.images.double().mean((2, 3))
    assert torch.equal(means.argmax(1), 2 - raw.train.labels)
    assert means.max().item() == 155
    assert read(tmp_path, size=32, centre=False, invert=False).train.images.shape == (18, 1, 32, 32)


@pytest.mark.parametrize("name", ["centre", "invert"])
def test_options_of_digits_are_refused_in_colour(composed, tmp_path, name):
    overrides = ["data.source.channels=3", f"data.source.{name}=true"]
    cfg = composed("data=folder", "data.root=nowhere", *overrides)
    with pytest.raises(UserError, match=rf"data.source.{name}=true: for images of digits"):
        build(cfg)
    assert [*tmp_path.iterdir()] == []


def test_images_of_other_things_than_digits(composed, tmp_path):
    flat(tmp_path / "images")
    cfg = composed("data=folder", f"data.root={tmp_path / 'images'}")
    message = (
        "class folder blue has 0 images that can be read; .* blue/0.png: no digit found, only "
        r"background; for images other than digits, use data.source.channels=3 \(colour\), "
        "or data.source.centre=false data.source.invert=false"
    )
    with pytest.raises(UserError, match=message):
        build(cfg)


def damage_some(root: Path) -> None:
    (root / "cat" / "4.png").write_bytes((root / "cat" / "4.png").read_bytes()[:80])
    (root / "eel" / "7.png").write_bytes(b"not an image")
    (root / "eel" / "empty.jpg").touch()


def test_a_run_without_the_images_that_cannot_be_read(composed, folder, tmp_path, caplog):
    caplog.set_level("INFO")
    damage_some(folder)
    overrides = [f"data.root={folder}", "trainer.max_epochs=1"]
    train(composed(*FAST, "data=folder", *overrides))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["broken"] == ["cat/4.png", "eel/7.png", "eel/empty.jpg"]
    assert result["data"]["counts"] == {"train": 24, "val": 7, "test": 3}
    assert result["data"]["classes"] == list(CLASSES)
    for name in ("cat/4.png", "eel/7.png"):
        assert f"left out    {name}: " in caplog.text
    for name in CLASSES:
        assert f"\n{name} " in caplog.text
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["DigitsDataModule"]["classes"] == list(CLASSES)


def test_the_cleaning_report_names_the_files(folder):
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "3.png").read_bytes())
    Image.new("L", (28, 28)).save(folder / "eel" / "blank.png")
    data = load(folder, split=[30, 1, 1], clean=True, suspect_folds=2)
    report = data.cleaning_report()
    assert report["counts"]["blank"] == 1
    assert report["removed"] == 2
    [copy] = report["duplicates"] + report["leaked"]
    files = report["files"]
    assert files["train"][str(report["blank"][0])] == "eel/blank.png"
    pair = {files["train"][str(copy["index"])], files[copy.get("split", "train")][str(copy["of"])]}
    assert pair == {"cat/3.png", "cat/copy.png"}
    for issue in report["suspects"]:
        assert files["train"][str(issue["index"])].startswith(f"{issue['label']}/")


def test_other_files_are_named_in_one_note(folder):
    assert load(folder).notes() == ["split       7 : 2 : 1 of all images"]
    for name in ("a.txt", "b.pdf", "c.npy", "d.json"):
        (folder / "dog" / name).touch()
    data = load(folder)
    note = "ignored     4 files that are not images: dog/a.txt, dog/b.pdf, dog/c.npy, …"
    assert data.notes()[1:] == [note]
    assert len(data.facts()["ignored"]) == 4


def test_many_unreadable_images_are_counted(folder):
    for i in range(15):
        (folder / "dog" / f"x{i:02}.png").touch()
    notes = load(folder).notes()
    listed = [line for line in notes if line.startswith("left out")]
    assert len(listed) == 10
    assert listed[0].startswith("left out    dog/x00.png: ")
    assert notes[-1] == "            and 5 more, all in result.json"


def test_a_run_stops_at_images_that_cannot_be_read(composed, folder, tmp_path):
    damage_some(folder)
    overrides = ["data=folder", f"data.root={folder}"]
    with pytest.raises(UserError, match=r"data.on_error=stop: 3 images cannot .* is cat/4.png"):
        build(composed(*overrides, "data.on_error=stop"))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def one_image(root):
    for path in sorted((root / "dog").iterdir())[1:]:
        path.unlink()


def one_readable_image(root):
    for path in sorted((root / "dog").iterdir())[1:]:
        path.write_bytes(b"")


def different_case(root):
    (root / "Dog").mkdir()
    (root / "dog" / "0.png").rename(root / "Dog" / "0.png")


def one_class(root):
    (root / "all").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "all" / name)


def empty(root):
    for path in root.rglob("*.png"):
        path.unlink()
    for name in CLASSES:
        (root / name).rmdir()


def classes_first(root):
    empty(root)
    for name in CLASSES:
        fill(root / name, 2)
        for inner, new in zip(CLASSES, ("train", "test", "val"), strict=True):
            (root / name / inner).rename(root / name / new)


def official_splits(*splits, without=(), extra=None):
    def change(root):
        empty(root)
        for split in splits:
            fill(root / split, 3)
        for name in without:
            for path in (root / name).iterdir():
                path.unlink()
            (root / name).rmdir()
        if extra:
            (root / extra).mkdir()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_image, "class folder dog has 1 image .*; a class needs at least 2"),
        (
            one_readable_image,
            "class folder dog has 1 image that can be read; a class needs at least 2; "
            "dog/1.png: an empty file",
        ),
        (
            different_case,
            "class folders (Dog and dog|dog and Dog) differ by case only; merge or ren",
        ),
        (one_class, r"has one class folder only \(all\); try data.root=.*/all"),
        (
            classes_first,
            "cat, dog, eel all have the subfolders test, train, val: name splits train/ and test/, "
            "and put the classes inside them",
        ),
        (empty, "has no class folder; put the images of each class into a folder of its own"),
        (lambda root: (root / "fox").mkdir(), "class folder fox has 0 images .* needs at least 2"),
        (
            official_splits("train", "test", without=["test/dog"]),
            "train/ and test/ have different classes: dog in one of them only; each class needs",
        ),
        (
            official_splits("train", "test", extra="train/ape"),
            "train/ and test/ have different classes: ape in one of",
        ),
        (
            official_splits("train", "val", "test", without=["val/cat"]),
            "train/ and val/ have different",
        ),
        (
            official_splits("train", "test", extra="unsorted"),
            "unsorted/ stands beside test, train;",
        ),
        (
            official_splits("train", "val"),
            "has train/, val/ but no test/; add it, or put the class",
        ),
        (official_splits("val", "test"), "has test/, val/ but no train/; add it"),
        *(
            (
                lambda root, name=name: (root / os.fsdecode(name)).mkdir(),
                f"class folder .*{text}.* has control",
            )
            for name, text in [(b"caf\xe9", "udce9"), (b"\x1b[31mred", "x1b"), (b"a\nb", r"\\nb")]
        ),
        (
            official_splits("train", "val", "valid", "test"),
            "has more than one folder for val; keep one",
        ),
    ],
)
def test_invalid_folders(composed, folder, tmp_path, change, message):
    change(folder)
    cfg = composed("data=folder", f"data.root={folder}")
    with pytest.raises(UserError, match=rf"data.root=.*/images: {message}") as caught:
        build(cfg)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.root=null: name the folder of the images: data.root=DIR"),
        (["data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["data.source.invert=perhaps"], "data.source.invert=perhaps: must be one of auto, true,"),
        (["data.source.channels=2"], "data.source.channels=2: must be one of 1, 3"),
        (["data.source.size=7"], "data.source.size=7: must be an integer from 8 to 1,024"),
        (["data.source.centre=1"], "data.source.centre=1: must be one of auto, true, false"),
        (["data.on_error=cry"], "data.on_error=cry: must be one of skip, stop"),
    ],
)
def test_invalid_values(composed, overrides, message):
    cfg = composed("data=folder", *overrides)
    with pytest.raises(UserError, match=message):
        build(cfg)


def test_the_model_must_have_the_number_of_classes(composed, folder):
    with pytest.raises(UserError, match=r"model.num_classes=10: the data has 3 classes"):
        build(composed("data=folder", f"data.root={folder}", "model.num_classes=10"))


def test_an_invalid_folder_on_the_command_line(command, folder, tmp_path):
    one_image(folder)
    done = command("data=folder", "data.root=images")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: data.root=images: class folder dog has 1 image (PNG, JPEG, BMP, TIFF and so on); "
        "a class needs at least 2\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_broken_and_cyclic_links(folder):
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "cat" / "again").symlink_to(folder / "cat", target_is_directory=True)
    (folder / "eel" / "._0.png").write_bytes(b"left by a system")
    raw = read(folder)
    assert len(raw.train) == 36
    assert raw.broken == {"cat/gone.png": "No such file or directory"}


def test_image_files_are_searched_in_subfolders(tmp_path):
    for folder in ("inner", "__MACOSX", ".cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.PNG").touch()
    (tmp_path / "._a.png").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "inner" / "again").symlink_to(tmp_path, target_is_directory=True)
    for name in ("b.jfif", "c.HEIC"):  # the second cannot be read, which is better than ignored
        (tmp_path / "inner" / name).touch()
    names = sorted(path.name for path in image_files(tmp_path))
    assert names == ["a.PNG", "b.jfif", "c.HEIC"]
