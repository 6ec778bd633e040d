"""The best weights of a resumed run."""

import shutil

import torch
from helpers.runs import FAST, rows

from lenet_pl.training import train


def test_a_resumed_run_copies_the_best_weights(composed, checkpoint, tmp_path):
    run, moved, new = tmp_path / "run", tmp_path / "moved", tmp_path / "new"
    weights = torch.load(run / "best.pth", weights_only=True)
    shutil.move(run, moved)
    path = moved / "checkpoints" / "last.ckpt"
    overrides = [*FAST, "logger=none", "test=false", "trainer.limit_train_batches=2"]
    overrides += ["trainer.max_epochs=1", f"ckpt_path={path}", f"run_dir={new}"]
    train(composed(*overrides))
    best, original = new / "checkpoints" / "best.ckpt", moved / "checkpoints" / "best.ckpt"
    assert best.read_bytes() == original.read_bytes()
    copied = torch.load(new / "best.pth", weights_only=True)
    assert all(torch.equal(copied[name], value) for name, value in weights.items())
    assert (new / "best.pth").read_bytes() == (moved / "best.pth").read_bytes()
    assert rows(new) == rows(moved)
    assert not list(new.rglob("*.part"))
