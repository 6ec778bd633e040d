"""Evaluate a trained network on labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lenet_pl import metrics
from lenet_pl.data.cifar import CIFAR10
from lenet_pl.data.folder import SPLIT_NAMES, Folder, class_folders, read_images
from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.mnist import KMNIST, MNIST, FashionMNIST, Mini
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.evaluation.predict import output_path, preprocessing, source_class
from lenet_pl.files import write_csv, write_json
from lenet_pl.models.pixelnet import PixelNet
from lenet_pl.records import DATA_KEY, read_metrics, read_overrides, read_result
from lenet_pl.runs import Run, open_run

if TYPE_CHECKING:
    from lenet_pl.data.datamodule import DigitsDataModule

DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
MEANING = {"train": "training", "val": "validation", "test": "test", "": ""}
SOURCES = {source.name: source for source in (Mini, MNIST, FashionMNIST, KMNIST, CIFAR10)}


@dataclass(frozen=True)
class SplitPredictions:
    """Labelled images and a network's predictions."""

    split: str  # train, val or test; empty for a folder of images
    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    logits: Tensor  # float32 [N, classes]
    indices: Tensor  # int64 [N], positions in the official files, or in a folder
    files: Sequence[str]  # of each image; empty where images have no files of their own
    data: str = ""  # name of the data set
    own: bool = False  # whether it is the data set of the network's run
    notes: tuple[str, ...] = ()  # what to know when reading the metrics

    @property
    def meaning(self) -> str:
        return MEANING[self.split]

    @cached_property
    def predicted(self) -> Tensor:
        """Predicted labels, int64 ``[N]``."""
        return self.logits.argmax(1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether each prediction is correct, bool ``[N]``."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> metrics.Proportion:
        return metrics.Proportion(int(self.correct.sum()), len(self.labels))


def predict_split(run: Run, split: str, data: "DigitsDataModule | None" = None) -> SplitPredictions:
    """Predictions for a split of a run's data, which is loaded unless given."""
    data = data or run.data()
    name, dataset, files = data.source.name, data.splits[split], data.files.get(split, ())
    if not len(dataset):
        raise DataError(f"--split {split}: {name} has no {MEANING[split]} images")
    facts = {"indices": data.indices[split], "files": files, "notes": run.notes}
    return _predict(run, dataset, split=split, data=name, own=True, **facts)


def predict_other(run: Run, name: str, split: str, root: str) -> SplitPredictions:
    """Predictions for the ``test`` or ``train`` split of another data set, or for a folder.

    The name is a key of ``SOURCES``, or a folder with a folder of images for each class, which are
    preprocessed as for training. The classes must be those of the run.
    """
    if name not in SOURCES:
        return _predict_folder(run, name)
    if split == "val":
        raise ConfigError(f"--split val: {name} has no official one; choose from test, train")
    source = Mini() if name == "mini" else SOURCES[name](root)
    official = source.load()
    for kind, separator, *values in (
        ("classes", ", ", official.classes, run.classes),
        ("images", " × ", official.train.images.shape[1:], run.state[DATA_KEY]["shape"]),
    ):
        theirs, own = (separator.join(map(str, value)) for value in values)
        if theirs != own:
            raise ConfigError(f"--data {name}: its {kind} are {theirs}, the network's {own}")
    related = getattr(source_class(run), "family", None) == source.family
    notes = _leakage_note(run, split) if related else ()
    return _predict(run, official.splits()[split], split=split, data=name, notes=notes)


def _predict_folder(run: Run, name: str) -> SplitPredictions:
    folder, classes = Path(name).resolve(), f"its classes are {', '.join(run.classes)}"
    if not folder.is_dir():
        raise ConfigError(
            f"--data {name}: neither a folder nor a data set; choose from {', '.join(SOURCES)}"
        )
    folders = class_folders(folder)
    if unknown := ", ".join(sorted(folders.keys() - set(run.classes))):
        raise ConfigError(f"--data {name}: the network does not know {unknown}; {classes}")
    dataset, files, broken = read_images(folder, folders, run.classes, preprocessing(run))
    if not files:
        raise DataError(f"--data {name}: no image in a folder named after one of its classes")
    notes = tuple(f"skipped {file}: {reason}" for file, reason in broken.items())
    root = Path(str(run.setting("data.root"))).resolve()
    if source_class(run) is Folder and folder.is_relative_to(root):
        top = (*folder.relative_to(root).parts, "train")[0].lower()
        notes = _leakage_note(run, SPLIT_NAMES.get(top, "train")) + notes
    return _predict(run, dataset, split="", data=folder.name, files=files, notes=notes)


def _predict(run: Run, dataset: ImageDataset, **facts: Any) -> SplitPredictions:
    """Predictions for a data set; ``facts`` are the other fields, some of which have defaults."""
    facts = {"indices": torch.arange(len(dataset)), "files": (), **facts}
    logits = predict(run, run.network(), dataset.images)
    return SplitPredictions(images=dataset.images, labels=dataset.labels, logits=logits, **facts)


def _leakage_note(run: Run, split: str) -> tuple[str, ...]:
    """A note if a run was trained on images of this official split of its own data set."""
    if run.setting("data.split"):
        reason = "the run pooled training and test images of this data set"
    elif split == "train":
        reason = "these are training images of the run's own data set"
    else:
        return ()
    return (f"{reason}, so it was trained on some of them: the metrics are optimistic",)


def predict(run: Run, network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float32 ``[N, classes]``, equal to the last bit to those of the run's own testing.

    Batch size, device and precision are the run's. The network is moved to the device, and cast
    where ``trainer.precision`` is not mixed.
    """
    bits, _, mode = str(run.setting("trainer.precision", "32-true")).partition("-")
    dtype, device, mixed = DTYPES.get(bits), _device(run), mode == "mixed"
    network = network.to(device, None if mixed else dtype)
    batch_size = run.setting("data.eval_batch_size", 500)  # bare weights have none
    with torch.autocast(device.type, dtype, enabled=mixed):
        return metrics.predict_logits(network, images, batch_size).float()


def _device(run: Run) -> torch.device:
    """The accelerator of this machine, unless the run is configured for the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    configured = run.setting("trainer.accelerator") != "cpu"
    return accelerator if accelerator and configured else torch.device("cpu")


def compute_metrics(run: Run, predictions: SplitPredictions) -> dict[str, Any]:
    """The metrics of ``lenet-pl test``, in plain types, with notes on how to read them.

    The interval of the accuracy, from ``low`` to ``high``, is Wilson's at 95 %; ``metrics`` are
    those of an epoch, ``nll`` is in nats per image, and rows of the confusion matrix are labels.
    """
    logits, labels, accuracy = predictions.logits, predictions.labels, predictions.accuracy
    device = _device(run)
    low, high = metrics.wilson_interval(accuracy.count, accuracy.total)
    matrix = metrics.confusion_matrix(logits, labels)
    scores = dict(zip(run.classes, metrics.per_class_scores(matrix), strict=True))
    notes = [*predictions.notes]
    if missing := ", ".join(name for name, score in scores.items() if not score.support):
        notes.append(f"no images of {missing}: not tested, and left out of balanced accuracy")
    return {
        "notes": notes,
        "correct": accuracy.count,
        "loss": run.loss().to(device)(logits.to(device), labels.to(device)).item(),
        "accuracy": accuracy.value,
        "low": low,
        "high": high,
        "metrics": {name: x.item() for name, x in metrics.epoch_metrics(logits, labels).items()},
        "nll": metrics.negative_log_likelihood(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels),
        "matrix": matrix.tolist(),
        "scores": [{"class": name, **score._asdict()} for name, score in scores.items()],
    }


def write_predictions(run: Run, predictions: SplitPredictions) -> Path:
    """Write a row per image to ``predictions.csv``, and return its path.

    Other data and other splits are part of its name: ``predictions-mnist-train.csv``.
    """
    data = "" if predictions.own else f"-{predictions.data}"
    split = "" if predictions.split in ("test", "") else f"-{predictions.split}"
    path = output_path(run, f"predictions{data}{split}.csv")
    columns: dict[str, Sequence[Any]] = {"index": predictions.indices.tolist()}
    columns |= {"file": predictions.files} if predictions.files else {}
    for name, labels in (("label", predictions.labels), ("prediction", predictions.predicted)):
        columns[name] = [run.classes[label] for label in labels]
    header = [*columns, "confidence", *(f"p({name})" for name in run.classes)]
    probabilities = predictions.logits.double().softmax(1).tolist()
    rows = (
        [*start, *(f"{p:.9g}" for p in (max(row), *row))]
        for *start, row in zip(*columns.values(), probabilities, strict=True)
    )
    write_csv(path, header, rows)
    return path


@dataclass(frozen=True)
class RunEvaluation:
    """A run and its predictions."""

    run: Run
    data: "DigitsDataModule"
    network: PixelNet  # in evaluation mode
    rows: list[dict[str, float]]  # of metrics.csv
    val: SplitPredictions
    test: SplitPredictions | None  # None unless the run tested these very weights
    train: metrics.Proportion  # correct of a sample of the training images, without augmentation

    @property
    def shown(self) -> SplitPredictions:
        """The predictions for the test split if there are any, else for the validation split."""
        return self.test or self.val

    @property
    def overrides(self) -> list[str]:
        """The run's overrides that describe the training, not its folder, resumption or sweep."""
        if not (self.run.folder / ".hydra" / "overrides.yaml").is_file():
            return []
        skipped = ("ckpt_path=", "hydra.", "sweep=")
        return [item for item in read_overrides(self.run.folder) if not item.startswith(skipped)]


def evaluate_run(run: Run, data: "DigitsDataModule | None" = None) -> RunEvaluation:
    """Evaluate a run on validation, and on test only if the run tested these very weights.

    ``data`` is loaded already, and used if it is the run's.
    """
    rows = read_metrics(run.folder)
    needed = {"epoch", "lr", "train/loss", "train/acc", "val/loss", "val/acc"}
    if not rows or any(needed - row.keys() for row in rows):
        raise ConfigError(
            f"{run.folder / 'metrics.csv'}: missing or damaged; a report needs the training and "
            "validation metrics of every epoch"
        )
    if data is None or data.state_dict() != run.state[DATA_KEY]:
        data = run.data()
    tested = run.tested and run.result["best_epoch"] == run.epoch
    val = predict_split(run, "val", data)
    test = predict_split(run, "test", data) if tested else None
    train = data.splits["train"]
    sample = torch.linspace(0, len(train) - 1, min(len(train), len(val.labels))).long()
    sampled = _predict(run, ImageDataset(*train.__getitems__(sample)), split="train")
    return RunEvaluation(run, data, run.network(), rows, val, test, sampled.accuracy)


def test_winner(folders: Sequence[Path]) -> None:
    """Test the jobs that won a sweep, which differ in the seed only, unless they are tested.

    Test metrics are added to the ``result.json`` of all of them, or of none.
    """
    results = {folder: read_result(folder) for folder in folders}
    untested = {k: x for k, x in results.items() if "test/acc" not in x.get("metrics", {})}
    for folder, result in untested.items():
        run = open_run(str(folder))
        values = compute_metrics(run, predict_split(run, "test"))
        interval = {"acc_low": values["low"], "acc_high": values["high"]}
        tested = {**values["metrics"], "loss": values["loss"], **interval}
        result["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
    for folder, result in untested.items():
        write_json(folder / "result.json", result)
