"""``lenet-pl new NAME [DIR]``: a project of your own, made from this one."""

import argparse
import shlex
from importlib.util import find_spec
from pathlib import Path

from lenet_pl.console import console
from lenet_pl.scaffold.project import TOOLS, write_project


def add_new_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lenet-pl new``."""
    text = "name of the distribution and the command; in imports, - becomes _"
    parser.add_argument("name", metavar="NAME", help=text)
    text = "a folder that is empty or does not exist (default: NAME)"
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, help=text)
    choice = parser.add_mutually_exclusive_group()
    text = "training without tools (default: all tools)"
    choice.add_argument("--only", choices=["core"], help=text)
    text = f"training and these tools: {', '.join(TOOLS)}; report and sweeps include evaluation"
    choice.add_argument("--with", dest="tools", metavar="NAME,NAME", help=text)


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
    console.print(f"written  {folder}: {', '.join(['core', *tools])}", soft_wrap=True, markup=False)
    for step in steps:
        console.print(f"         {step}", soft_wrap=True, markup=False)
