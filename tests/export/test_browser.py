"""The web page: its script in Node.js, and the page itself in a browser."""

import base64
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.commands import ROOT
from helpers.programs import require
from playwright.sync_api import expect
from torch import nn

from lenet_pl.errors import ConfigError
from lenet_pl.export import browser
from lenet_pl.export.browser import load_html, trace, write_html
from lenet_pl.export.export import export
from lenet_pl.models.lstm import LSTM
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.runs import open_run

CLASSES = ["</script><b>0", *"123456789"]  # the name of a folder may contain anything


class Recurrent(nn.Module):
    """A two-layer LSTM whose final states are used as ``model=lstm`` uses them."""

    def __init__(self, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(28, 8, 2, batch_first=True, bidirectional=bidirectional)
        self.directions = 2 if bidirectional else 1
        self.fc = nn.Linear(8 * self.directions, 10)

    def forward(self, x):
        sequence, (states, _) = self.lstm(x.squeeze(1))
        last = torch.cat([*states[-self.directions :]], dim=1)
        return self.fc(last + sequence[:, 13])


class Concatenated(nn.Module):
    """Slices and concatenations along the axes of an image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.fc = nn.Linear(3 * 26 * 30, 10)

    def forward(self, x):
        x = self.conv(x)  # [N, 3, 26, 26]
        x = torch.cat([x[:, -1:], x[:, :2].relu()], dim=1)
        return self.fc(torch.cat([x, x[..., 4:8]], dim=-1).flatten(1))


def edited() -> nn.Module:
    """A LeNet with many changes."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 5), padding="same"),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 12),
        nn.SiLU(),
        nn.Linear(12, 10),
    )


def recurrent() -> nn.Module:
    return Recurrent(bidirectional=False)


def bidirectional() -> nn.Module:
    return Recurrent(bidirectional=True)


def lstm() -> nn.Module:
    """The network of ``model=lstm``."""
    return LSTM(8, 2, bidirectional=True, dropout=0.2, num_classes=10, channels=1, size=28)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Sigmoid(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    "build", [edited, perceptron, bidirectional, recurrent, lstm, Concatenated]
)
def test_script_computes_the_probabilities_of_pytorch(build, test_split):
    require("node")
    torch.manual_seed(0)
    net = build()
    net.train()(torch.randn(64, 1, 28, 28))  # updates the statistics of a batch norm
    net.eval()
    images = test_split.images[::50]
    with torch.no_grad():
        expected = net(images / 255 - 0.5).softmax(1)
    steps, weights = trace(net, torch.zeros(1, 1, 28, 28))
    spec = {"classes": [*"0123456789"], "mean": 0.5, "std": 1.0, "side": 28, "steps": steps}
    encoded = base64.b64encode(weights.tobytes()).decode()
    script = (ROOT / "src/lenet_pl/export/templates/network.js").read_text()
    page = (
        f'<script id="network">{json.dumps(spec)}</script>'
        f'<script id="weights">{encoded}</script><script>{script}</script>'
    )
    _, classify = load_html(page.encode())
    assert (classify(images) - expected).abs().max() < 1e-5


class Sine(nn.Module):
    def forward(self, x):
        return x.flatten(1).sin()[:, :10]


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(2, 3).flatten(1)[:, :10]


class InPlace(nn.Module):
    def forward(self, x):
        y = x.sigmoid()
        y.view(1, -1).relu_()
        return y.flatten(1)[:, :10]


class Batched(nn.Module):
    """Applies a module to parts of an image, or to an image without a batch."""

    def __init__(self, module, *shape):
        super().__init__()
        self.module, self.shape = module, shape

    def forward(self, x):
        y = self.module(x.reshape(self.shape))
        return (y[0] if isinstance(y, tuple) else y).reshape(1, -1)


class DataDependent(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] if x.sum() > 0 else x.flatten(1)[:, 10:20]


