"""The modules that a source file imports."""

import ast
from pathlib import Path

TAKEN_BY_MODELS = {
    "torch",
    "torchvision",
    "lenet_pl",
    "functools",
    "collections",
    "typing",
    "itertools",
    "difflib",
}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in ("lenet_pl", "lenet_pl.analysis", "lenet_pl.data"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
