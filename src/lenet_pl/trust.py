"""What a run folder from someone else may make this program import, call and write.

``_target_`` in its configuration or overrides can name any function, so its name is checked before
anything is imported. ``LENET_PL_TRUST=NAME[,NAME]`` allows further modules and keys; anything else
is a ConfigError.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from lenet_pl.errors import ConfigError, one_line
from lenet_pl.records import checking, override_key

VARIABLE = "LENET_PL_TRUST"
CLASSES = ("lenet_pl", "torch.nn", "torch.optim", "torchvision.models")  # where classes may be from
FUNCTIONS = ("lenet_pl.optim",)  # whose functions may be called: schedules
LIGHTNING = ("Trainer", "callbacks.EarlyStopping", "loggers.TensorBoardLogger")
# the base class, or the required methods, of each part by its key
KINDS: dict[str, str | tuple[str, ...]] = {
    "data.source": ("prepare", "load"),
    "data.augment": ("__call__",),
    "augment": ("__call__",),
    "data": "pytorch_lightning.LightningDataModule",
    "model": "torch.nn.Module",
    "loss": "torch.nn.Module",
    "optimizer": "torch.optim.Optimizer",
    "classifier": "pytorch_lightning.LightningModule",
    "callbacks": "pytorch_lightning.Callback",
    "logger": "pytorch_lightning.loggers.Logger",
}
WRITERS = ("callbacks.", "logger.", "trainer.")  # groups whose parts write files
WRITTEN = {"dirpath", "weights", "save_dir", "default_root_dir", "path", "root_dir"}
READ = ("data.", "model.", "ckpt_path", "repeat")  # keys that may name files anywhere
MAX_LENGTH = 4096  # of an override
HYDRA = re.compile(r"hydra\b|run_dir$|.*@(hydra|_)")  # keys that Hydra never saves with a run
SIMPLE = re.compile(r"\$\{([\w.]+|(oc\.env|now):[^${}]*)\}")  # interpolations that build no mapping


def within(name: str, parents: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``parents``, or below one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def trusted_names() -> list[str]:
    """The modules and keys that the user has allowed."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def build(config: DictConfig, key: str, folder: Path) -> Any:
    """Build a part of a run folder's configuration if all classes in it are allowed."""
    with checking(folder / ".hydra" / "config.yaml"):
        plain = OmegaConf.to_container(config[key], resolve=True)
    for path, value in leaves(plain, key):
        if path.endswith("._target_"):
            find_class(path, value, folder)
        elif isinstance(value, str) and "${" in value:  # would be resolved again
            raise ConfigError(f"{folder}: {path}={value[:60]}: not allowed in a run folder")
    try:
        part = instantiate(plain)
        if not _is_kind(type(part), KINDS[key]):
            raise TypeError(f"it is a {type(part).__name__}")
    except Exception as error:  # the arguments may be of any type
        reason = one_line(error.__cause__ or error, 30)
        raise ConfigError(f"{folder}: cannot build {key}: {reason}") from error
    return part


def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The values in nested mappings and lists, each with its dotted key."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, node


def find_class(path: str, target: Any, folder: Path) -> Any:
    """The class that ``path`` (``model._target_``) names; it is imported only if it is allowed."""
    target = str(target)
    top = target.partition(".")[0]
    allowed = within(
        target, (*trusted_names(), *(f"pytorch_lightning.{name}" for name in LIGHTNING))
    )
    ours, own = within(target, CLASSES), not allowed and _is_users(top, folder)
    refused = ConfigError(
        f"{path}={target[:80]}: not allowed in a run folder, and not run; if you trust it, set "
        f"{VARIABLE}={top}"
    )
    if not re.fullmatch(r"\w+(\.\w+)+", target) or not (allowed or ours or own):
        raise refused
    if own and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = get_object(target)
    except (HydraException, ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}={target}: {one_line(error, 30)}") from error
    if allowed:
        return found
    home = str(getattr(found, "__module__", ""))
    is_class = isinstance(found, type) and within(home, CLASSES if ours else (top,))
    if not is_class and not (callable(found) and within(home, FUNCTIONS)):
        raise refused
    part = path.removesuffix("._target_")
    kind = next((key for key in KINDS if within(part, (key,))), "model")
    expected = own or kind in (part, part.rpartition(".")[0])  # deeper, any class of ours is
    if is_class and expected and not _is_kind(found, KINDS[kind]):
        raise refused
    return found


def _is_kind(cls: type, kind: str | tuple[str, ...]) -> bool:
    if isinstance(kind, str):
        return issubclass(cls, get_object(kind))
    return set(kind) <= set(dir(cls))


def _is_users(name: str, folder: Path) -> bool:
    """Whether a module is in the working folder or on PYTHONPATH, and not in the run folder.

    The module is located without importing it. Installed packages and the standard library do not
    count.
    """
    if name in sys.stdlib_module_names or not name.isidentifier():
        return False
    working = Path.cwd()
    roots = [working, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    spec = PathFinder.find_spec(name, [*sys.path, str(working)])
    if spec is None:
        return False
    found = [spec.origin] if spec.origin else spec.submodule_search_locations or []
    places = [Path(place).resolve() for place in found if place]
    return bool(places) and all(
        any(place.is_relative_to(root.resolve()) for root in roots)
        and not {"site-packages", "dist-packages"}.intersection(place.parts)
        and not place.is_relative_to(folder.resolve())
        for place in places
    )


def parse_override(text: str) -> Override:
    """Parse an argument of the command line."""
    try:
        override = OverridesParser.create().parse_override(text)
        override.value()
    except Exception as error:  # of many types
        raise ConfigError(f"{text[:60]}: not an override of the form key=value") from error
    return override


def check_overrides(overrides: Iterable[str], folder: Path) -> None:
    """Check the overrides in a run folder, before they become part of a command line.

    They may not be options, configure Hydra, name a class that is not allowed, or cause files to
    be written outside the new run's folder.
    """
    with checking(folder / ".hydra" / "overrides.yaml"):
        for item in overrides:
            key = override_key(item)
            refused = ConfigError(f"{item[:60]}: not an override of a single run")
            if item.startswith("-") or len(item) > MAX_LENGTH or HYDRA.match(key):
                raise refused
            if (override := parse_override(item)).is_sweep_override():
                raise refused
            for path, value in leaves(override.value(), key):
                if path.endswith("_target_"):
                    find_class(path, value, folder)
                elif _is_outside(path, value) and not within(path, trusted_names()):
                    raise ConfigError(
                        f"{path}={value[:60]}: may point outside the run folder; if you trust it, "
                        f"set {VARIABLE}={path}"
                    )


def _is_outside(key: str, value: Any) -> bool:
    """Whether a value can name a file outside the run folder, to write or to compose."""
    if not isinstance(value, str):
        return False
    if key.startswith(READ):
        return "${" in SIMPLE.sub("", value)
    path = value.removeprefix("${run_dir}/")
    if key.startswith(WRITERS):
        below = path != value or value == "${run_dir}"
        if not below and ("${" in value or key.rpartition(".")[2] in WRITTEN):
            return True
    parts = PurePosixPath(path.replace("\\", "/")).parts
    absolute = path.startswith(("/", "~", "\\")) or PureWindowsPath(path).drive
    return bool(absolute) or ".." in parts or "${" in SIMPLE.sub("", path)
