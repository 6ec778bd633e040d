"""Reports on real runs: what the page says, what it holds, what it refuses."""

import base64
import json
import re
import shutil
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import ROOT
from helpers.runs import FAST
from hydra import compose, initialize_config_dir
from lenet_pl.report.findings import find
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lenet_pl import cli, plots
from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation import evidence
from lenet_pl.evaluation.evaluate import RunEvaluation, evaluate_run
from lenet_pl.metrics import negative_log_likelihood
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.report import compare, page
from lenet_pl.report import explain as inside
from lenet_pl.report import images as album
from lenet_pl.report import summary as report
from lenet_pl.runs import open_run
from lenet_pl.training import train

BLANK = base64.b64decode(page.thumbnail(torch.zeros(1, 9, 9, dtype=torch.uint8)).split(",")[1])


def make_run(folder: Path, *overrides: str) -> Path:
    """A run as the command line leaves it, in this process."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", [f"run_dir={folder}", *FAST, *overrides])
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save([*FAST, *overrides], folder / ".hydra" / "overrides.yaml")
    train(cfg)
    return folder


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tested", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def untested(tmp_path_factory) -> Path:
    """As a job of a sweep is: never tested; without TensorBoard."""
    words = ["trainer.max_epochs=1", "seed=1", "test=false", "logger=none"]
    return make_run(tmp_path_factory.mktemp("runs") / "untested", *words)


@pytest.fixture(scope="module")
def first(tested) -> RunEvaluation:
    return evaluate_run(open_run(str(tested)))


@pytest.fixture(scope="module")
def second(untested, first) -> RunEvaluation:
    return evaluate_run(open_run(str(untested)), first.data)


@pytest.fixture(scope="module")
def written(first) -> str:
    """The page on the tested run."""
    return report.write_report(first)[0].read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Charts are made, but not drawn, which takes most of a report's time."""
    monkeypatch.setattr(plots, "png", lambda figure: BLANK)


@pytest.fixture
def copied(tested, tmp_path) -> Path:
    return Path(shutil.copytree(tested, tmp_path / "copy"))


