"""A trained network leaves its run folder, checked against PyTorch before it is kept."""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.evidence import MEANING
from lenet_pl.evaluation.images import Images, own
from lenet_pl.evaluation.loading import model_name
from lenet_pl.export import browser as export_html
from lenet_pl.export import torch_formats as export_torch
from lenet_pl.runs import Run

TOLERANCE = 1e-4  # the largest difference in a probability that is let through
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "html": "digit.html"}


class Refused(Exception):
    """An export that does not compute what the network computes."""


@dataclass(frozen=True)
class Export:
    """An export that was checked and kept.

    Attributes:
        file: where it lies.
        format: ``onnx``, ``torch`` or ``html``.
        size: its bytes.
        checked_with: the program that ran it for the check.
        split: whose images both sides saw: ``test`` where the run was tested, else ``val``.
        images: how many these are.
        difference: the largest difference in a probability, of all images and classes.
        agree: for how many images both sides choose the same class.
        accuracy: the network's share of right answers on these images.
        notes: what one has to know to read the figures.
    """

    file: Path
    format: str
    size: int
    checked_with: str
    images: int
    difference: float
    agree: int
    accuracy: float
    split: str
    notes: tuple[str, ...]


class Probabilities(nn.Module):
    """What is exported: plain pixels ``uint8 [N, C, H, W]`` to probabilities ``[N, classes]``.

    Args:
        network: takes the pixels, returns logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).softmax(1)


def export(run: Run, format: str, output: Path | None = None) -> Export:
    """Write a run's network to a file that needs nothing of this project.

    The file gets its name only after it was run on all of the run's test images; of
    a run that was never tested, such as a job of a sweep, on its validation images.

    Args:
        run: whose network is meant.
        format: a key of ``FILES``.
        output: the file; ``export/`` in the run folder if None.

    Raises:
        ConfigError: if the format needs what is not installed, the network is nothing for it, or
            the file cannot be written.
        DataError: if the run's data cannot be had.
        Refused: if a probability differs by more than ``TOLERANCE``.
    """
    write, load = FORMATS[format]
    file = output or run.folder / "export" / FILES[format]
    if file.is_dir():
        raise ConfigError(f"--output {file}: is a folder; name a file")
    if format == "torch" and file.suffix != ".pt2":
        raise ConfigError(f"--output {file}: torch loads programs from names that end in .pt2")
    if format == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")
    split = "test" if "test/acc" in run.result.get("metrics", {}) else "val"
    seen = own(run, split)
    images, labels = seen.labelled.images, seen.labelled.labels
    pixels = run.network()
    network = Probabilities(pixels).eval()
    expected = by_batches(network, images)
    accuracy = (expected.argmax(1) == labels).double().mean().item()
    facts = describe(run, model_name(pixels), seen, accuracy)
    anchor = next(folder for folder in file.absolute().parents if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=anchor, prefix=".export-") as folder:
            part = Path(folder) / FILES[format]
            write(network, images, labels, facts, part)
            program, exported = load(part)
            found = by_batches(exported, images)
            difference = (found - expected).abs().max().item()
            if not difference <= TOLERANCE:  # nor where it is not a number
                raise Refused(
                    f"{file.name}: a probability differs by {difference:.1e} between {program} "
                    f"and PyTorch, {TOLERANCE:.0e} is let through; nothing was kept"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            part.replace(file)
    except subprocess.CalledProcessError as error:
        raise Refused(f"{file.name}: its check did not run through ({program})") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror or error})") from error
    agree = int((found.argmax(1) == expected.argmax(1)).sum())
    size = file.stat().st_size
    return Export(
        file, format, size, program, len(found), difference, agree, accuracy, split, seen.notes
    )


def by_batches(network: Callable[[Tensor], Tensor], images: Tensor, size: int = 500) -> Tensor:
    """Probabilities of all images; the first goes alone, so that two batch sizes are seen."""
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in (images[:1], *images[1:].split(size))])


def describe(run: Run, model: str, seen: Images, accuracy: float) -> dict[str, Any]:
    """What a file says about itself, in plain types.

    Args:
        run: where the network comes from.
        model: the name of its network.
        seen: the images it was checked on.
        accuracy: the share of them that the network has right.
    """
    shape = ", ".join(str(side) for side in seen.labelled.images.shape[1:])
    return {
        "classes": list(run.classes),
        "input": f"images: uint8 [batch, {shape}], plain pixels from 0 to 255, light on dark",
        "output": f"probabilities: float32 [batch, {len(run.classes)}], in the order of classes",
        "mean": float(run.state["state_dict"]["mean"]),
        "std": float(run.state["state_dict"]["std"]),
        "accuracy": accuracy,
        "split": MEANING[seen.split],
        "images": len(seen.labelled),
        "notes": list(seen.notes),
        "model": model,
        "data": seen.data,
        "run": "/".join(run.folder.absolute().parts[-2:]),
        "epoch": int(run.state["epoch"]) + 1,
        "versions": {name: version(name) for name in ("lenet-pl", "torch")},
    }


def _need(*packages: str) -> None:
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigError(
                f'--format onnx: needs {package}, which pip install "lenet-pl[export]" brings'
            ) from error


FORMATS = {
    "onnx": (export_torch.write_onnx, export_torch.load_onnx),
    "torch": (export_torch.write_torch, export_torch.load_torch),
    "html": (export_html.write, export_html.load),
}
