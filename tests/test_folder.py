"""One's own pictures, from folders to tensors."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import FAST
from PIL import Image

from lenet_pl.config import check
from lenet_pl.data import idx
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.folder import Folder
from lenet_pl.data.mnist import MNIST, Mini
from lenet_pl.errors import UserError
from lenet_pl.training import build, train


@pytest.fixture
def exported(tmp_path) -> tuple[Path, Path]:
    """The first of the digits that ship, once as pictures and once as the files they came from."""
    official = Mini().load()
    pictures, files = tmp_path / "pictures", tmp_path / "files"
    files.mkdir()
    parts = []
    for split, count in (("train", 1500), ("test", 400)):
        lot = getattr(official, split)
        images, labels = lot.images[:count, 0].numpy(), lot.labels[:count].numpy()
        parts += [images, labels]
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = pictures / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:05}.png", compress_level=1)
    for file, part in zip(MNIST.files, parts, strict=True):
        (files / f"{file.name}.gz").write_bytes(gzip.compress(idx.encode(part), 1))
    return pictures, files


def module(source, root=None, val_size=1000, **options) -> DigitsDataModule:
    data = DigitsDataModule(source, root, 64, 500, val_size, split_seed=0, seed=0, **options)
    data.prepare_data()
    data.setup()
    return data


def test_exported_digits_are_the_very_same_data(exported):
    pictures, files = exported
    ours, mini = module(Folder, str(pictures), 200), module(Mini, str(files), 200)
    assert (ours.digest, ours.split_digest) == (mini.digest, mini.split_digest)
    assert (ours.mean, ours.std, ours.classes) == (mini.mean, mini.std, mini.classes)
    for name, split in mini.splits.items():
        assert torch.equal(ours.splits[name].images, split.images)
        assert torch.equal(ours.splits[name].labels, split.labels)
        assert torch.equal(ours.indices[name], mini.indices[name])
    assert ours.names["val"][3] == (
        f"train/{ours.splits['val'].labels[3]}/{ours.indices['val'][3]:05}.png"
    )
    assert mini.names == {}


def digits(count: int = 12) -> list[np.ndarray]:
    """Digits 0, 1 and 2 from the set that ships, ``count`` of each."""
    official = Mini().load().train
    wanted = [(official.labels == digit).nonzero().flatten()[:count] for digit in range(3)]
    return [official.images[i, 0].numpy() for index in wanted for i in index]


CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three classes of twelve pictures each, side by side."""
    root = tmp_path / "pictures"
    fill(root)
    return root


def fill(root: Path, count: int = 12) -> None:
    for i, image in enumerate(digits(count)):
        place = root / CLASSES[i // count]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i % count}.png")


def test_without_a_ready_made_split_it_is_7_2_1(pictures):
    data = module(Folder, str(pictures))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 25,
        "val": 7,
        "test": 4,
    }
    assert data.classes == CLASSES
    facts = data.facts()
    assert (facts["split"], facts["pooled"]) == ([7, 2, 1], False)
    assert facts["classes"] == list(CLASSES) and facts["name"] == "folder"
    assert torch.cat([*data.indices.values()]).sort().values.tolist() == list(range(36))
    assert data.files["test"][0].split("/")[0] == CLASSES[data.splits["test"].labels[0]]
    halves = module(Folder, str(pictures), split=[1, 1, 1])
    assert [len(split) for split in halves.splits.values()] == [12, 12, 12]


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_ready_made_validation_set_is_used_as_it_is(tmp_path, name):
    for split, count in (("train", 8), (name, 3), ("Test", 2)):
        fill(tmp_path / split, count)
    data = module(Folder, str(tmp_path))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [24, 9, 6]
    assert data.indices["val"].tolist() == list(range(9))
    assert not data.facts()["pooled"] and data.facts()["split"] is None
    pooled = module(Folder, str(tmp_path), split=[7, 2, 1])
    assert [len(split) for split in pooled.splits.values()] == [27, 8, 4]
    assert pooled.facts()["pooled"]
    places = {
        int(i): file.split("/")[0]
        for split, index in pooled.indices.items()
        for i, file in zip(index, pooled.names[split], strict=True)
    }
    assert [places[i] for i in range(39)] == ["train"] * 24 + [name] * 9 + ["Test"] * 6


def test_validation_is_taken_from_train_where_there_is_none(tmp_path):
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 2)
    data = module(Folder, str(tmp_path), val_size=0.1)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [27, 3, 6]
    assert torch.bincount(data.splits["val"].labels).tolist() == [1, 1, 1]


