"""Reading run folders, and the overrides of a quick run."""

import csv
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning import Callback

from helpers.commands import ROOT
from lenet_pl import training

FAST = ["data=mini", "trainer.accelerator=cpu", "optimizer.lr=0.05", "data.batch_size=64"]

# runs a test with either classifier
either = pytest.mark.parametrize("composed", ["plain", "fast"], indirect=True)


def compose_config(*overrides: str) -> DictConfig:
    """A configuration as the command line composes it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("config", list(overrides))


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, without the seconds, which differ from run to run."""
    with (folder / "metrics.csv").open() as file:
        read = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def train_with(
    callback: Callback, cfg: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> float | None:
    """Train with one more callback."""
    parts = training.build(cfg)
    parts.trainer.callbacks.append(callback)
    monkeypatch.setattr(training, "build", lambda *_: parts)
    return training.train(cfg)
