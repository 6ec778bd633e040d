"""Commands for development agree with each other, and the tree names no machine."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.commands import ROOT
from packaging.specifiers import SpecifierSet

MAKEFILE = (ROOT / "Makefile").read_text()


def test_make_help_describes_every_target():
    described = re.findall(r"^([a-z]+):.*## \S", MAKEFILE, re.MULTILINE)
    assert {"setup", "test", "check", "bench", "docs"} <= {*described}
    assert re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE) == described
    assert f".PHONY: {' '.join(described)}\n" in MAKEFILE


def test_make_runs_the_commands_of_the_readme():
    recipes = dict(re.findall(r"^([a-z]+):.*\n\t(.+)$", MAKEFILE, re.MULTILINE))
    command = f"{recipes['setup']} && {recipes['test']}"
    assert command in (ROOT / "README.md").read_text().splitlines()
    assert recipes["check"] in (ROOT / ".ci" / "run").read_text().splitlines()
    files = re.findall(r"tests/\S+", MAKEFILE)
    assert files
    assert all((ROOT / file).is_file() for file in files)


def test_workflow_covers_every_supported_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = SpecifierSet(project["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["ci"]
    supported = [f"3.{minor}" for minor in range(50) if f"3.{minor}" in versions]
    assert job["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    newest = workflow["jobs"]["newest"]
    assert newest["continue-on-error"] is True
    assert newest["if"] == "github.event_name == 'schedule'"
    assert "schedule" in workflow[True]  # YAML 1.1 reads the key on as a boolean


@pytest.mark.download
def test_the_wheel_trains_outside_the_repository(tmp_path):
    """Build it as pip does, which fetches the build backend."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    [wheel] = tmp_path.glob("lenet_pl-*.whl")
    target, cwd = tmp_path / "target", tmp_path / "cwd"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    cwd.mkdir()
    script = [sys.executable, target / "bin" / "lenet-pl", "train"]
    options = {"cwd": cwd, "env": {**os.environ, "PYTHONPATH": str(target)}, "check": True}
    code = "import lenet_pl; print(lenet_pl.__file__)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, **options)
    assert target in Path(os.fsdecode(imported.stdout)).parents
    subprocess.run([*script, "data=mini", "trainer=debug", "hydra.run.dir=run"], **options)
    assert json.loads((cwd / "run" / "result.json").read_text())["status"] == "finished"


def test_no_file_names_a_machine():
    """There are no absolute paths of a machine and no hosts of a package registry."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(rb"(?<![\w.])/(home|root|Users|work)/\w|\bpy" rb"pi\.|pythonho" rb"sted\.")
    paths = [ROOT / name for name in done.stdout.splitlines()]
    assert [path for path in paths if path.is_file() and pattern.search(path.read_bytes())] == []
