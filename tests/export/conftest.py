"""A run to export, and the probabilities that its exports must give."""

from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT
from helpers.runs import FAST
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lenet_pl.data.mnist import Mini
from lenet_pl.runs import open_run
from lenet_pl.training import train


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch on the digits that ship; tests do not change it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        overrides = ["trainer.max_epochs=1", "logger=none", f"run_dir={folder}"]
        cfg = compose("config", [*FAST, *overrides])
    train(cfg)
    (folder / ".hydra").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    return folder


@pytest.fixture(scope="session")
def test_split():
    """The test images and labels of the run."""
    return Mini().load().test


@pytest.fixture(scope="session")
def probabilities(run: Path, test_split) -> torch.Tensor:
    """PyTorch's probabilities of the test images."""
    with torch.no_grad():
        return open_run(str(run)).network()(test_split.images).softmax(1)
