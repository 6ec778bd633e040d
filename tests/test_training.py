"""Runs on real digits, from the configuration to the run folder."""

import logging
import os
import platform
import runpy
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT, Running, kill_in_epoch
from helpers.runs import FAST, either, result, rows, train_with
from helpers.tutorial import TutorialLeNet
from pytorch_lightning import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lenet_pl.classifier import Classifier
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.mnist import Mini
from lenet_pl.errors import ConfigError, VerificationError
from lenet_pl.metrics import wilson_interval
from lenet_pl.models.lenet import LeNet
from lenet_pl.processes import configure_process
from lenet_pl.records import hydra_mode, read_overrides, read_val_predictions
from lenet_pl.runs import open_run
from lenet_pl.training import run, train

# a fifth of the images, and no TensorBoard, whose pictures take their time
PLAIN = [*FAST, "logger=none", "data.fraction=0.2"]
FLOOR = 0.95  # seeds 0 to 9 gave 0.959 to 0.971


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run as a user starts it: eight epochs of the digits that ship."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = ["trainer.max_epochs=8", "name=eight epochs", f"hydra.run.dir={folder / 'run'}"]
    command = [sys.executable, str(ROOT / "train.py"), *FAST, *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder / "stdout").write_text(done.stdout)
    return folder / "run"


def test_run_from_python_leaves_a_whole_run_folder(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*PLAIN, "trainer.max_epochs=1"]
    folder = run(overrides)
    assert folder.relative_to(tmp_path).match("outputs/runs/*/*")
    assert result(folder)["status"] == "finished"
    assert result(folder)["overrides"] == read_overrides(folder) == overrides
    by_command = {path.name for path in (finished / ".hydra").iterdir()}
    assert {path.name for path in (folder / ".hydra").iterdir()} == by_command
    assert hydra_mode(folder) == "RUN"
    assert open_run(str(folder)).setting("optimizer.lr") == 0.05


@pytest.mark.parametrize("override", ["resume=latest", "find=lr", "sweep=seeds", "-m"])
def test_run_from_python_refuses_what_needs_the_command_line(override):
    with pytest.raises(ConfigError, match=f"{override}: only on the command line"):
        run(["data=mini", override])


def test_digits_are_learnt(finished):
    assert result(finished)["metrics"]["test/acc"] >= FLOOR


def test_files_of_the_run_folder(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    events = {name for name in names if name.startswith("eight epochs/events.out.tfevents")}
    assert events
    assert names - events == {
        ".hydra",
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "best.pth",
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "eight epochs",
        "eight epochs/hparams.yaml",
        "metrics.csv",
        "result.json",
        "train.log",
        "val_predictions.npz",
    }


def test_result_json(finished):
    record = result(finished)
    assert list(record) == [
        "name",
        "status",
        "error",
        "overrides",
        "seed",
        "epochs",
        "best_epoch",
        "stopped_early",
        "limits",
        "monitor",
        "metrics",
        "seconds",
        "parameters",
        "device",
        "data",
        "versions",
        "git",
    ]
    assert record["status"] == "finished"
    assert record["error"] is None
    assert record["name"] == "eight epochs"
    assert record["overrides"] == [*FAST, "trainer.max_epochs=8", "name=eight epochs"]
    assert record["parameters"] == 61_706
    assert record["data"]["counts"] == {"train": 5000, "val": 1000, "test": 1000}
    assert record["data"]["name"] == "mini"
    assert record["data"]["source"] == "shipped with lenet-pl"
    assert record["seconds"]["fit"] > record["seconds"]["epoch_median"] > 0
    # the best epoch is the first of those with the highest validation accuracy
    table = rows(finished)
    best = max(table, key=lambda row: row["val/acc"])
    assert record["best_epoch"] == best["epoch"]
    assert record["metrics"]["val/acc"] == best["val/acc"]
    assert record["metrics"]["val/loss"] == pytest.approx(best["val/loss"], rel=1e-6)
    assert record["epochs"] == len(table)
    correct = round(record["metrics"]["test/acc"] * 1000)
    low, high = record["metrics"]["test/acc_low"], record["metrics"]["test/acc_high"]
    assert (low, high) == wilson_interval(correct, 1000)


def test_metrics_csv(finished):
    table = rows(finished)
    assert [row["epoch"] for row in table] == list(range(1, len(table) + 1))
    names = ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr"]
    assert list(table[0]) == [*names, "train/balanced_acc", "val/balanced_acc"]
    assert {row["lr"] for row in table} == {0.05}
    assert table[-1]["train/loss"] < table[0]["train/loss"]


def test_the_test_accuracy_again_without_this_project(finished):
    record = result(finished)
    net = TutorialLeNet().eval()
    net.load_state_dict(torch.load(finished / "best.pth", weights_only=True), strict=True)
    test = Mini().load().test
    pixels = (test.images.float() / 255 - record["data"]["mean"]) / record["data"]["std"]
    with torch.no_grad():
        predicted = net(pixels).argmax(1)
    assert (predicted == test.labels).sum().item() / 1000 == record["metrics"]["test/acc"]


def test_predictions_for_the_validation_images(finished):
    """Those of the saved weights, on the images that a stratified split leaves for validation."""
    record, found = result(finished), read_val_predictions(finished)
    net = TutorialLeNet().eval()
    net.load_state_dict(torch.load(finished / "best.pth", weights_only=True))
    train = Mini().load().train
    index = torch.from_numpy(found["index"].copy())
    pixels = (train.images[index].float() / 255 - record["data"]["mean"]) / record["data"]["std"]
    with torch.no_grad():
        confidence, predicted = net(pixels).softmax(1).max(1)
    assert found["label"].tolist() == train.labels[index].tolist()
    assert found["prediction"].tolist() == predicted.tolist()
    assert found["confidence"] == pytest.approx(confidence.numpy(), abs=1e-5)
    accuracy = (found["prediction"] == found["label"]).mean()
    assert (len(index), accuracy) == (1000, record["metrics"]["val/acc"])


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_hold_plain_types_only(finished, name):
    checkpoint = torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True)
    state = {key: value for key, value in checkpoint["state_dict"].items() if "net." in key}
    assert len(state) == 10
    if name == "best":
        bare = torch.load(finished / "best.pth", weights_only=True)
        assert all(torch.equal(state[f"net.{key}"], value) for key, value in bare.items())
        assert checkpoint["epoch"] + 1 == result(finished)["best_epoch"]


