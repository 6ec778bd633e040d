"""``lenet-pl new NAME [DIR]``: a project of your own, made from this one."""

import argparse
import shlex
from importlib.util import find_spec
from pathlib import Path

from lenet_pl.console import console
from lenet_pl.scaffold.project import TOOLS, write_project


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