@pytest.mark.parametrize(
    "net",
    [
        *(Sine(), Transposed(), InPlace(), DataDependent()),
        *(Batched(nn.Conv2d(1, 2, 3), 4, 1, 14, 14), Batched(nn.Conv2d(1, 2, 3), 1, 28, 28)),
        *(Batched(nn.MaxPool2d(2), 4, 14, 14), Batched(nn.BatchNorm1d(4).eval(), 2, 4, 98)),
        Batched(nn.LSTM(28, 5, batch_first=True), 4, 7, 28),
        Batched(nn.LSTM(28, 6, proj_size=3, batch_first=True), 1, 28, 28),
    ],
    ids=lambda net: " ".join(str(net).split())[:60],
)
def test_unsupported_network_is_an_error(net):
    with pytest.raises(ConfigError, match=r"cannot compute this \w+ .*model=lenet, mlp and lstm"):
        trace(net, torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("shape", "reason"), [((3, 28, 28), "not 3 × 28 × 28"), ((1, 28, 20), "not 1 × 28 × 20")]
)
def test_unsupported_images_are_an_error(shape, reason):
    images = torch.zeros(2, *shape, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=reason):
        write_html(nn.Identity(), images, torch.zeros(2).long(), {})


def test_a_large_network_is_an_error(monkeypatch):
    monkeypatch.setattr(browser, "MAX_WEIGHTS", 10_000)
    network = nn.Sequential(PixelNet(perceptron()).eval())
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    with pytest.raises(
        ConfigError, match=r"MLP has 12,730 weights, more than 10,000; choose --format onnx"
    ):
        write_html(network, images, torch.zeros(2).long(), {"model": "MLP"})


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """The exported page; the name of its first class contains markup."""
    opened = open_run(str(run))
    opened.state["DigitsDataModule"]["classes"] = CLASSES
    file = tmp_path_factory.mktemp("page") / "markup.html"
    export(opened, "html", file)
    return file


@pytest.fixture(scope="module")
def digits_file(run, tmp_path_factory):
    """The exported page with the names of the digits."""
    file = tmp_path_factory.mktemp("page") / "digit.html"
    export(open_run(str(run)), "html", file)
    return file


@pytest.fixture
def page(file, open_page):
    """The page in an offline browser."""
    with open_page(viewport={"width": 1280, "height": 1600}, offline=True) as page:
        page.goto(file.as_uri())
        yield page


@pytest.mark.slow
def test_page_shows_the_predictions_of_pytorch(file, probabilities, test_split, open_page):
    images = test_split.images[::10].flatten(1).tolist()
    requests, messages = [], []
    with open_page(offline=True) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(file.as_uri())
        shown = page.evaluate(
            "images => images.map((pixels) => [show(pixels), prediction.textContent])", images
        )
        assert page.evaluate("document.querySelector('#probabilities b')") is None
    expected = probabilities[::10]
    actual = np.array([values for values, _ in shown])
    assert len(actual) == 100
    assert np.abs(actual - expected.numpy()).max() < 1e-4
    assert [text for _, text in shown] == [CLASSES[i] for i in expected.argmax(1)]
    assert requests == [file.as_uri()]
    assert messages == []


@pytest.mark.slow
def test_page_cannot_send_requests(page):
    with page.expect_console_message() as message:
        outcome = page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert outcome == "refused"
    assert "Content Security Policy" in message.value.text


@pytest.mark.slow
def test_drawing_with_the_mouse(page):
    box = page.locator("#drawing").bounding_box()
    prediction = page.locator("#prediction")
    before = page.evaluate("document.querySelector('.map').toDataURL()")
    x, tops = box["x"] + box["width"] / 2, [box["y"] + y * box["height"] for y in (0.2, 0.8)]
    page.mouse.move(x, tops[0])
    page.mouse.down()
    page.mouse.move(x, tops[1], steps=8)
    page.mouse.up()
    expect(prediction).to_have_text("1")
    assert page.evaluate("document.querySelector('.map').toDataURL()") != before
    page.click("#clear")
    expect(prediction).to_have_text("?")
    page.click("#undo")  # restores what was cleared
    expect(prediction).to_have_text("1")
    page.click("#undo")
    expect(prediction).to_have_text("?")


@pytest.mark.slow
def test_drawing_is_preprocessed_like_mnist(page, test_split):
    """A test image that is enlarged and moved becomes that image again."""
    images = test_split.images[::50, 0]
    drawings = np.zeros((len(images), 448, 448), np.uint8)
    for i, image in enumerate(np.kron(images.numpy(), np.ones((9, 9), np.uint8))):
        drawings[i, 3 * i : 3 * i + 252, 150 - 5 * i : 402 - 5 * i] = image
    for drawing, image in zip(drawings, images, strict=True):
        encoded = base64.b64encode(drawing.tobytes()).decode()
        pixels = page.evaluate("text => [...preprocess(decode(text), 448, 28)]", encoded)
        difference = np.abs(np.array(pixels).reshape(28, 28) - image.numpy().astype(int))
        assert difference.mean() < 3, difference.mean()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 664), (360, 640), (664, 390)])
