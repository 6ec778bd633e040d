"""Checkpoints survive a kill at any moment, and a lost one is reported."""

import copy
import logging
import shutil

import pytest
import torch
from helpers.runs import FAST, result, rows

from lenet_pl import files
from lenet_pl.callbacks.checkpoint import AtomicCheckpointIO
from lenet_pl.training import train

SHORT = [*FAST, "logger=none", "test=false", "trainer.limit_train_batches=2"]


def test_a_resumed_run_copies_the_best_weights(composed, checkpoint, tmp_path):
    run, moved, new = tmp_path / "run", tmp_path / "moved", tmp_path / "new"
    weights = torch.load(run / "best.pth", weights_only=True)
    shutil.move(run, moved)
    path = moved / "checkpoints" / "last.ckpt"
    overrides = [*SHORT, "trainer.max_epochs=1", f"ckpt_path={path}", f"run_dir={new}"]
    train(composed(*overrides))
    best, original = new / "checkpoints" / "best.ckpt", moved / "checkpoints" / "best.ckpt"
    assert best.read_bytes() == original.read_bytes()
    copied = torch.load(new / "best.pth", weights_only=True)
    assert all(torch.equal(copied[name], value) for name, value in weights.items())
    assert (new / "best.pth").read_bytes() == (moved / "best.pth").read_bytes()
    assert rows(new) == rows(moved)
    assert not list(new.rglob("*.part"))


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:4])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/checkpoints/last.ckpt'"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("file", ["last.ckpt", "best.ckpt", "best.pth"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_before_any_file_of_an_epoch(
    composed, train_once, tmp_path, monkeypatch, file, epoch, caplog
):
    """Each epoch of this run is the best so far."""
    overrides = [*SHORT, "trainer.max_epochs=4"]
    whole = train_once(*overrides)
    expected = result(whole)
    assert expected["best_epoch"] == 4
    cut = tmp_path / "cut"
    replaced = []
    original = files.Path.replace

    def replace(self, target):
        replaced.append(target.name)
        if target.name == file and replaced.count(file) == epoch:
            raise RuntimeError("power cut")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", replace)
        with pytest.raises(RuntimeError, match="power cut"):
            train(composed(*overrides, f"run_dir={cut}"))
    last = cut / "checkpoints" / "last.ckpt"
    resumed = [f"ckpt_path={last}"] if last.exists() else []
    train(composed(*overrides, f"run_dir={cut}", *resumed))
    assert rows(cut) == rows(whole)
    assert result(cut)["metrics"] == expected["metrics"]
    for name in ("best.pth", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        found, weights = (torch.load(folder / name) for folder in (cut, whole))
        found, weights = (state.get("state_dict", state) for state in (found, weights))
        assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "unnamed", "newer"])
def test_a_lost_best_checkpoint(composed, train_once, tmp_path, damage, caplog):
    overrides = [*SHORT, "trainer.max_epochs=2"]
    run = shutil.copytree(train_once(*overrides), tmp_path / "run")
    best, last = (run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    content = torch.load(last, weights_only=True)
    content["callbacks"]["BestAndLast"]["epoch"] = 1  # as if the second were not the best
    torch.save(content, last)
    if damage == "missing":
        best.unlink()
    elif damage == "truncated":
        best.write_bytes(best.read_bytes()[:1000])
    elif damage == "flipped":
        data = bytearray(best.read_bytes())
        data[len(data) // 2] ^= 1
        best.write_bytes(data)
    elif damage == "unnamed":
        weights = dict(enumerate(content["state_dict"].values()))
        torch.save(content | {"epoch": 0, "state_dict": weights}, best)
    else:
        callbacks = copy.deepcopy(content["callbacks"])
        callbacks["EpochHistory"]["rows"].append(callbacks["EpochHistory"]["rows"][-1])
        torch.save(content | {"epoch": 2, "callbacks": callbacks}, best)
    train(composed(*overrides[:-1], "trainer.max_epochs=3", f"ckpt_path={last}"))
    assert result(run)["best_epoch"] == 3
    lost = "best.ckpt is missing or damaged: the weights of epoch 1 are lost; epoch 2 is now"
    assert (lost in caplog.text) == (damage != "newer")
