"""The command line: ``lenet-pl``, and what ``train.py`` shares with ``lenet-pl train``."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lenet_pl.config import conf, explain
from lenet_pl.errors import UserError, exit_on_error, fail
from lenet_pl.runs import resume_arguments
from lenet_pl.sweeps.presets import prefer_own_presets

# name: (package whose ``commands`` module has ``NAME`` and ``add_NAME_arguments``, help)
COMMANDS = {
    "test": ("evaluation", "evaluate a network: metrics, predictions, robustness"),
    "predict": ("evaluation", "classify photographs and scans of single digits"),
    "report": ("report", "write a page about a run, or compare two runs"),
    "export": ("export", "write the network as ONNX, torch.export program or web page"),
    "sweep": ("sweeps", "summarise a sweep, also while it runs"),
}


def main() -> None:
    """The ``lenet-pl`` command: ``train`` is Hydra's, the others have arguments of their own."""
    commands = {
        name: value for name, value in COMMANDS.items() if find_spec(f"lenet_pl.{value[0]}")
    }
    parser = argparse.ArgumentParser(
        prog="lenet-pl", description="Train image classifiers and examine what they learnt."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser("train", help="train a network: python train.py, from any folder")
    for name, (_, text) in commands.items():
        subparsers.add_parser(name, help=text)
    chosen = parser.parse_args(sys.argv[1:2]).command
    if chosen == "train":
        sys.argv = [__file__, *sys.argv[2:]]  # Lightning starts further processes by file name
        return train()
    package, text = commands[chosen]
    command = import_module(f"lenet_pl.{package}.commands")
    parser = argparse.ArgumentParser(prog=f"lenet-pl {chosen}", description=text)
    getattr(command, f"add_{chosen}_arguments")(parser)
    options = parser.parse_args(sys.argv[2:])
    with exit_on_error():
        raise SystemExit(getattr(command, chosen)(options))


def train() -> None:
    """``lenet-pl train``, with the configuration that came with the package."""
    run(hydra.main(version_base="1.3", config_path=str(conf()), config_name="config")(job))


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; errors that the user can fix become one line and exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on instead of printing them
    try:
        with exit_on_error(explain):
            sys.argv[1:] = resume_arguments(sys.argv[1:])
            prefer_own_presets()
            program()
    except Exception as error:
        from lenet_pl.sweeps.hydra_callback import Sweep

        if Sweep.current is None:
            raise
        fail(Sweep.current.broken(error), status=1)  # such as a worker that was killed


def job(cfg: DictConfig) -> float | None:
    """Train one configuration; what Hydra calls for a single run and for each job of a sweep."""
    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from lenet_pl.sweeps.job import run_job

            return run_job(cfg, _train)
        return _train(cfg)
    except (UserError, FloatingPointError) as error:
        fail(str(error), status=1 if isinstance(error, FloatingPointError) else 2)
    except SystemExit as error:  # Lightning's answer to a signal, which may have no status
        raise SystemExit(error.code or 1) from None


def _train(cfg: DictConfig) -> float | None:
    from lenet_pl.training import train  # imports torch: --help and a typing error need not wait

    return train(cfg)


if __name__ == "__main__":
    train()
