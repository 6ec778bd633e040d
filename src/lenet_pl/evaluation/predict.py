"""Open a trained network, and classify photographs and scans of single digits with it.

Nothing here imports Lightning, which is slow.
"""

import glob
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lenet_pl.console import percent
from lenet_pl.data.folder import image_files
from lenet_pl.data.preprocess import MAX_BYTES, Auto, open_image, preprocess
from lenet_pl.errors import ConfigError, DataError, printable, shorten
from lenet_pl.files import write_bytes
from lenet_pl.metrics import predict_logits
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


def source_class(run: Run) -> Any:
    """The class that loads a run's images; None if it is not from lenet_pl and not available."""
    target = str(run.setting("data.source._target_"))
    try:
        return find_class("data.source._target_", target, run.folder)
    except ConfigError:
        if target.startswith("lenet_pl."):
            raise
        return None


def preprocessing(run: Run) -> "partial[Tensor]":
    """Return a function that preprocesses an image as for training."""
    channels, size, width = run.state[DATA_KEY]["shape"]
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


def predict_images(
    run: Run, names: Sequence[str], invert: Auto | None = None
) -> tuple[dict[str, Tensor], Tensor, dict[str, str]]:
    """Classify images: files, folders, glob patterns, and ``-`` for standard input, each once.

    ``invert`` is whether strokes are darker than the paper; None is as for the training images.
    Returns by name the preprocessed images ``uint8 [C, H, W]``; their probabilities, float64
    ``[N, classes]``; and by name why the other images cannot be read.
    """
    images: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    given = {} if invert is None else {"invert": invert}
    # classes of other names may have several parts
    convert = partial(preprocessing(run), single=set(run.classes) <= set(DIGITS), **given)
    if invert is True and convert.keywords["channels"] == 3:
        raise ConfigError(
            "--invert yes: the network takes images in colour, which are not inverted"
        )
    for name in names:
        sources = _find(name)
        if not sources:
            failed[name] = "no image in this folder" if Path(name).is_dir() else "no such file"
        for key in [key for key in sources if key not in images and key not in failed]:
            try:
                images[key] = convert(open_image(sources[key], key))
            except DataError as error:
                failed[key] = str(error).removeprefix(f"{key}: ")
    if not images:
        return {}, torch.empty(0, len(run.classes)), failed
    logits = predict_logits(run.network(), torch.stack(list(images.values())))
    return images, logits.double().softmax(1), failed


def _find(name: str) -> dict[str, Path | bytes]:
    """The images that an argument stands for: their names with their paths or content."""
    if name == "-":
        return {name: sys.stdin.buffer.read(MAX_BYTES + 1)}
    path = Path(name)
    if path.is_dir():
        paths = sorted(image_files(path))
    elif path.exists():
        paths = [path]
    else:
        matches = glob.glob(name, recursive=True)  # noqa: PTH207, may be absolute
        paths = sorted(filter(Path.is_file, map(Path, matches)))
    return {str(path): path for path in paths}


def write_preview(run: Run, images: Mapping[str, Tensor], probabilities: Tensor) -> Path:
    """Draw the preprocessed images with their predictions into a PNG, and return its path."""
    from lenet_pl import plots  # matplotlib takes half a second to import

    best = zip(images, *map(Tensor.tolist, probabilities.max(1)), strict=True)
    captions = [
        f"{shorten(printable(Path(name).name), 16)}\n{run.classes[label]}  {percent(probability)}"
        for name, probability, label in best
    ]
    # floats are not inverted, so the images appear as the network sees them
    pixels = torch.stack(list(images.values())) / 255
    figure = plots.image_grid(pixels, captions, columns=max(8, round(len(images) ** 0.5)))
    path = output_path(run, "seen.png")
    write_bytes(path, plots.png(figure, transparent=False))
    return path
