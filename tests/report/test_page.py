"""The page about a real run: its content, its figures and what it must not do."""

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluations import train_run, with_files
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lenet_pl.console import percent
from lenet_pl.evaluation import evaluate
from lenet_pl.evaluation.evaluate import RunEvaluation, evaluate_run
from lenet_pl.metrics import negative_log_likelihood
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.report import page
from lenet_pl.report.compare import write_comparison
from lenet_pl.report.diagnosis import diagnose
from lenet_pl.runs import open_run


def test_balanced_accuracy_of_unequal_classes_and_a_class_without_images(
    first, copied, undrawn, html
):
    assert "balanced accuracy" not in html  # all classes have 100 test images
    labels = first.val.labels
    keep = (labels < 9) & ((labels > 0) | (torch.arange(len(labels)) % 2 == 0))
    tensors = {
        name: getattr(first.val, name)[keep] for name in ("images", "labels", "indices", "logits")
    }
    run, val = replace(first.run, folder=copied), replace(first.val, **tensors)
    written = page.write_report(replace(first, run=run, val=val, test=None))
    text = Path(written["path"]).read_text(encoding="utf-8")
    recalls = [(val.predicted[val.labels == i] == i).double().mean().item() for i in range(9)]
    assert f"<dt>balanced accuracy</dt><dd>{percent(sum(recalls) / 9)} <small>" in text
    note = "Validation: no images of 9: not tested, and left out of balanced accuracy."
    assert note in text


@pytest.fixture(scope="module")
def html(first: RunEvaluation) -> str:
    """The page of the tested run."""
    return Path(page.write_report(first)["path"]).read_text(encoding="utf-8")


def test_page_shows_the_results(first, tested, html):
    metrics = json.loads((tested / "result.json").read_text())["metrics"]
    for key in ("test/acc", "test/acc_low", "test/acc_high", "val/acc"):
        assert percent(metrics[key]) in html
    assert f"{negative_log_likelihood(first.shown.logits, first.shown.labels):.4f}" == (
        f"{metrics['test/loss']:.4f}"
    )
    assert "the epoch with the best validation accuracy." in html
    for finding in diagnose(first):
        assert finding.title in html
    names = {file.stem for file in (tested / "report").glob("*.png")}
    assert names >= {
        "curves-loss",
        "curves-accuracy",
        "confusion",
        "reliability",
        "mistakes",
        "uncertain",
        "filters",
        "features-1",
        "features-2",
        "saliency",
    }
    # the most confident error, with its index in the test file
    wrong = (first.shown.predicted != first.shown.labels).nonzero().flatten()
    confidence = first.shown.logits.softmax(1).amax(1)
    assert f"image {wrong[confidence[wrong].argmax()]}<" in html
    for name in range(10):  # precision and recall, counted again
        pairs = list(zip(first.shown.labels.tolist(), first.shown.predicted.tolist(), strict=True))
        hits = pairs.count((name, name))
        predicted = sum(prediction == name for _, prediction in pairs)
        row = f"<td>{name}</td><td>{percent(hits / predicted)}</td><td>{percent(hits / 100)}</td>"
        assert row in html
    assert len(html) < 2_000_000


def test_page_is_self_contained(html):
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


@pytest.mark.usefixtures("undrawn")
def test_class_names_are_escaped(first, copied):
    name = "<script>alert(1)</script>"
    state = {**first.run.state, "DigitsDataModule": {**first.run.state["DigitsDataModule"]}}
    state["DigitsDataModule"]["classes"] = [name, *"123456789"]
    evaluation = replace(first, run=replace(first.run, state=state, folder=copied))
    html = Path(page.write_report(evaluation)["path"]).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    path = Path(write_comparison([evaluation, first])["path"])
    assert "<script" not in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_a_report_does_not_test_an_untested_run(untested, monkeypatch):
    predicted = []
    predict = evaluate.predict

    def spy(run, network, images):
        predicted.append(images)
        return predict(run, network, images)

    monkeypatch.setattr(evaluate, "predict", spy)
    evaluation = evaluate_run(open_run(str(untested)))
    test = evaluation.data.splits["test"].images
    assert len(predicted) == 2
    assert not any(torch.equal(images, test) for images in predicted)
    assert evaluation.test is None
    assert evaluation.shown.split == "val"
    html = Path(page.write_report(evaluation)["path"]).read_text(encoding="utf-8")
    result = json.loads((untested / "result.json").read_text())
    assert "These weights were not tested" in html
    assert percent(result["metrics"]["val/acc"]) in html
    assert not list(untested.glob("events.*"))  # it has no TensorBoard log, and gets none


def test_other_weights_of_a_tested_run_are_not_tested(first):
    run = replace(first.run, state={**first.run.state, "epoch": first.run.state["epoch"] - 1})
    assert first.test is not None
    assert evaluate_run(run, first.data).test is None


