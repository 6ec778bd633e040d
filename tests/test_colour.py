"""Colour images of another size, from the files to every tool."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluations import train_run
from helpers.runs import result
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lenet_pl.config import fit_to_data
from lenet_pl.errors import ConfigError
from lenet_pl.runs import open_run
from lenet_pl.training import build

COLOURS = {"blue": (60, 80, 200), "green": (60, 190, 70), "red": (210, 60, 60)}
COUNTS = {"blue": 60, "green": 40, "red": 20}
SHAPE = ["data=folder", "data.source.size=32", "data.source.channels=3", "data.batch_size=10"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy rectangles, which differ in colour only; the classes are unequal."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(COUNTS[name]):
            noisy = np.array(colour) + rng.normal(0, 25, (40, 56, 3))
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour") / "run"
    words = ["augment=[affine,elastic,erasing,noise,flip]", "trainer.max_epochs=4"]
    words.append("loss.class_weights=balanced")
    return train_run(folder, *SHAPE, f"data.root={pictures}", *words)


def test_training_in_colour(run):
    metrics, data = result(run)["metrics"], result(run)["data"]
    assert metrics["test/acc"] > 0.9
    assert len(data["mean"]) == len(data["std"]) == 3
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["DigitsDataModule"]["shape"] == [3, 32, 32]
    assert checkpoint["state_dict"]["mean"].shape == (3, 1, 1)
    opened = open_run(str(run))
    assert opened.loss().weight.tolist() == pytest.approx([84 / (3 * n) for n in (42, 28, 14)])
    network = opened.network()
    assert torch.equal(network.mean.flatten(), torch.tensor(data["mean"]))
    assert network.net.conv1.weight.shape == (6, 3, 5, 5)


@pytest.mark.parametrize("model", ["mlp", "lstm", "pretrained"])
def test_networks_adapt_to_the_images(composed, pictures, model):
    parts = build(composed(*SHAPE, f"data.root={pictures}", f"model={model}", "logger=none"))
    assert parts.classifier(parts.data.splits["val"].images[:2]).shape == (2, 3)
    given = [f"model={model}", "model.num_classes=4"]
    with pytest.raises(ConfigError, match=r"model.num_classes=4: the data has 3 classes"):
        build(composed(*SHAPE, f"data.root={pictures}", *given, "logger=none"))


def test_lenet_takes_two_sizes(composed, pictures):
    words = [*SHAPE, f"data.root={pictures}", "data.source.size=30"]
    with pytest.raises(ConfigError, match=r"model.size=30: LeNet takes 28 or 32"):
        build(composed(*words))


@pytest.mark.parametrize(
    ("normalise", "mean", "std"), [("scale", 0.0, 1.0), ("none", 0.0, 1 / 255)]
)
def test_normalisation_that_is_not_measured(composed, pictures, normalise, mean, std):
    parts = build(composed(*SHAPE, f"data.root={pictures}", f"data.normalise={normalise}"))
    assert (parts.data.mean, parts.data.std) == ([mean] * 3, [std] * 3)


def test_what_is_given_is_kept(composed):
    cfg = composed("model.num_classes=4", "model.channels=2", "loss.class_weights=balanced")
    data = {"classes": ["a", "b"], "shape": [3, 32, 32], "class_counts": [10, 30]}
    fitted = fit_to_data(cfg, data)
    assert (fitted.model.num_classes, fitted.model.channels, fitted.model.size) == (4, 2, 32)
    assert fitted.loss.class_weights == [2, 2 / 3]
    assert cfg.model.size is None
    with pytest.raises(ConfigError, match=r"model.size=null: the images are not square: 20 × 32"):
        fit_to_data(cfg, data | {"shape": [3, 20, 32]})
    cfg.loss.class_weights = [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match=r"loss.class_weights=\[1.0, 2.0, 3.0\]: .* 2 classes"):
        fit_to_data(cfg, data)


def test_tensorboard_shows_colour(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    for tag in ("plots/training images", "plots/weights of the first layer"):
        [event] = events.Images(tag)
        assert has_colour(Image.open(Path(tmp_file(run, event.encoded_image_string))))


def has_colour(image: Image.Image) -> bool:
    """Whether a fifth of the pixels are neither grey nor nearly so."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return bool((np.ptp(pixels, axis=2) > 30).mean() > 0.2)


def tmp_file(folder: Path, content: bytes) -> Path:
    path = folder / "shown.png"
    path.write_bytes(content)
    return path


def test_test_report_and_predict(lenet_pl, run, pictures, tmp_path):
    status, output, _ = lenet_pl("test", run, "--json")
    assert status == 0
    assert json.loads(output)["reported"]["same"]
    status, _, errors = lenet_pl("report", run)
    assert (status, errors) == (0, "")
    for name in ("uncertain", "filters"):
        assert has_colour(Image.open(run / "report" / f"{name}.png").convert("RGB"))
    Image.new("RGBA", (90, 60), (*COLOURS["green"], 255)).save(tmp_path / "plain.png")
    status, output, _ = lenet_pl("predict", run, tmp_path / "plain.png", "--json", "--show")
    assert status == 0
    assert json.loads(output)[0]["prediction"] == "green"
    status, _, errors = lenet_pl("test", run, "--data", "mini")
    assert status == 2
    assert "its classes are 0" in errors


def test_another_shape_of_the_same_classes_is_refused(lenet_pl, trained, monkeypatch):
    from lenet_pl.evaluation import evaluate

    class Large(evaluate.Mini):
        def load(self):
            raw = super().load()
            object.__setattr__(raw.train, "images", raw.train.images.expand(-1, 3, -1, -1))
            return raw

    monkeypatch.setattr(evaluate, "Mini", Large)
    status, _, errors = lenet_pl("test", trained, "--data", "mini")
    assert (status, errors) == (
        2,
        "error: --data mini: its images are 3 × 28 × 28, the network's 1 × 28 × 28\n",
    )


def test_exports(lenet_pl, run):
    for format in ("onnx", "torch"):
        status, output, _ = lenet_pl("export", run, "--format", format)
        assert (status, "the same for all of 12 test images" in output) == (0, True)
    status, _, errors = lenet_pl("export", run, "--format", "html")
    assert status == 2
    assert "needs square greyscale images, not 3 × 32 × 32" in errors
