"""Reading what ``torch.export`` recorded of a network."""

import operator
from typing import Any

import torch
from torch import fx


def arguments(node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The name of a recorded operation and what it was given, by name, defaults included."""
    if node.target is operator.getitem:
        return "getitem", {}
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema
    given = {argument.name: argument.default_value for argument in schema.arguments}
    return schema.name.removeprefix("aten::"), (
        given | dict(zip(given, node.args, strict=False)) | node.kwargs
    )


def pair(value: Any) -> list[int]:
    """A kernel size, stride or padding as [rows, columns]."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