def variants(image: np.ndarray) -> dict[str, Image.Image]:
    """The same digit, four times as large, as different software stores it."""
    grey = Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)
    paper = Image.eval(grey, lambda value: 255 - value)
    ink = Image.new("RGBA", grey.size, "black")
    ink.putalpha(grey)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    turned.info["exif"] = exif.tobytes()
    return {
        "grey.png": grey,
        "grey.bmp": grey,
        "deep.png": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "deep.tif": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "colour.TIFF": grey.convert("RGB"),
        "press.tiff": paper.convert("CMYK"),
        "palette.png": grey.convert("P"),
        "paper.jpg": paper,
        "transparent.png": ink,
        "turned.jpeg": turned,
    }


def test_any_mode_and_size_becomes_the_same_digit(tmp_path):
    for name, image in zip(CLASSES, digits(1), strict=True):
        (tmp_path / name / "inner").mkdir(parents=True)
        for file, picture in variants(image).items():
            options = {"quality": 95} if file.endswith(("jpg", "jpeg")) else {}
            exif = {"exif": picture.info["exif"]} if "exif" in picture.info else {}
            picture.save(tmp_path / name / "inner" / file, **options, **exif)
        (tmp_path / name / "notes.txt").write_text("no picture")
        (tmp_path / name / ".hidden.png").write_text("no picture")
    official = Folder(str(tmp_path)).load()
    assert official.broken == {} and len(official.train) == 30
    assert official.names["train"][:3] == [f"{name}/inner/colour.TIFF" for name in CLASSES]
    assert official.train.labels.tolist() == [0, 1, 2] * 10  # by file name, then by class
    images = official.train.images.float()
    for label, original in enumerate(digits(1)):
        group = images[official.train.labels == label].flatten(1)
        # where a middle falls between two pixels, either is right
        shifts = [np.roll(original, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        shifted = torch.tensor(np.stack(shifts)).float().flatten(1)
        for row in group:
            assert torch.nn.functional.cosine_similarity(row, shifted).max() > 0.9
            assert (row - group[0]).abs().mean() < 6


def test_options_for_inversion_and_centring(pictures):
    light = Folder(str(pictures)).load().train.images
    dark = Folder(str(pictures), invert=True).load().train.images
    assert torch.equal(dark, 255 - light)
    assert torch.equal(Folder(str(pictures), invert=False, centre=False).load().train.images, light)
    centred = Folder(str(pictures), centre=True).load().train.images
    assert centred.shape == light.shape and not torch.equal(centred, light)
    rows = centred.float().sum((1, 3))
    middle = (rows @ torch.arange(28.0)) / rows.sum(1)
    assert (middle - 14).abs().max() <= 0.75


def break_some(root: Path) -> None:
    (root / "cat" / "4.png").write_bytes((root / "cat" / "4.png").read_bytes()[:80])
    (root / "eel" / "7.png").write_bytes(b"no picture")
    (root / "eel" / "empty.jpg").touch()


def test_a_run_goes_on_without_broken_pictures(composed, pictures, tmp_path, caplog):
    caplog.set_level("INFO")
    break_some(pictures)
    words = [f"data.root={pictures}", "model.num_classes=3", "trainer.max_epochs=1"]
    train(composed(*FAST, "data=folder", *words))
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


def test_findings_name_the_files(pictures):
    (pictures / "cat" / "copy.png").write_bytes((pictures / "cat" / "3.png").read_bytes())
    Image.new("L", (28, 28)).save(pictures / "eel" / "nothing.png")
    data = module(Folder, str(pictures), split=[30, 1, 1], clean=True, suspect_folds=2)
    found = data.prepared.findings()
    assert found["counts"]["blank"] == 1 and found["removed"] == 2
    [copy] = found["duplicates"] + found["leaked"]
    files = found["files"]
    assert files["train"][str(found["blank"][0])] == "eel/nothing.png"
    pair = {files["train"][str(copy["index"])], files[copy.get("split", "train")][str(copy["of"])]}
    assert pair == {"cat/3.png", "cat/copy.png"}
    for suspect in found["suspects"]:
        assert files["train"][str(suspect["index"])].startswith(f"{suspect['label']}/")


def test_many_broken_pictures_are_counted(pictures):
    for i in range(15):
        (pictures / "dog" / f"x{i:02}.png").touch()
    notes = module(Folder, str(pictures)).prepared.notes()
    named = [line for line in notes if line.startswith("left out")]
    assert len(named) == 10 and named[0].startswith("left out    dog/x00.png: ")
    assert notes[-1] == "            and 5 more, all in result.json"


def test_or_stops_at_them(composed, pictures, tmp_path):
    break_some(pictures)
    words = ["data=folder", f"data.root={pictures}", "model.num_classes=3"]
    with pytest.raises(UserError, match=r"data.on_error=stop: 3 pictures cannot .* is cat/4.png"):
        build(composed(*words, "data.on_error=stop"))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def one_picture(root):
    for path in sorted((root / "dog").iterdir())[1:]:
        path.unlink()


def one_that_can_be_read(root):
    for path in sorted((root / "dog").iterdir())[1:]:
        path.write_bytes(b"")


def only_by_case(root):
    (root / "Dog").mkdir()
    (root / "dog" / "0.png").rename(root / "Dog" / "0.png")


def one_class(root):
    (root / "all").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "all" / name)


def nothing(root):
    for path in root.rglob("*.png"):
        path.unlink()
    for name in CLASSES:
        (root / name).rmdir()


def ready_made(*splits, without=(), extra=None):
    def change(root):
        nothing(root)
        for split in splits:
            fill(root / split, 3)
        for place in without:
            for path in (root / place).iterdir():
                path.unlink()
            (root / place).rmdir()
        if extra:
            (root / extra).mkdir()

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (one_picture, "class folder dog holds 1 picture .*; a class needs 2 at least"),
        (one_that_can_be_read, "class folder dog holds 1 picture that can be read; a class needs"),
        (only_by_case, "class folders (Dog and dog|dog and Dog) differ by case only; merge or ren"),
        (one_class, r"holds one class folder only \(all\); put the pictures of each class into"),
        (nothing, "holds no class folder; put the pictures of each class into a folder of its own"),
        (lambda root: (root / "fox").mkdir(), "class folder fox holds 0 pictures .* needs 2"),
        (
            ready_made("train", "test", without=["test/dog"]),
            "train/ and test/ have different classes: dog in one of them only; each class needs",
        ),
        (
            ready_made("train", "test", extra="train/ape"),
            "train/ and test/ have different classes: ape in one of",
        ),
        (ready_made("train", "val", "test", without=["val/cat"]), "train/ and val/ have different"),
        (ready_made("train", "test", extra="unsorted"), "unsorted/ stands beside test, train;"),
        (ready_made("train", "val"), "has train/, val/ but no test/; add it, or put the class"),
        (ready_made("val", "test"), "has test/, val/ but no train/; add it"),
        (ready_made("train", "val", "valid", "test"), "has more than one folder for val; keep one"),
    ],
)
def test_folders_that_cannot_work(composed, pictures, tmp_path, change, told):
    change(pictures)
    cfg = composed("data=folder", f"data.root={pictures}", "model.num_classes=3")
    with pytest.raises(UserError, match=rf"data.root=.*/pictures: {told}") as caught:
        build(cfg)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "data.root=null: name the folder of the pictures: data.root=DIR"),
        (["data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["data.source.invert=perhaps"], "data.source.invert=perhaps: must be one of auto, true,"),
        (["data.source.centre=1"], "data.source.centre=1: must be one of auto, true, false"),
        (["data.on_error=cry"], "data.on_error=cry: must be one of skip, stop"),
    ],
)
def test_keys_that_cannot_work(composed, words, told):
    cfg = composed("data=folder", *words)
    with pytest.raises(UserError, match=told):
        check(cfg)
        build(cfg)


def test_the_number_of_classes_is_the_model_s(composed, pictures):
    with pytest.raises(UserError, match=r"model.num_classes=10: the data has 3 classes"):
        build(composed("data=folder", f"data.root={pictures}"))


def test_on_the_command_line(command, pictures, tmp_path):
    one_picture(pictures)
    done = command("data=folder", "data.root=pictures", "model.num_classes=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: data.root=pictures: class folder dog holds 1 picture (PNG, JPEG, BMP, TIFF and so "
        "on); a class needs 2 at least\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_links_to_nothing_and_in_circles(pictures):
    (pictures / "cat" / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / "cat" / "again").symlink_to(pictures / "cat", target_is_directory=True)
    (pictures / "eel" / "._0.png").write_bytes(b"left by a system")
    official = Folder(str(pictures)).load()
    assert len(official.train) == 36
    assert official.broken == {"cat/gone.png": "No such file or directory"}
