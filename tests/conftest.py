"""Shared pieces: configurations composed without the command line, and commands run for real."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
FAST = ["data=mini", "trainer.accelerator=cpu", "optimizer.lr=0.05", "data.batch_size=64"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--download", action="store_true", help="also fetch MNIST and train on it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--download") or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("download"):
            item.add_marker(pytest.mark.skip(reason="needs the network: pytest --download"))


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Compose a configuration whose run folder is ``tmp_path / "run"``."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        yield lambda *overrides: compose("config", [f"run_dir={tmp_path / 'run'}", *overrides])


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``train.py`` as a user does, in an empty folder."""

    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            **options,
        )

    return run
