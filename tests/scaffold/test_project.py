"""Projects that ``lenet-pl new`` writes: they train, and nothing of the template is left."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lenet_pl.scaffold.commands import write_project

pytestmark = pytest.mark.slow
ALL = ["evaluation", "report", "export", "sweeps"]
# by the name of the project; run is also the name of a fixture
PROJECTS = {
    "run": [],
    "All-of-it": ALL,
    "only-export": ["export"],
    "without-export": ["report", "sweeps"],
    "without-report": ["export", "sweeps"],
    "without-sweeps": ["report", "export"],
}
SHORT = ["data=mini", "data.fraction=0.05", "data.val_size=100", "optimizer.lr=0.05"]
SHORT += ["trainer.accelerator=cpu", "logger=none", "callbacks.early_stopping=null"]
# imports the frameworks once, and runs the commands of each project in a process of its own
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
    assert "lenet_pl" not in sys.modules
    os._exit(0)
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each project, in which a run was trained and resumed."""
    folders, runs = {}, []
    for name, tools in PROJECTS.items():
        folders[name] = folder = tmp_path_factory.mktemp("projects") / "new" / name
        write_project(name, folder, tools)
        commands = [
            [*SHORT, "trainer.max_epochs=1", "hydra.run.dir=outputs/run"],
            ["resume=outputs/run", "trainer.max_epochs=2"],
        ]
        if "sweeps" not in tools:  # -m is Hydra's own multirun
            jobs = ["trainer.max_epochs=1", "seed=0,1", "hydra.sweep.dir=outputs/sweep"]
            commands.append(["-m", *SHORT, *jobs])
        runs.append((str(folder), commands))
    subprocess.run([sys.executable, "-c", SCRIPT.format(runs=runs)], check=True)
    return folders


def run_in(folder: Path, *words: str) -> None:
    """Run a module of Python with the project's own package."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "CI": ""}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_trains_without_the_tools(projects, name):
    output = (projects[name] / "output").read_text()
    assert "Error" not in output
    runs = projects[name] / "outputs"
    result = json.loads((runs / "run" / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("finished", 2), output
    assert 0 <= result["metrics"]["test/acc_low"] <= result["metrics"]["test/acc"]
    assert name in result["versions"]
    for job in ("0", "1") if "sweeps" not in PROJECTS[name] else ():
        result = json.loads((runs / "sweep" / job / "result.json").read_text())
        assert result["status"] == "finished", output
        assert "test/acc" not in result["metrics"]


@pytest.mark.parametrize("name", PROJECTS)
def test_the_name_of_the_template_is_left_in_the_licence_only(projects, name):
    lines = set()
    for path in projects[name].rglob("*"):
        relative = path.relative_to(projects[name]).as_posix()
        assert not re.search("lenet[-_]pl", relative, re.IGNORECASE)
        if path.is_file() and not relative.startswith("output"):
            text = path.read_text(errors="replace")
            trace = re.compile("lenet[-_]pl|# for template$", re.IGNORECASE)
            lines |= {line for line in text.splitlines() if trace.search(line)}
    assert lines == {"Copyright (c) 2026 The lenet-pl authors"}


@pytest.mark.parametrize("name", PROJECTS)
def test_ruff_accepts_the_code(projects, name):
    run_in(projects[name], "ruff", "check", "--quiet", ".")
    run_in(projects[name], "ruff", "format", "--quiet", "--check", ".")


def test_what_belongs_to_the_tools_comes_with_them(projects):
    core, everything = projects["run"], projects["All-of-it"]
    tools = {*ALL, "scaffold"}
    for folder in (core / "src" / "run", core / "tests"):
        assert not tools & {path.name for path in folder.iterdir()}
    for folder in (everything / "src" / "all_of_it", everything / "tests"):
        assert tools & {path.name for path in folder.iterdir()} == {*ALL}
    assert not list((core / "src").glob("hydra_plugins/*"))
    assert [path.name for path in (everything / "src").glob("hydra_plugins/*.py")] == [
        "all_of_it_halving.py"
    ]
    configs = [tomllib.loads((path / "pyproject.toml").read_text()) for path in (core, everything)]
    extras = [set(config["project"]["optional-dependencies"]) for config in configs]
    of_the_core = {"dev", "mlflow", "wandb"}
    of_the_tools = {"export", "parallel", "ray", "slurm", "optuna"}
    assert extras == [of_the_core, of_the_core | of_the_tools]
    jinja = [any("jinja2" in d for d in config["project"]["dependencies"]) for config in configs]
    assert jinja == [False, True]
    assert (projects["run"] / ".ci" / "run").stat().st_mode & 0o111
    commands = (core / "src" / "run" / "cli.py").read_text()
    assert "COMMANDS: dict[str, tuple[str, str]] = {}\n" in commands
    assert '"new"' not in (everything / "src" / "all_of_it" / "cli.py").read_text()


@pytest.mark.parametrize("name", PROJECTS)
def test_the_readme_lists_the_modules_and_commands(projects, name):
    text = (projects[name] / "README.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert 'pip install -e ".[dev]" && pytest\n' in text
    listed = re.findall(r"^ +(\w+\.py) ", text, re.MULTILINE)
    package = projects[name] / "src" / name.replace("-", "_").lower()
    modules = [path.name for path in package.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted(modules)
    commands = {"evaluation": "test", "report": "report", "export": "export", "sweeps": "sweep"}
    for tool, command in commands.items():
        assert (f"\n{name} {command} latest" in text) == (package / tool).is_dir()


def test_all_tests_of_the_core_can_be_collected_and_some_pass(projects):
    few = "test_runs.py or test_errors.py or test_lenet.py"
    run_in(projects["run"], "pytest", "-q", "-n", "0", "-k", few)


@pytest.mark.trust
@pytest.mark.skipif(os.environ.get("CI") == "true", reason="takes minutes; run by make trust")
def test_all_tests_of_the_core_pass(projects):
    run_in(projects["run"], "pytest", "-q")
