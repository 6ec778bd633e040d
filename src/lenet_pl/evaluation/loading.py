"""The network that a command is asked about, from a run folder or from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from lenet_pl.data.ink import Auto
from lenet_pl.errors import ConfigError
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.runs import Run, open_run

MODELS: dict[str, type[nn.Module]] = {"lenet": LeNet}  # what bare weights may be of
DIGITS = tuple("0123456789")
FULL = {"FashionMNIST", "KMNIST"}  # whose makers did not centre what is in a picture


@dataclass(frozen=True)
class LoadedModel:
    """A trained network.

    Attributes:
        name: what the user called it.
        network: takes plain pixels, ready to predict.
        classes: the names of the classes, in the order of the logits.
        folder: where what is written about it goes.
        prefix: of the names of these files.
        run: where it was trained; None for bare weights.
    """

    name: str
    network: PixelNet
    classes: tuple[str, ...]
    folder: Path
    prefix: str
    run: Run | None

    @property
    def preparation(self) -> tuple[Auto, Auto]:
        """``invert`` and ``centre`` of pictures: as those were made that the network has seen."""
        source = self.run.config.data.source if self.run else {}
        centre: Auto = source_name(self.run) not in FULL and "auto" if self.run else "auto"
        return source.get("invert", "auto"), source.get("centre", centre)


def source_name(run: Run) -> str:
    """The class that a run's images come from, by its name."""
    return str(run.config.data.source._target_).rpartition(".")[2]


def model_name(network: PixelNet) -> str:
    """A network's name: its own, or that of its class."""
    return str(getattr(network.net, "name", type(network.net).__name__))


def open_model(name: str, model: str | None = None) -> LoadedModel:
    """Open a run folder, a checkpoint in one, the ``latest`` run, or bare weights.

    Args:
        name: which.
        model: whose weights they are, for a state dict that was saved outside a run folder. It
            has seen pixels scaled to [0, 1], as the tutorial's script scales them, and digits.

    Raises:
        ConfigError: if there is none, or none that can be trusted.
    """
    path = Path(name)
    in_a_run = (path.parent / ".hydra" / "config.yaml").is_file() and path.name == "best.pth"
    if model and not in_a_run:
        return LoadedModel(name, _bare(path, model), DIGITS, path.parent, f"{path.stem}-", None)
    if path.suffix in (".pth", ".pt") and not in_a_run:
        raise ConfigError(
            f"{name}: not in a run folder, so say what network these weights are of: "
            f"--model {'|'.join(MODELS)}; pixels are then taken as scaled to [0, 1]"
            if path.is_file()
            else f"{name}: there is no such file"
        )
    run = open_run(name)
    prefix = "" if run.checkpoint.stem == "best" else f"{run.checkpoint.stem}-"
    return LoadedModel(name, run.network(), run.classes, run.folder, prefix, run)


def _bare(path: Path, model: str) -> PixelNet:
    """A network with the weights of a state dict; code in the file is refused, not run."""
    if model not in MODELS:
        raise ConfigError(f"--model {model}: no such network; choose from {', '.join(MODELS)}")
    if path.is_dir():
        raise ConfigError(f"--model {model}: {path} is a folder, and a run's knows its own network")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    state = _state_dict(path)
    net = MODELS[model]()
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:30])
        raise ConfigError(f"{path}: not the weights of --model {model}: {reason}") from error
    return PixelNet(net).eval()


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors from a file; whatever else it holds is refused by name, and not run."""
    if not path.stat().st_size:
        raise ConfigError(f"{path}: an empty file; save the weights again")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ConfigError(
                f"{path}: a pickled object with code inside, which is not run; where it was "
                f"made, save its weights alone: torch.save(net.state_dict(), {path.name!r})"
            ) from error
        raise ConfigError(f"{path}: not a state dict, or damaged") from error
    except Exception as error:
        raise ConfigError(f"{path}: not a state dict, or damaged") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        raise ConfigError(
            f"{path}: a checkpoint, with the weights under 'state_dict'; save these alone: "
            f"torch.save(torch.load({path.name!r})['state_dict'], 'weights.pth')"
        )
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{path}: not a state dict, which is tensors by name")
    return state
