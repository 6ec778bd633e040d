"""The notebooks run, draw figures, define nothing, and are committed with their output."""

import ast
import re

import nbformat
import pytest
from helpers.commands import ROOT
from nbclient import NotebookClient

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
@each
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    committed = len(figures(notebook))
    NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}).execute()
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
