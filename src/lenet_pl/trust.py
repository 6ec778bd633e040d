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
from pathlib import Path, PureWindowsPath
from typing import Any

from hydra._internal.utils import _locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from lenet_pl.errors import ConfigError, one_line
from lenet_pl.records import checking, override_key

VARIABLE = "LENET_PL_TRUST"
# classes, and modules of classes, that may be built; nothing here does more than build an object
KNOWN = (
    *("lenet_pl.models", "lenet_pl.data", "lenet_pl.optim", "lenet_pl.callbacks"),
    *("lenet_pl.classifier", "lenet_pl.fast", "torch.nn", "torch.optim", "torchvision.models"),
    *("pytorch_lightning.Trainer", "pytorch_lightning.callbacks.EarlyStopping"),
    *("pytorch_lightning.loggers.TensorBoardLogger", "pytorch_lightning.loggers.CSVLogger"),
    *("pytorch_lightning.loggers.WandbLogger", "pytorch_lightning.loggers.MLFlowLogger"),
)
# base classes, or the names of methods, by the key of the part or of the mapping that holds it
KINDS: dict[str, str | tuple[str, ...]] = {
    "data.source": ("prepare", "load"),
    "augment": ("__call__",),  # also as data.augment
    "data": "pytorch_lightning.LightningDataModule",
    "model": "torch.nn.Module",
    "loss": "torch.nn.Module",
    "trainer": "pytorch_lightning.Trainer",
    "optimizer": "torch.optim.Optimizer",
    "classifier": "pytorch_lightning.LightningModule",
    "callbacks": "pytorch_lightning.Callback",
    "logger": "pytorch_lightning.loggers.Logger",
}
NESTED = ("torch.nn.Module", "torch.optim.Optimizer", "enum.Enum")  # kinds of arguments
WRITTEN = {"dirpath", "weights", "save_dir", "default_root_dir", "path", "root_dir", "dir"}
WRITTEN |= {"tracking_uri", "artifact_location"}
READ = re.compile(r"data\.|model\.|(ckpt_path|repeat)$")  # keys that may name files anywhere
# keys of loggers that do more than name a run
NAMES = "project|name|id|run_name|run_id|experiment_name|version|sub_dir|save_dir|_target_"
LOGGER = re.compile(rf"logger\.[^.]+\.(?!({NAMES})$)")
MAX_LENGTH = 4096  # of an override
# keys that Hydra never saves with a run, and groups moved to another key
HYDRA = re.compile(r"hydra\b|run_dir$|.*@")
SIMPLE = re.compile(r"\$\{([\w.]+|(oc\.env|now):[^${}]*)\}")  # interpolations that build no mapping


def within(name: str, parents: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``parents``, or below one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def add_working_folder() -> None:
    """Let modules in the working folder be imported, unless others have the same name."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)


def is_trusted(name: str) -> bool:
    """Whether the user has allowed a module or key, or one that holds it."""
    return within(name, filter(None, os.environ.get(VARIABLE, "").split(",")))


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
    """The class that ``path`` (``model._target_``) names, imported only if it may be built."""
    target, part = str(target), path.removesuffix("._target_")
    top, module = target.partition(".")[0], target.rpartition(".")[0]
    # a part, or a mapping of parts such as callbacks
    parent = part.rpartition(".")[0].removeprefix("data.")
    places = (part, parent) if parent != "trainer" else (part,)
    trusted, ours = is_trusted(target), within(target, KNOWN)
    known = KNOWN if ours else [top] if _is_users(top, folder) else []
    if (trusted or known) and re.fullmatch(r"\w+(\.\w+)+", target):
        if not ours:
            add_working_folder()
        try:
            found = _locate(target)  # get_object would also log the error
        except (HydraException, ImportError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}={target}: {one_line(error, 30)}") from error
        home = str(getattr(found, "__module__", ""))
        of_known = target in known or within(home, known)
        if trusted or (of_known and _fits(found, home, places)):
            return found
    raise ConfigError(
        f"{path}={target[:80]}: not allowed in a run folder: it is not part of lenet-pl, and not "
        "in the working folder or on PYTHONPATH; if you trust it, set "
        f"{VARIABLE}={module or target[:80]} (lenet-pl: --trust)"
    )


def _fits(found: Any, home: str, places: Iterable[str]) -> bool:
    """Whether a part of the configuration may be an object from this module."""
    if not isinstance(found, type):
        return callable(found) and home == "lenet_pl.optim"  # a schedule
    for place in places:
        if place in KINDS:
            return _is_kind(found, KINDS[place])
    # an argument of a part
    return home.startswith("lenet_pl.") or any(_is_kind(found, base) for base in NESTED)


def _is_kind(cls: type, kind: str | tuple[str, ...]) -> bool:
    if isinstance(kind, str):
        return issubclass(cls, get_object(kind))
    return set(kind) <= set(dir(cls))


def _is_users(name: str, folder: Path) -> bool:
    """Whether a module, which is not imported, is in the working folder or on PYTHONPATH.

    Those in the run folder, installed packages and the standard library do not count.
    """
    if name in (*sys.stdlib_module_names, "lenet_pl") or not name.isidentifier():
        return False
    spec = PathFinder.find_spec(name, [*sys.path, str(Path.cwd())])
    if spec is None or not spec.origin:  # any folder without __init__.py is a namespace package
        return False
    roots = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    file, run = Path(spec.origin).resolve(), folder.resolve()
    holds_run = spec.submodule_search_locations and run.is_relative_to(file.parent)
    return (
        any(file.is_relative_to(Path(root).resolve()) for root in filter(None, roots))
        and not {"site-packages", "dist-packages"}.intersection(file.parts)
        and not (file.is_relative_to(run) or holds_run)
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

    None may be an option, configure Hydra, place a group at another key (``logger@model``), name a
    class that is not allowed, or let files be written outside the new run's folder (but data sets
    are downloaded to ``data.root``).
    """
    file = folder / ".hydra" / "overrides.yaml"
    for item in overrides:
        key = override_key(item)
        refused = ConfigError(f"{file}: {item[:60]}: not an override of a single run")
        if item.startswith("-") or len(item) > MAX_LENGTH or HYDRA.match(key):
            raise refused
        with checking(file):
            override = parse_override(item)
        if override.is_sweep_override():
            raise refused
        for path, value in leaves(override.value(), key):
            if path.endswith("_target_"):
                find_class(path, value, folder)
            elif _is_outside(path, value) and not is_trusted(path):
                raise ConfigError(
                    f"{file}: {path}={value[:60]}: may lead outside the run folder; if you trust "
                    f"it, set {VARIABLE}={path}"
                )


def _is_outside(key: str, value: Any) -> bool:
    """Whether a value can name a file outside the run folder, to write or to compose."""
    if not isinstance(value, str):
        return False
    if READ.match(key):
        return "${" in SIMPLE.sub("", value)
    path = "." if value == "${run_dir}" else value.removeprefix("${run_dir}/")
    written = path == value and key.rpartition(".")[2] in WRITTEN
    sent = LOGGER.match(key)  # to an address, for example
    absolute = path.startswith(("/", "~", "\\")) or PureWindowsPath(path).drive
    return bool(written or sent or absolute or "${" in path or ".." in re.split(r"[/\\]", path))
