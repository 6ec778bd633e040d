"""Evaluate a trained network on labelled images."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lenet_pl import metrics
from lenet_pl.data.cifar import CIFAR10
from lenet_pl.data.folder import SPLIT_NAMES, Folder, class_folders, read_images
from lenet_pl.data.mnist import KMNIST, MNIST, FashionMNIST, Mini
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.evaluation.loading import LoadedModel, source_class
from lenet_pl.files import write_csv, write_json
from lenet_pl.metrics import Proportion
from lenet_pl.models.pixelnet import PixelNet, model_name
from lenet_pl.records import DATA_KEY, read_metrics, read_overrides, read_result
from lenet_pl.runs import Run, open_run

if TYPE_CHECKING:
    from lenet_pl.data.datamodule import DigitsDataModule

BATCH_SIZE = 500  # for bare weights
DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
MEANING = {"train": "training", "val": "validation", "test": "test", "": ""}
SOURCES = {source.name: source for source in (Mini, MNIST, FashionMNIST, KMNIST, CIFAR10)}


@dataclass(frozen=True)
class ImageSet:
    """Labelled images to evaluate a network on."""

    split: str  # train, val or test; empty for a folder of images
    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N], positions in the official files, or in a folder
    files: Sequence[str]  # of each image; empty where images have no files of their own
    data: str = ""  # name of the data set
    own: bool = False  # whether it is the data set of the network's run
    notes: tuple[str, ...] = ()  # what to know when reading the metrics


@dataclass(frozen=True, kw_only=True)
class SplitPredictions(ImageSet):
    """Labelled images and a network's logits, float32 ``[N, classes]``."""

    logits: Tensor

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
    def accuracy(self) -> Proportion:
        return Proportion(int(self.correct.sum()), len(self.labels))


def run_images(run: Run, split: str, data: "DigitsDataModule | None" = None) -> ImageSet:
    """A split of a run's data, which is loaded unless given."""
    data = data or run.data()
    name, dataset, files = data.source.name, data.splits[split], data.files.get(split, ())
    if not len(dataset.labels):
        raise DataError(f"--split {split}: {name} has no {MEANING[split]} images")
    tensors = dataset.images, dataset.labels, data.indices[split]
    return ImageSet(split, *tensors, files, name, own=True, notes=run.notes)


def other_images(name: str, split: str, model: LoadedModel, root: str) -> ImageSet:
    """An official split of another data set, or a folder with a folder of images per class.

    Args:
        name: a key of ``SOURCES``, or the folder, whose images are preprocessed as for training.
        split: ``test`` or ``train`` of a data set.
        model: the network, whose classes the data must have.
        root: data root of the data sets.
    """
    if name not in SOURCES:
        return _folder_images(name, model)
    source = Mini() if name == "mini" else SOURCES[name](root)
    official = source.load()
    if official.classes != model.classes:
        raise ConfigError(
            f"--data {name}: its classes are {', '.join(official.classes)}; "
            f"the network's are {', '.join(model.classes)}"
        )
    if (shape := official.train.images.shape[1:]) != model.shape:
        sizes = (" × ".join(map(str, x)) for x in (shape, model.shape))
        raise ConfigError(
            f"--data {name}: its images are {next(sizes)}, the network's {next(sizes)}"
        )
    if split == "val":
        raise ConfigError(f"--split val: {name} has no official one; choose from test, train")
    dataset = official.test if split == "test" else official.train
    notes: tuple[str, ...] = ()
    if model.run and getattr(source_class(model.run), "family", None) == source.family:
        notes = _leakage_note(model.run, split)
    indices = torch.arange(len(dataset))
    return ImageSet(split, dataset.images, dataset.labels, indices, (), name, notes=notes)


def _folder_images(name: str, model: LoadedModel) -> ImageSet:
    folder = Path(name).resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"--data {name}: neither a folder nor a data set; choose from {', '.join(SOURCES)}"
        )
    folders = class_folders(folder)
    if unknown := sorted(folders.keys() - set(model.classes)):
        raise ConfigError(
            f"--data {name}: the network does not know {', '.join(unknown)}; "
            f"its classes are {', '.join(model.classes)}"
        )
    dataset, files, broken = read_images(folder, folders, model.classes, model.preprocess)
    if not files:
        raise DataError(f"--data {name}: no image in a folder named after one of its classes")
    notes = tuple(f"skipped {file}: {reason}" for file, reason in broken.items())
    if model.run and source_class(model.run) is Folder:
        root = Path(str(model.run.config.data.root)).resolve()
        if folder.is_relative_to(root):
            top = (*folder.relative_to(root).parts, "train")[0].lower()
            notes = _leakage_note(model.run, SPLIT_NAMES.get(top, "train")) + notes
    indices = torch.arange(len(files))
    return ImageSet("", dataset.images, dataset.labels, indices, files, folder.name, notes=notes)


def _leakage_note(run: Run, split: str) -> tuple[str, ...]:
    """A note if a run was trained on images of this official split of its own data set."""
    pooled = run.config.data.get("split") is not None
    if not pooled and split != "train":
        return ()
    reason = "these are training images of the run's own data set"
    if pooled:
        reason = "the run pooled training and test images of this data set"
    return (f"{reason}, so it was trained on some of them: the metrics are optimistic",)


