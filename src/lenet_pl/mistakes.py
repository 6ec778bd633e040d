"""A user's mistake, told in one line."""

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.data.errors import DataError
from lenet_pl.errors import ConfigError

MISTAKES = (ConfigError, DataError)


def conf() -> Path:
    """The folder of the configuration: of the checkout, or what was installed with the package."""
    here = Path(__file__).parent
    return next(path for path in (here / "conf", here.parents[1] / "conf") if path.is_dir())


def give_up(message: str, status: int = 2) -> NoReturn:
    """Print one line and end; status 2 is for a request that cannot be met."""
    print("error:", *message.split(), file=sys.stderr)
    raise SystemExit(status)


def explain(error: Exception) -> str:
    """One line for what Hydra or OmegaConf says of an override, with the choices there are."""
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        # of one among several, as in augment=[affine,noise], Hydra does not say the options
        options = error.options or sorted(path.stem for path in (conf() / group).glob("*.yaml"))
        return f"{group}={name}: no such choice; choose from {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as an override, which is key=value"
    if "Config group override" in str(error):  # Hydra does not say which
        words = [word for word in sys.argv if word.endswith("=null")]
        group = next((word[:-5] for word in words if (conf() / word[:-5]).is_dir()), "group")
        options = sorted(path.stem for path in (conf() / group).glob("*.yaml"))
        return f"{group}=null: must be one of {', '.join(options)}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node if key != "hydra"]
        there = OmegaConf.to_container(cause.parent_node)
        assert isinstance(there, dict)
        groups = [key for key in known if (conf() / key).is_dir() and cause.key in there[key]]
        below = [f"{group}.{cause.key}" for group in groups]
        near = below or get_close_matches(str(cause.key), known, n=3) or known
        return f"{cause.full_key}: no such key; there is {', '.join(near)}"
    return " ".join(f"{error} {cause or ''}".split())
