"""Who may import whom, that the diagram shows it, and that every tool can be deleted."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.imports import MODULES, PACKAGE, imports, local_imports, room

BLOCKS = {"errors", "files", "metrics", "plots", "console", "data", "models", "config", "runs"}
TOOLS = {"sweeps", "evaluation", "report", "export"}
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in ("errors", "files", "metrics", "models", "optim", "console")},
    "plots": {"metrics"},
    "data": {"errors", "files"},
    "classifier": {"metrics"},
    "fast": {"classifier"},
    "callbacks": {"metrics", "plots", "console", "files"},
    "runs": {"errors", "files", "data", "models"},
    # what it checks is imported where it has been built already
    "config": {"errors", "runs", "optim", "callbacks", "classifier", "data"},
    "training": BLOCKS | {"callbacks", "classifier", "fast", "optim"},
    "cli": {"config", "errors", "runs", "training"},
    "evaluation": BLOCKS,
    "export": BLOCKS,
    "report": BLOCKS | {"evaluation"},
    # its Hydra callback connects the two halves
    "sweeps": BLOCKS | {"evaluation", "cli", "training"},
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
    names = ["training", "data/datamodule", "data/mnist", "data/loader", "classifier"]
    files = [ROOT / "train.py", *(PACKAGE / f"{name}.py" for name in names)]
    reached = {file: set(imports(file)) for file in files}
    for earlier, file in enumerate(files[1:], start=1):
        module = ".".join(("lenet_pl", *file.relative_to(PACKAGE).with_suffix("").parts))
        assert any(module in reached[before] for before in files[:earlier]), module
    assert "_target_: lenet_pl.models.lenet.LeNet" in (ROOT / "conf/model/lenet.yaml").read_text()


SHORT = ["data=mini", "data.fraction=0.05", "data.val_size=100", "optimizer.lr=0.05"]
SHORT += ["trainer.accelerator=cpu", "logger=none", "callbacks.early_stopping=null"]
SCRIPT = """
import runpy, sys
from hydra.core.global_hydra import GlobalHydra
import pytorch_lightning
for words in {commands!r}:
    GlobalHydra.instance().clear()
    sys.argv = ["train.py", *words]
    runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    "removed",
    [["export"], ["report"], ["sweeps"], ["evaluation", "report", "sweeps"], sorted(TOOLS)],
    ids="+".join,
)
def test_a_run_does_without_the_tools(tmp_path, removed):
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "train.py", tmp_path)
    for tool in removed:
        shutil.rmtree(tmp_path / "src" / "lenet_pl" / tool)
        for path in (tmp_path / "conf").rglob("*.yaml"):
            if f"lenet_pl.{tool}" in path.read_text():
                path.unlink()
    commands = [
        [*SHORT, "trainer.max_epochs=1", "hydra.run.dir=run"],
        ["resume=run", "trainer.max_epochs=2"],
    ]
    if "sweeps" in removed:  # -m is Hydra's own multirun
        commands.append(["-m", *SHORT, "trainer.max_epochs=1", "seed=0,1", "hydra.sweep.dir=sweep"])
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    script = SCRIPT.format(commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = _result(tmp_path / "run")
    assert (result["status"], result["epochs"]) == ("finished", 2)
    assert 0 <= result["metrics"]["test/acc_low"] <= result["metrics"]["test/acc"]
    for job in ("0", "1") if "sweeps" in removed else ():
        result = _result(tmp_path / "sweep" / job)
        assert result["status"] == "finished"
        assert "test/acc" not in result["metrics"]


def _result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())
