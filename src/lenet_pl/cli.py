"""The command line: ``lenet-pl``, and what ``train.py`` shares with ``lenet-pl train``."""

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lenet_pl.config import SINGLE, check, check_hydra, conf_dir, options, suggest, task_config
from lenet_pl.errors import ConfigError, UserError, check_output, exit_on_error, protect_output
from lenet_pl.rules import show
from lenet_pl.runs import resume_arguments
from lenet_pl.trust import VARIABLE, add_working_folder, parse_override

# name: (package whose ``commands`` module has ``NAME`` and ``add_NAME_arguments``, help)
COMMANDS: dict[str, tuple[str, str]] = {
    "test": ("evaluation", "evaluate a network: metrics, predictions, robustness"),
    "predict": ("evaluation", "classify photographs and scans of single digits"),
    "report": ("report", "write a page about a run, or compare several"),
    "list": ("report", "list runs and sweeps with their scores"),
    "export": ("export", "write the network as ONNX, torch.export program or web page"),
    "sweep": ("sweeps", "summarise a sweep, also while it runs"),
    "new": ("scaffold", "start a project of your own from this one"),
}

# Ends a sweep whose launcher failed or was stopped; set by the Hydra callback of a sweep.
sweep_error_hook: Callable[[BaseException], NoReturn] | None = None


class Parser(argparse.ArgumentParser):
    """Reports an invalid option in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main() -> None:
    """The ``lenet-pl`` command: ``train`` takes Hydra overrides, the others take options."""
    protect_output()
    with exit_on_error():
        description = "Train image classifiers and examine what they learnt."
        parser = Parser(prog="lenet-pl", description=description)
        subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        subparsers.add_parser("train", help="train a network: python train.py, from any folder")
        for name, (package, text) in COMMANDS.items():
            if find_spec(f"lenet_pl.{package}"):
                subparsers.add_parser(name, help=text)
        name = parser.parse_args(sys.argv[1:2]).command
        if name == "train":
            sys.argv = [__file__, *sys.argv[2:]]  # DDP launches its other processes with this file
            return train()
        Path.cwd()  # in a folder that was deleted, torch would end the process
        package, text = COMMANDS[name]
        module = import_module(f"lenet_pl.{package}.commands")
        parser = Parser(prog=f"lenet-pl {name}", description=text)
        getattr(module, f"add_{name}_arguments")(parser)
        if any(action.dest == "run" for action in parser._actions):  # it opens a run
            text = "allow classes of this module in a run folder (or LENET_PL_TRUST=NAME,NAME)"
            parser.add_argument("--trust", metavar="NAME", action="append", default=[], help=text)
        arguments = parser.parse_args(sys.argv[2:])
        trusted = [os.environ.get(VARIABLE, ""), *getattr(arguments, "trust", [])]
        os.environ[VARIABLE] = ",".join(trusted)
        status = getattr(module, name)(arguments)
        check_output()
        raise SystemExit(status)


def train() -> None:
    """``lenet-pl train``: train.py with the configuration installed with the package."""
    run(hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job))


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; report errors that the user can fix in one line, with exit status 2."""
    protect_output()
    # Hydra then raises its exceptions instead of printing them
    hydra._internal.utils.is_under_debugger = lambda: True
    with exit_on_error(explain):
        try:
            add_working_folder()
            sys.argv[1:] = check_arguments(resume_arguments(sys.argv[1:]))
            prefer_own_presets()
            program()
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # the work is recorded
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        except BaseException as error:
            if sweep_error_hook is None or isinstance(error, UserError | HydraException):
                raise
            sweep_error_hook(error)


def job(cfg: DictConfig) -> float | None:
    """Train one configuration: what Hydra calls for a single run and for each job of a sweep."""
    from lenet_pl.training import train  # imports torch, which --help does not need

    with exit_on_error():
        return train(cfg)


