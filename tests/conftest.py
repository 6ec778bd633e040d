"""Shared pieces: configurations composed without the command line, and commands run for real."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests run side by side

import pytest
from helpers.commands import Done, Running
from helpers.runs import FAST, compose_config
from omegaconf import DictConfig, OmegaConf


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--download", action="store_true", help="also fetch MNIST and train on it")
    parser.addoption(
        "--trust", action="store_true", help="also kill runs, damage files, and use Slurm"
    )
    parser.addoption("--slow", action="store_true", help="also whole sweeps, notebooks, browsers")
    parser.addoption("--record-golden", action="store_true", help="for test_golden")  # for template


# the slowest files first, so that two workers end together
SLOWEST = (
    "test_reliability",  # for template
    "test_slurm",
    "test_hydra_callback",  # for sweeps
    "test_halving",  # for sweeps
    "test_plan",  # for sweeps
    "test_training",
    "test_fast",
    "test_options",
    "test_notebooks",
    "test_project",  # for template
    "test_golden",  # for template
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOWEST)
    if os.environ.get("CI") == "true":
        return
    reasons = {"download": "needs the network", "trust": "takes minutes", "slow": "takes minutes"}
    for mark, reason in reasons.items():
        skip = pytest.mark.skip(reason=f"{reason}: pytest --{mark}")
        for item in items if not config.getoption(f"--{mark}") else ():
            if item.get_closest_marker(mark):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    gc.freeze()  # collections, of which each sweep does one, skip what has been imported


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Undo what a command that runs in this process sets: the root logger and signal handlers."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    actions = {name: signal.getsignal(getattr(signal, name)) for name in names}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, action in actions.items():
        signal.signal(getattr(signal, name), action)


@pytest.fixture
def composed(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., DictConfig]:
    """Compose a configuration whose run folder is ``tmp_path / "run"``."""
    first = [f"run_dir={tmp_path / 'run'}", f"classifier={getattr(request, 'param', 'plain')}"]
    return lambda *overrides: compose_config(*first, *overrides)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Done]:
    """Run ``train.py`` as a user does, in an empty folder."""
    return lambda *words: Running(*words, cwd=tmp_path).wait()


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train with some overrides, once; the run is to read from, and who changes it copies it."""
    from lenet_pl.training import train

    @cache
    def train_once(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("trained") / "run"
        cfg = compose_config(*overrides, f"run_dir={folder}")
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        train(cfg)
        return folder

    return train_once


@pytest.fixture(scope="session")
def trained(train_once: Callable[..., Path]) -> Path:
    """A finished run on the digits that ship; see ``train_once``."""
    return train_once(*FAST, "trainer.max_epochs=6", "logger=none")


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable]:
    """Open a page in a browser that the tests of a module share."""
    from helpers.chromium import launch

    with launch() as open_page:
        yield open_page


@pytest.fixture
def checkpoint(composed: Callable[..., DictConfig], tmp_path: Path) -> Path:
    """The last checkpoint of a run of one short epoch, in ``tmp_path / "run"``."""
    from lenet_pl.training import train

    short = ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "test=false", "logger=none"]
    train(composed(*FAST, *short))
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def lenet_pl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Run ``lenet-pl`` in this process, in an empty folder; status, output and errors."""
    from lenet_pl import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["lenet-pl", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
