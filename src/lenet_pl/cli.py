"""The command line: ``lenet-pl train …``, and what ``train.py`` shares with it."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.mistakes import MISTAKES, conf, explain, give_up
from lenet_pl.resume import resume_arguments
from lenet_pl.sweeping.presets import prefer_own_presets

COMMANDS: dict[str, str] = {  # name and meaning; each is a file in commands/
    "test": "how good a network is: every figure, every prediction, robustness",
    "predict": "which digit is in a photograph or a scan",
    "report": "a page on a run: how good, where wrong, why, what next; of two, side by side",
    "export": "write the network as ONNX, as a torch.export program, or as a page to draw on",
    "sweep": "sum up a sweep, also while it runs",
}


def main() -> None:
    """The ``lenet-pl`` command: ``train`` goes to Hydra, the others have arguments of their own."""
    parser = argparse.ArgumentParser(
        prog="lenet-pl", description="Train LeNet, step by step, and learn what it learnt."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a network: python train.py, from anywhere")
    for name, meaning in COMMANDS.items():
        commands.add_parser(name, help=meaning)
    chosen = parser.parse_args(sys.argv[1:2]).command
    if chosen == "train":
        sys.argv = [str(Path(__file__).with_name("launch.py")), *sys.argv[2:]]
        return train()
    # only now, since most import torch
    command = importlib.import_module(f"lenet_pl.commands.{chosen}")
    parser = argparse.ArgumentParser(prog=f"lenet-pl {chosen}", description=COMMANDS[chosen])
    command.add_arguments(parser)
    options = parser.parse_args(sys.argv[2:])
    try:
        raise SystemExit(command.run(options))
    except MISTAKES as error:
        give_up(str(error))
    except KeyboardInterrupt:
        give_up("interrupted", status=1)


def train() -> None:
    """Train from wherever the package is installed, with the configuration that came with it."""
    run(hydra.main(version_base="1.3", config_path=str(conf()), config_name="config")(job))


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; a mistake is told in one line and ends with status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on instead of printing them
    try:
        sys.argv[1:] = resume_arguments(sys.argv[1:])
        prefer_own_presets()
        program()
    except MISTAKES as error:
        give_up(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        give_up(explain(error))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        give_up(explain(error))
    except FloatingPointError as error:
        give_up(str(error), status=1)
    except KeyboardInterrupt:  # before training began; Lightning answers for itself
        give_up("interrupted", status=1)
    except Exception as error:
        from lenet_pl.sweeping.callback import Sweep

        if Sweep.current is None:
            raise
        give_up(Sweep.current.broken(error), status=1)  # such as a worker that was killed


def job(cfg: DictConfig) -> float | None:
    """Train one configuration; what Hydra calls for a single run and for each job of a sweep."""
    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from lenet_pl.sweeping.job import run_job

            return run_job(cfg, _train)
        return _train(cfg)
    except (*MISTAKES, FloatingPointError) as error:
        give_up(str(error), status=1 if isinstance(error, FloatingPointError) else 2)
    except SystemExit as error:  # Lightning's answer to a signal, which may have no status
        raise SystemExit(error.code or 1) from None


def _train(cfg: DictConfig) -> float | None:
    from lenet_pl.training import train  # imports torch: --help and a typing error need not wait

    return train(cfg)
