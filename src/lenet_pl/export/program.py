"""A network as a list of simple steps with their weights, which a page's script can run.

The steps are read off the operations that PyTorch records of the real network, so a network that
was edited is read as it now is. Shapes are those of one image: a step knows no batch.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from lenet_pl.errors import ConfigError
from lenet_pl.export.recorded import arguments, pair

Step = dict[str, Any]

SAME = ("dropout", "feature_dropout", "contiguous", "clone", "alias", "detach")


class Program(NamedTuple):
    """What a network computes.

    Attributes:
        steps: value 0 is the image and step ``i`` makes value ``i + 1``. A step has its ``op``,
            the numbers of the values it is made ``from``, its ``shape``, the ``name`` and
            ``type`` of the module it comes from, and what the operation needs, of which a weight
            is ``[offset, *shape]`` in ``weights``.
        weights: float32, all in a row.
        work: multiplications for one image.
    """

    steps: list[Step]
    weights: np.ndarray
    work: int


def trace(net: nn.Module, image: Tensor) -> Program:
    """Read a network's steps off one image.

    Args:
        net: in evaluation mode; takes float ``[1, C, H, W]``, returns logits ``[1, classes]``.
        image: such an image.

    Raises:
        ConfigError: if the network does what no step does.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, (image,))
        return _Reader(exported).read()
    except Exception as error:  # tracing fails in as many ways as there are networks
        reason = " ".join(str(error).split()[:12]) or type(error).__name__
        raise ConfigError(
            f"--format html: the page cannot compute this {type(net).__name__} ({reason}); it "
            "can convolutions, pools, linear layers, batch normalisation, LSTMs and common "
            "activations, as in model=lenet, mlp and lstm; --format onnx and torch take any"
        ) from error


