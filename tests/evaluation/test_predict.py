"""Predictions for images, which are preprocessed like the training images."""

import pytest
import torch
from PIL import Image

from lenet_pl.data.mnist import Mini
from lenet_pl.data.preprocess import preprocess
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evaluate import predict_other
from lenet_pl.evaluation.loading import open_model, preprocessing
from lenet_pl.evaluation.predict import predict_images
from lenet_pl.records import DATA_KEY

FOLDER = "lenet_pl.data.folder.Folder"


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
