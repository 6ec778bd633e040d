"""Runs are stopped by signals at the end of a batch."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers.commands import Running
from helpers.runs import FAST, result, rows, train_with
from pytorch_lightning import Callback

from lenet_pl import training
from lenet_pl.callbacks.stopping import Stopping
from lenet_pl.files import write_json

SHORT = [*FAST, "logger=none", "test=false", "trainer.limit_train_batches=4"]


class At(Callback):
    """Calls a function at the end of one batch."""

    def __init__(self, epoch, batch, function):
        self.moment, self.function = (epoch, batch), function

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.moment:
            self.function(trainer)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_stops_the_run_after_the_batch(composed, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    before = {x: signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    cfg = composed(*SHORT, "trainer.max_epochs=5")
    steps = []

    def kill(trainer):
        steps.append(trainer.global_step)
        os.kill(os.getpid(), number)

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SystemExit) as ended:
        train_with(At(2, 1, kill), cfg, monkeypatch)
    assert ended.value.code == 1
    record = result(tmp_path / "run")
    assert (record["status"], record["error"]) == ("interrupted", f"stopped by {name}")
    assert record["epochs"] == len(rows(tmp_path / "run")) == 2
    assert steps == [9]
    assert {x: signal.getsignal(x) for x in before} == before


def test_a_second_signal_does_not_wait_and_ignored_ones_stay_ignored():
    stop = Stopping(None)
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as after nohup
    try:
        with stop.handling():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.received is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("sweep", [False, True])
def test_a_finished_run_ignores_signals_and_its_sweep_stops(composed, tmp_path, monkeypatch, sweep):
    def write_and_kill(path, record):
        write_json(path, record)
        os.kill(os.getpid(), signal.SIGTERM)

    cfg = composed(*SHORT, "trainer.max_epochs=1")
    monkeypatch.setattr(training, "write_json", write_and_kill)
    monkeypatch.setattr(training, "in_sweep", lambda: sweep)
    if sweep:
        with pytest.raises(SystemExit, match="1"):
            training.train(cfg)
    else:
        assert training.train(cfg) > 0
    assert result(tmp_path / "run")["status"] == "finished"


def test_other_threads_handle_no_signals():
    stop, seen = Stopping(None), []

    def run():
        with stop.handling():
            seen.append(stop.signals)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [set()]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_process_stops_all(tmp_path, rank):
    folder = tmp_path / "run"
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=500"]
    overrides = [*SHORT, *ddp, "callbacks.early_stopping=null", f"hydra.run.dir={folder}"]
    run = Running(*overrides, cwd=tmp_path)
    run.wait_for(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    [child] = children(run.process.pid)
    os.kill([run.process.pid, child][rank], signal.SIGTERM)
    assert run.wait().returncode == 1
    assert result(folder)["status"] == "interrupted"
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
