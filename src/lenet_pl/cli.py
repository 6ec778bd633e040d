"""The command line: ``lenet-pl``, and what ``train.py`` shares with ``lenet-pl train``."""

import argparse
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.config import check, check_choices
from lenet_pl.errors import UserError, exit_on_error, one_line
from lenet_pl.runs import resume_arguments

# name: (package whose ``commands`` module has ``NAME`` and ``add_NAME_arguments``, help)
COMMANDS = {
    "test": ("evaluation", "evaluate a network: metrics, predictions, robustness"),
    "predict": ("evaluation", "classify photographs and scans of single digits"),
    "report": ("report", "write a page about a run, or compare two runs"),
    "export": ("export", "write the network as ONNX, torch.export program or web page"),
    "sweep": ("sweeps", "summarise a sweep, also while it runs"),
}

# Ends a sweep whose launcher failed or was stopped; set by the Hydra callback of a sweep.
sweep_error_hook: Callable[[BaseException], NoReturn] | None = None


def main() -> None:
    """The ``lenet-pl`` command: ``train`` takes Hydra overrides, the others take options."""
    commands = {k: v for k, v in COMMANDS.items() if find_spec(f"lenet_pl.{v[0]}")}
    parser = argparse.ArgumentParser(
        prog="lenet-pl", description="Train image classifiers and examine what they learnt."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser("train", help="train a network: python train.py, from any folder")
    for name, (_, text) in commands.items():
        subparsers.add_parser(name, help=text)
    name = parser.parse_args(sys.argv[1:2]).command
    if name == "train":
        sys.argv = [__file__, *sys.argv[2:]]  # DDP launches its other processes with this file
        return train()
    package, text = commands[name]
    module = import_module(f"lenet_pl.{package}.commands")
    parser = argparse.ArgumentParser(prog=f"lenet-pl {name}", description=text)
    getattr(module, f"add_{name}_arguments")(parser)
    options = parser.parse_args(sys.argv[2:])
    with exit_on_error():
        raise SystemExit(getattr(module, name)(options))


def train() -> None:
    """``lenet-pl train``: train.py with the configuration installed with the package."""
    run(hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job))


def run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; report errors that the user can fix in one line, with exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its exceptions instead of printing
    with exit_on_error(explain):
        try:
            sys.argv[1:] = resume_arguments(sys.argv[1:])
            prefer_own_presets()
            program()
        except BaseException as error:
            if sweep_error_hook is None or isinstance(error, UserError | HydraException):
                raise
            sweep_error_hook(error)


def job(cfg: DictConfig) -> float | None:
    """Train one configuration: what Hydra calls for a single run and for each job of a sweep."""
    from lenet_pl.training import train  # imports torch, which --help does not need

    with exit_on_error():
        return train(cfg)


class Preflight(Callback):
    """Hydra callback: build a single run before Hydra creates its folder.

    An invalid configuration leaves no folder, and an invalid ``resume=RUN`` leaves RUN unchanged.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error(explain):
            check_choices(config.hydra.runtime.choices)
            cfg = config.copy()
            with open_dict(cfg):
                path = Path(config.hydra.run.dir).absolute()
                cfg.run_dir = os.path.normpath(path)  # as Hydra will resolve it
                del cfg["hydra"]
            check(cfg)  # before importing torch
            from lenet_pl.training import prepare

            prepare(cfg)


def conf_dir() -> Path:
    """The configuration folder: the checkout's, or the one installed with the package."""
    here = Path(__file__).parent
    return next(path for path in (here / "conf", here.parents[1] / "conf") if path.is_dir())


def _options(group: str) -> str:
    return ", ".join(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))


def explain(error: Exception) -> str | None:
    """Describe a Hydra or OmegaConf error in one line with the choices; None for other errors."""
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        # for an option in a list, as in augment=[affine,noise], Hydra gives no choices
        options = ", ".join(error.options or ()) or _options(group)
        return f"{group}={name}: no such choice; choose from {options}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override of the form key=value"
    if "Config group override" in str(error):  # Hydra does not name the group
        groups = [item[:-5] for item in sys.argv if item.endswith("=null")]
        group = next((group for group in groups if (conf_dir() / group).is_dir()), "group")
        return f"{group}=null: must be one of {_options(group)}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        node = cause.parent_node
        known = [str(key) for key in node if key != "hydra"]
        values = OmegaConf.to_container(node)
        assert isinstance(values, dict)
        groups = [key for key in known if (conf_dir() / key).is_dir() and cause.key in values[key]]
        nearest = [f"{group}.{cause.key}" for group in groups]
        nearest = nearest or get_close_matches(str(cause.key), known, n=3) or known
        return f"{cause.full_key}: no such key; choose from {', '.join(nearest)}"
    return one_line(RuntimeError(f"{error} {cause or ''}"))


PRESETS = {
    "launcher": ("joblib", "ray", "submitit_local", "submitit_slurm"),
    "sweeper": ("optuna",),
}


def prefer_own_presets() -> None:
    """Let ``conf/hydra`` alone define ``hydra/launcher=joblib`` and similar options.

    A plugin registers a schema under the same name. Hydra would validate our file against it,
    with a deprecation warning in every process, and fail if the schema has defaults.
    """
    Plugins.instance()  # discovers the plugins, which register their schemas
    groups = ConfigStore.instance().repo["hydra"]
    for group, names in PRESETS.items():
        for name in names:
            groups[group].pop(f"{name}.yaml", None)


# Hydra copies the store, with all schemas, at every look-up, which costs --help a second.
# A process has one store, and what is loaded from it is copied anyway.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


if __name__ == "__main__":
    train()