def ask(monkeypatch, *words: str) -> int:
    """``lenet-pl report WORDS`` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "report", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_the_command_answers_people_and_programs(monkeypatch, capsys, tested, undrawn):
    assert ask(monkeypatch, str(tested)) == 0
    said = capsys.readouterr().out
    assert ask(monkeypatch, str(tested), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    result = json.loads((tested / "result.json").read_text())
    assert answer["path"] == str(tested / "report" / "index.html")
    assert (answer["split"], answer["accuracy"]) == ("test", result["metrics"]["test/acc"])
    for finding in answer["findings"]:
        for key in ("title", "evidence", "command"):
            assert finding[key] in said
    assert said.endswith(f"report  {answer['path']}\n")
    # two epochs are not enough, and it says so
    assert f"lenet-pl train resume={tested} trainer.max_epochs=4" in said


def test_the_page(first, tested, written):
    html = written
    result = json.loads((tested / "result.json").read_text())
    metrics = result["metrics"]
    for key in ("test/acc", "test/acc_low", "test/acc_high", "val/acc"):
        assert percent(metrics[key]) in html
    assert f"{negative_log_likelihood(first.shown.logits, first.shown.labels):.4f}" == (
        f"{metrics['test/loss']:.4f}"
    )
    for finding in find(first.figures()):
        assert finding.title in html
    names = {file.stem for file in (tested / "report").glob("*.png")}
    assert names >= {
        "curves-loss",
        "curves-accuracy",
        "confusion",
        "confusion-shares",
        "reliability",
        "pairs",
        "mistakes",
        "uncertain",
        "filters",
        "features-1",
        "features-2",
        "saliency",
    }
    # the surest mistakes with their places in the test file
    wrong = (first.shown.predicted != first.shown.labels).nonzero().flatten()
    sure = first.shown.logits.softmax(1).amax(1)
    assert f"image {wrong[sure[wrong].argmax()]}<" in html
    for name in range(10):  # precision and recall, counted again
        pairs = list(zip(first.shown.labels.tolist(), first.shown.predicted.tolist(), strict=True))
        hits = pairs.count((name, name))
        taken = sum(guess == name for _, guess in pairs)
        row = f"<td>{name}</td><td>{percent(hits / taken)}</td><td>{percent(hits / 100)}</td>"
        assert row in html
    assert len(html) < 2_000_000


def test_the_page_needs_nothing_but_itself(written):
    html = written
    assert "<script" not in html
    assert "http:" not in html
    assert "https:" not in html
    addresses = re.findall(r"(?:src|href)=\"([^\"]{0,40})", html)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in html
    assert "@import" not in html
    targets = {address[1:] for address in addresses if address.startswith("#")}
    assert targets <= set(re.findall(r" id=\"([^\"]+)\"", html))


def test_names_of_classes_are_escaped(first, copied, undrawn):
    name = "<script>alert(1)</script>"
    state = {**first.run.state, "DigitsDataModule": {**first.run.state["DigitsDataModule"]}}
    state["DigitsDataModule"]["classes"] = [name, *"123456789"]
    run = replace(first.run, state=state, folder=copied)
    html = report.write_report(replace(first, run=run))[0].read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    path, *_ = compare.write_comparison(replace(first, run=run), first)
    assert "<script" not in path.read_text(encoding="utf-8")


def test_a_run_that_was_not_tested_is_not_tested_by_its_report(untested, monkeypatch, undrawn):
    seen = []

    def watch(run, network, images):
        seen.append(images)
        return predict(run, network, images)

    predict = evidence.predict
    monkeypatch.setattr(evidence, "predict", watch)
    found = evaluate_run(open_run(str(untested)))
    test = found.data.splits["test"].images
    assert len(seen) == 2
    assert not any(torch.equal(images, test) for images in seen)
    assert found.test is None
    assert found.shown.split == "val"
    html = report.write_report(found)[0].read_text(encoding="utf-8")
    result = json.loads((untested / "result.json").read_text())
    assert "These weights were not tested" in html
    assert percent(result["metrics"]["val/acc"]) in html
    assert not list(untested.glob("events.*"))  # it has no TensorBoard, and gets none


def test_other_weights_of_a_tested_run_are_not_tested(first):
    run = replace(first.run, state={**first.run.state, "epoch": first.run.state["epoch"] - 1})
    assert first.test is not None
    assert evaluate_run(run, first.data).test is None


def test_tensorboard_has_the_pictures_once(first, tested, undrawn):
    for _ in range(2):
        report.write_report(first)
    files = [path.name for path in tested.glob("events.*") if path.name.endswith(page.SUFFIX)]
    assert len(files) == 1
    events = EventAccumulator(str(tested), {"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("report/")]
    assert {"report/confusion", "report/mistakes", "report/saliency"} <= set(tags)
    assert all(len(events.Images(tag)) == 1 for tag in tags)
    assert events.Images("report/confusion")[0].step == first.epoch
    assert "val/confusion" in events.Tags()["images"]  # what training wrote is still there


def test_two_runs_side_by_side(first, second, monkeypatch, capsys, tested, untested, undrawn):
    assert ask(monkeypatch, str(tested), str(untested), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    right = [(run.val.logits.argmax(1) == run.val.labels).tolist() for run in (first, second)]
    pairs = list(zip(*right, strict=True))
    assert answer["only_first"] == pairs.count((True, False))
    assert answer["only_second"] == pairs.count((False, True))
    assert answer["both"] == pairs.count((True, True))
    assert sum(answer[key] for key in ("both", "only_first", "only_second", "neither")) == 1000
    html = Path(answer["path"]).read_text(encoding="utf-8")
    assert "At least one of the two was not tested" in html  # so validation is compared
    shown = set(re.findall(r"<td><code>([^<]+)</code></td><td>([^<]+)</td><td>([^<]+)</td>", html))
    assert {
        ("seed", "0", "1"),
        ("test", "True", "False"),
        ("trainer.max_epochs", "2", "1"),
    } <= shown
    assert not any(key.startswith(("data.", "optimizer.")) for key, *_ in shown)
    assert answer["verdict"] in html


def test_runs_on_other_images_are_not_compared(first, second):
    other = replace(second.val, images=second.val.images.flip(0))
    with pytest.raises(ConfigError, match="their validation images are not the same"):
        compare.write_comparison(first, replace(second, val=other))


def test_a_verdict_needs_evidence():
    def said(only_first: int, only_second: int, p: float) -> str:
        counts = compare.Disagreement(900, only_first, only_second, 10, p)
        return compare.verdict(counts, ("A", "B"))

    assert said(30, 10, 0.002) == "A is better than B, beyond chance (p = 0.002)."
    assert said(10, 30, 0.00002) == "B is better than A, beyond chance (p = 2.0e-05)."
    assert said(12, 10, 0.83).startswith("A is right more often, but it may be chance (p = 0.830)")
    assert said(5, 5, 1.0) == "Both are right equally often."


def damage(run: Path, what: str) -> None:
    if what == "curves":
        (run / "metrics.csv").unlink()
    elif what == "epoch":
        shutil.rmtree(run / "checkpoints")
    elif what == "code":
        torch.save({"state_dict": Path.touch}, run / "checkpoints" / "best.ckpt")
    elif what == "data":
        state = torch.load(run / "checkpoints" / "best.ckpt")
        state["DigitsDataModule"]["digest"] = "0" * 64
        torch.save(state, run / "checkpoints" / "best.ckpt")
    elif what == "place":
        (run / "report").touch()
    elif what == "all":
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("all", "there is no such folder"),
        ("epoch", "no finished epoch"),
        ("code", "with code inside, which is not run"),
        ("curves", "metrics.csv: missing or damaged"),
        ("data", "the data are not those of the run (another digest): mini in data.root=None"),
        ("place", "cannot write there"),
    ],
)
def test_what_cannot_be_reported_on(copied, monkeypatch, capsys, what, told, undrawn):
    shutil.rmtree(copied / "report", ignore_errors=True)
    damage(copied, what)
    assert ask(monkeypatch, str(copied)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (copied / "report" / "index.html").exists()


def test_paths_that_are_no_run(tested, tmp_path, monkeypatch, capsys):
    shutil.copy(tested / "best.pth", tmp_path / "weights.pth")
    for job in ("0", "1", "10"):
        (tmp_path / "sweep" / job / ".hydra").mkdir(parents=True)
    for words, told in (
        (
            ["weights.pth"],
            "bare weights have no run; test and predict take them with --model lenet",
        ),
        (["sweep"], "a sweep; its jobs are 0/ to 10/; name one"),
        (["nowhere"], "there is no such folder"),
    ):
        path = tmp_path / words[0]
        assert ask(monkeypatch, str(path)) == 2
        assert capsys.readouterr().err == f"error: {path}: {told}\n"
    assert ask(monkeypatch, str(tested), f"{tested}/") == 2
    assert capsys.readouterr().err == (
        f"error: {tested} and {tested}/ are the same run: name two\n"
    )


def test_differences_are_of_what_is_shown(first):
    def row(one: float, two: float) -> tuple[str, ...]:
        runs = [replace(first, rows=[{**first.rows[0], "seconds": value}]) for value in (one, two)]
        return compare.table(*runs, first.shown, first.shown)[-1]

    assert row(9.6, 4.4) == ("seconds of training", "10", "4", "-6")
    assert row(10.4, 9.6) == ("seconds of training", "10", "10", "0")


def test_a_part_that_one_run_has_not_is_one_row():
    stopping = {"_target_": "a.b.EarlyStopping", "patience": 5, "monitor": "val/loss"}
    here = {"callbacks": {"stop": stopping}, "scheduler": {}, "lr": 0.1}
    there = {"callbacks": {"stop": None}, "scheduler": {"_target_": "a.Cosine", "t": 1}, "lr": 0.1}
    less = {"callbacks": {}, "scheduler": {}, "lr": 0.2}
    one, two, three = map(OmegaConf.create, (here, there, less))
    assert compare.differences(one, two) == [
        ("callbacks.stop", "EarlyStopping", "none"),
        ("scheduler", "none", "Cosine"),
    ]
    assert ("callbacks.stop", "EarlyStopping", "none") in compare.differences(one, three)
    other = OmegaConf.create({**here, "callbacks": {"stop": {**stopping, "patience": 6}}})
    assert compare.differences(one, other) == [("callbacks.stop.patience", "5", "6")]


@pytest.mark.parametrize("metric", ["loss", "acc"])
def test_curves_hold_every_point_and_the_legend_hides_none(first, metric):
    values = [0.1, 0.9, 0.98, 0.99, 0.992, 0.993]
    names = ("train/loss", "val/loss", "train/acc", "val/acc")
    rows = [{"epoch": n, **dict.fromkeys(names, value)} for n, value in enumerate(values, 1)]
    for runs in ({"run": (rows, 6)}, {"A": (rows, 6), "B": (rows, 5)}):
        figure = plots.curves(runs, metric)
        figure.canvas.draw()
        [axes] = figure.axes
        low, high = axes.get_ylim()
        assert low <= 0.1
        assert high >= 0.993
        legend = axes.get_legend()
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
        for text in axes.texts:
            assert not legend.get_window_extent().overlaps(text.get_window_extent())


def test_a_run_that_failed_is_reported_on_and_told_why(first, copied, undrawn):
    result = {**first.run.result, "status": "failed", "error": "train/loss is nan in epoch 3"}
    found = replace(first, run=replace(first.run, result=result, folder=copied))
    path, findings = report.write_report(found)
    assert [finding.overrides for finding in findings] == [("optimizer.lr=0.005",)]
    assert "The run is failed: train/loss is nan in epoch 3" in path.read_text(encoding="utf-8")


def test_a_network_without_convolutions(first):
    network = PixelNet(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).eval()
    wrong = (~first.shown.correct).nonzero().flatten()[:3]
    assert set(album.look_inside(replace(first, network=network), wrong)) == {"saliency"}
    assert album.look_inside(replace(first, network=network), wrong[:0]) == {}
    html = page.render(
        "report.html.j2",
        report.summary(first)
        | {"figures": {}, "findings": [], "train": first.train}
        | {"mistakes": [], "uncertain": [], "pairs": []},
    )
    assert "Filters of the first convolution" not in html
    assert "There are none." in html


def test_feature_maps_are_what_the_convolutions_put_out():
    network = PixelNet(LeNet(), 0.13, 0.31).eval()
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    one, two = inside.feature_maps(network, images)
    net = network.net
    with torch.no_grad():
        expected = net.conv1((images / 255 - 0.13) / 0.31)
        assert torch.allclose(one, expected, atol=1e-6)
        assert torch.allclose(two, net.conv2(net.pool1(expected.relu())), atol=1e-5)
    assert (one.shape, two.shape) == ((3, 6, 28, 28), (3, 16, 10, 10))


def test_saliency_of_a_linear_network_is_its_weights():
    linear = nn.Linear(784, 10)
    network = PixelNet(nn.Sequential(nn.Flatten(), linear), 0.5, 0.25).eval()
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    found = inside.saliency(network, images, torch.tensor([3, 4]), torch.tensor([5, 6]))
    difference = (linear.weight[[3, 4]] - linear.weight[[5, 6]]).detach().reshape(
        2, 1, 28, 28
    ) / 0.25
    neighbourhood = difference[..., 10:13, 4:7].mean((1, 2, 3))  # a pixel and the eight around it
    assert torch.allclose(found[:, 0, 11, 5], neighbourhood, atol=1e-5)


def test_the_best_epoch_is_marked(first):
    figure = plots.curves({"run": (first.rows, first.epoch)}, "acc")
    [axes] = figure.axes
    row = first.rows[first.epoch - 1]
    drawn = [tuple(map(tuple, line.get_xydata())) for line in axes.lines]
    assert ((row["epoch"], row["val/acc"]),) in drawn
    assert axes.texts[0].get_text() == f"best, epoch {first.epoch}"


def test_the_least_certain_are_right(first):
    chosen = album.least_certain(first.shown, 5)
    sure = first.shown.logits.softmax(1).amax(1)
    assert first.shown.correct[chosen].all()
    assert sure[chosen].max() <= sure[first.shown.correct].sort().values[5]


def test_thumbnails_keep_every_pixel():
    grey = torch.randint(0, 256, (1, 9, 7), dtype=torch.uint8)
    colours = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    for image, shown in ((grey, 255 - grey[0]), (colours, colours.permute(1, 2, 0))):
        file = base64.b64decode(page.thumbnail(image).removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(BytesIO(file))), shown.numpy())


def test_pictures_in_colour_can_be_looked_into(first):
    network = PixelNet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 10))).eval()
    images = torch.randint(0, 256, (1000, 3, 12, 12), dtype=torch.uint8)
    with torch.no_grad():
        logits = network(images)
    shown = replace(first.val, images=images, logits=logits)
    found = replace(first, network=network, val=shown, test=None)
    wrong = (~shown.correct).nonzero().flatten()[:3]
    assert set(album.look_inside(found, wrong)) == {"filters", "features-1", "saliency"}
    shown = replace(shown, files=[f"{n}.png" for n in range(1000)])
    described = album.describe(shown, "0123456789", wrong)
    assert [picture["place"] for picture in described] == [f"{n}.png" for n in wrong.tolist()]


def test_a_run_in_half_precision_is_shown_as_it_was_tested(tmp_path):
    words = ["trainer.precision=bf16-mixed", "trainer.max_epochs=1", "logger=none"]
    run = open_run(str(make_run(tmp_path / "run", *words, "data.fraction=0.1")))
    shown, metrics = evaluate_run(run).val, run.result["metrics"]
    assert run.loss()(shown.logits, shown.labels).item() == metrics["val/loss"]
    assert shown.accuracy.value == metrics["val/acc"]
