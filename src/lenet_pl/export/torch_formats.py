"""The two formats that PyTorch itself writes: ONNX, and a program of ``torch.export``."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# the program that runs an export, by name, and the export: images to probabilities
Loaded = tuple[str, Callable[[Tensor], Tensor]]


def write_onnx(
    network: nn.Module, images: Tensor, labels: Tensor, facts: dict[str, Any], file: Path
) -> None:
    """An ONNX model with a dynamic batch; the facts are its metadata, lists of them as JSON."""
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (images[:2].clone(),),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # paths of the files of this machine
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        program.model.metadata_props[key] = text
    program.save(file, external_data=False)
    onnx.checker.check_model(str(file), full_check=True)


def load_onnx(file: Path) -> Loaded:
    """A session of ONNX Runtime on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return f"ONNX Runtime {onnxruntime.__version__}", run


def write_torch(
    network: nn.Module, images: Tensor, labels: Tensor, facts: dict[str, Any], file: Path
) -> None:
    """A ``torch.export`` program with a dynamic batch; the facts are its ``metadata.json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (images[:2].clone(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of the files of this machine
        extra = {"metadata.json": json.dumps(facts, ensure_ascii=False)}
        torch.export.save(program, file, extra_files=extra)


def load_torch(file: Path) -> Loaded:
    return f"torch.export, torch {torch.__version__}", torch.export.load(file).module()
