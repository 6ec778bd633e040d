"""``digit.html``: one page with the network inside, to draw on."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn

from lenet_pl.errors import ConfigError
from lenet_pl.export import interpret
from lenet_pl.export.program import trace

WORK = 50_000_000  # multiplications for one image that a page does while one draws
NODE = 18  # the first version of Node.js that runs what browsers run

CHECK = """
const { readFileSync, writeFileSync } = require("fs");
const [page, images, answers] = process.argv.slice(1);
const html = readFileSync(page, "utf8");
const text = (start) => html.split(start)[1].split("</script>")[0];
const Network = new Function(text("<script>") + "; return Network;")();
const spec = JSON.parse(text('id="network">'));
const network = new Network(spec, text('id="weights">'));
const pixels = readFileSync(images);
const size = spec.side * spec.side;
const all = [];
for (let at = 0; at < pixels.length; at += size) {
  all.push(...network.classify(pixels.subarray(at, at + size)));
}
writeFileSync(answers, Float32Array.from(all));
"""


def write(
    network: nn.Module, images: Tensor, labels: Tensor, facts: dict[str, Any], file: Path
) -> None:
    """The page: template, style, scripts, the network's steps and its weights in base64.

    Args:
        network: gives probabilities of plain pixels; holds a ``PixelNet`` as ``network``.
        images, labels: of which the first of each class can be taken in the page.
        facts: what the page says about the network.
        file: where to.

    Raises:
        ConfigError: if the page cannot compute the network, or not while one draws.
    """
    channels, side, width = images.shape[1:]
    if channels != 1 or side != width:
        raise ConfigError(
            f"--format html: one draws square grey images, and the run's are "
            f"{channels} × {side} × {width}"
        )
    net: nn.Module = network.network.net  # type: ignore[union-attr, assignment]
    program = trace(net, torch.zeros(1, 1, side, side))
    if program.work > WORK:
        raise ConfigError(
            f"--format html: {facts['model']} multiplies {program.work / 1e6:,.0f} million times "
            f"for an image, a page can {WORK / 1e6:.0f} million while one draws; "
            "choose --format onnx or torch, or a smaller network (model=lenet, mlp, lstm)"
        )
    names = facts["classes"]
    first = {int(label): i for i, label in reversed([*enumerate(labels.tolist())])}
    samples = [
        {"label": names[label], "pixels": _base64(images[first[label]].numpy().tobytes())}
        for label in sorted(first)[:10]
    ]
    spec = {key: facts[key] for key in ("classes", "mean", "std")}
    spec |= {"side": side, "steps": program.steps, "samples": samples}
    place = Environment(
        loader=PackageLoader("lenet_pl.export"), autoescape=True, undefined=StrictUndefined
    )
    place.filters["hash"] = lambda text: (
        f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"
    )
    source = Path(__file__).parent / "templates"
    read = lambda name: (source / name).read_text(encoding="utf-8")  # noqa: E731
    page = place.get_template("digit.html.jinja").render(
        title="Draw a digit" if all(name.isdigit() for name in names) else "Draw something",
        facts=facts,
        side=side,
        numbers=len(program.weights),
        style=read("digit.css"),
        scripts=[read("network.js"), read("digit.js")],
        # no text of it can end the element that it stands in
        spec=json.dumps(spec, ensure_ascii=False).replace("<", "\\u003c"),
        weights=_base64(program.weights.astype("<f4").tobytes()),
    )
    file.write_text(page, encoding="utf-8")


def load(file: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The page's own script in Node.js, or its steps in NumPy where there is no Node.js."""
    node = shutil.which("node")
    if node:
        told = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
        number = re.match(r"v(\d+)", told)
        if number and int(number[1]) >= NODE:
            return f"the page's script in Node.js {told.strip()}", lambda x: _node(node, file, x)
    page = file.read_text(encoding="utf-8")
    spec = json.loads(_element(page, "network"))
    weights = np.frombuffer(base64.b64decode(_element(page, "weights")), "<f4")

    def run(images: Tensor) -> Tensor:
        pixels = images.numpy().astype(np.float32) / np.float32(255)
        standard = (pixels - np.float32(spec["mean"])) / np.float32(spec["std"])
        logits = interpret.run(spec["steps"], weights, standard)
        return torch.from_numpy(interpret.softmax(logits))

    return "the page's steps in NumPy (Node.js is not there)", run


def _node(node: str, file: Path, images: Tensor) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        pixels, answers = Path(folder) / "pixels", Path(folder) / "answers"
        pixels.write_bytes(images.numpy().tobytes())
        command = [node, "-e", CHECK, str(file.absolute()), str(pixels), str(answers)]
        subprocess.run(command, check=True, capture_output=True)
        found = np.fromfile(answers, np.float32)
    return torch.from_numpy(found.reshape(len(images), -1))


def _element(page: str, name: str) -> str:
    return page.split(f'id="{name}">')[1].split("</script>")[0]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
