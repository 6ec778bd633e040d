"""A trained network on labelled images: every figure, and every prediction."""

import contextlib
import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lenet_pl import metrics as evaluate
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation.images import Images
from lenet_pl.evaluation.loading import LoadedModel
from lenet_pl.runs import Run

BATCH = 500  # images, where no run says how many
DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}


@dataclass(frozen=True)
class Tested:
    """How good a network is on some images.

    Attributes:
        logits: float32 ``[N, classes]``.
        correct: how many predictions are right.
        loss: by the loss that was trained with.
        accuracy, low, high: the share that is right, and its 95 % Wilson interval.
        nll: negative log-likelihood of the labels, in nats.
        ece: expected calibration error of 15 bins.
        matrix: int64 ``[classes, classes]``, row the label, column the prediction.
        scores: precision, recall, F1 and support of each class.
    """

    logits: Tensor
    correct: int
    loss: float
    accuracy: float
    low: float
    high: float
    nll: float
    ece: float
    matrix: Tensor
    scores: list[evaluate.ClassScores]


def score(subject: LoadedModel, images: Tensor, labels: Tensor) -> Tested:
    """Predict, in the batches, on the device and in the precision of the run's own testing."""
    device = _as_trained(subject.run)[1]
    logits = predict(subject.run, subject.network, images)
    loss = subject.run.loss() if subject.run else nn.CrossEntropyLoss()
    correct = int((logits.argmax(1) == labels).sum())
    matrix = evaluate.confusion_matrix(logits, labels)
    return Tested(
        logits,
        correct,
        loss(logits.to(device), labels.to(device)).item(),
        correct / len(labels),
        *evaluate.wilson_interval(correct, len(labels)),
        evaluate.negative_log_likelihood(logits, labels),
        evaluate.expected_calibration_error(logits, labels),
        matrix,
        evaluate.per_class_scores(matrix),
    )


def predict(run: Run | None, network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float32 ``[N, classes]``, in the batches, device and precision of a run's testing.

    The network goes to that device, and to that precision where it is ``true`` and not mixed.
    """
    batch_size, device, precision = _as_trained(run)
    network = network.to(device)
    with _computing(network, device, precision):
        return evaluate.predict_logits(network, images, batch_size).float()


def _as_trained(run: Run | None) -> tuple[int, torch.device, str]:
    """Batch size, device and precision that a run tested with, as far as it can be had here."""
    config = run.config if run else OmegaConf.create()
    wanted = OmegaConf.select(config, "trainer.accelerator", default="auto")
    device = torch.device("cpu")
    if wanted != "cpu" and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator() or device
    precision = str(OmegaConf.select(config, "trainer.precision", default="32-true"))
    return OmegaConf.select(config, "data.eval_batch_size", default=BATCH), device, precision


def _computing(
    network: nn.Module, device: torch.device, precision: str
) -> contextlib.AbstractContextManager[Any]:
    """What Lightning's ``trainer.precision`` does: ``bf16-mixed``, ``16-true`` and so on."""
    bits, _, how = precision.partition("-")
    dtype = DTYPES.get(bits)
    if dtype and (how == "true" or bits == "64"):
        network.to(dtype)
    elif dtype:
        return torch.autocast(device.type, dtype)
    return contextlib.nullcontext()


def as_reported(subject: LoadedModel, images: Images, tested: Tested) -> dict[str, Any] | None:
    """What training reported of the same weights and images, and whether it is the same.

    Returns:
        ``acc`` and ``loss`` of ``result.json``, and ``same``; None where it has none of these.
    """
    run = subject.run
    known = run is not None and run.checkpoint.stem == "best" and images.own
    metrics = run.result.get("metrics", {}) if run and known else {}
    if f"{images.split}/acc" not in metrics:
        return None
    acc, loss = metrics[f"{images.split}/acc"], metrics[f"{images.split}/loss"]
    return {"acc": acc, "loss": loss, "same": (acc, loss) == (tested.accuracy, tested.loss)}


def summary(subject: LoadedModel, images: Images, tested: Tested) -> dict[str, Any]:
    """The figures in plain types, for a program to read."""
    figures = asdict(tested)
    del figures["logits"]
    figures["matrix"] = tested.matrix.tolist()
    figures["scores"] = [
        {"class": name, **scores._asdict()}
        for name, scores in zip(subject.classes, tested.scores, strict=True)
    ]
    return {
        "run": str(subject.run.folder) if subject.run else None,
        "weights": str(subject.run.checkpoint) if subject.run else subject.name,
        "epoch": subject.run.state["epoch"] + 1 if subject.run else None,
        "data": images.data,
        "split": images.split,
        "images": len(images.labelled),
        "notes": list(images.notes),
        **figures,
        "reported": as_reported(subject, images, tested),
    }


def write_predictions(subject: LoadedModel, images: Images, tested: Tested) -> Path:
    """Write a row per image to ``predictions.csv``; returns its path.

    That is the name for a run's own test images and best weights; what differs is added to it:
    ``predictions-val.csv``, ``predictions-mnist.csv``, ``last-predictions.csv``.

    Raises:
        ConfigError: if it cannot be written.
    """
    words = ["predictions"] + ([] if images.own else [images.data])
    words += [] if images.split in ("test", "") else [images.split]
    path = subject.folder / f"{subject.prefix}{'-'.join(words)}.csv"
    part = path.with_suffix(".part")
    shares = tested.logits.double().softmax(1)
    columns = [
        images.indices.tolist(),
        images.files or [""] * len(images.labelled),
        images.labelled.labels.tolist(),
        tested.logits.argmax(1).tolist(),
        shares.tolist(),
    ]
    names = subject.classes
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            head = ["index", *(["file"] if images.files else []), "label", "prediction"]
            writer.writerow([*head, "confidence", *(f"p({name})" for name in names)])
            for index, picture, label, guess, row in zip(*columns, strict=True):
                where = [index, picture] if images.files else [index]
                cells = [f"{share:.9g}" for share in row]
                writer.writerow([*where, names[label], names[guess], cells[guess], *cells])
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    return path