def test_console_output(finished):
    output = (finished.parent / "stdout").read_text()
    assert "LeNet on mini" in output
    assert "shipped with lenet-pl" in output
    assert "conv3   FullConv2d  120 × 1 × 1     48,120" in output
    assert "total 5,000 1,000 1,000" in output
    assert "steps       79 per epoch, 632 in all" in output
    assert "epoch 1/8  train " in output
    assert "  best" in output
    low = 100 * result(finished)["metrics"]["test/acc_low"]
    assert f"95 % interval {low:.2f} % to" in output
    assert "python train.py resume=run trainer.max_epochs=" in output
    assert "\x1b[" not in output
    assert "\r" not in output
    log = (finished / "train.log").read_text()
    assert "INFO epoch 1/8" in log
    assert "conv3" in log


def test_tensorboard_content(finished):
    events = EventAccumulator(str(finished / "eight epochs"), {"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    table = rows(finished)
    names = {f"{x}/{y}": f"{y}/{x}" for x in ("train", "val") for y in ("acc", "loss")}
    names |= {"val/balanced_acc": "other/balanced_acc/val", "lr": "other/lr"}
    for name, tag in {**names, "seconds": "other/seconds"}.items():
        points = events.Scalars(tag)
        assert [point.step for point in points] == [row["epoch"] for row in table]  # the x-axis
        if name != "seconds":
            assert [point.value for point in points] == pytest.approx([row[name] for row in table])
    best = result(finished)
    for name in ("acc", "loss", "balanced_acc"):
        [point] = events.Scalars(f"val_best/{name}")
        assert point.step == best["best_epoch"]
        assert point.value == pytest.approx(best["metrics"][f"val/{name}"])
    images = ("confusion", "misclassified", "training images", "weights of the first layer")
    assert sorted(tags["images"]) == [f"plots/{name}" for name in images]
    assert "config/text_summary" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]
    assert tags["graph"]
    plugins = events.summary_metadata
    assert plugins["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"


def test_the_same_seed_gives_the_same_numbers(composed, tmp_path):
    metrics_of = {}
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run_dir = f"run_dir={tmp_path / name}"
        train(composed(*PLAIN, "trainer.max_epochs=2", run_dir, f"seed={seed}", "test=false"))
        metrics_of[name] = rows(tmp_path / name)
        assert "test/acc" not in result(tmp_path / name)["metrics"]
    assert metrics_of["one"] == metrics_of["two"] != metrics_of["three"]
    split = [result(tmp_path / name)["data"]["split_digest"] for name in metrics_of]
    assert len(set(split)) == 1  # the split has a seed of its own


@pytest.mark.parametrize("folder", ["run", "other/../run"])
def test_a_run_is_built_once(tmp_path, monkeypatch, folder):
    counts = Counter()

    def counted(cls, name="__init__"):
        original = getattr(cls, name)

        def method(self, *args, **kwargs):
            counts[f"{cls.__name__}.{name}"] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, method)

    for cls in (DigitsDataModule, LeNet, Classifier, Trainer, Mini):
        counted(cls)
    counted(Mini, "load")
    monkeypatch.chdir(tmp_path)
    run = [*FAST, "data.fraction=0.2", "trainer.max_epochs=1", f"hydra.run.dir={folder}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *run])
    handlers = {x: signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    for number, handler in handlers.items():  # a finished command ignores signals
        signal.signal(number, handler)
    assert result(tmp_path / "run")["status"] == "finished"
    assert len(counts) == 6
    assert set(counts.values()) == {1}, counts


@either
def test_early_stopping_triggers_in_the_right_epoch(composed, tmp_path):
    # nothing is 10 better than the first epoch: two more, and it stops
    patience = ["callbacks.early_stopping.patience=2", "+callbacks.early_stopping.min_delta=10"]
    train(composed(*PLAIN, "trainer.max_epochs=9", *patience))
    record = result(tmp_path / "run")
    assert (record["epochs"], record["stopped_early"]) == (3, True)
    assert len(rows(tmp_path / "run")) == 3


@either
def test_run_that_was_stopped_early_trains_no_further(composed, tmp_path):
    patience = ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=10"]
    overrides = [*PLAIN, "trainer.max_epochs=9", *patience]
    train(composed(*overrides))
    run, new = tmp_path / "run", tmp_path / "new"
    before, table = result(run), rows(run)
    weights = torch.load(run / "best.pth")
    for path in (run / "result.json", run / "best.pth"):  # killed just before it was tested
        path.unlink()
    last = f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    for folder in (new, run):
        train(composed(*overrides, last, f"run_dir={folder}"))
        record = result(folder)
        for key in ("epochs", "stopped_early", "best_epoch", "metrics", "status"):
            assert record[key] == before[key], key
        assert rows(folder) == table
        assert len(table) == 2
        resumed = torch.load(folder / "best.pth")
        assert all(torch.equal(resumed[name], weights[name]) for name in weights)


@pytest.mark.slow
def test_run_killed_in_mid_epoch_resumes_to_the_same_numbers(composed, command, tmp_path):
    overrides = [*PLAIN, "trainer.max_epochs=4", "callbacks.early_stopping=null"]
    train(composed(*overrides))
    killed = tmp_path / "killed"
    before = partial(kill_in_epoch, 3)
    done = Running(*overrides, f"hydra.run.dir={killed}", cwd=tmp_path, before=before).wait()
    assert done.returncode == -signal.SIGKILL
    assert len(rows(killed)) == 2
    assert not (killed / "result.json").exists()

    elsewhere = f"hydra.run.dir={tmp_path / 'elsewhere'}"
    last = f"ckpt_path={killed / 'checkpoints' / 'last.ckpt'}"
    assert command(*overrides, last, elsewhere).returncode == 0
    assert command(f"resume={killed}").returncode == 0
    for folder in (killed, tmp_path / "elsewhere"):
        assert rows(folder) == rows(tmp_path / "run")
        assert result(folder)["metrics"] == result(tmp_path / "run")["metrics"]
        assert result(folder)["best_epoch"] == result(tmp_path / "run")["best_epoch"]
        weights, expected = (torch.load(f / "best.pth") for f in (folder, tmp_path / "run"))
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_moved_run_resumes_with_its_best_weights(composed, command, tmp_path):
    overrides = [*PLAIN, "trainer.max_epochs=3", "callbacks.early_stopping=null"]
    run, moved, new = (tmp_path / name for name in ("run", "moved", "new"))
    assert command(*overrides, f"hydra.run.dir={run}").returncode == 0
    run.rename(moved)
    assert command(f"resume={moved}", "trainer.max_epochs=4").returncode == 0
    last = moved / "checkpoints" / "last.ckpt"
    resumed = [*PLAIN, f"ckpt_path={last}", "trainer.max_epochs=4", f"hydra.run.dir={new}"]
    assert command(*resumed, "callbacks.early_stopping=null").returncode == 0
    for folder in (moved, new):
        table = rows(folder)
        best = max(table, key=lambda row: row["val/acc"])
        assert len(table) == 4
        assert result(folder)["best_epoch"] == best["epoch"]
        assert result(folder)["metrics"]["val/acc"] == best["val/acc"]
    assert (new / "best.pth").read_bytes() == (moved / "best.pth").read_bytes()


def test_resumed_run_that_is_killed_is_not_finished(composed, command, tmp_path):
    run = tmp_path / "run"
    assert command(*PLAIN, "trainer.max_epochs=1", f"hydra.run.dir={run}").returncode == 0
    before = partial(kill_in_epoch, 3)
    done = Running(f"resume={run}", "trainer.max_epochs=4", cwd=tmp_path, before=before).wait()
    assert done.returncode == -signal.SIGKILL
    assert len(rows(run)) == 2
    assert not (run / "result.json").exists()


def test_interrupted_run_can_be_resumed(tmp_path):
    folder = tmp_path / "run"
    overrides = [*PLAIN, "trainer.max_epochs=500", "callbacks.early_stopping=null"]
    process = Running(*overrides, f"hydra.run.dir={folder}", cwd=tmp_path)
    # the row of the first epoch is written before its checkpoint
    process.wait_for(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    process.send_signal(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 1
    record = result(folder)
    assert record["status"] == "interrupted"
    best = rows(folder)[record["best_epoch"] - 1]
    assert record["metrics"] == {name: best[name] for name in best if name.startswith("val/")}
    assert "python train.py resume=run" in done.stdout


@either
def test_last_weights_are_tested_without_checkpoints(composed, tmp_path):
    train(composed(*PLAIN, "trainer.max_epochs=2", "callbacks=none", "logger=none"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"metrics.csv", "result.json", "val_predictions.npz"}
    record = result(tmp_path / "run")
    assert record["best_epoch"] == 2
    assert record["metrics"]["val/acc"] == rows(tmp_path / "run")[-1]["val/acc"]


@either
def test_nan_loss_ends_the_run(composed, tmp_path):
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1; try a smaller optimizer.lr"):
        train(composed(*PLAIN, "optimizer.lr=1e6"))
    record = result(tmp_path / "run")
    assert record["status"] == "failed"
    assert record["error"].startswith("train/loss is nan")


@either
def test_debugging_run_reports_no_metrics(composed, tmp_path):
    assert train(composed("data=mini", "trainer=debug")) is None
    record = result(tmp_path / "run")
    assert record["status"] == "finished"
    assert record["metrics"] == {}
    assert read_val_predictions(tmp_path / "run") is None  # of a single batch


@either
def test_a_limited_validation_predicts_the_first_images(composed, tmp_path, monkeypatch):
    limits = ["trainer.limit_train_batches=2", "trainer.limit_val_batches=2"]
    cfg = composed(*PLAIN, *limits, "trainer.max_epochs=1", "data.eval_batch_size=30")
    kept = []

    class Keep(Callback):
        def on_validation_end(self, trainer, module):
            kept[:] = [trainer.datamodule, *module.outputs["val"]]

    train_with(Keep(), cfg, monkeypatch)
    data, logits, labels = kept
    found = read_val_predictions(tmp_path / "run")
    assert found["index"].tolist() == data.indices["val"][:60].tolist()
    assert found["label"].tolist() == labels.tolist() == data.splits["val"].labels[:60].tolist()
    assert found["prediction"].tolist() == logits.argmax(1).tolist()
    assert found["confidence"].tolist() == logits.softmax(1).amax(1).tolist()


@pytest.mark.slow
@either
def test_overfitting_repeats_the_same_batches(composed, tmp_path):
    few = ["trainer.overfit_batches=2", "trainer.max_epochs=30", "callbacks.early_stopping=null"]
    few += ["optimizer=adam", "optimizer.lr=0.005"]  # which takes 18 epochs
    train(composed(*(word for word in PLAIN if "lr" not in word), *few))
    assert rows(tmp_path / "run")[-1]["train/acc"] == 1.0


def test_profiler_prints_its_report(command):
    output = command(*PLAIN, "trainer.max_epochs=1", "trainer.profiler=simple")
    assert output.returncode == 0
    assert "FIT Profiler Report" in output.stdout


@pytest.mark.slow
def test_ddp_trains_one_network(tmp_path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1"]
    script = [sys.executable, "-c", "from lenet_pl.cli import main; main()", "train"]
    overrides = [*script, *PLAIN, *ddp, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(overrides, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = result(tmp_path / "run")
    assert record["status"] == "finished"
    assert len(rows(tmp_path / "run")) == 1
    net = TutorialLeNet().eval()
    net.load_state_dict(torch.load(tmp_path / "run" / "best.pth"))
    test = Mini().load().test
    pixels = (test.images.float() / 255 - record["data"]["mean"]) / record["data"]["std"]
    with torch.no_grad():
        correct = (net(pixels).argmax(1) == test.labels).sum().item()
    assert record["metrics"]["test/acc"] == correct / 1000  # all images, none twice


def test_sigterm_exits_with_status_1(tmp_path):
    folder = tmp_path / "run"
    overrides = [*PLAIN, "trainer.max_epochs=500", "callbacks.early_stopping=null"]
    process = Running(*overrides, f"hydra.run.dir={folder}", cwd=tmp_path)
    process.wait_for(lambda: (folder / "metrics.csv").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 1
    assert result(folder)["status"] == "interrupted"


def test_an_epoch_that_is_cut_short_is_not_recorded(composed, tmp_path, monkeypatch):
    cfg = composed(*PLAIN, "trainer.max_epochs=3", "trainer.limit_train_batches=4")

    class Timer(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 6

    with pytest.raises(SystemExit):
        train_with(Timer(), cfg, monkeypatch)
    record = result(tmp_path / "run")
    assert record["status"] == "interrupted"
    assert record["error"] == "stopped in the middle of epoch 2"
    assert record["epochs"] == record["best_epoch"] == len(rows(tmp_path / "run")) == 1
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["epoch"] == 0


def test_limited_epochs_are_reported(composed, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(composed(*PLAIN, "trainer.max_epochs=1", "trainer.limit_train_batches=2"))
    assert result(tmp_path / "run")["limits"] == {"limit_train_batches": 2}
    assert "limited     trainer.limit_train_batches=2" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", "val/loss of epoch 1 was "),
        ("images", "val: 999 images were evaluated, not 1,000"),
    ],
)
def test_a_run_whose_figures_cannot_be_repeated_fails(
    composed, tmp_path, monkeypatch, change, message
):
    """The figures of the best epoch must be those of the saved weights, over all images."""

    class Damage(Callback):
        def on_fit_end(self, trainer, module):
            if change == "weights":
                path = tmp_path / "run" / "checkpoints" / "best.ckpt"
                state = torch.load(path)
                state["state_dict"]["net.fc2.weight"] *= 1.001
                torch.save(state, path)

        def on_validation_epoch_end(self, trainer, module):
            if change == "images":
                logits, labels = module.batches["val"][0]
                module.batches["val"][0] = logits[1:], labels[1:]

    cfg = composed(*PLAIN, "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    with pytest.raises(VerificationError, match=message):
        train_with(Damage(), cfg, monkeypatch)
    record = result(tmp_path / "run")
    assert record["status"] == "failed"
    assert message in record["error"]


def test_a_checkpoint_of_lightnings_slurm_support_is_not_used(composed, tmp_path, monkeypatch):
    """With these variables, Lightning looks for hpc_ckpt_*.ckpt when no checkpoint is named."""
    for name, value in {"NTASKS": 1, "JOB_ID": 7, "JOB_NAME": "train", "PROCID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name, value in {"LOCALID": 0, "NODEID": 0, "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    cfg = composed(*PLAIN, "trainer.max_epochs=2", "trainer.limit_train_batches=4")

    class Requeue(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "run" / "hpc_ckpt_1.ckpt")

    train_with(Requeue(), cfg, monkeypatch)
    record = result(tmp_path / "run")
    best = rows(tmp_path / "run")[record["best_epoch"] - 1]
    assert record["metrics"]["val/loss"] == best["val/loss"]


@pytest.mark.parametrize("job", ["", "42"])
def test_sigusr1_requeues_a_slurm_job(composed, tmp_path, monkeypatch, job):
    """The command that replaces scontrol gets the job."""
    script = tmp_path / "scontrol"
    script.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    cfg = composed(*PLAIN, "trainer.max_epochs=2", "trainer.limit_train_batches=2")

    class Signal(Callback):
        def on_train_epoch_start(self, trainer, module):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit):
        train_with(Signal(), cfg, monkeypatch)
    assert result(tmp_path / "run")["error"] == "stopped by SIGUSR1"
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 42\n" if job else "")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_of_freed_tensors_is_reused():
    import resource  # not on Windows

    configure_process()
    net, images = LeNet(), torch.rand(512, 1, 28, 28)
    faults = []
    for _ in range(10):
        net(images).sum().backward()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    assert faults[-1] - faults[4] < 1000  # pages taken from the system; otherwise 14,000 per step
