"""``lenet-pl test`` and ``lenet-pl predict``: what they print, write and refuse."""

import csv
import io
import json
import shutil
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
import torch
from helpers import handwriting
from helpers.photographs import UNREADABLE, draw_all, png, seven
from helpers.tutorial import TutorialLeNet
from PIL import Image

from lenet_pl.console import percent
from lenet_pl.data.mnist import MNIST, Mini
from lenet_pl.data.preprocess import open_image
from lenet_pl.data.split import stratified_split
from lenet_pl.errors import DataError

TEST = Mini().load().test
MAIN = "from lenet_pl.cli import main; main()"
MIN_ACCURACY = 0.92  # on 100 drawn digits; seeds 0 to 4 gave 0.94 to 0.99


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# test


@pytest.mark.parametrize("split", ["test", "val"])
def test_metrics_equal_those_of_training(lenet_pl, run, split):
    status, out, err = lenet_pl("test", run, "--split", split, "--json")
    answer = json.loads(out)
    saved = json.loads((run / "result.json").read_text())["metrics"]
    assert (status, err) == (0, "")
    assert answer["accuracy"] == saved[f"{split}/acc"]
    assert answer["loss"] == saved[f"{split}/loss"]
    assert answer["reported"] == {
        "acc": answer["accuracy"],
        "loss": answer["loss"],
        "same": True,
    }
    if split == "test":
        assert (answer["low"], answer["high"]) == (saved["test/acc_low"], saved["test/acc_high"])


def test_a_class_without_images_is_named(lenet_pl, run, images):
    status, out, _ = lenet_pl("test", run, "--data", images, "--json")
    answer = json.loads(out)
    recalls = [row["recall"] for row in answer["scores"] if row["class"] != "8"]
    assert status == 0
    assert answer["metrics"]["balanced_acc"] == pytest.approx(sum(recalls) / 9)
    assert answer["metrics"]["acc"] == answer["accuracy"]
    note = "no images of 8: not tested, and left out of balanced accuracy"
    assert answer["notes"][-1] == note
    printed = lenet_pl("test", run, "--data", images)[1]
    assert f"balanced accuracy    {percent(sum(recalls) / 9)}" in printed
    assert f"note                 {note}" in printed


def test_metrics_follow_from_the_predictions(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run, "--split", "val", "--json")[1])
    assert answer["predictions"] == str(run / "predictions-val.csv")
    rows = read_csv(run / "predictions-val.csv")
    official = Mini().load().train
    _, held_out = stratified_split(official.labels, [1000], 0)
    assert [int(row["index"]) for row in rows] == held_out.tolist()
    assert all(int(row["label"]) == official.labels[int(row["index"])] for row in rows)
    pairs = [(int(row["label"]), int(row["prediction"])) for row in rows]
    assert answer["matrix"] == [[pairs.count((a, b)) for b in range(10)] for a in range(10)]
    for c, scores in enumerate(answer["scores"]):
        labels = [label for label, guess in pairs if guess == c]
        guesses = [guess for label, guess in pairs if label == c]
        assert scores["precision"] == labels.count(c) / len(labels)
        assert scores["recall"] == guesses.count(c) / len(guesses)
    probabilities = [[float(row[f"p({c})"]) for c in range(10)] for row in rows]
    for row, (_, guess), values in zip(rows, pairs, probabilities, strict=True):
        assert values[guess] == max(values) == float(row["confidence"])
        assert sum(values) == pytest.approx(1)
    nll = -sum(log(p[label]) for p, (label, _) in zip(probabilities, pairs, strict=True)) / 1000
    assert answer["nll"] == pytest.approx(nll, rel=1e-7)


def test_printed_metrics(lenet_pl, run):
    status, out, _ = lenet_pl("test", run)
    assert status == 0
    for text in ("1,000 test images", "95 % interval", "matches result.json  yes", "recall"):
        assert text in out
    wrong = 1000 - json.loads(lenet_pl("test", run, "--json")[1])["correct"]
    assert f"misclassified        {wrong} of 1,000" in out
    assert "nats per image" in out
    assert str(run / "predictions.csv") in out


