"""What the modules of the package import."""

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.commands import ROOT

PACKAGE = ROOT / "src" / "lenet_pl"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            local = [name for name in submodules if _is_module(name)]
            yield from local or [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room(path: Path) -> str:
    """The package that a file belongs to, or the module at the top level."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def local_imports(path: Path) -> Iterator[str]:
    """The rooms that a file imports, other than its own."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "lenet_pl" and len(parts) > 1 and parts[1] != room(path):
            yield parts[1]
