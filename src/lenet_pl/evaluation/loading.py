"""Load a trained network from a run folder, a checkpoint or a file of bare weights."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lenet_pl.data.preprocess import preprocess
from lenet_pl.errors import ConfigError
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.records import DATA_KEY, WEIGHTS, load_weights, read_tensors
from lenet_pl.runs import Run, open_run
from lenet_pl.trust import find_class

MODELS: dict[str, type[nn.Module]] = {"lenet": LeNet}  # for bare weights
DIGITS = tuple("0123456789")  # the classes of bare weights


@dataclass(frozen=True)
class LoadedModel:
    """A trained network and where it comes from."""

    network: PixelNet  # takes plain pixels; in evaluation mode
    classes: tuple[str, ...]  # names, in the order of the logits
    folder: Path  # where files about it are written
    prefix: str  # of the names of these files
    run: Run | None  # None for bare weights

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its images, channels first."""
        return tuple(self.run.state[DATA_KEY]["shape"]) if self.run else (1, 28, 28)

    @property
    def preprocess(self) -> "partial[Tensor]":
        """Preprocesses an image like those of the training."""
        if not self.run:
            return partial(preprocess, centre="auto")
        channels, height, width = self.shape
        if channels not in (1, 3) or height != width:
            shape = f"{channels} × {height} × {width}"
            raise ConfigError(f"{self.run.folder}: images cannot be converted to its {shape}")
        source = source_class(self.run)
        centre = "auto" if getattr(source, "centred", source is None) else False
        get = self.run.setting
        options = {"invert": get("data.source.invert", "auto")}
        options["centre"] = get("data.source.centre", centre)
        return partial(preprocess, size=height, channels=channels, **options)


def source_class(run: Run) -> type | None:
    """The class that loads a run's images; None if it is not from lenet_pl and not available."""
    target = str(run.setting("data.source._target_"))
    try:
        found: type = find_class("data.source._target_", target, run.folder)
    except ConfigError:
        if target.startswith("lenet_pl."):
            raise
        return None
    return found


def open_model(name: str, model: str | None = None) -> LoadedModel:
    """Load the network of a run folder, a checkpoint, the ``latest`` run or bare weights.

    Args:
        name: path of the folder or file, or ``latest``.
        model: a key of ``MODELS``: the network of bare weights, trained on digits in [0, 1].
    """
    path = Path(name)
    in_run = path.name == "best.pth" and (path.parent / ".hydra" / "config.yaml").is_file()
    if in_run or not (model or path.suffix in (".pth", ".pt")):
        run = open_run(name)
        prefix = "" if run.checkpoint.stem == "best" else f"{run.checkpoint.stem}-"
        return LoadedModel(run.network(), run.classes, run.folder, prefix, run)
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if model not in MODELS:
        raise ConfigError(
            f"{path}: not in a run folder; name the network of these weights: "
            f"--model {'|'.join(MODELS)} (trained on pixels scaled to [0, 1])"
        )
    try:
        weights = read_tensors(path, WEIGHTS, "unusable weights")
    except ConfigError as error:
        advice = f"save weights by torch.save(net.state_dict(), {path.name!r})"
        raise ConfigError(f"{error}; {advice}") from error
    net = MODELS[model]()
    load_weights(net, weights, path, f"does not fit --model {model}")
    return LoadedModel(PixelNet(net).eval(), DIGITS, path.parent, f"{path.stem}-", None)
