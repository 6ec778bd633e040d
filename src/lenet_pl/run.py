"""A run folder opened for reading: its configuration, network, data and best weights.

Nothing here needs ``conf/``, the command line, or the process that trained.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from lenet_pl.errors import ConfigError
from lenet_pl.pixels import PixelNet
from lenet_pl.resume import find

if TYPE_CHECKING:  # Lightning takes a second to import, and a prediction does not need it
    from lenet_pl.data.datamodule import DigitsDataModule


@dataclass(frozen=True)
class Run:
    """A run that finished at least one epoch.

    Attributes:
        folder: the run folder.
        checkpoint: whose weights are meant, the best ones if nothing else was asked for.
        config: as it was composed for the run.
        result: what ``result.json`` holds; empty while the run goes on.
        state: the content of the checkpoint.
    """

    folder: Path
    checkpoint: Path
    config: DictConfig
    result: dict[str, Any]
    state: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return tuple(self.state["DigitsDataModule"]["classes"])

    def network(self) -> PixelNet:
        """The network with the checkpoint's weights, ready to predict.

        Raises:
            ConfigError: if the weights do not fit the configured network.
        """
        net = PixelNet(instantiate(trusted(without_weights(self.config), "model", nn.Module)))
        try:
            net.load_state_dict(self.state["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).split()[:30])
            raise ConfigError(
                f"{self.checkpoint}: does not fit its run's model: {reason}"
            ) from error
        return net.eval()

    def loss(self) -> nn.Module:
        """The loss that was trained with."""
        return instantiate(trusted(self.config, "loss", nn.Module))

    def data(self) -> "DigitsDataModule":
        """The run's data, split as it was for training.

        Raises:
            DataError: if the data cannot be had.
        """
        from lenet_pl.data.datamodule import DigitsDataModule

        data: DigitsDataModule = instantiate(trusted(self.config, "data", DigitsDataModule))
        data.prepare_data()
        data.setup()
        return data


def open_run(name: str) -> Run:
    """Open a run folder, a checkpoint in one, or the ``latest``.

    Raises:
        ConfigError: if there is none, it has no finished epoch, or holds what is none of ours.
    """
    folder = find(name)
    best = folder / "checkpoints" / "best.ckpt"
    checkpoint = Path(name) if name.endswith(".ckpt") else best
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise ConfigError(f"{name}: no run folder (it would hold {folder / '.hydra/config.yaml'})")
    if not checkpoint.is_file():
        raise ConfigError(f"{name}: no finished epoch ({checkpoint} is not there)")
    try:
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        result_file = folder / "result.json"
        result = json.loads(result_file.read_text()) if result_file.is_file() else {}
        assert isinstance(config, DictConfig)
    except (YAMLError, OmegaConfBaseException, ValueError, AssertionError, OSError) as error:
        raise ConfigError(f"{folder}: a damaged run folder: {error}") from error
    return Run(folder, checkpoint, config, result, read_checkpoint(checkpoint))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one of our checkpoints, on the CPU; code in it is refused, not run.

    Raises:
        ConfigError: if it is no checkpoint of this program.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if missing := {"state_dict", "epoch", "DigitsDataModule"} - state.keys():
            raise KeyError(*missing)
    except Exception as error:
        raise ConfigError(
            f"{path}: not a checkpoint of lenet-pl, damaged, or with code inside, which is not run"
        ) from error
    return state


def without_weights(config: DictConfig) -> DictConfig:
    """With a model that looks for no pretrained weights, where a checkpoint has them."""
    config = config.copy()
    if isinstance(model := config.get("model"), DictConfig) and "weights" in model:
        model.weights = None
    return config


def trusted(config: DictConfig, key: str, kind: type) -> DictConfig:
    """The part of a configuration that builds ``kind`` out of our own parts and torch's modules.

    A run folder may come from someone else, and ``_target_`` could name any function.

    Raises:
        ConfigError: if it names something else, which is not run.
    """
    node = config.get(key)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(f"{key}: the run's configuration does not say how to build it")
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: a damaged configuration: {error}") from error
    for path, target in _targets(plain, key):
        try:
            found = get_class(target)
        except (HydraException, ImportError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}._target_={target}: {error}") from error
        ours = found.__module__.startswith("lenet_pl.") or issubclass(found, nn.Module)
        if not ours or (path == key and not issubclass(found, kind)):
            raise ConfigError(f"{path}._target_={target}: cannot serve there, and is not run")
    return node


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """What would be called, in lists too, and where it stands."""
    if isinstance(node, dict) and "_target_" in node:
        yield path, str(node["_target_"])
    parts = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in parts:
        if isinstance(value, dict | list):
            yield from _targets(value, f"{path}.{key}")
