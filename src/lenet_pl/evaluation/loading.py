"""Open a trained network: a run folder, a checkpoint or a file of bare weights."""

from functools import partial
from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor, nn

from lenet_pl.data.preprocess import preprocess
from lenet_pl.errors import ConfigError
from lenet_pl.models.lenet import LeNet
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.records import DATA_KEY, WEIGHTS, load_weights, read_tensors
from lenet_pl.runs import Run, open_run
from lenet_pl.trust import find_class

MODELS: dict[str, type[nn.Module]] = {"lenet": LeNet}  # of bare weights, which classify digits
DIGITS = tuple("0123456789")


def open_model(name: str, model: str | None = None) -> Run:
    """Open a run like :func:`open_run`, or bare weights as a run of epoch 0 without data.

    The network of bare weights, a key of ``MODELS``, was trained on pixels scaled to [0, 1].
    """
    path = Path(name)
    in_run = path.name == "best.pth" and (path.parent / ".hydra" / "config.yaml").is_file()
    if in_run or not (model or path.suffix in (".pth", ".pt")):
        return open_run(name)
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if model not in MODELS:
        raise ConfigError(
            f"{path}: not in a run folder; name the network of these weights: "
            f"--model {'|'.join(MODELS)} (trained on pixels scaled to [0, 1])"
        )
    advice = f"save weights by torch.save(net.state_dict(), {path.name!r})"
    weights = read_tensors(path, WEIGHTS, f"unusable weights ({advice})")
    net = MODELS[model]()
    load_weights(net, weights, path, f"does not fit --model {model}")
    target, loss = f"{type(net).__module__}.{type(net).__name__}", "torch.nn.CrossEntropyLoss"
    config = OmegaConf.create({"model": {"_target_": target}, "loss": {"_target_": loss}})
    data = {"classes": DIGITS, "shape": (1, 28, 28)}
    state = {"epoch": -1, "state_dict": PixelNet(net).state_dict(), DATA_KEY: data}
    return Run(path.parent, path, config, {}, state)


def output_path(run: Run, name: str) -> Path:
    """The path of a file about the weights: ``last-NAME`` for those of ``last.ckpt``."""
    stem = run.checkpoint.stem
    return run.folder / (name if stem == "best" else f"{stem}-{name}")


def image_shape(run: Run) -> tuple[int, ...]:
    """The shape of a run's images, channels first."""
    return tuple(run.state[DATA_KEY]["shape"])


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


def preprocessing(run: Run) -> "partial[Tensor]":
    """Return a function that preprocesses an image as for training."""
    channels, size, width = image_shape(run)
    if channels not in (1, 3) or size != width:
        shape = f"{channels} × {size} × {width}"
        raise ConfigError(f"{run.folder}: images cannot be converted to its {shape}")
    source = source_class(run)
    centred = getattr(source, "centred", source is None)
    centre = run.setting("data.source.centre", "auto" if centred else False)
    # other sources than those of lenet_pl may have dark strokes on white
    known = centred or str(getattr(source, "__module__", "")).startswith("lenet_pl.")
    invert = run.setting("data.source.invert", "auto" if known else False)
    return partial(preprocess, size=size, channels=channels, invert=invert, centre=centre)
