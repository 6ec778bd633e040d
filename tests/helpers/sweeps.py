"""Folders of sweeps and jobs, written and read without training."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

QUICK = ["data=mini", "trainer.accelerator=cpu", "trainer.max_epochs=2", "logger=none"]
QUICK += ["data.val_size=100", "trainer.limit_train_batches=8"]
SHORT = [*QUICK, "optimizer.lr=0.05", "data.batch_size=64"]


def write_job(
    sweep: Path,
    name: str,
    overrides: list[str],
    status: str | None = "finished",
    acc: float = 0.9,
    loss: float = 0.3,
    wrong: Iterable[int] | None = None,
    images: int = 100,
    device: str = "cpu (1 thread)",
    monitor: str = "val/acc",
    **metrics: float,
) -> None:
    """Write the folder of a job as a run leaves it; without result.json if the status is None.

    ``wrong`` lists the misclassified validation images, which determine the accuracy. ``metrics``
    are further validation metrics of the best epoch.
    """
    if wrong is not None:
        wrong = sorted(wrong)
        acc = (images - len(wrong)) / images
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    lines = ["epoch,val/acc,val/loss,seconds", f"1,{acc - 0.1},{loss},2.0", f"2,{acc},{loss},1.5"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if wrong is not None:
        label = np.arange(images) % 10
        prediction = label.copy()
        prediction[wrong] = (label[wrong] + 1) % 10
        write_predictions(folder, 3 * np.arange(images), label, prediction)
    if status is None:
        return
    others = {f"val/{name}": value for name, value in metrics.items()}
    finished = status in ("finished", "paused", "pruned")
    result = {
        "status": status,
        "error": None if finished else "train/loss is nan in epoch 1",
        "overrides": overrides,
        "epochs": 2,
        "best_epoch": 2 if finished else None,
        "monitor": monitor,
        "metrics": {"val/acc": acc, "val/loss": loss, **others} if finished else {},
        "seconds": {"fit": 3.5},
        "device": device,
    }
    (folder / "result.json").write_text(json.dumps(result))


def write_plan(sweep: Path, jobs: dict[str, list[str]], command: str, total: int = 0) -> None:
    """Write a sweep's plan.json."""
    plan = {"command": command, "total": total or len(jobs), "jobs": jobs}
    (sweep / "plan.json").write_text(json.dumps(plan))


def write_predictions(
    folder: Path, index: np.ndarray, label: np.ndarray, prediction: np.ndarray
) -> None:
    """Write val_predictions.npz."""
    arrays = {"index": index, "label": label, "prediction": prediction}
    confidence = np.full(len(index), 0.5, np.float32)
    np.savez_compressed(folder / "val_predictions.npz", **arrays, confidence=confidence)


def read_results(sweep: Path) -> dict[str, dict]:
    """The content of each job's result.json."""
    files = sorted(sweep.glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def read_table(sweep: Path) -> list[dict[str, str]]:
    """The rows of sweep.csv."""
    with (sweep / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_files(folder: Path) -> dict[Path, bytes]:
    """The content of all files in a folder and below."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