def test_drawing_on_a_telephone(digits_file, open_page, size, scheme):
    screen = {"viewport": {"width": size[0], "height": size[1]}, "device_scale_factor": 3}
    options = {"has_touch": True, "is_mobile": True, "offline": True, "color_scheme": scheme}
    with open_page(**screen, **options) as page:
        page.goto(digits_file.as_uri())
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [size[0]] * 2
        invitation, prediction = page.get_by_text("Draw a digit"), page.locator("#prediction")
        confidence = page.locator("#confidence")
        before = layout(page)
        expect(invitation).to_be_visible()
        expect(prediction).to_have_text("?")

        draw_by_touch(page, [(0.5, y) for y in np.linspace(0.2, 0.8, 9)])
        expect(prediction).to_have_text("1")
        expect(confidence).to_have_text(page.locator(".best .percentage").inner_text())
        expect(invitation).to_be_hidden()
        assert layout(page) == before  # nothing has moved, scrolled or zoomed

        page.locator("#clear").tap()
        expect(invitation).to_be_visible()
        expect(prediction).to_have_text("?")
        page.locator("#undo").tap()
        expect(prediction).to_have_text("1")
        assert layout(page) == before


@pytest.mark.slow
def test_a_second_finger_does_not_draw(digits_file, open_page):
    errors = []
    with open_page(has_touch=True, is_mobile=True, offline=True) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(digits_file.as_uri())
        touch = touch_screen(page)
        touch("touchStart", (0.3, 0.2))
        for i in range(1, 6):
            touch("touchStart" if i == 1 else "touchMove", (0.3, 0.2 + 0.1 * i), (0.8, 0.9))
        touch("touchEnd")
        [stroke] = page.evaluate("actions.map(({ points }) => points)")
        assert len({round(x) for x, _ in stroke}) == 1
        # the first finger beside the canvas, the second on it
        touch("touchStart", (0.5, -0.05))
        touch("touchStart", (0.5, -0.05), (0.3, 0.3))
        touch("touchMove", (0.5, -0.05), (0.3, 0.6))
        touch("touchEnd")
        assert page.evaluate("actions.length") == 2
    assert errors == []


def layout(page) -> dict[str, dict[str, float]]:
    """The boxes of what must be on the first screen, in CSS pixels."""
    boxes = {name: page.locator(f"#{name}").bounding_box() for name in ("drawing", "undo", "clear")}
    for name in ("prediction", "confidence"):  # their width depends on the text
        box = page.locator(f"#{name}").bounding_box()
        assert inside(box, page.viewport_size), (name, box)
        boxes[name] = {"y": box["y"], "height": box["height"]}
    for name in ("drawing", "undo", "clear"):
        assert inside(boxes[name], page.viewport_size), (name, boxes[name])
    assert min(boxes["undo"]["height"], boxes["clear"]["height"]) >= 44
    assert page.locator("#examples button").first.bounding_box()["height"] >= 44
    view = "({ scrollX, scrollY, scale: visualViewport.scale, top: visualViewport.offsetTop })"
    return boxes | {"view": page.evaluate(view)}


def inside(box, screen) -> bool:
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    return min(box["x"], box["y"]) >= 0 < box["width"] * box["height"] and (
        right <= screen["width"] and bottom <= screen["height"]
    )


def draw_by_touch(page, points) -> None:
    """Draw a stroke through points, given as fractions of the canvas, with a finger."""
    touch = touch_screen(page)
    for i, point in enumerate(points):
        touch("touchMove" if i else "touchStart", point)
    touch("touchEnd")


def touch_screen(page) -> Callable[..., None]:
    """A function that sends an event with fingers, given as fractions of the canvas."""
    box = page.locator("#drawing").bounding_box()
    session = page.context.new_cdp_session(page)

    def touch(event: str, *fingers: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
            for number, (x, y) in enumerate(fingers)
        ]
        session.send("Input.dispatchTouchEvent", {"type": event, "touchPoints": points})

    return touch
