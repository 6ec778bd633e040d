"""Two short runs, one of them tested, and their evaluations."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.evaluations import train_run

from lenet_pl import plots
from lenet_pl.evaluation.evaluate import RunEvaluation, evaluate_run
from lenet_pl.report import page
from lenet_pl.runs import open_run


@pytest.fixture(scope="session")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("runs") / "tested", "trainer.max_epochs=2")


@pytest.fixture(scope="session")
def untested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like a sweep's job: never tested. It has no TensorBoard log."""
    overrides = ["trainer.max_epochs=1", "seed=1", "test=false", "logger=none"]
    return train_run(tmp_path_factory.mktemp("runs") / "untested", *overrides)


@pytest.fixture(scope="session")
def first(tested: Path) -> RunEvaluation:
    return evaluate_run(open_run(str(tested)))


@pytest.fixture(scope="session")
def second(untested: Path, first: RunEvaluation) -> RunEvaluation:
    return evaluate_run(open_run(str(untested)), first.data)


@pytest.fixture
def copied(tested: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tested, tmp_path / "copy"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built but not rendered, which takes most of a report's time."""
    blank = page.thumbnail(torch.zeros(1, 9, 9, dtype=torch.uint8))
    monkeypatch.setattr(plots, "png", lambda figure, *args, **kwargs: blank)