def import_training() -> ModuleType:
    """Import the training module, without garbage collection the first time.

    Imports create a million objects that are never freed. Scanning them takes 40 % of the CPU time.
    """
    if "lenet_pl.training" not in sys.modules:  # else objects of an earlier job would be frozen
        gc.disable()
        import_module("lenet_pl.training")
        gc.freeze()  # exclude them from later collections, too
        gc.enable()
    return sys.modules["lenet_pl.training"]


class Preflight(Callback):
    """Builds a single run before Hydra creates its folder: an invalid one leaves no trace."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error(explain):
            check_hydra(config.hydra)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error(explain):
            check_hydra(config.hydra)
            for group in ("hydra/sweeper", "hydra/launcher"):
                if (choice := config.hydra.runtime.choices[group]) != "basic":
                    raise ConfigError(f"{group}={choice}: for sweeps only; add -m")
            cfg = task_config(config, Path(config.hydra.run.dir))
            check(cfg, single=True)  # before importing torch
            training = import_training()
            if "find" in cfg:
                instantiate(cfg.find)(cfg, config.hydra.overrides.task)
                raise SystemExit(0)
            training.prepare(cfg)


def check_arguments(arguments: list[str]) -> list[str]:
    """Replace ``~logger`` and ``logger=null`` by ``logger=none``; the same for other groups.

    Options come first in the result, since Hydra takes overrides on one side of them only.
    """
    parsed, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such option; see --help")
    overrides, checked = parsed.overrides, []
    for argument in overrides:
        override = parse_override(argument)
        key, value = override.key_or_group, override.value()
        if key == "run_dir" or key.startswith("hydra.callbacks.preflight"):
            raise ConfigError(f"{argument}: cannot be changed; the run folder is hydra.run.dir")
        choices = options(key)
        if choices and not override.is_sweep_override():
            names = value if isinstance(value, list) else [value]
            removed = override.is_delete() or value in (None, False, [], {})
            valid = all(isinstance(name, str) and len(name) < 200 for name in names)
            if removed and "none" in choices:
                argument = f"{key}=none"
            elif key in SINGLE if removed else not valid:
                raise ConfigError(f"{key}={show(value)}: must be one of {', '.join(choices)}")
        checked.append(argument)
    return [*(x for x in arguments if x not in overrides), *checked]


def explain(error: Exception) -> str | None:
    """Describe an error before training in one line, with the choices; None for other OSErrors."""
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        # for an option in a list, as in augment=[affine,noise], Hydra gives no choices
        choices = ", ".join(error.options or options(group))
        return f"{group or '--config-name'}={name}: no such choice; choose from {choices}"
    if isinstance(error, OSError):
        return None
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key, node = str(cause.full_key), cast(Any, cause.parent_node)
        return f"{key}: no such key; {suggest(key, node._get_root())}"
    lines = f"{error}\n{cause or ''}".splitlines()
    noise = ("full_key:", "object_type=", "reference_type=")
    text = " ".join(line for line in lines if not line.strip().startswith(noise))
    if several := re.match("Ambiguous value for argument '(.*)' 1. To use it as a list", text):
        return f"{several[1]}: several values; add -m to sweep over them, or use [A,B] for a list"
    known_types = HydraException | OmegaConfBaseException | ValueError
    return text if isinstance(error, known_types) else f"{type(error).__name__}: {text}"


def prefer_own_presets() -> None:
    """Remove the schemas of plugins for which ``conf/hydra`` has a file, ``launcher/joblib`` say.

    Hydra would validate the file against it, with a warning in every process, or fail.
    """
    Plugins.instance()  # discovers the plugins, which register their schemas
    groups = ConfigStore.instance().repo["hydra"]
    for group in ("launcher", "sweeper"):
        for name in options(f"hydra/{group}"):
            groups[group].pop(f"{name}.yaml", None)


# Hydra copies the store, with all schemas, at every look-up, which costs --help a second.
# A process has one store, and what is loaded from it is copied anyway.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


if __name__ == "__main__":
    train()
