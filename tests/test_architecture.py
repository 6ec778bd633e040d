"""Who may import whom, that the diagram shows it, and that every tool can be deleted."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.imports import MODULES, PACKAGE, imports, local_imports, room

BLOCKS = {"errors", "files", "metrics", "plots", "console", "data", "models", "config"}
BLOCKS |= {"records", "runs", "trust"}
TOOLS = {"sweeps", "evaluation", "report", "export"}
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in ("errors", "files", "metrics", "models", "optim")},
    "console": {"errors", "files"},
    "rules": {"errors"},
    "plots": {"metrics"},
    "data": {"errors", "files"},
    "classifier": {"metrics"},
    "fast": {"classifier"},
    "callbacks": {"metrics", "plots", "console", "errors", "files", "records"},
    "records": {"errors", "rules"},
    "trust": {"errors", "records"},
    "runs": {"config", "data", "errors", "files", "models", "records", "trust"},
    # what it checks is imported where it has been built already
    "config": {"errors", "records", "rules", "optim", "callbacks", "classifier", "data"},
    "training": BLOCKS | {"callbacks", "classifier", "fast", "optim"},
    "cli": {"config", "errors", "rules", "runs", "training", "trust"},
    "evaluation": BLOCKS,
    "export": BLOCKS,
    "report": BLOCKS | {"evaluation"},
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


REMOVED = [["export"], ["report"], ["sweeps"], ["evaluation", "report", "sweeps"], sorted(TOOLS)]
SHORT = ["data=mini", "data.fraction=0.05", "data.val_size=100", "optimizer.lr=0.05"]
SHORT += ["trainer.accelerator=cpu", "logger=none", "callbacks.early_stopping=null"]
# imports the frameworks once, and runs the commands of each copy in a process of its own
SCRIPT = """
import os, runpy, sys
from hydra.core.global_hydra import GlobalHydra
import pytorch_lightning, torchvision
for folder, commands in {runs!r}:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    os.chdir(folder)
    sys.path.insert(0, "src")
    for stream in (1, 2):
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    for words in commands:
        GlobalHydra.instance().clear()
        sys.argv = ["train.py", *words]
        runpy.run_path("train.py", run_name="__main__")
    assert sys.modules["lenet_pl"].__file__.startswith(folder)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the project without some tools, in each of which a run was trained and resumed."""
    folders, runs = {}, []
    for removed in REMOVED:
        folders["+".join(removed)] = folder = tmp_path_factory.mktemp("copy")
        for name in ("src", "conf"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "train.py", folder)
        for tool in removed:
            shutil.rmtree(folder / "src" / "lenet_pl" / tool)
            named = [f"lenet_pl.{tool}"]
            if tool == "sweeps":
                shutil.rmtree(folder / "src" / "hydra_plugins")
                named.append("hydra_plugins.lenet_pl")
            for path in (folder / "conf").rglob("*.yaml"):
                if any(name in path.read_text() for name in named):
                    path.unlink()
        commands = [
            [*SHORT, "trainer.max_epochs=1", "hydra.run.dir=run"],
            ["resume=run", "trainer.max_epochs=2"],
        ]
        if "sweeps" in removed:  # -m is Hydra's own multirun
            jobs = ["trainer.max_epochs=1", "seed=0,1", "hydra.sweep.dir=sweep"]
            commands.append(["-m", *SHORT, *jobs])
        runs.append((str(folder), commands))
    subprocess.run([sys.executable, "-c", SCRIPT.format(runs=runs)], check=True)
    return folders


@pytest.mark.parametrize("removed", ["+".join(removed) for removed in REMOVED])
def test_a_run_does_without_the_tools(copies, removed):
    output = (copies[removed] / "output").read_text()
    assert "Error" not in output
    result = _result(copies[removed] / "run")
    assert (result["status"], result["epochs"]) == ("finished", 2), output
    assert 0 <= result["metrics"]["test/acc_low"] <= result["metrics"]["test/acc"]
    for job in ("0", "1") if "sweeps" in removed else ():
        result = _result(copies[removed] / "sweep" / job)
        assert result["status"] == "finished", output
        assert "test/acc" not in result["metrics"]


def _result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())
