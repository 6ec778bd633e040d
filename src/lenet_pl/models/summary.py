"""A table of the layers of a network in the order in which they are called."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Row = tuple[str, str, str, int]  # name, type, output size, parameters


def layer_table(net: nn.Module, image: Tensor, max_rows: int = 30) -> list[Row]:
    """List the layers that one image passes through.

    A layer that is called twice is listed twice, with its parameters the first time. Parameters
    outside the listed layers follow at the end, so the counts add up to those of the network.

    Args:
        net: any network.
        image: float ``[1, C, H, W]``.
        max_rows: a network with more layers is listed in blocks.
    """
    modules = {name: module for name, module in net.named_modules() if module is not net}
    attention = nn.MultiheadAttention  # does not call its submodules
    leaves = {n for n, m in modules.items() if isinstance(m, attention) or not [*m.children()]}
    calls: list[Row] = []

    def record(name: str, module: nn.Module, args: Any, output: Any) -> None:
        repeated = any(row[0] == name for row in calls)
        parameters = 0 if repeated else sum(p.numel() for p in module.parameters())
        output = output[0] if isinstance(output, tuple) else output  # an LSTM returns its states
        calls.append((name, type(module).__name__, _size(output[0]), parameters))

    hooks = [m.register_forward_hook(partial(record, name)) for name, m in modules.items()]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()

    def rows_at(depth: int) -> list[Row]:
        levels = [(row, row[0].count(".")) for row in calls]
        return [r for r, level in levels if level == depth or (level < depth and r[0] in leaves)]

    tables = [rows_at(d) for d in range(1 + max((n.count(".") for n in leaves), default=0))]
    rows = ([table for table in tables if len(table) <= max_rows] or tables[:1])[-1]
    listed = tuple(f"{row[0]}." for row in rows)
    others = [(name, p) for name, p in net.named_parameters() if not name.startswith(listed)]
    rows = [*rows, *((name, "Parameter", _size(p), p.numel()) for name, p in others)]
    while len({row[0].split(".")[0] for row in rows}) == 1 and all("." in row[0] for row in rows):
        rows = [(row[0].partition(".")[2], *row[1:]) for row in rows]  # drop the common prefix
    return rows


def _size(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))
