"""``digit.html``: a web page to draw on, whose script computes the traced network."""

import base64
import hashlib
import json
import operator
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import StrictUndefined, Template
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from lenet_pl.errors import ConfigError, one_line

Step = dict[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
MAX_WEIGHTS = 3_000_000  # so that the page keeps up with drawing
NODE_VERSION = 18  # the first with the JavaScript of current browsers
# operations that may keep all values in their order, and then are no steps
RESHAPES = {"flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "clone", "alias"}
RESHAPES |= {"detach", "dropout", "feature_dropout", "slice", "transpose", "permute"}
# the operations of network.js; the values that arguments of some of them must have
OPERATIONS = {"linear", "adaptive_avg_pool2d", "relu", "leaky_relu", "tanh", "sigmoid", "silu"}
OPERATIONS |= {"cat", "select", "unbind_item"}
REQUIRED: dict[str, dict[str, Any]] = {
    "conv2d": {"dilation": [1, 1], "groups": 1},
    "batch_norm": {"training": False},
    "max_pool2d": {"dilation": [1, 1], "ceil_mode": False},
    "avg_pool2d": {"divisor_override": None, "ceil_mode": False},
    "lstm_item": {"hx": [None, None], "batch_first": True, "has_biases": True},
    "slice": {"step": 1},
    "add": {"alpha": 1},
}
# how many dimensions the input of an operation may have, the first of length 1: a single image
DIMENSIONS = {"conv2d": {4}, "max_pool2d": {4}, "avg_pool2d": {4}, "adaptive_avg_pool2d": {4}}
DIMENSIONS |= {"batch_norm": {2, 3, 4}, "lstm_item": {3}}


def write_html(network: nn.Module, images: Tensor, labels: Tensor, facts: dict[str, Any]) -> bytes:
    """The page in one file: markup, style, scripts, the steps and weights of the ``PixelNet``.

    It offers the first image of each class as an example, and shows the facts.
    """
    channels, side, width = images.shape[1:]
    if channels != 1 or side != width:
        size = f"{channels} × {side} × {width}"
        raise ConfigError(f"--format html: needs square greyscale images, not {size}")
    steps, weights = trace(network.get_submodule("0.net"), torch.zeros(1, 1, side, side))
    if len(weights) > MAX_WEIGHTS:
        raise ConfigError(
            f"--format html: {facts['model']} has {len(weights):,} weights, more than "
            f"{MAX_WEIGHTS:,}; choose --format onnx or torch, or a smaller network"
        )
    classes = facts["classes"]
    examples = [
        {"label": classes[label], "pixels": _base64(images[labels == label][0].numpy().tobytes())}
        for label in labels.unique()[:10]
    ]
    spec = {key: facts[key] for key in ("classes", "mean", "std")}
    spec |= {"side": side, "steps": steps, "examples": examples}
    template, style, *scripts = (
        (TEMPLATES / name).read_text(encoding="utf-8")
        for name in ("digit.html.jinja", "digit.css", "network.js", "digit.js")
    )
    page: str = Template(template, autoescape=True, undefined=StrictUndefined).render(
        title="Draw a digit" if all(name.isdigit() for name in classes) else "Draw an image",
        facts=facts,
        side=side,
        weight_count=len(weights),
        style=style,
        scripts=scripts,
        sha256=lambda text: _base64(hashlib.sha256(text.encode()).digest()),
        # escaped, so that no class name can close the script element
        spec=json.dumps(spec, ensure_ascii=False).replace("<", "\\u003c"),
        weights=_base64(weights.astype("<f4").tobytes()),
    )
    return page.encode()


def load_html(content: bytes) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """The page's own script in Node.js; None if Node.js is not installed or too old."""
    if not (node := shutil.which("node")):
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    number = re.match(r"v(\d+)", version)
    if number is None or int(number[1]) < NODE_VERSION:
        return None

    def run(images: Tensor) -> Tensor:
        pixels = [_base64(image.numpy().tobytes()) for image in images]
        message = json.dumps({"html": content.decode(), "images": pixels})
        command = [node, str(TEMPLATES / "verify.js")]
        done = subprocess.run(command, input=message, text=True, capture_output=True, check=True)
        return torch.from_numpy(np.array(json.loads(done.stdout), np.float32))  # null becomes NaN

    return f"the page's script in Node.js {version}", run


def trace(net: nn.Module, image: Tensor) -> tuple[list[Step], NDArray[np.float32]]:
    """The steps that a network in evaluation mode computes for an image ``[1, C, H, W]``.

    Value 0 is the image and step ``i`` computes value ``i + 1``. A step has an ATen operation
    ``op``, its arguments ``args``, the ``shape`` of its output, and the ``name`` and ``type`` of
    its module. Among the arguments, a tensor is the index of a ``value``, or the ``offset`` of a
    weight, and the ``shape`` that it has there. All weights follow, flattened and concatenated.
    Raises ConfigError if the page does not support an operation.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return _read(torch.export.export(net, (image,)).module(check_guards=False))
    except Exception as error:  # tracing fails in as many ways as there are networks
        raise ConfigError(
            f"--format html: the page cannot compute this {type(net).__name__} "
            f"({one_line(error, 12)}); it supports convolutions, pooling, linear layers, batch "
            "normalisation, LSTMs and common activations, as in model=lenet, mlp and lstm; "
            "--format onnx and torch support any network"
        ) from error


def _read(program: fx.GraphModule) -> tuple[list[Step], NDArray[np.float32]]:
    steps: list[Step] = []
    weights: list[Tensor] = []
    values: dict[fx.Node, Any] = {}  # as they appear among arguments
    for node in program.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", None)
        if node.op == "placeholder":
            values[node] = {"value": 0, "shape": shape}
        elif node.op == "get_attr" and node.users:
            values[node] = {"offset": sum(map(len, weights)), "shape": shape}
            weights.append(operator.attrgetter(node.target)(program).detach().float().flatten())
        elif node.op == "call_function" and (node.users or _is_in_place(node)):
            op, args = _operation(node)
            if op in ("lstm", "unbind"):  # a tuple, whose items are steps
                continue
            if op == "zeros":  # the initial state of an LSTM
                values[node] = None
                continue
            encoded: Any = fx.map_arg(args, values.__getitem__)
            first = next(iter(encoded.values()))
            if op in RESHAPES and _keeps_values(node, first["shape"]):
                values[node] = {**first, "shape": shape}
                continue
            differs = any(encoded[key] != value for key, value in REQUIRED.get(op, {}).items())
            differs |= op == "add" and encoded["other"]["shape"] != first["shape"]  # broadcast
            if op in DIMENSIONS:
                differs |= first["shape"][0] != 1 or len(first["shape"]) not in DIMENSIONS[op]
            if op == "lstm_item":  # with proj_size, a layer has a fifth tensor
                layers = encoded["num_layers"] * (1 + encoded["bidirectional"])
                differs |= len(encoded["params"]) != 4 * layers
            if op not in OPERATIONS | REQUIRED.keys() or differs:
                raise ValueError(op)
            *_, (name, kind) = (node.meta.get("nn_module_stack") or {"": ("", "")}).values()
            module = {"name": name, "type": kind.rpartition(".")[2]} if name else {}
            steps.append({"op": op, "args": encoded, "shape": shape} | module)
            values[node] = {"value": len(steps), "shape": shape}
        elif node.op == "output" and values[node.args[0][0]]["value"] != len(steps):
            raise ValueError("the output is not computed last")
    return steps, torch.cat(weights).numpy()


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _keeps_values(node: fx.Node, shape: torch.Size) -> bool:
    """Whether an operation keeps all values of a tensor of this shape, in their order."""
    assert isinstance(node.target, torch._ops.OpOverload)
    values = torch.arange(float(shape.numel()))
    result = node.target(values.view(shape), *node.args[1:], **node.kwargs)
    return torch.equal(result.flatten(), values)


def _operation(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The operation of a node, such as ``conv2d``, and its arguments by name, with defaults.

    An item of a tuple is an operation of its own, such as ``lstm_item`` with its ``index``.
    """
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node)
        op, args = _operation(source)
        return f"{op}_item", args | {"index": index}
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema
    args = {argument.name: argument.default_value for argument in schema.arguments}
    args |= dict(zip(args, node.args, strict=False)) | node.kwargs
    return schema.name.removeprefix("aten::"), args


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
