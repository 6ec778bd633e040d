"""A network leaves its run folder: each format against PyTorch, and the page in a browser."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import chromium
from helpers.commands import ROOT
from helpers.runs import FAST
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from lenet_pl import cli
from lenet_pl.data.mnist import Mini
from lenet_pl.errors import ConfigError
from lenet_pl.export import browser as export_html
from lenet_pl.export import export as exporting
from lenet_pl.export import interpret
from lenet_pl.export.program import trace
from lenet_pl.runs import open_run
from lenet_pl.training import train

TEST = Mini().load().test
CLASSES = ["</script><b>0", *"123456789"]  # as a folder's name may be


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one epoch on the digits that ship."""
    folder = tmp_path_factory.mktemp("export") / "run"
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        words = ["trainer.max_epochs=1", "logger=none", f"run_dir={folder}"]
        cfg = compose("config", [*FAST, *words])
    train(cfg)
    (folder / ".hydra").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def probabilities(run):
    """What PyTorch says of the test images."""
    with torch.no_grad():
        return open_run(str(run)).network()(TEST.images).softmax(1)


@pytest.fixture
def lenet_pl(run, monkeypatch, capsys):
    """The command, in this process: its exit status, and what it said."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lenet-pl", "export", str(run), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_onnx(run, lenet_pl, probabilities):
    onnxruntime = pytest.importorskip("onnxruntime")
    status, out, err = lenet_pl("--format", "onnx", "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["file"] == str(run / "export" / "model.onnx")
    assert (answer["images"], answer["agree"]) == (1000, 1000)
    assert answer["difference"] <= 1e-4
    assert answer["accuracy"] == (probabilities.argmax(1) == TEST.labels).double().mean().item()
    assert [path.name for path in (run / "export").iterdir()] == ["model.onnx"]  # no weights beside

    session = onnxruntime.InferenceSession(run / "export" / "model.onnx")
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])
    assert output.name == "probabilities"
    for batch in (1, 7):
        found = session.run(None, {"images": TEST.images[:batch].numpy()})[0]
        assert np.abs(found - probabilities[:batch].numpy()).max() < 1e-5
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == [*"0123456789"]
    assert json.loads(facts["accuracy"]) == answer["accuracy"]
    assert str(ROOT) not in (run / "export" / "model.onnx").read_bytes().decode("latin-1")


def test_a_torch_program_needs_nothing_of_this_project(run, lenet_pl, probabilities, tmp_path):
    file = tmp_path / "deep" / "mine.pt2"
    status, out, err = lenet_pl("--format", "torch", "--output", str(file))
    assert status == 0, err
    assert "the same for all" in out and "on 1,000 test images" in out
    assert file.stat().st_size < 500_000  # the weights, and not the test images
    np.save(tmp_path / "images.npy", TEST.images[:9].numpy())
    script = (
        "import sys, json; sys.modules['lenet_pl'] = None\n"
        "import numpy, torch\n"
        "extra = {'metadata.json': ''}\n"
        f"program = torch.export.load({str(file)!r}, extra_files=extra).module()\n"
        f"images = torch.from_numpy(numpy.load({str(tmp_path / 'images.npy')!r}))\n"
        "print(json.dumps([program(images).tolist(), json.loads(extra['metadata.json'])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, facts = json.loads(done.stdout)
    assert np.abs(np.array(found) - probabilities[:9].numpy()).max() < 1e-6
    assert facts["classes"] == [*"0123456789"]


@pytest.mark.parametrize("node", [True, False], ids=["node", "numpy"])
def test_html_is_checked_with_node_or_numpy(lenet_pl, monkeypatch, tmp_path, node):
    if node and not shutil.which("node"):
        pytest.skip("no Node.js here")
    if not node:
        monkeypatch.setattr(export_html.shutil, "which", lambda name: None)
    status, out, err = lenet_pl("--format", "html", "--output", str(tmp_path / "a.html"), "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert ("Node.js v" if node else "NumPy") in answer["checked_with"]
    assert (answer["images"], answer["agree"]) == (1000, 1000)
    assert answer["difference"] < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_a_wrong_export_is_refused_and_not_kept(lenet_pl, monkeypatch, tmp_path):
    steps = interpret.OPERATIONS | {"relu": lambda step, weight, x: x}
    monkeypatch.setattr(interpret, "OPERATIONS", steps)
    monkeypatch.setattr(export_html.shutil, "which", lambda name: None)
    status, out, err = lenet_pl("--format", "html", "--output", str(tmp_path / "new" / "a.html"))
    assert (status, out) == (1, "")
    assert err.startswith("error: a.html: a probability differs by ")
    assert len(err.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


def test_a_run_that_was_not_tested_is_checked_on_validation_images(lenet_pl, run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    result = json.loads((copy / "result.json").read_text())
    result["metrics"] = {k: v for k, v in result["metrics"].items() if not k.startswith("test/")}
    (copy / "result.json").write_text(json.dumps(result))
    opened = open_run(str(copy))
    opened.state["DigitsDataModule"]["digest"] = "another"
    done = exporting.export(opened, "torch", tmp_path / "a.pt2")
    assert (done.split, done.accuracy) == ("val", result["metrics"]["val/acc"])
    assert len(done.notes) == 1 and "the data has changed since" in done.notes[0]
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    facts = json.loads(extra["metadata.json"])
    assert (facts["split"], facts["accuracy"]) == ("validation", done.accuracy)
    assert facts["notes"] == [*done.notes] and facts["model"] == "LeNet"


def test_the_extra_that_is_missing_is_named(lenet_pl, monkeypatch, run):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = lenet_pl("--format", "onnx", "--output", "nowhere/model.onnx")
    assert status == 2
    assert 'pip install "lenet-pl[export]"' in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("name", "why"), [("", "is a folder"), ("a.bin", "end in .pt2")])
def test_an_output_that_cannot_be(lenet_pl, tmp_path, name, why):
    status, _, err = lenet_pl("--format", "torch", "--output", str(tmp_path / name))
    assert status == 2
    assert why in err


class Recurrent(nn.Module):
    """Both directions, two layers, the last states taken as ``model=lstm`` takes them."""

    def __init__(self, both: bool):
        super().__init__()
        self.lstm = nn.LSTM(28, 8, 2, batch_first=True, bidirectional=both)
        self.directions = 2 if both else 1
        self.fc = nn.Linear(8 * self.directions, 10)

    def forward(self, x):
        sequence, (states, _) = self.lstm(x.squeeze(1))
        last = torch.cat([*states[-self.directions :]], dim=1)
        return self.fc(last + sequence[:, 13])


def edited() -> nn.Module:
    """What people make of a LeNet."""
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
    return Recurrent(both=False)


def bidirectional() -> nn.Module:
    return Recurrent(both=True)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Sigmoid(), nn.Linear(16, 10))


@pytest.mark.parametrize("make", [edited, perceptron, bidirectional, recurrent])
def test_the_page_computes_what_the_network_does(make, tmp_path):
    torch.manual_seed(0)
    net = make()
    net.train()(torch.randn(64, 1, 28, 28))  # so that a batch norm has seen something
    net.eval()
    images = TEST.images[::50]
    with torch.no_grad():
        expected = net(images / 255 - 0.5)
    program = trace(net, torch.zeros(1, 1, 28, 28))
    found = interpret.run(program.steps, program.weights, images.numpy() / np.float32(255) - 0.5)
    assert np.abs(found - expected.numpy()).max() < 1e-5
    if shutil.which("node"):
        spec = {"classes": [*"0123456789"], "mean": 0.5, "std": 1.0, "side": 28}
        spec["steps"] = program.steps
        weights = base64.b64encode(program.weights.tobytes()).decode()
        script = (ROOT / "src/lenet_pl/export/templates/network.js").read_text()
        (tmp_path / "page.html").write_text(
            f'<script id="network">{json.dumps(spec)}</script>'
            f'<script id="weights">{weights}</script><script>{script}</script>'
        )
        _, page = export_html.load(tmp_path / "page.html")
        assert (page(images) - expected.softmax(1)).abs().max() < 1e-5


class Sine(nn.Module):
    def forward(self, x):
        return x.flatten(1).sin()[:, :10]


class Crooked(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] if x.sum() > 0 else x.flatten(1)[:, 10:20]


@pytest.mark.parametrize("net", [Sine(), Crooked()], ids=lambda net: type(net).__name__)
def test_a_network_that_no_page_computes_is_told_in_one_line(net):
    with pytest.raises(ConfigError, match=r"cannot compute this \w+ .*model=lenet, mlp and lstm"):
        trace(net, torch.zeros(1, 1, 28, 28))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    """The page in a browser without a network, its first class named by someone unkind."""
    if chromium.CHROMIUM is None:
        pytest.skip("no Chromium here")
    opened = open_run(str(run))
    opened.state["DigitsDataModule"]["classes"] = CLASSES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_html.shutil, "which", lambda name: None)  # NumPy is faster
        exporting.export(opened, "html", run / "unkind.html")
    with chromium.Page(tmp_path_factory.mktemp("profile")) as page:
        page.open(run / "unkind.html", width=1280, height=1600)
        yield page


def test_the_page_agrees_on_images_fed_to_its_canvas(page, probabilities):
    images = TEST.images[::10]
    answer = "(pixels) => [show(pixels), verdict.textContent]"
    shown = page.evaluate(f"{json.dumps(images.flatten(1).tolist())}.map({answer})")
    expected = probabilities[::10]
    found = np.array([answer for answer, _ in shown])
    assert len(found) == 100
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert [text for _, text in shown] == [CLASSES[i] for i in expected.argmax(1)]
    assert page.requests == [page.file.absolute().as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.querySelector('#bars b')") is None


def test_the_page_cannot_ask_the_network(page):
    asked = page.evaluate("fetch('https://example.org/').then(() => 'went', () => 'refused')")
    assert asked == "refused"
    assert any("Content Security Policy" in line for line in page.complaints)


def test_a_digit_drawn_with_the_mouse(page):
    page.evaluate("clear.click()")
    left, top, width = page.evaluate(
        "[paper.getBoundingClientRect()].map((box) => [box.left, box.top, box.width])[0]"
    )
    before = page.evaluate("document.querySelector('.map').toDataURL()")
    page.draw([(left + width / 2, top + y * width) for y in np.linspace(0.2, 0.8, 9)])
    frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
    page.evaluate(frame)
    assert page.evaluate("verdict.textContent") == "1"
    assert page.evaluate("document.querySelector('.map').toDataURL()") != before
    page.evaluate("undo.click()")
    assert page.evaluate("verdict.textContent") == "?"
    page.evaluate("undo.click()")  # brings back what was cleared
    assert page.evaluate("verdict.textContent") != "?"


def test_a_drawing_is_made_like_mnist(page):
    """A test image, larger and elsewhere on the paper, becomes that image again."""
    images = TEST.images[::50, 0]
    large = np.zeros((len(images), 448, 448), np.uint8)
    for i, image in enumerate(np.kron(images.numpy(), np.ones((9, 9), np.uint8))):
        large[i, 3 * i : 3 * i + 252, 150 - 5 * i : 402 - 5 * i] = image
    for ink, image in zip(large, images, strict=True):
        encoded = base64.b64encode(ink.tobytes()).decode()
        found = page.evaluate(
            f"[...likeMnist(Uint8Array.from(atob('{encoded}'), (c) => c.charCodeAt(0)), 448, 28)]"
        )
        difference = np.abs(np.array(found).reshape(28, 28) - image.numpy().astype(int))
        assert difference.mean() < 3, difference.mean()
