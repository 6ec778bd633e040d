"""The rows of metrics.csv and their lines in the log."""

import csv
import io
import logging
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from lenet_pl.callbacks import history
from lenet_pl.callbacks.history import EpochHistory, ProgressBar
from lenet_pl.records import read_metrics


@pytest.fixture
def run_epoch(tmp_path):
    """Pass an epoch's metrics through the hooks of a history."""
    history = EpochHistory(tmp_path / "metrics.csv", "val/acc")

    def run(number: int, monitor: str = "val/acc", **metrics: float) -> EpochHistory:
        history.monitor = monitor
        values = {name.replace("_", "/", 1): torch.tensor(v) for name, v in metrics.items()}
        trainer = SimpleNamespace(
            current_epoch=number - 1,
            max_epochs=20,
            callback_metrics=values,
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}])],
            is_global_zero=True,
            is_last_batch=True,
            loggers=[],
        )
        history.on_train_epoch_start(trainer, None)
        history.on_train_epoch_end(trainer, None)
        return history

    return run


def test_a_row_per_epoch(run_epoch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_epoch(1, train_loss=0.5, train_acc=0.75, val_loss=0.5, val_acc=0.8125)
    history = run_epoch(2, train_loss=0.25, train_acc=0.875, val_loss=0.375, val_acc=0.875)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == [
        "epoch",
        "train/loss",
        "train/acc",
        "val/loss",
        "val/acc",
        "lr",
        "seconds",
    ]
    assert (first["val/acc"], second["val/acc"], second["lr"]) == ("0.8125", "0.875", "0.5")
    assert [row["epoch"] for row in history.rows] == [1, 2]
    first, second = caplog.messages
    assert first.startswith("epoch  1/20  train 0.5000  75.00 %  val 0.5000  81.25 %  ")
    assert second.startswith("epoch  2/20  train 0.2500  87.50 %  val 0.3750  87.50 %  ")
    assert first.endswith(" s  best")
    assert second.endswith(" s  best")


def test_other_metrics_come_last_and_may_define_the_best_epoch(run_epoch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scores = {"train_balanced_acc": 0.5, "train_loss": 0.5, "train_acc": 0.75, "val_loss": 0.5}
    epochs = [(0.9, 0.5), (0.8, 0.625), (0.95, 0.625)]
    for number, (acc, balanced) in enumerate(epochs, 1):
        metrics = {**scores, "val_balanced_acc": balanced, "val_acc": acc}
        run_epoch(number, "val/balanced_acc", **metrics)
    header, first, *_ = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = "epoch,train/loss,train/acc,val/loss,val/acc,lr,seconds"
    assert header == f"{columns},train/balanced_acc,val/balanced_acc"
    assert first.endswith(",0.5,0.5")
    assert [line.endswith("  best") for line in caplog.messages] == [True, True, False]
    assert "90.00 %  val/balanced_acc 50.00 %  " in caplog.messages[0]


def test_the_lowest_loss_defines_the_best_epoch(run_epoch, caplog):
    caplog.set_level(logging.INFO)
    for number, loss in enumerate([0.5, 0.25, 0.3], 1):
        values = {"train_loss": 0.5, "train_acc": 0.75, "val_loss": loss, "val_acc": 0.5}
        run_epoch(number, "val/loss", **values)
    assert [line.endswith("  best") for line in caplog.messages] == [True, True, False]


def test_a_resumed_run_may_add_metrics(run_epoch, tmp_path):
    scores = {"train_loss": 0.5, "train_acc": 0.75, "val_loss": 0.5, "val_acc": 0.5}
    run_epoch(1, **scores)
    run_epoch(2, **scores, val_balanced_acc=0.25)
    first, second = read_metrics(tmp_path)
    assert "val/balanced_acc" not in first
    assert second["val/balanced_acc"] == 0.25


def test_an_infinite_loss_ends_the_run(run_epoch):
    with pytest.raises(FloatingPointError, match=r"train/loss is inf in epoch 3; try a smaller"):
        run_epoch(3, train_loss=float("inf"), train_acc=0.1, val_loss=1.0, val_acc=0.1)


@pytest.mark.parametrize("width", [60, 80])
def test_the_progress_bar_keeps_its_width_and_shows_the_mean_loss(monkeypatch, width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(history, "console", console)
    monkeypatch.setattr(history, "REFRESH", 0)
    trainer = SimpleNamespace(is_global_zero=True, estimated_stepping_batches=37500, max_epochs=20)
    trainer.global_step, trainer.current_epoch = 0, 0
    module = SimpleNamespace(device=torch.device("cpu"), batches={"train": []})
    module.loss = lambda logits, labels: logits.mean()
    bar = ProgressBar()
    bar.on_train_start(trainer, module)
    bar.on_train_epoch_start(trainer, module)
    for step, (images, loss) in enumerate([(2, 0.5), (2, 0.25), (4, 1.0)], 1):
        module.batches["train"].append((torch.full((images, 10), loss), torch.zeros(images)))
        trainer.global_step, trainer.current_epoch = 1000 * step, 4 * step
        bar.on_train_batch_end(trainer, module, None, None, 0)
    bar.on_train_end(trainer, module)
    frames = [x for x in file.getvalue().replace("\r", "\n").splitlines() if "epoch" in x]
    assert {len(x.partition("epoch")[2]) for x in frames} == {width - len("epoch")}
    assert "epoch  1/20" in frames[0]
    assert "    0/37500  loss -.----" in frames[0]
    for loss, step in [("0.5000", 1000), ("0.3750", 2000), ("0.6875", 3000)]:
        assert any(f" {step}/37500  loss {loss}" in x for x in frames)
    assert file.getvalue().endswith("\x1b[2K")  # the line is erased
