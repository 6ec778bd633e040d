"""The rows of metrics.csv and their lines in the log."""

import csv
import logging
from types import SimpleNamespace

import pytest
import torch

from lenet_pl.callbacks.history import EpochHistory
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