def test_metrics_that_differ_from_those_of_training(lenet_pl, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text())
    result["metrics"] |= {"test/acc": 0.5, "test/loss": 1.25}
    (copy / "result.json").write_text(json.dumps(result))
    assert "matches result.json  no: 50.00 %  loss 1.2500" in lenet_pl("test", copy)[1]


def test_last_weights_have_files_of_their_own(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run / "checkpoints" / "last.ckpt", "--json")[1])
    assert answer["predictions"] == str(run / "last-predictions.csv")
    assert answer["epoch"] == 6
    assert answer["reported"] is None


def test_best_pth_belongs_to_its_run(lenet_pl, run):
    answer = json.loads(lenet_pl("test", run / "best.pth", "--json")[1])
    assert answer["reported"]["same"]


def test_pooled_data_is_noted(lenet_pl, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text())
    result["data"]["pooled"] = True
    (copy / "result.json").write_text(json.dumps(result))
    assert "pooled with the official test set: not comparable" in lenet_pl("test", copy)[1]


def test_data_that_has_changed_is_an_error(lenet_pl, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    state = torch.load(copy / "checkpoints" / "best.ckpt")
    state["DigitsDataModule"]["digest"] = "another"
    torch.save(state, copy / "checkpoints" / "best.ckpt")
    status, out, err = lenet_pl("test", copy)
    assert (status, out) == (2, "")
    assert "has changed since" in err
    assert err.count("\n") == 1
    assert lenet_pl("test", copy, "--data", "mini")[0] == 0  # which does not read the run's data


def test_a_folder_of_images(lenet_pl, run, images):
    status, out, _ = lenet_pl("test", run, "--data", images, "--json")
    answer = json.loads(out)
    assert (status, answer["images"], answer["data"]) == (0, 40, "mine")
    assert answer["accuracy"] >= 0.9
    [cut] = images.rglob("cut.png")
    with pytest.raises(DataError) as error:
        open_image(cut, "cut.png")
    assert "image file is truncated" in str(error.value)
    name = cut.relative_to(images).as_posix()
    assert answer["notes"][0] == f"skipped {name}{str(error.value).removeprefix('cut.png')}"
    rows = read_csv(run / "predictions-mine.csv")
    assert all(Path(row["file"]).parts[0] == row["label"] for row in rows)
    (images / "ten").mkdir()
    status, out, err = lenet_pl("test", run, "--data", images)
    assert (status, out) == (2, "")
    assert "the network does not know ten; its classes are 0, 1" in err


def test_weights_of_the_tutorial_script_are_tested(lenet_pl, run, tmp_path):
    shutil.copy(run / "best.pth", tmp_path / "lenet_mnist_best.pth")
    arguments = ["lenet_mnist_best.pth", "--model", "lenet", "--data", "mini", "--json"]
    status, out, _ = lenet_pl("test", *arguments)
    net = TutorialLeNet().eval()
    net.load_state_dict(torch.load(tmp_path / "lenet_mnist_best.pth"))
    with torch.no_grad():
        correct = net(TEST.images / 255).argmax(1) == TEST.labels
    answer = json.loads(out)
    assert status == 0
    assert answer["accuracy"] == correct.double().mean().item()
    assert answer["predictions"] == "lenet_mnist_best-predictions-mini.csv"
    assert len(read_csv(tmp_path / answer["predictions"])) == 1000
    status, _, err = lenet_pl("test", "lenet_mnist_best.pth")
    assert status == 2
    assert "name the network of these weights: --model lenet" in err


def test_data_that_cannot_be_used(lenet_pl, run, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["--data", "nothing"], "neither a folder nor a data set; choose from mini, mnist"),
        (["--data", "empty"], "no image in a folder named after one of its classes"),
        (["--data", "mini", "--split", "val"], "mini has no official one; choose from test"),
    ]:
        status, out, err = lenet_pl("test", run, *arguments)
        assert (status, out) == (2, "")
        assert message in err


