"""Run folders: find, read, open and resume them; package versions and git state.

Opening a run needs neither ``conf/`` nor the command that trained it. This module does not import
torch before a run is opened, so ``resume=RUN`` is resolved quickly.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_pl import __version__
from lenet_pl.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:  # Lightning takes seconds to import, and predictions do not need it
    from torch import nn

    from lenet_pl.data.datamodule import DigitsDataModule
    from lenet_pl.models.pixelnet import PixelNet

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf")
VERSION_KEY = "lenet-pl_version"  # in a checkpoint
RUN_HELP = "a run folder, a checkpoint in it, or latest"  # help of the argument RUN
DATA_KEY = "DigitsDataModule"  # in a checkpoint: the data module's state, under its class's name


def find_run(name: str) -> Path:
    """Find the run folder, given its path, a checkpoint or ``best.pth`` in it, or ``latest``.

    Raises:
        ConfigError: if there is no latest run.
    """
    if name == "latest":
        runs = sorted(Path("outputs/runs").glob("*/*/.hydra"))
        if not runs:
            raise ConfigError("latest: outputs/runs holds no run")
        return runs[-1].parent
    path = Path(name)
    if path.name == "best.pth":
        return path.parent
    return Path(os.path.normpath(path / "../..")) if path.suffix == ".ckpt" else path


def read_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty before the run has ended.

    Raises:
        ConfigError: if the file is damaged.
    """
    path = folder / "result.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: damaged run folder: result.json: {error}") from error


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, one per epoch; empty before the first has ended.

    Raises:
        ConfigError: if the file is damaged.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: damaged: {error}") from error


def read_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with.

    Raises:
        ConfigError: if Hydra's ``overrides.yaml`` is missing or damaged.
    """
    path = folder / ".hydra" / "overrides.yaml"
    # libyaml's C parser, if installed, is ten times faster, which matters with many jobs
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        overrides = yaml.load(path.read_text(encoding="utf-8"), loader) or []
        if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
            raise ValueError(f"{path} holds no list of overrides")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder}: damaged run folder: {one_line(error)}") from error
    return overrides


def hydra_mode(folder: Path) -> str:
    """``RUN`` for a single run, ``MULTIRUN`` for a job of a sweep, empty if unknown."""
    file = folder / ".hydra" / "hydra.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return next((mode for mode in ("MULTIRUN", "RUN") if f"mode: {mode}\n" in text), "")


def override_key(override: str) -> str:
    """``optimizer.lr`` of ``+optimizer.lr=0.1``."""
    return override.partition("=")[0].lstrip("+~")


def resume_arguments(arguments: list[str]) -> list[str]:
    """Replace ``resume=RUN`` by the overrides that continue that run in its own folder.

    The run's own overrides come first, so that new ones take precedence.

    Raises:
        ConfigError: if there is no run to continue, or it cannot be continued.
    """
    requested = [argument for argument in arguments if argument.startswith("resume=")]
    if not requested:
        return arguments
    run = find_run(requested[-1].removeprefix("resume="))
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not (overrides := run / ".hydra" / "overrides.yaml").is_file():
        raise ConfigError(f"resume={run}: not a run folder ({overrides} is missing)")
    if hydra_mode(run) == "MULTIRUN":  # results written there would not match the sweep
        raise ConfigError(
            f"resume={run}: a job of a sweep; repeat the sweep's command with "
            f"hydra.sweep.dir={run.parent}, or train longer in a new folder with the job's "
            f"overrides and ckpt_path={checkpoint}"
        )
    if not checkpoint.is_file():
        raise ConfigError(f"resume={run}: no finished epoch to resume from ({checkpoint})")
    given = [argument for argument in arguments if argument not in requested]
    result, values = (
        read_result(run),
        {override_key(item): item.partition("=")[2] for item in given},
    )
    epochs = values.get("trainer.max_epochs", "0")
    longer = not epochs.isdigit() or int(epochs) > result.get("epochs", 0)
    if result.get("status") == "finished" and not longer:
        raise ConfigError(
            f"resume={run}: finished after {result.get('epochs')} epochs; give a larger "
            "trainer.max_epochs to train longer"
        )
    replaced = {*map(override_key, given), "ckpt_path"}
    # either classifier resumes the other's checkpoints, without its options
    if "classifier" in replaced:
        replaced.add("classifier.steps_per_execution")
    own = [item for item in read_overrides(run) if override_key(item) not in replaced]
    return [*own, f"ckpt_path={_quoted(checkpoint)}", f"hydra.run.dir={_quoted(run)}", *given]


def _quoted(path: Path) -> str:
    return "'" + path.as_posix().replace("'", r"\'") + "'"


@dataclass(frozen=True)
class Run:
    """A run with at least one finished epoch.

    Attributes:
        folder: the run folder.
        checkpoint: the checkpoint whose weights are used, by default the best one.
        config: the configuration as composed for the run.
        result: the content of ``result.json``; empty while the run is in progress.
        state: the content of the checkpoint.
    """

    folder: Path
    checkpoint: Path
    config: DictConfig
    result: dict[str, Any]
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """The last two parts of the folder's path."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def epoch(self) -> int:
        """The epoch of the weights, from 1."""
        return int(self.state["epoch"]) + 1

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.state[DATA_KEY]["classes"])

    @property
    def tested(self) -> bool:
        """Whether the run was evaluated on its test split."""
        return "test/acc" in self.result.get("metrics", {})

    @property
    def pooled(self) -> bool:
        """Whether official training and test images were pooled before the split."""
        return bool((self.result.get("data") or {}).get("pooled"))

    def network(self) -> "PixelNet":
        """The network with the checkpoint's weights, in evaluation mode.

        Raises:
            ConfigError: if the weights do not fit the configured network.
        """
        from torch import nn

        from lenet_pl.models.pixelnet import PixelNet

        net = PixelNet(self._build(without_weights(self.config), "model", nn.Module))
        try:
            net.load_state_dict(self.state["state_dict"])
        except RuntimeError as error:
            raise ConfigError(
                f"{self.checkpoint}: does not fit the run's model: {one_line(error, 30)}"
            ) from error
        return net.eval()

    def loss(self) -> "nn.Module":
        """The loss function of training."""
        from torch import nn

        loss: nn.Module = self._build(self.config, "loss", nn.Module)
        return loss

    def data(self) -> "DigitsDataModule":
        """The run's data, split as for training.

        Raises:
            DataError: if the data cannot be loaded or has changed since training.
        """
        from lenet_pl.data.datamodule import DigitsDataModule

        data: DigitsDataModule = self._build(self.config, "data", DigitsDataModule)
        data.prepare_data()
        data.setup()
        before, now = self.state[DATA_KEY], data.state_dict()
        for key in ("digest", "split_digest"):
            if before[key] != now[key]:
                raise DataError(
                    f"{self.folder}: the data differs from the run's ({key}): {data.source.name} "
                    f"in data.root={self.config.data.root} has changed since training"
                )
        return data

    def _build(self, config: DictConfig, key: str, kind: type) -> Any:
        try:
            return instantiate(trusted(config, key, kind))
        except InstantiationException as error:
            reason = one_line(error.__cause__ or error, 30)
            raise ConfigError(f"{self.folder}: cannot build {key}: {reason}") from error


