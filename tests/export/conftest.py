"""A run to export, and the probabilities that its exports must give."""

from pathlib import Path

import pytest
import torch

from lenet_pl.data.mnist import Mini
from lenet_pl.runs import open_run


@pytest.fixture(scope="session")
def run(trained: Path) -> Path:
    """The folder of a run; tests do not change it."""
    return trained


@pytest.fixture(scope="session")
def test_split():
    """The test images and labels of the run."""
    return Mini().load().test


@pytest.fixture(scope="session")
def probabilities(run: Path, test_split) -> torch.Tensor:
    """PyTorch's probabilities of the test images."""
    with torch.no_grad():
        return open_run(str(run)).network()(test_split.images).softmax(1)