def test_predictions_that_cannot_be_written(lenet_pl, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "predictions.csv").unlink(missing_ok=True)
    (copy / "predictions.csv").mkdir()
    status, out, err = lenet_pl("test", copy)
    assert (status, out) == (2, "")
    assert f"error: {copy / 'predictions.csv'}: Is a directory" in err


# predict


def test_drawn_digits_are_recognised(lenet_pl, run, tmp_path):
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(draw_all(TEST.images[:100], seed=0)):
        image.save(tmp_path / "drawn" / f"{i:03}.png")
    status, out, err = lenet_pl("predict", run, "drawn", "--json")
    assert (status, err) == (0, "")
    predicted = torch.tensor([int(answer["prediction"]) for answer in json.loads(out)])
    assert (predicted == TEST.labels[:100]).double().mean() >= MIN_ACCURACY


def test_printed_predictions(lenet_pl, run, tmp_path):
    seven("L").save(tmp_path / "a [b].png")
    seven("RGBA").save(tmp_path / "b.png")
    status, out, err = lenet_pl("predict", run, "*.png", "a [b].png", "--show")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert "a [b].png" in lines[1]
    assert " 7 " in lines[1]
    assert lines[1].count("%") == 3
    assert err == f"preprocessed images: {run / 'seen.png'}\n"
    assert Image.open(run / "seen.png").size == (385, 250)  # side by side
    answers = json.loads(lenet_pl("predict", run, "b.png", "--json")[1])
    assert answers[0]["picture"] == "b.png"
    assert answers[0]["prediction"] == "7"
    assert list(answers[0]["probabilities"]) == list(MNIST.classes)
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)


def test_several_digits_are_refused_and_no_name_is_cut_in_a_pipe(lenet_pl, run, tmp_path):
    folder = tmp_path / ("long" * 20) / ("name" * 20)
    folder.mkdir(parents=True)
    page = handwriting.paper()
    for left, digit in ((60, 6), (300, 9)):
        handwriting.draw(page, handwriting.STROKES[digit], 140, left, 100)
    page.save(folder / "two.png")
    handwriting.draw(paper := handwriting.paper(), handwriting.STROKES[7], 220, 150, 120)
    paper.save(folder / "one.png")
    handwriting.paper().save(folder / "none.png")
    status, out, err = lenet_pl("predict", run, folder)
    assert status == 1
    assert str(folder.relative_to(tmp_path) / "one.png") in out
    several, none = (
        "contains several digits; crop it to one",
        "no digit found, only background",
    )
    assert err == f"error: {folder}/none.png: {none}\nerror: {folder}/two.png: {several}\n"
    answers = json.loads(lenet_pl("predict", run, folder, "--json")[1])
    assert answers[0]["prediction"] == "7"
    assert [answer["error"] for answer in answers[1:]] == [none, several]


def test_invert_is_passed_on(lenet_pl, run, tmp_path):
    seven("L").save(tmp_path / "dark.png")
    auto, yes, no = (
        json.loads(lenet_pl("predict", run, "dark.png", "--json", "--invert", choice)[1])[0]
        for choice in ("auto", "yes", "no")
    )
    assert auto == yes
    assert no != yes


def test_an_image_on_standard_input(lenet_pl, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png())))
    status, out, _ = lenet_pl("predict", run, "-", "--json")
    answer = json.loads(out)[0]
    assert (status, answer["picture"], answer["prediction"]) == (0, "-", "7")


