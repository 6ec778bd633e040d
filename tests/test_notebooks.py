"""The notebooks run, draw figures, define nothing, and are committed with their output."""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest
from helpers.commands import ROOT
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """A process for all notebooks, which takes seconds to import what they use."""
    manager = KernelManager()
    manager.start_kernel(cwd=ROOT / "notebooks")
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@each
def test_notebook_runs(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    committed = len(figures(notebook))
    for cell in code_cells(notebook):  # of several epochs, which take half a minute, one will do
        cell.source = re.sub(r"max_epochs=\d+", "max_epochs=1", cell.source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel).execute()
    assert len(figures(notebook)) == committed


@each
def test_notebook_defines_nothing(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        code = re.sub("^%.*", "", cell.source, flags=re.MULTILINE)
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, definitions)]


@each
def test_output_is_that_of_one_execution_on_any_machine(path):
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert figures(notebook)
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(r"(^|[\s'\"=(])/\w|[A-Z]:\\", text), text