def open_run(name: str) -> Run:
    """Open a run folder, a checkpoint in one, or the ``latest`` run.

    Raises:
        ConfigError: if there is no such run, it has no finished epoch, or it is damaged.
    """
    folder = find_run(name)
    best = folder / "checkpoints" / "best.ckpt"
    checkpoint = Path(name) if name.endswith(".ckpt") else best
    if not (file := folder / ".hydra" / "config.yaml").is_file():
        raise ConfigError(f"{name}: {_describe(Path(name), folder)}")
    if not checkpoint.is_file():
        raise ConfigError(f"{name}: no finished epoch ({checkpoint} is missing)")
    state = read_checkpoint(checkpoint)
    try:
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise ValueError(f"{file} holds no mapping")
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(f"{folder}: damaged run folder: {one_line(error)}") from error
    return Run(folder, checkpoint, config, read_result(folder), state)


def _describe(path: Path, folder: Path) -> str:
    """Describe a path that is not a run: missing, bare weights, a sweep or another folder."""
    if not folder.exists():
        return "no such folder"
    if path.suffix in (".pth", ".pt") and path.is_file():
        return "bare weights without a run; test and predict take them with --model lenet"
    names = [job.parent.name for job in folder.glob("*/.hydra")]
    if jobs := sorted(int(name) for name in names if name.isdecimal()):
        listed = "its job is 0/" if jobs == [0] else f"its jobs are {jobs[0]}/ to {jobs[-1]}/"
        return f"a sweep; {listed}; name one"
    return f"not a run folder ({folder / '.hydra/config.yaml'} is missing)"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU; a file that contains code is rejected, not run.

    Raises:
        ConfigError: if it is not a checkpoint of this version of lenet-pl.
    """
    import torch

    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if missing := {"state_dict", "epoch", "settings", DATA_KEY} - state.keys():
            raise KeyError(*missing)
    except Exception as error:
        raise ConfigError(
            f"{path}: not a checkpoint of lenet-pl, damaged, or contains code, which is not run"
        ) from error
    written = state.get(VERSION_KEY, "0.1.0")  # the last version that did not write its own
    if written.split(".")[:2] != __version__.split(".")[:2]:
        raise ConfigError(
            f"{path}: written by lenet-pl {written}, which lenet-pl {__version__} cannot open; "
            f"install lenet-pl {written} or train again"
        )
    return state


def without_weights(config: DictConfig) -> DictConfig:
    """Return a copy that loads no pretrained weights, since a checkpoint has all weights."""
    config = config.copy()
    if isinstance(model := config.get("model"), DictConfig) and "weights" in model:
        model.weights = None
    return config


def trusted(config: DictConfig, key: str, kind: type) -> DictConfig:
    """Return a node that builds a ``kind`` from lenet-pl classes and torch modules only.

    A run folder may come from someone else, and ``_target_`` could name any function.

    Raises:
        ConfigError: if it names anything else; nothing is run.
    """
    from torch import nn

    node = config.get(key)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(f"{key}: the run's configuration does not say how to build it")
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: damaged configuration: {one_line(error)}") from error
    for path, target in _targets(plain, key):
        try:
            cls = get_class(target)
        except (HydraException, ImportError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}._target_={target}: {one_line(error)}") from error
        allowed = cls.__module__.startswith("lenet_pl.") or issubclass(cls, nn.Module)
        if not allowed or (path == key and not issubclass(cls, kind)):
            raise ConfigError(f"{path}._target_={target}: not allowed here, and not run")
    return node


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and value of each ``_target_``, in lists as well."""
    if isinstance(node, dict) and "_target_" in node:
        yield path, str(node["_target_"])
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _targets(value, f"{path}.{key}")


def program_name() -> str:
    """The command that started this process, for suggested commands."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lenet-pl train"


def package_versions() -> dict[str, str]:
    """The versions of lenet-pl and of the packages that affect a run's results."""
    versions = {"lenet-pl": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any] | None:
    """The commit of the code's checkout, and whether it is dirty; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # fails if the repository belongs to another project
        git("ls-files", "--error-unmatch", __file__)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
