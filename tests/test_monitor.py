"""The metric that epochs, runs and learning rates are selected by."""

from pathlib import Path

import pytest
from helpers.drawings import draw_folder
from helpers.runs import result, rows

from lenet_pl.errors import ConfigError
from lenet_pl.rules import MONITORED
from lenet_pl.training import build, train


@pytest.fixture
def unequal(tmp_path) -> list[str]:
    """A run on classes of 40, 20 and 10 drawings."""
    root = draw_folder(tmp_path / "drawings", 40, 20, 10)
    data = ["data=folder", f"data.root={root}", "model.num_classes=3", "data.split=[4,5,1]"]
    quick = ["optimizer=adam", "optimizer.lr=0.002", "data.batch_size=8", "trainer.max_epochs=6"]
    return [*data, *quick, "logger=none", "trainer.accelerator=cpu"]


def monitoring(metric: str) -> list[str]:
    mode = f"mode={MONITORED[metric]}"
    return [f"callbacks.checkpoint.monitor={metric}", f"callbacks.checkpoint.{mode}"]


@pytest.mark.parametrize("metric", ["val/acc", "val/loss", "val/balanced_acc"])
def test_the_best_epoch_and_the_answer_to_sweepers_are_by_the_monitored_metric(
    composed, unequal, tmp_path, metric
):
    answer = train(composed(*unequal, *monitoring(metric)))
    table, record = rows(tmp_path / "run"), result(tmp_path / "run")
    choose = max if MONITORED[metric] == "max" else min
    best = choose(table, key=lambda row: row[metric])
    assert record["best_epoch"] == best["epoch"]
    assert record["monitor"] == metric
    assert answer == record["metrics"][metric] == best[metric]
    assert {"val/balanced_acc", "test/balanced_acc"} <= record["metrics"].keys()


def test_early_stopping_and_the_schedule_follow_balanced_accuracy(composed, unequal):
    monitor = ["monitor=val/balanced_acc", "mode=max"]
    overrides = [f"{key}.{x}" for key in ("callbacks.early_stopping", "scheduler") for x in monitor]
    stopped = ["optimizer.lr=1e-12", "callbacks.early_stopping.patience=3", "scheduler.patience=1"]
    cfg = composed(*unequal, "scheduler=plateau", *overrides, *stopped)
    Path(cfg.run_dir).mkdir()
    parts = build(cfg)
    parts.trainer.fit(parts.classifier, parts.data)
    assert len(parts.history.rows) == 4  # the first is the best, and three do not improve on it
    assert [row["lr"] for row in parts.history.rows] == pytest.approx([1e-12] * 3 + [3e-13])


def test_a_resumed_run_keeps_its_monitor(composed, unequal, tmp_path):
    train(composed(*unequal, "trainer.max_epochs=1"))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    resumed = [*unequal, f"ckpt_path={path}", *monitoring("val/balanced_acc")]
    message = f"callbacks.checkpoint.monitor=val/balanced_acc: ckpt_path={path} was trained with"
    with pytest.raises(ConfigError, match=message):
        build(composed(*resumed))
