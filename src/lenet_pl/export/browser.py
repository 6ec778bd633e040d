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
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, fx, nn

from lenet_pl.errors import ConfigError, one_line

MAX_MULTIPLICATIONS = 50_000_000  # for one image, so that the page keeps up with drawing
NODE_VERSION = 18  # the first with the JavaScript of current browsers
IDENTITIES = ("dropout", "feature_dropout", "contiguous", "clone", "alias", "detach")

Arguments = dict[str, Any]

RUN_PAGE = """
const { html, images } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const text = (start) => html.split(start)[1].split("</script>")[0];
const Network = new Function(text("<script>") + "; return Network;")();
const network = new Network(JSON.parse(text('id="network">')), text('id="weights">'));
console.log(JSON.stringify(images.map((image) => network.classify(Buffer.from(image, "base64")))));
"""


def write_html(network: nn.Module, images: Tensor, labels: Tensor, facts: dict[str, Any]) -> bytes:
    """The page in one file: markup, style, scripts, and the network's graph and weights.

    Args:
        network: maps plain pixels to probabilities; its ``network`` is a ``PixelNet``.
        images: the page offers the first one of each class as an example.
        labels: of the images.
        facts: what the page says about the network.
    """
    channels, side, width = images.shape[1:]
    if channels != 1 or side != width:
        size = f"{channels} × {side} × {width}"
        raise ConfigError(f"--format html: needs square greyscale images, not {size}")
    graph = Graph(network.get_submodule("network.net"), torch.zeros(1, 1, side, side))
    if graph.multiplications > MAX_MULTIPLICATIONS:
        raise ConfigError(
            f"--format html: {facts['model']} needs {graph.multiplications / 1e6:,.0f} million "
            f"multiplications per image, more than {MAX_MULTIPLICATIONS / 1e6:.0f} million; choose "
            "--format onnx or torch, or a smaller network (model=lenet, mlp, lstm)"
        )
    classes = facts["classes"]
    examples = [
        {"label": classes[label], "pixels": _base64(images[labels == label][0].numpy().tobytes())}
        for label in sorted({*labels.tolist()})[:10]
    ]
    spec = {key: facts[key] for key in ("classes", "mean", "std")}
    spec |= {"side": side, "steps": graph.steps, "examples": examples}
    environment = Environment(
        loader=PackageLoader("lenet_pl.export"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["sha256"] = lambda text: _base64(hashlib.sha256(text.encode()).digest())
    folder = Path(__file__).parent / "templates"
    files = ("digit.css", "network.js", "digit.js")
    style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in files)
    page = environment.get_template("digit.html.jinja").render(
        title="Draw a digit" if all(name.isdigit() for name in classes) else "Draw an image",
        facts=facts,
        side=side,
        weight_count=len(graph.weights),
        style=style,
        scripts=scripts,
        # escaped, so that no class name can close the script element
        spec=json.dumps(spec, ensure_ascii=False).replace("<", "\\u003c"),
        weights=_base64(graph.weights.astype("<f4").tobytes()),
    )
    return page.encode()


def load_html(content: bytes) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """The page's own script in Node.js; None if Node.js is not installed or too old."""
    node = shutil.which("node") or ""
    command = [node, "--version"]
    output = subprocess.run(command, capture_output=True, text=True).stdout.strip() if node else ""
    number = re.match(r"v(\d+)", output)
    if number is None or int(number[1]) < NODE_VERSION:
        return None

    def run(images: Tensor) -> Tensor:
        pixels = [_base64(image.numpy().tobytes()) for image in images]
        message = json.dumps({"html": content.decode(), "images": pixels})
        command = [node, "-e", RUN_PAGE]
        done = subprocess.run(command, input=message, text=True, capture_output=True, check=True)
        return torch.from_numpy(np.array(json.loads(done.stdout), np.float32))  # null becomes NaN

    return f"the page's script in Node.js {output}", run


class Graph:
    """The computation of a network for one image, traced with ``torch.export``.

    Args:
        net: in evaluation mode; maps float ``[1, C, H, W]`` to logits ``[1, classes]``.
        image: an example input.

    Attributes:
        steps: in order of execution. Value 0 is the image and step ``i`` computes value ``i + 1``.
            A step has an ``op``, the indices of its ``inputs``, the ``shape`` of its output, the
            ``name`` and ``type`` of its module, and the arguments of its operation, weights as
            ``[offset, *shape]`` in ``weights``.
        weights: all weights, flattened and concatenated, float32.
        multiplications: their number.

    Raises:
        ConfigError: if the page does not support an operation of the network.
    """

    def __init__(self, net: nn.Module, image: Tensor) -> None:
        self.steps: list[dict[str, Any]] = []
        self.packed: list[np.ndarray] = []
        self.multiplications = 0
        self.values: dict[fx.Node, int] = {}
        try:
            with warnings.catch_warnings(action="ignore"):
                self.read(torch.export.export(net, (image,)))
            self.weights = np.concatenate(self.packed)
        except Exception as error:  # tracing fails in as many ways as there are networks
            raise ConfigError(
                f"--format html: the page cannot compute this {type(net).__name__} "
                f"({one_line(error, 12)}); it supports convolutions, pooling, linear layers, batch "
                "normalisation, LSTMs and common activations, as in model=lenet, mlp and lstm; "
                "--format onnx and torch support any network"
            ) from error

    def read(self, program: torch.export.ExportedProgram) -> None:
        """Convert the nodes of a program to steps."""
        signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {node: tensors[name].detach().float() for node, name in names.items()}
        for node in program.graph.nodes:
            if node.name == signature.user_inputs[0]:
                self.values[node] = 0
            elif node.op == "call_function":
                self.add(node)
        if self.values[node.args[0][0]] != len(self.steps):  # the last node is the output
            raise ValueError("the output is not computed last")

    def add(self, node: fx.Node) -> None:
        """Append the step of a node, if it computes anything."""
        op, args = _operation(node)
        if op in ("zeros", "lstm", "unbind") or not node.users:
            return  # the initial state of an LSTM, or a tuple, whose items are steps
        source: fx.Node = args["self"] if "self" in args else args.get("input", node)
        shape = node.meta["val"].shape
        if op in IDENTITIES or (op == "slice" and shape == source.meta["val"].shape):
            self.values[node] = self.values[source]
            return
        step = {"op": op, "inputs": [source]} | self.convert(op, args, source, node)
        step["inputs"] = [self.values[value] for value in step["inputs"]]
        *_, (name, kind) = (node.meta.get("nn_module_stack") or {"": ("", "")}).values()
        module = {"name": name, "type": kind.rpartition(".")[2]} if name else {}
        self.steps.append(step | {"shape": shape} | module)
        self.values[node] = len(self.steps)

    def convert(self, op: str, args: Arguments, source: fx.Node, node: fx.Node) -> dict[str, Any]:
        """The arguments of a step, and its ``op`` and ``inputs`` where they are not the node's."""
        size = source.meta["val"].shape
        match op:
            case "conv2d" if args["groups"] == 1 and _pair(args["dilation"]) == [1, 1]:
                kernel, padding = self.tensors[args["weight"].name].shape[2:], args["padding"]
                if isinstance(padding, str):  # "same" pads the smaller half in front
                    padding = [(side - 1) // 2 if padding == "same" else 0 for side in kernel]
                window = {"stride": _pair(args["stride"]), "padding": _pair(padding)}
                return window | self.affine(args, node)
            case "linear":
                return self.affine(args, node)
            case "batch_norm" if not args["training"] and args["running_mean"] is not None:
                names = ("running_mean", "running_var", "weight", "bias")
                mean, variance, weight, bias = (self.tensors[args[name].name] for name in names)
                scale = weight / (variance + args["eps"]).sqrt()
                factors = {"weight": self.pack(scale), "bias": self.pack(bias - mean * scale)}
                return {"op": "scale", **factors}
            case "max_pool2d" if not args["ceil_mode"] and _pair(args["dilation"]) == [1, 1]:
                return _window(args["kernel_size"], args["stride"], args["padding"])
            case "avg_pool2d" if not args["ceil_mode"] and not args["divisor_override"]:
                if args["count_include_pad"] or _pair(args["padding"]) == [0, 0]:
                    return _window(args["kernel_size"], args["stride"], args["padding"])
            case "adaptive_avg_pool2d":
                after = _pair(args["output_size"])
                kernel = [a // b for a, b in zip(size[2:], after, strict=True)]
                if not any(a % b for a, b in zip(size[2:], after, strict=True)):
                    return {"op": "avg_pool2d"} | _window(kernel, kernel, 0)
            case "lstm_item" if args["batch_first"] and args["has_biases"] and args["index"] < 2:
                weights = [self.tensors[weight.name] for weight in args["params"]]
                self.multiplications += size[1] * sum(weight.numel() for weight in weights)
                output = ("sequence", "states")[args["index"]]
                step = {"op": "lstm", "output": output, "directions": 1 + args["bidirectional"]}
                return step | {"weights": [self.pack(weight) for weight in weights]}
            case "select" | "unbind_item" | "slice" if args.get("step", 1) == 1:
                axis = args["dim"] % len(size)
                first = args["start" if op == "slice" else "index"]
                last = args["end"] if op == "slice" else first + 1 or None
                indices = range(size[axis])[first:last]
                bounds = {"start": indices.start, "end": indices.stop}
                return {"op": "narrow", "axis": axis, **bounds}
            case "cat":
                return {"axis": args["dim"] % len(size), "inputs": args["tensors"]}
            case "add" if args["alpha"] == 1 and size == args["other"].meta["val"].shape:
                return {"inputs": [source, args["other"]]}
            case "flatten" | "view" | "reshape" | "squeeze" | "unsqueeze":
                return {"op": "reshape"}
            case "leaky_relu":
                return {"slope": args["negative_slope"]}
            case "relu" | "tanh" | "sigmoid" | "silu":
                return {}
        raise ValueError(op)

    def affine(self, args: Arguments, node: fx.Node) -> dict[str, Any]:
        """Weight and bias of a convolution or linear layer."""
        weight, bias = self.tensors[args["weight"].name], args["bias"]
        self.multiplications += weight.numel() * (node.meta["val"].numel() // len(weight))
        values = torch.zeros(len(weight)) if bias is None else self.tensors[bias.name]
        return {"weight": self.pack(weight), "bias": self.pack(values)}

    def pack(self, tensor: Tensor) -> list[int]:
        """Append a weight to the others; returns its offset and shape."""
        offset = sum(weight.size for weight in self.packed)
        self.packed.append(tensor.contiguous().numpy().ravel())
        return [offset, *tensor.shape]


def _operation(node: fx.Node) -> tuple[str, Arguments]:
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
    defaults = {argument.name: argument.default_value for argument in schema.arguments}
    args = dict(zip(defaults, node.args, strict=False)) | node.kwargs
    return schema.name.removeprefix("aten::"), defaults | args


def _window(kernel: Any, stride: Any, padding: Any) -> dict[str, Any]:
    return {"kernel": _pair(kernel), "stride": _pair(stride or kernel), "padding": _pair(padding)}


def _pair(value: Any) -> list[int]:
    """A kernel size, stride or padding as ``[rows, columns]``."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