def test_unreadable_images_are_reported_and_skipped(lenet_pl, run, tmp_path):
    expected = []
    for name, content in UNREADABLE.items():
        (tmp_path / name).write_bytes(content())
        with pytest.raises(DataError) as error:
            open_image(content(), name)
        expected.append(f"error: {error.value}")
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "nothing").mkdir()
    expected += ["error: none.png: no such file", "error: nothing: no image in this folder"]
    expected.append("error: no*.jpg: no such file")
    arguments = ["good.png", *UNREADABLE, "none.png", "nothing", "no*.jpg"]
    status, out, err = lenet_pl("predict", run, *arguments)
    assert status == 1
    assert "good.png" in out
    assert len(out.splitlines()) == 2
    lines = err.splitlines()
    assert lines == expected
    status, out, err = lenet_pl("predict", run, *arguments[1:])
    assert (status, out) == (2, "")
    assert err.splitlines() == lines
    answers = json.loads(lenet_pl("predict", run, *arguments, "--json")[1])
    assert [list(answer)[1] for answer in answers] == ["prediction"] + ["error"] * len(expected)


def test_hidden_files_and_folders_are_no_images(lenet_pl, run, tmp_path):
    for folder in ("mine/inner", "mine/__MACOSX", "mine/.cache"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(png())
    (tmp_path / "mine" / "._a.png").write_bytes(b"left by an archiver")
    status, out, err = lenet_pl("predict", run, "mine", "--json")
    assert (status, err) == (0, "")
    assert [answer["picture"] for answer in json.loads(out)] == ["mine/inner/a.png"]


def test_predicting_without_a_run(lenet_pl, tmp_path):
    (tmp_path / "good.png").write_bytes(png())
    status, out, err = lenet_pl("predict", "nowhere", "good.png")
    assert (status, out, err) == (2, "", "error: nowhere: no such folder\n")


def test_weights_of_the_tutorial_script_predict(lenet_pl, run, tmp_path):
    shutil.copy(run / "best.pth", tmp_path / "weights.pth")
    (tmp_path / "good.png").write_bytes(png())
    arguments = ["weights.pth", "good.png", "--model", "lenet", "--show"]
    status, out, err = lenet_pl("predict", *arguments)
    assert (status, err) == (0, "preprocessed images: weights-seen.png\n")
    assert (tmp_path / "weights-seen.png").is_file()
    assert "good.png" in out


def test_folder_that_was_deleted(tmp_path):
    script = "import os, sys; os.rmdir(os.getcwd()); sys.argv = ['lenet-pl', 'test', 'latest']"
    (tmp_path / "gone").mkdir()
    program = [sys.executable, "-c", f"{script}; {MAIN}"]
    done = subprocess.run(program, cwd=tmp_path / "gone", capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: current folder: No such file or directory\n"


@pytest.mark.parametrize(
    "words", ["evaluation test", "report report", "export export --format=html"]
)
def test_weights_that_compute_nan_are_an_error(lenet_pl, run, tmp_path, words):
    package, command, *options = words.split()
    pytest.importorskip(f"lenet_pl.{package}")
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    state = torch.load(copy / "checkpoints" / "best.ckpt", weights_only=True)
    state["state_dict"]["std"].fill_(0)  # finite, but divided by
    torch.save(state, copy / "checkpoints" / "best.ckpt")
    status, out, err = lenet_pl(command, copy, *options)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "outputs are NaN or infinite" in err


def test_predicting_imports_little_beside_torch(run, tmp_path):
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
def test_a_network_with_99_percent_recognises_drawn_digits(command, lenet_pl, tmp_path):
    root, run = tmp_path / "data", tmp_path / "run"
    overrides = ["optimizer.lr=0.02", "optimizer.nesterov=true", "data.batch_size=64"]
    overrides += ["trainer.max_epochs=6", f"data.root={root}", f"hydra.run.dir={run}"]
    done = command(*overrides)
    assert done.returncode == 0, done.stderr
    test = MNIST(str(root)).load().test
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(draw_all(test.images[:100], seed=1)):
        image.save(tmp_path / "drawn" / f"{i:03}.png")
    answers = json.loads(lenet_pl("predict", run, "drawn", "--json")[1])
    predicted = torch.tensor([int(answer["prediction"]) for answer in answers])
    assert (predicted == test.labels[:100]).sum() >= 97
