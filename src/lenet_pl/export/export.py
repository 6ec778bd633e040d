"""Export of a run's network, verified against PyTorch before the file is written."""

import io
import json
import logging
import subprocess
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenet_pl import __version__
from lenet_pl.errors import ConfigError, VerificationError
from lenet_pl.export.browser import load_html, write_html
from lenet_pl.files import write_bytes
from lenet_pl.metrics import predict_logits
from lenet_pl.models.pixelnet import model_name
from lenet_pl.runs import Run

ONNX = ("onnx", "onnxscript", "onnxruntime")  # packages of the extra "export"
TOLERANCE = 1e-4  # the largest accepted difference in a probability
DYNAMIC_BATCH = ({0: torch.export.Dim("batch")},)
Facts = dict[str, Any]  # what a file says about itself, in plain types
Loaded = tuple[str, Callable[[Tensor], Tensor]]  # the runtime's name; images to probabilities


def export(run: Run, format: str, output: Path | None = None) -> dict[str, Any]:
    """Export a run's network to a file that does not need this package, and return a summary.

    The file is written if it gives the same probabilities as PyTorch on the run's test images, or
    on its validation images if it was not tested; else VerificationError is raised. A page is also
    written if there is no Node.js to run it, ``checked_with`` None. The format is a key of
    :data:`FORMATS`, and the output by default a file in ``export/`` in the run folder.
    """
    name, write, load = FORMATS[format]
    file = output or run.folder / "export" / name
    if file.is_dir():
        raise ConfigError(f"--output {file}: is a folder; give a file name")
    if format == "torch" and file.suffix != ".pt2":
        raise ConfigError(f"--output {file}: torch.export.load needs a name that ends in .pt2")
    if format == "onnx" and (missing := [name for name in ONNX if find_spec(name) is None]):
        raise ConfigError(f'--format onnx: needs {missing[0]}: pip install "lenet-pl[export]"')
    split, data, pixel_net = "test" if run.tested else "val", run.data(), run.network()
    images, labels = data.splits[split].images, data.splits[split].labels
    network = nn.Sequential(pixel_net, nn.Softmax(1)).eval()
    expected = predict_logits(pixel_net, images).softmax(1)
    shape = ", ".join(map(str, images.shape[1:]))
    facts = {
        "classes": list(run.classes),
        "input": f"images: uint8 [batch, {shape}], plain pixels from 0 to 255"
        + ", light on dark" * (images.shape[1] == 1),
        "output": f"probabilities: float32 [batch, {len(run.classes)}], in the order of classes",
        "mean": pixel_net.mean.squeeze().tolist(),
        "std": pixel_net.std.squeeze().tolist(),
        "accuracy": (expected.argmax(1) == labels).double().mean().item(),
        "split": "test" if run.tested else "validation",
        "images": len(images),
        "notes": list(run.notes),
        "model": model_name(pixel_net.net),
        "data": data.source.name,
        "run": run.name,
        "epoch": run.epoch,
        "versions": {"lenet-pl": __version__, "torch": version("torch")},
    }
    content = write(network, images, labels, facts)
    runtime, difference, agree = None, None, None
    if loaded := load(content):
        runtime, predict = loaded
        batches = (images[:1], *torch.split(images[1:], 500))  # batches of two sizes
        try:
            with torch.inference_mode():
                actual = torch.cat([predict(batch) for batch in batches])
        except subprocess.CalledProcessError as error:
            raise VerificationError(f"{file.name}: failed in {runtime}") from error
        difference = (actual - expected).abs().max().item()
        agree = int((actual.argmax(1) == expected.argmax(1)).sum())
        if not difference <= TOLERANCE:  # NaN fails too
            raise VerificationError(
                f"{file.name}: a probability differs by {difference:.1e} between {runtime} "
                f"and PyTorch, more than {TOLERANCE:.0e}; nothing was written"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, content)
    result = {"file": str(file), "format": format, "size": len(content), "checked_with": runtime}
    result |= {"difference": difference, "agree": agree, "split": split}
    return result | {key: facts[key] for key in ("images", "accuracy", "notes")}


def write_onnx(network: nn.Module, images: Tensor, labels: Tensor, facts: Facts) -> bytes:
    """An ONNX model with a dynamic batch size; the facts are its metadata, lists as JSON."""
    import onnx

    for library in ("torch.onnx", "onnx_ir", "onnxscript"):  # they log each step at INFO
        logging.getLogger(library).setLevel(logging.ERROR)
    names: Any = {"input_names": ["images"], "output_names": ["probabilities"]}
    options: Any = {"dynamo": True, "dynamic_shapes": DYNAMIC_BATCH, "verbose": False}
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(network, (images[:2].clone(),), **names, **options)
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # paths of this machine
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        program.model.metadata_props[key] = text
    content: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    return content


def load_onnx(content: bytes) -> Loaded:
    """An ONNX Runtime session on the CPU, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return f"ONNX Runtime {onnxruntime.__version__}", lambda images: torch.from_numpy(
        session.run(None, {"images": images.numpy()})[0]
    )


def write_torch(network: nn.Module, images: Tensor, labels: Tensor, facts: Facts) -> bytes:
    """A ``torch.export`` program with a dynamic batch size; the facts are ``metadata.json``."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.export(network, (images[:2].clone(),), dynamic_shapes=DYNAMIC_BATCH)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        extra = {"metadata.json": json.dumps(facts, ensure_ascii=False)}
        torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def load_torch(content: bytes) -> Loaded:
    """A ``torch.export`` program as a module."""
    program = torch.export.load(io.BytesIO(content))
    return f"torch.export, torch {torch.__version__}", program.module()


# name of the file, its content and how to run it, None if that is not possible
FORMATS: dict[str, tuple[str, Callable[..., bytes], Callable[[bytes], Loaded | None]]] = {
    "onnx": ("model.onnx", write_onnx, load_onnx),
    "torch": ("model.pt2", write_torch, load_torch),
    "html": ("digit.html", write_html, load_html),
}
