"""Networks from runs and from bare weights, and their predictions for images."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.tutorial import TutorialLeNet
from PIL import Image

from lenet_pl.data.mnist import Mini
from lenet_pl.data.preprocess import preprocess
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import predict_other
from lenet_pl.evaluation.predict import open_model, output_path, predict_images, preprocessing
from lenet_pl.records import DATA_KEY

FOLDER = "lenet_pl.data.folder.Folder"


class Trap:
    """Touches a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_what_a_model_knows_of_itself(run, tmp_path):
    best, last = open_model(str(run)), open_model(str(run / "checkpoints" / "last.ckpt"))
    assert output_path(best, "a.csv") == run / "a.csv"
    assert output_path(last, "a.csv") == run / "last-a.csv"
    assert best.classes == tuple("0123456789")
    shutil.copy(run / "best.pth", tmp_path / "weights.pth")
    bare = open_model(str(tmp_path / "weights.pth"), "lenet")
    assert (bare.epoch, bare.classes) == (0, best.classes)
    assert output_path(bare, "a.csv") == tmp_path / "weights-a.csv"
    assert preprocessing(bare).keywords == preprocessing(best).keywords
    network = bare.network()
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(network(images), network.net(images / 255), atol=1e-6)
        in_run = open_model(str(run / "best.pth"), "lenet").network()
        assert torch.equal(in_run(images), best.network()(images))


def test_weights_that_cannot_be_used(lenet_pl, run, tmp_path):
    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "nothing.pth").touch()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "checkpoint.pth")
    torch.save(TutorialLeNet(), tmp_path / "module.pth")
    for name, message in [
        ("trap.pth", "unusable weights (save weights by torch.save(net.state_dict(), 'trap.pth'))"),
        ("trap.pth", "contains code, which is not run"),
        ("other.pth", "does not fit --model lenet"),
        ("list.pth", "must be a mapping"),
        ("nothing.pth", "not a valid torch.save file"),
        ("checkpoint.pth", "must be a tensor"),
        ("module.pth", "contains code, which is not run"),
        ("text.pth", "not a valid torch.save file"),
        ("none.pth", "no such file"),
        (run, "not a regular file"),
    ]:
        status, out, err = lenet_pl("test", name, "--model", "lenet")
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "sprung").exists()
    status, _, err = lenet_pl("test", "other.pth", "--model", "resnet")
    assert (status, "name the network of these weights: --model lenet" in err) == (2, True)


def test_runs_that_cannot_be_used(lenet_pl, run, tmp_path):
    shutil.copytree(run, tmp_path / "unfinished", ignore=shutil.ignore_patterns("*.ckpt"))
    trap = shutil.copytree(run, tmp_path / "trap")
    torch.save({"state_dict": Trap()}, trap / "checkpoints" / "best.ckpt")
    (tmp_path / "stray.ckpt").touch()
    for name, message in [
        ("nowhere", "no such folder"),
        ("nowhere.pth", "no such file"),
        ("latest", "outputs/runs holds no run"),
        ("stray.ckpt", "not a run folder"),
        ("unfinished", "no finished epoch"),
        ("trap", "contains code, which is not run"),
    ]:
        status, out, err = lenet_pl("test", name)
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("source", "invert_and_centre"),
    [
        ({"_target_": "lenet_pl.data.mnist.Mini"}, ("auto", "auto")),
        ({"_target_": "my_project.data.Letters"}, ("auto", "auto")),
        ({"_target_": "my_project.data.Letters", "centre": False}, ("auto", False)),
    ],
)
def test_preprocessing_needs_no_class_from_elsewhere(configured, source, invert_and_centre):
    options = preprocessing(open_model(str(configured(data__source=source)))).keywords
    assert (options["invert"], options["centre"]) == invert_and_centre


def test_a_source_that_does_not_exist(configured):
    model = open_model(str(configured(data__source={"_target_": "lenet_pl.data.mnist.Nothing"})))
    with pytest.raises(ConfigError, match=r"source._target_=lenet_pl.data.mnist.Nothing: "):
        preprocessing(model)


@pytest.mark.parametrize(
    ("source", "invert", "centre"),
    [
        ({"_target_": "lenet_pl.data.mnist.Mini"}, "auto", "auto"),
        ({"_target_": "lenet_pl.data.mnist.FashionMNIST"}, "auto", False),
        ({"_target_": FOLDER, "invert": False, "centre": "auto"}, False, "auto"),
        ({"_target_": FOLDER, "invert": True, "centre": False}, True, False),
    ],
)
def test_images_are_preprocessed_like_the_training_images(
    configured, tmp_path, source, invert, centre
):
    """The same by ``test --data FOLDER`` and ``predict``, unless ``--invert`` is given."""
    file = tmp_path / "mine" / "7" / "0.png"
    file.parent.mkdir(parents=True)
    image = Image.fromarray(Mini().load().test.images[0, 0].numpy()).resize((60, 90))
    image.save(file)
    model = open_model(str(configured(data__source=source)))
    expected = preprocess(image, invert=invert, centre=centre)
    tested = predict_other(model, str(file.parents[1]), "", "")
    assert torch.equal(tested.images[0], expected)
    assert torch.equal(predict_images(model, [str(file)])[0][str(file)], expected)
    given = predict_images(model, [str(file)], False)[0][str(file)]
    assert torch.equal(given, preprocess(image, invert=False, centre=centre))


@pytest.mark.parametrize("shape", [[3, 32, 32], [1, 20, 20]])
def test_images_get_the_shape_of_the_training_images(run, shape):
    model = open_model(str(run))
    model.state[DATA_KEY]["shape"] = shape
    image = Image.fromarray(Mini().load().test.images[0, 0].numpy()).resize((60, 90))
    pixels = preprocessing(model)(image)
    assert list(pixels.shape) == shape
    expected = preprocess(image, size=shape[1], channels=shape[0], centre="auto")
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize(
    ("shape", "invert", "message"),
    [
        ([3, 32, 32], True, "--invert yes: the network takes images in colour, which are not inv"),
        ([4, 32, 32], None, "images cannot be converted to its 4 × 32 × 32"),
        ([1, 28, 20], None, "images cannot be converted to its 1 × 28 × 20"),
    ],
)
def test_shapes_and_options_that_do_not_go_together(run, shape, invert, message):
    model = open_model(str(run))
    model.state[DATA_KEY]["shape"] = shape
    with pytest.raises(ConfigError, match=message):
        predict_images(model, ["a.png"], invert)


def test_each_image_is_predicted_once_in_the_order_of_the_arguments(run, tmp_path):
    images = Mini().load().test.images
    for i in range(3):
        Image.fromarray(images[i, 0].numpy()).save(tmp_path / f"{2 - i}.png")
    model = open_model(str(run))
    names = [str(tmp_path / name) for name in ("2.png", "*.png", "", "1.png")]
    found, probabilities, failed = predict_images(model, names)
    assert failed == {}
    assert list(found) == [str(tmp_path / name) for name in ("2.png", "0.png", "1.png")]
    with torch.inference_mode():
        expected = model.network()(images[[0, 2, 1]]).double().softmax(1)
    assert torch.allclose(probabilities, expected)