class _Reader:
    """Goes through the recorded operations and notes the number of each one's value."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        signature, named = exported.graph_signature, {**exported.state_dict, **exported.constants}
        inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {node: named[name].detach().float() for node, name in inputs.items()}
        self.nodes, self.image = exported.graph.nodes, signature.user_inputs[0]
        self.values: dict[fx.Node, int] = {}
        self.states: set[fx.Node] = set()  # an LSTM's last states: images are their second axis
        self.steps: list[Step] = []
        self.packed: list[np.ndarray] = []
        self.size = self.work = 0

    def read(self) -> Program:
        for node in self.nodes:
            if node.name == self.image:
                self.values[node] = 0
            elif node.op == "call_function":
                self.call(node)
        if self.values[node.args[0][0]] != len(self.steps):  # the last node is the output
            raise ValueError("what it returns is not what it computes last")
        return Program(self.steps, np.concatenate(self.packed), self.work)

    def call(self, node: fx.Node) -> None:
        """Note what a recorded operation does: nothing, or one step."""
        op, given = arguments(node)
        if op in ("zeros", "lstm", "unbind") or not node.users:
            return  # what an LSTM starts from; and outputs in the plural, of which each is a step
        if op == "getitem":
            op, given = self.one_of(node)
        source: fx.Node = given["self"] if "self" in given else given.get("input", node)
        shape = list(node.meta["val"].shape)
        if op in SAME or (op == "slice" and shape == list(source.meta["val"].shape)):
            self.values[node] = self.values[source]
            if source in self.states:
                self.states.add(node)
            return
        needs = self.needs(op, given, node)
        sources = [source, given["other"]] if op == "add" else needs.pop("sources", [source])
        states = op == "slice" or given.get("output") == "states"
        if states:
            self.states.add(node)
        if shape.pop(1 if states else 0) != 1:  # the one image
            raise ValueError(f"{op} of images")
        *_, (path, kind) = (node.meta.get("nn_module_stack") or {"": ("", "")}).values()
        step = {"op": needs.pop("op", op), "from": [self.values[s] for s in sources]}
        named = {"name": path, "type": kind.rpartition(".")[2]} if path else {}
        self.steps.append(step | {"shape": shape} | named | needs)
        self.values[node] = len(self.steps)

    def one_of(self, node: fx.Node) -> tuple[str, dict[str, Any]]:
        """One output of an operation that has several, as an operation of its own."""
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        op, given = arguments(source)
        if op == "unbind":
            return "select", given | {"index": index}
        if op != "lstm" or index > 1:
            raise ValueError(f"output {index} of {op}")
        return op, given | {"output": ("sequence", "states")[index]}

    def needs(self, op: str, given: dict[str, Any], node: fx.Node) -> dict[str, Any]:
        """What a step of this operation is told, besides the values it takes."""
        match op:
            case "conv2d" if given["groups"] == 1 and pair(given["dilation"]) == [1, 1]:
                weight, pad = self.tensors[given["weight"].name], given["padding"]
                if isinstance(pad, str):  # "same" puts the smaller half before
                    pad = [(side - 1) // 2 if pad == "same" else 0 for side in weight.shape[2:]]
                self.work += weight.numel() * node.meta["val"][0, 0].numel()
                return {"stride": pair(given["stride"]), "pad": pair(pad)} | self.linear(given)
            case "linear":
                self.work += self.tensors[given["weight"].name].numel()
                return self.linear(given)
            case "batch_norm" if not given["training"] and given["running_mean"] is not None:
                names = ("running_mean", "running_var", "weight", "bias")
                mean, variance, weight, bias = (self.tensors[given[name].name] for name in names)
                factor = weight / (variance + given["eps"]).sqrt()
                scale = {"weight": self.pack(factor), "bias": self.pack(bias - mean * factor)}
                return {"op": "scale", **scale}
            case "max_pool2d" | "avg_pool2d" if not given["ceil_mode"]:
                kernel, pad = pair(given["kernel_size"]), pair(given["padding"])
                whole = given.get("count_include_pad", True) or pad == [0, 0]
                plain = not given.get("divisor_override") and pair(given.get("dilation", 1))
                if whole and plain == [1, 1]:
                    stride = pair(given["stride"] or kernel)
                    return {"kernel": kernel, "stride": stride, "pad": pad}
            case "adaptive_avg_pool2d":
                before, after = given["self"].meta["val"].shape[2:], pair(given["output_size"])
                if all(b % a == 0 for b, a in zip(before, after, strict=True)):
                    kernel = [b // a for b, a in zip(before, after, strict=True)]
                    return {"op": "avg_pool2d", "kernel": kernel, "stride": kernel, "pad": [0, 0]}
            case "lstm" if given["batch_first"] and given["has_biases"]:
                weights = [self.tensors[weight.name] for weight in given["params"]]
                times = given["input"].meta["val"].shape[1]
                self.work += times * sum(weight.numel() for weight in weights)
                packed: Step = {"weights": [self.pack(weight) for weight in weights]}
                packed["directions"] = 1 + given["bidirectional"]
                return packed | {"output": given["output"]}
            case "slice" if given["self"] in self.states and given["dim"] == 0:
                return self.part(op, given)
            case "select" if (given["self"] in self.states) == (given["dim"] == 0):
                return self.part(op, given)
            case "cat" if not self.states.intersection(given["tensors"]) and given["dim"] != 0:
                return {"axis": given["dim"] - 1, "sources": list(given["tensors"])}
            case "add" if given["alpha"] == 1:
                a, b = given["self"].meta["val"], given["other"].meta["val"]
                if a.shape == b.shape:
                    return {}
            case "leaky_relu":
                return {"slope": given["negative_slope"]}
            case "flatten" | "view" | "reshape" | "squeeze" | "unsqueeze":
                if given["self"] not in self.states or given["self"].meta["val"].shape[0] == 1:
                    return {"op": "reshape"}
            case "relu" | "tanh" | "sigmoid" | "silu":
                return {}
        raise ValueError(op)

    def linear(self, given: dict[str, Any]) -> dict[str, Any]:
        weight, bias = self.tensors[given["weight"].name], given["bias"]
        values = torch.zeros(len(weight)) if bias is None else self.tensors[bias.name]
        return {"weight": self.pack(weight), "bias": self.pack(values)}

    def part(self, op: str, given: dict[str, Any]) -> dict[str, Any]:
        """Which part of a value: one index of an axis, or the indices from one to another."""
        shape = given["self"].meta["val"].shape
        axis = given["dim"] % len(shape)
        if op == "select":
            first = given["index"] % shape[axis]
            last = first + 1
        else:
            first, last, _ = slice(given["start"], given["end"]).indices(shape[axis])
        axis -= given["self"] not in self.states
        return {"op": "part", "axis": axis, "first": first, "last": last}

    def pack(self, tensor: Tensor) -> list[int]:
        """Put a weight behind the others; returns its offset and shape."""
        self.packed.append(tensor.contiguous().numpy().ravel())
        self.size += tensor.numel()
        return [self.size - tensor.numel(), *tensor.shape]
