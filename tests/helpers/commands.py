"""Commands in separate processes that do not have to import torch and Lightning.

A server that has imported them forks for each command, which saves some seconds.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["helpers.preloaded"])


class Done(NamedTuple):
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def hide(*modules: str) -> None:
    """Make imports of some modules fail in this process."""
    sys.modules.update(dict.fromkeys(modules))


def log_out(home: str) -> None:
    """Leave W&B without credentials."""
    os.environ.update({"HOME": home, "WANDB_MODE": "online", "WANDB_API_KEY": ""})


def kill_in_epoch(number: int) -> None:
    """Kill this process after some batches of an epoch of its training, which counts from 1."""
    from lenet_pl.classifier import Classifier

    step = Classifier.training_step

    def training_step(self, batch, batch_idx):
        if (self.current_epoch + 1, batch_idx) == (number, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    Classifier.training_step = training_step


class Running:
    """``python train.py WORDS`` in the folder ``cwd``, like ``subprocess.Popen``.

    Args:
        words: the arguments.
        cwd: the working folder; the outputs are written beside it.
        program: ``train.py`` or ``lenet-pl``.
        before: called in the new process before the program starts; must be picklable.
    """

    def __init__(
        self,
        *words: str,
        cwd: Path,
        program: str = "train.py",
        before: Callable[[], object] | None = None,
    ) -> None:
        ensure_server()
        self.outputs = [cwd.with_name(f"{cwd.name}.{time.monotonic_ns()}.{n}") for n in (1, 2)]
        for path in self.outputs:
            path.touch()
        arguments = (program, words, cwd, {**os.environ}, self.outputs, before)
        self.process = CONTEXT.Process(target=_run, args=arguments)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 600) -> Done:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.outputs[1].read_text())
        texts = (path.read_text(errors="replace") for path in self.outputs)
        return Done(self.process.exitcode, *texts)

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Wait until a condition holds, while the command runs."""
        end = time.monotonic() + 600
        while time.monotonic() < end:
            if there():
                return
            assert self.poll() is None, self.wait()
            time.sleep(0.05)
        raise TimeoutError


def ensure_server() -> None:
    """Start the server unless it is running; it finds the modules to preload on PYTHONPATH only."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [before])]
    )
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _run(
    program: str,
    words: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
    outputs: list[Path],
    before: Callable[[], object] | None,
) -> None:
    os.environ.clear()  # the server's, which may have started before a test changed a variable
    os.environ.update(environment)
    # as on a terminal; what a shell runs in the background ignores Ctrl-C, and so do its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    script = str(ROOT / "train.py")
    sys.argv = [script if program == "train.py" else program, *words]
    try:
        if before:
            before()
        if program == "train.py":
            runpy.run_path(script, run_name="__main__")
        else:
            import_module("lenet_pl.cli").main()
    finally:
        threading._shutdown()  # joblib ends its workers there; multiprocessing waits for them
        sys.stdout.flush()
        sys.stderr.flush()
