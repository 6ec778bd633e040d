"""A grid of jobs on disk, and sweeps run in this process."""

import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.sweeps import write_job

from lenet_pl import cli, training


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two learning rates by two batch sizes; two jobs are equally accurate, one failed."""
    for name, lr, size, acc, loss in [
        ("0", "0.01", 32, 0.91, 0.3),
        ("2", "0.1", 32, 0.95, 0.2),
        ("10", "0.1", 64, 0.95, 0.1),
    ]:
        overrides = ["data=mini", f"optimizer.lr={lr}", f"data.batch_size={size}"]
        write_job(tmp_path, name, overrides, acc=acc, loss=loss)
    write_job(tmp_path, "1", ["data=mini", "optimizer.lr=0.01", "data.batch_size=64"], "failed")
    return tmp_path


@pytest.fixture
def run_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``lenet-pl train`` in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            cli.train()
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:
            cli.sweep_error_hook = training.job_hook = None
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.collect()  # releases the lock of an interrupted sweep, as the end of a process does
        return 0

    return run
