"""Shared pieces: configurations composed without the command line, and commands run for real."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests run side by side

import pytest
from helpers.commands import ROOT, Done, Running
from helpers.runs import FAST
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--download", action="store_true", help="also fetch MNIST and train on it")
    parser.addoption(
        "--trust", action="store_true", help="also kill runs, damage files, and use Slurm"
    )
    parser.addoption("--record-golden", action="store_true", help="for test_golden")  # for template


# the slowest files first, so that two workers end together
SLOWEST = (
    "test_reliability",  # for template
    "test_slurm",
    "test_hydra_callback",  # for sweeps
    "test_training",
    "test_notebooks",
    "test_project",  # for template
    "test_golden",  # for template
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOWEST)
    if os.environ.get("CI") == "true":
        return
    for mark, reason in (("download", "needs the network"), ("trust", "takes minutes")):
        skip = pytest.mark.skip(reason=f"{reason}: pytest --{mark}")
        for item in items if not config.getoption(f"--{mark}") else ():
            if item.get_closest_marker(mark):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Undo what Hydra sets on the root logger when a command runs in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def composed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., DictConfig]]:
    """Compose a configuration whose run folder is ``tmp_path / "run"``."""
    first = [f"run_dir={tmp_path / 'run'}", f"classifier={getattr(request, 'param', 'plain')}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        yield lambda *overrides: compose("config", [*first, *overrides])


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Done]:
    """Run ``train.py`` as a user does, in an empty folder."""
    return lambda *words: Running(*words, cwd=tmp_path).wait()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits that ship, to read from; who changes it copies it."""
    from lenet_pl.training import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    words = [*FAST, "trainer.max_epochs=6", "logger=none", f"run_dir={folder}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", words)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    train(cfg)
    return folder


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