def predict(run: Run | None, network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float32 ``[N, classes]``, equal to the last bit to those of the run's own testing.

    Batch size, device and precision are the run's. The network is moved to the device, and cast
    where ``trainer.precision`` is not mixed.
    """
    bits, _, mode = str(_setting(run, "trainer.precision", "32-true")).partition("-")
    dtype, device = DTYPES.get(bits), _device(run)
    mixed = dtype is not None and mode != "true" and bits != "64"
    network = network.to(device) if mixed else network.to(device, dtype)
    with torch.autocast(device.type, dtype) if mixed else nullcontext():
        batch_size = _setting(run, "data.eval_batch_size", BATCH_SIZE)
        return metrics.predict_logits(network, images, batch_size).float()


def predict_split(run: Run | None, network: nn.Module, images: ImageSet) -> SplitPredictions:
    """Like :func:`predict`, for a set of labelled images."""
    return SplitPredictions(**vars(images), logits=predict(run, network, images.images))


def _setting(run: Run | None, key: str, default: Any) -> Any:
    return run.setting(key, default) if run else default


def _device(run: Run | None) -> torch.device:
    """The accelerator of this machine, unless the run is configured for the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    configured = _setting(run, "trainer.accelerator", "auto") != "cpu"
    return accelerator if accelerator and configured else torch.device("cpu")


def compute_metrics(run: Run | None, predictions: SplitPredictions) -> dict[str, Any]:
    """Compute the metrics that ``lenet-pl test`` prints.

    Returns:
        ``correct`` predictions, the ``loss`` (the run's, or cross-entropy), ``accuracy`` and its
        95 % Wilson interval from ``low`` to ``high``, the ``metrics`` of an epoch by name, ``nll``
        in nats per image, ``ece`` with 15 bins, the confusion ``matrix`` (rows are labels) and the
        ``scores`` of each class.
    """
    logits, labels, accuracy = predictions.logits, predictions.labels, predictions.accuracy
    device = _device(run)
    loss = (run.loss() if run else nn.CrossEntropyLoss()).to(device)
    low, high = metrics.wilson_interval(accuracy.count, accuracy.total)
    matrix = metrics.confusion_matrix(logits, labels)
    return {
        "correct": accuracy.count,
        "loss": loss(logits.to(device), labels.to(device)).item(),
        "accuracy": accuracy.value,
        "low": low,
        "high": high,
        "metrics": {name: x.item() for name, x in metrics.epoch_metrics(logits, labels).items()},
        "nll": metrics.negative_log_likelihood(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels),
        "matrix": matrix.tolist(),
        "scores": metrics.per_class_scores(matrix),
    }


def missing_note(classes: Sequence[str], scores: Sequence[metrics.ClassScores]) -> tuple[str, ...]:
    """A note if some classes have no images."""
    missing = [name for name, score in zip(classes, scores, strict=True) if not score.support]
    if not missing:
        return ()
    names = ", ".join(missing)
    return (f"no images of {names}: not tested, and balanced accuracy is that of the rest",)


def write_predictions(model: LoadedModel, predictions: SplitPredictions) -> Path:
    """Write a row per image to ``predictions.csv``, and return its path.

    Weights other than the best, other data and other splits than the test split are part of the
    name: ``last-predictions.csv``, ``predictions-mnist.csv``, ``predictions-val.csv``.
    """
    parts = ["predictions"] if predictions.own else ["predictions", predictions.data]
    parts += [predictions.split] if predictions.split in ("train", "val") else []
    path = model.folder / f"{model.prefix}{'-'.join(parts)}.csv"
    columns = {
        "index": predictions.indices.tolist(),
        **({"file": predictions.files} if predictions.files else {}),
        "label": [model.classes[label] for label in predictions.labels.tolist()],
        "prediction": [model.classes[label] for label in predictions.predicted.tolist()],
    }
    header = [*columns, "confidence", *(f"p({name})" for name in model.classes)]
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
    train: Proportion  # correct of a sample of the training images, without augmentation

    @property
    def shown(self) -> SplitPredictions:
        """The predictions for the test split if there are any, else for the validation split."""
        return self.test or self.val

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def model(self) -> str:
        return model_name(self.network.net)

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
    network = run.network()  # predict() moves and casts it; the one for the report stays as it is
    train = data.splits["train"]
    count = min(len(train), len(data.splits["val"]))
    sample = torch.linspace(0, len(train) - 1, count).long()
    correct = predict(run, network, train.images[sample]).argmax(1) == train.labels[sample]
    return RunEvaluation(
        run=run,
        data=data,
        network=run.network(),
        rows=rows,
        val=predict_split(run, network, run_images(run, "val", data)),
        test=predict_split(run, network, run_images(run, "test", data)) if tested else None,
        train=Proportion(int(correct.sum()), count),
    )


def test_winner(folders: Sequence[Path]) -> bool:
    """Test the jobs that won a sweep, which differ in the seed only, unless they are tested.

    Test metrics are added to the ``result.json`` of all of them, or of none. Returns whether there
    were jobs to test.
    """
    untested = [f for f in folders if "test/acc" not in read_result(f).get("metrics", {})]
    computed = []
    for run in (open_run(str(folder)) for folder in untested):
        predictions = predict_split(run, run.network(), run_images(run, "test"))
        computed.append(compute_metrics(run, predictions))
    names = {"loss": "loss", "acc_low": "low", "acc_high": "high"}
    for folder, values in zip(untested, computed, strict=True):
        result = read_result(folder)
        tested = values["metrics"] | {key: values[name] for key, name in names.items()}
        result["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
        write_json(folder / "result.json", result)
    return bool(untested)
