"""``lenet-pl new NAME [DIR]``: a project of your own, made from this one.

The template is copied under another name, without its own documentation and without some tools.
"""

import argparse
import keyword
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from lenet_pl.console import console
from lenet_pl.errors import ConfigError

ROOT = Path(__file__).parents[3]
COPIED = ["src", "conf", "tests", "notebooks", "outputs/.gitkeep", "train.py", "pyproject.toml"]
COPIED += ["constraints.txt", "LICENSE", ".ci", ".github", ".gitignore", ".pre-commit-config.yaml"]
# What belongs to a tool besides src/lenet_pl/TOOL and tests/TOOL. In any file, a line that ends in
# ``# for TOOL, TOOL`` belongs to these tools, and so do their lines in ``cli.COMMANDS``.
TOOLS = {
    "evaluation": ["tests/helpers/evaluations.py", "notebooks/03_errors.ipynb"],
    "report": [],
    "export": [],
    "sweeps": ["src/hydra_plugins", "tests/helpers/sweeps.py", "notebooks/04_sweep.ipynb"]
    + [f"conf/hydra/{group}" for group in ("hooks", "launcher", "sweeper")],
}
# What tests the template alone: its documentation, benchmarks and recorded numbers.
TESTS = ("architecture", "benchmarks", "colour", "contributing", "golden", "project", "readme")
TEMPLATE = [f"tests/test_{name}.py" for name in (*TESTS, "reliability")]
TEMPLATE += ["tests/golden", "tests/helpers/imports.py", "notebooks/outputs"]
TOOLS_OF_LINE = re.compile(
    r'^(?:.*# for ((?:\w+, )*\w+)|    "\w+": \("(\w+)", ".*)\n', re.MULTILINE
)


def add_new_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl new``."""
    add = parser.add_argument
    add("name", metavar="NAME", help="of the package and the command; in imports, - becomes _")
    add("folder", metavar="DIR", nargs="?", type=Path, help="a new or empty folder (default: NAME)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--only", choices=["core"], help="training without tools (default: all tools)")
    text = f"training and these tools: {', '.join(TOOLS)}; report and sweeps include evaluation"
    add("--with", dest="tools", metavar="NAME,NAME", help=text)


def new(options: argparse.Namespace) -> None:
    """Write the project, and print how to start with it."""
    names = list(TOOLS) if options.tools is None else options.tools.split(",")
    folder = options.folder or Path(options.name)
    tools = write_project(options.name, folder, [] if options.only else names)
    steps = [
        f"cd {shlex.quote(str(folder))}",
        "python -m venv .venv && source .venv/bin/activate",
        'pip install -e ".[dev]"',
        *([] if find_spec("ruff") else ["ruff check --fix . ; ruff format ."]),
        "pytest",
        "python train.py data=mini optimizer.lr=0.05",
    ]
    lines = [f"written  {folder}: {', '.join(['core', *tools])}", *steps]
    console.print("\n         ".join(lines), soft_wrap=True, markup=False)


def check_name(name: str) -> str:
    """The name for imports; ConfigError if the name is invalid or taken."""
    module = re.sub("[-_]+", "_", name).lower()
    if not re.fullmatch(r"[a-z]([\w-]*[a-z0-9])?", name, re.ASCII | re.IGNORECASE):
        raise ConfigError(
            f"{name}: must be letters, digits, - and _, from a letter to a letter or digit"
        )
    with suppress(PackageNotFoundError):
        raise ConfigError(f"{name}: is installed (version {version(name)}); choose another name")
    reserved = keyword.iskeyword(module) or module in ("train", "helpers", "data", *COPIED)
    if reserved or find_spec(module):
        raise ConfigError(f"{name}: {module} is a module or a keyword; choose another name")
    return module


def write_project(name: str, folder: Path, tools: Sequence[str]) -> list[str]:
    """Write a project into a folder that is new or empty; return its tools, with those needed."""
    if not (ROOT / "train.py").is_file():
        raise ConfigError("new: needs a checkout of lenet-pl: git clone, then pip install -e .")
    module = check_name(name)
    if unknown := [tool for tool in tools if tool not in TOOLS]:
        raise ConfigError(f"--with {unknown[0]}: must be one of {', '.join(TOOLS)}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name another folder")
    wanted = {*tools} | ({"evaluation"} if {"report", "sweeps"} & {*tools} else set())
    left_out = {"scaffold", "template", *TOOLS} - wanted
    unwanted = {ROOT / name for name in TEMPLATE}
    for tool in left_out:
        own = (f"src/lenet_pl/{tool}", f"tests/{tool}", *TOOLS.get(tool, ()))
        unwanted |= {ROOT / name for name in own}
    paths = (path for top in COPIED for path in (ROOT / top, *(ROOT / top).rglob("*")))
    files = [x for x in paths if x.is_file() and not unwanted & {x, *x.parents}]
    files = [x for x in files if not {"__pycache__", ".ipynb_checkpoints"} & {*x.parts}]

    def adapted(text: str) -> str:
        text = TOOLS_OF_LINE.sub(
            lambda line: "" if {*(line[1] or line[2]).split(", ")} <= left_out else line[0], text
        )
        # the fixture named after the package; under the new name, it could hide another one
        text = re.sub(r"\blenet_pl(?=[(),:\n])", f"{module}_command", text)
        text = text.replace("lenet_pl", module).replace("LENET_PL", module.upper())
        return re.sub(r"lenet-pl(?! authors)", name, text)  # the licence keeps its copyright notice

    folder = folder.resolve()
    part = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        for path in files:
            target = part / adapted(path.relative_to(ROOT).as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            with suppress(UnicodeDecodeError):  # images
                target.write_text(adapted(target.read_text("utf-8")), "utf-8")
        tree = "\n".join(_tree(part, adapted((ROOT / "README.md").read_text("utf-8"))))
        readme = adapted(Path(__file__).with_name("README.template.md").read_text("utf-8"))
        readme = re.sub(" # for .*", "", readme).replace("\nTREE\n", f"\n{tree}\n")
        (part / "README.md").write_text(readme, "utf-8")
        # a name of another length changes the order of imports and the breaks of lines
        config, reason = part / "pyproject.toml", '"E501", # the formatter breaks lines'
        text = config.read_text("utf-8")
        config.write_text(text.replace("\nignore = [", f"\nignore = [\n    {reason}"), "utf-8")
        for command in (["check", "--fix-only"], ["format"]) if find_spec("ruff") else ():
            options = [*command, "--quiet", "--no-cache", "--no-respect-gitignore"]
            subprocess.run([sys.executable, "-m", "ruff", *options], cwd=part, check=True)
        folder.mkdir(exist_ok=True)  # if it is there, it may be the working folder
        for path in part.iterdir():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [tool for tool in TOOLS if tool in wanted]


def _tree(project: Path, readme: str) -> Iterator[str]:
    """The lines of the README's file tree whose files are in the project, without the branches."""
    folders: list[str] = []
    [tree] = re.findall(r"```\n(train\.py .*?)\n```", readme, re.DOTALL)
    pattern = re.compile(r"^([│├└─ ]*)(\S+(?: \S+)*) *(.*)", re.MULTILINE)
    for indent, names, text in pattern.findall(tree):
        folders[len(indent) // 4 :] = [names.partition(",")[0]]
        if (project / "".join(folders)).exists():
            yield f"{' ' * len(indent)}{names:<{28 - len(indent)}}{text}".rstrip()