@pytest.mark.usefixtures("undrawn")
def test_tensorboard_has_the_figures_once(first, tested):
    for _ in range(2):
        page.write_report(first)
    files = [path.name for path in tested.glob("events.*") if path.name.endswith(page.SUFFIX)]
    assert len(files) == 1
    events = EventAccumulator(str(tested), {"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("report/")]
    assert {"report/confusion", "report/mistakes", "report/saliency"} <= set(tags)
    assert all(len(events.Images(tag)) == 1 for tag in tags)
    assert events.Images("report/confusion")[0].step == first.run.epoch
    assert "plots/confusion" in events.Tags()["images"]  # what training wrote is still there


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_is_reported_with_its_error(first, copied):
    result = {**first.run.result, "status": "failed", "error": "train/loss is nan in epoch 3"}
    evaluation = replace(first, run=replace(first.run, result=result, folder=copied))
    answer = page.write_report(evaluation)
    assert [finding["overrides"] for finding in answer["findings"]] == [("optimizer.lr=0.005",)]
    html = Path(answer["path"]).read_text(encoding="utf-8")
    assert "The run is failed: train/loss is nan in epoch 3" in html


@pytest.mark.usefixtures("undrawn")
def test_figures_of_an_earlier_report_are_removed(first, copied):
    folder = copied / "report"
    for old in (folder / "learning-rate.png", folder / "against-other" / "confusion-first.png"):
        old.parent.mkdir(parents=True, exist_ok=True)
        old.touch()
    page.write_report(replace(first, run=replace(first.run, folder=copied)))
    assert (folder / "confusion.png").is_file()
    assert not (folder / "learning-rate.png").exists()  # the learning rate is constant
    assert (folder / "against-other" / "confusion-first.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_network_without_convolutions(first, copied):
    network = PixelNet(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).eval()
    evaluation = replace(first, network=network)
    errors = (~first.shown.correct).nonzero().flatten()[:3]
    assert set(page.explain(evaluation, errors)) == {"saliency"}
    assert page.explain(evaluation, errors[:0]) == {}
    logits = 9 * torch.eye(10)[first.val.labels]  # all correct
    run, val = replace(first.run, folder=copied), replace(first.val, logits=logits)
    evaluation = replace(evaluation, run=run, val=val, test=None)
    html = Path(page.write_report(evaluation)["path"]).read_text(encoding="utf-8")
    assert "Filters of the first convolution" not in html
    assert "There are none." in html


def test_colour_images_from_files(first):
    network = PixelNet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 10))).eval()
    images = torch.randint(0, 256, (1000, 3, 12, 12), dtype=torch.uint8)
    with torch.no_grad():
        logits = network(images)
    shown = with_files(replace(first.val, images=images, logits=logits))
    evaluation = replace(first, network=network, val=shown, test=None)
    errors = (~shown.correct).nonzero().flatten()[:3]
    assert set(page.explain(evaluation, errors)) == {"filters", "features-1", "saliency"}
    cards = page.image_cards(shown, tuple("0123456789"), errors)
    assert [card["id"] for card in cards] == [f"{n}.png" for n in errors.tolist()]


def test_cells_have_their_images_once_in_order_of_interest(first, monkeypatch):
    shown, classes = first.shown, first.run.classes
    confidence = shown.logits.softmax(1).amax(1)
    cells = page.cell_cards(shown, classes)
    pairs = list(zip(shown.labels.tolist(), shown.predicted.tolist(), strict=True))
    assert cells.keys() == set(pairs)
    for (label, predicted), cards in cells.items():
        members = [i for i, pair in enumerate(pairs) if pair == (label, predicted)]
        assert len(cards) == min(len(members), page.CELL_IMAGES)
        sign = 1 if label == predicted else -1
        expected = sorted(members, key=lambda i, sign=sign: sign * confidence[i].item())
        assert [card["id"] for card in cards] == [f"image {i}" for i in expected[: len(cards)]]
    monkeypatch.setattr(page, "CELL_BYTES", 10 * 400)  # an image has about 300 bytes
    encoded, thumbnail = [], page.thumbnail
    monkeypatch.setattr(page, "thumbnail", lambda x: encoded.append(x) or thumbnail(x))
    fewer = page.cell_cards(shown, classes)
    assert len(encoded) == sum(map(len, fewer.values())) + 1  # the one that exceeds the limit
    assert sum(len(card["png"]) for cards in fewer.values() for card in cards) <= 10 * 400
    assert sum(map(len, fewer.values())) >= 10
    assert all(len(fewer[i, i]) in (1, 2) for i in range(10))  # the large cells come first


def test_large_images_are_reduced():
    file = BytesIO(page.thumbnail(torch.zeros(3, 300, 150, dtype=torch.uint8)))
    assert Image.open(file).size == (72, 144)


def test_thumbnails_keep_every_pixel():
    grey = torch.randint(0, 256, (1, 9, 7), dtype=torch.uint8)
    colour = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    for image, shown in ((grey, 255 - grey[0]), (colour, colour.permute(1, 2, 0))):
        file = BytesIO(page.thumbnail(image))
        assert np.array_equal(np.asarray(Image.open(file)), shown.numpy())


def test_half_precision_predictions_equal_those_of_training(tmp_path):
    overrides = ["trainer.precision=bf16-mixed", "trainer.max_epochs=1", "logger=none"]
    run = open_run(str(train_run(tmp_path / "run", *overrides, "data.fraction=0.1")))
    shown, metrics = evaluate_run(run).val, run.result["metrics"]
    assert run.loss()(shown.logits, shown.labels).item() == metrics["val/loss"]
    assert shown.accuracy.value == metrics["val/acc"]
