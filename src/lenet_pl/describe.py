"""What a network does to one image, layer by layer."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Layer = tuple[str, str, str, int]


def layers(net: nn.Module, image: Tensor, rows: int = 30) -> list[Layer]:
    """Name, type, output size and parameters of each layer, in the order of the forward pass.

    A layer that is passed twice stands there twice, its parameters at the first time. A deep
    network is told in blocks, so that there are not many more than ``rows`` of them. Parameters
    that belong to no layer stand at the end: the sum is that of the network.

    Args:
        net: a network.
        image: float ``[1, C, H, W]``.
        rows: how many can be read.
    """
    passed: list[tuple[str, Layer]] = []

    def note(name: str, module: nn.Module, args: tuple, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output  # an LSTM has states besides
        count = sum(p.numel() for p in module.parameters())
        passed.append((name, (name, type(module).__name__, _size(output[0]), count)))

    whole = {  # with nothing inside that is called as a layer
        name
        for name, module in net.named_modules()
        if not list(module.children()) or isinstance(module, nn.MultiheadAttention)
    }
    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in net.named_modules()
        if module is not net
    ]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    chosen: list[Layer] = []
    for depth in range(1, 1 + max(name.count(".") + 1 for name in whole)):
        deeper = [
            layer
            for name, layer in passed
            if name.count(".") + 1 == depth or (name in whole and name.count(".") < depth)
        ]
        if depth == 1 or len(deeper) <= rows:
            chosen = deeper
    return _named(_with_the_rest(net, _once(chosen)))


def _size(output: Tensor) -> str:
    return " × ".join(str(side) for side in output.shape)


def _once(rows: list[Layer]) -> list[Layer]:
    """The parameters of a layer that is passed twice are not twice as many."""
    seen: set[str] = set()
    counted = []
    for name, kind, size, count in rows:
        counted.append((name, kind, size, 0 if name in seen else count))
        seen.add(name)
    return counted


def _with_the_rest(net: nn.Module, rows: list[Layer]) -> list[Layer]:
    told = tuple(f"{row[0]}." for row in rows)
    rest = [(name, p) for name, p in net.named_parameters() if not name.startswith(told)]
    return [*rows, *((name, "Parameter", _size(p), p.numel()) for name, p in rest)]


def _named(rows: list[Layer]) -> list[Layer]:
    """Without a prefix that all names have in common."""
    if len({row[0].split(".")[0] for row in rows}) == 1 and all("." in row[0] for row in rows):
        return _named([(row[0].partition(".")[2], *row[1:]) for row in rows])
    return rows
