"""Who may import whom, and that the diagram shows it."""

import re
import sys

import pytest
from helpers.commands import ROOT
from helpers.imports import MODULES, PACKAGE, imports, local_imports, room

BLOCKS = {"errors", "files", "metrics", "plots", "console", "data", "models", "config"}
BLOCKS |= {"naming", "records", "runs", "trust"}
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in ("errors", "files", "metrics", "models", "optim", "processes")},
    "console": {"errors", "files"},
    "rules": {"errors"},
    "plots": {"metrics"},
    "data": {"errors", "files"},
    "classifier": {"metrics", "models"},
    "fast": {"classifier", "optim"},
    "callbacks": {"metrics", "plots", "console", "errors", "files", "records", "rules"},
    "records": {"errors", "files", "rules"},
    "trust": {"errors", "records"},
    "naming": {"records"},
    "runs": {"config", "data", "errors", "files", "models", "records", "rules", "trust"},
    # what it checks is imported where it has been built already
    "config": {"errors", "records", "rules", "optim", "callbacks", "classifier", "data"},
    "training": BLOCKS | {"callbacks", "classifier", "optim", "processes"},
    "finder": BLOCKS | {"rules", "training"},
    "cli": {"config", "errors", "rules", "runs", "training", "trust"},
    "evaluation": BLOCKS,
    "export": BLOCKS,
    "report": BLOCKS | {"evaluation", "rules"},
    "scaffold": BLOCKS,
    # its Hydra callback connects the two halves
    "sweeps": BLOCKS | {"rules", "evaluation", "cli", "training"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_it_may(path):
    allowed = ALLOWED[room(path)]
    if path.name != "hydra_callback.py":
        allowed = allowed - {"cli", "training"} if room(path) == "sweeps" else allowed
    assert set(local_imports(path)) <= allowed


def test_networks_import_torch_and_no_framework():
    known = sys.stdlib_module_names | {"torch", "torchvision", "lenet_pl"}
    for path in MODULES:
        if room(path) == "models":
            assert {name.split(".")[0] for name in imports(path)} <= known


def test_diagram_shows_the_imports():
    text = (ROOT / "docs" / "architecture.md").read_text()
    diagram = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert diagram
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)", diagram[1], re.MULTILINE))
    actual = {(room(path), name) for path in MODULES for name in local_imports(path)}
    assert drawn == actual


def test_one_batch_passes_through_seven_files():
    names = ["training", "data/datamodule", "data/loader", "classifier"]
    files = [ROOT / "train.py", *(PACKAGE / f"{name}.py" for name in names)]
    reached = {file: set(imports(file)) for file in files}
    for earlier, file in enumerate(files[1:], start=1):
        module = ".".join(("lenet_pl", *file.relative_to(PACKAGE).with_suffix("").parts))
        assert any(module in reached[before] for before in files[:earlier]), module
    for file, target in (("model/lenet", "models.lenet.LeNet"), ("data/mnist", "data.mnist.MNIST")):
        assert f"_target_: lenet_pl.{target}" in (ROOT / "conf" / f"{file}.yaml").read_text()
