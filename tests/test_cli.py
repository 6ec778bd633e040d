"""The command line: errors of the user take one line, and end with status 2."""

import subprocess
import sys

import pytest
from helpers.commands import ROOT
from helpers.runs import FAST

from lenet_pl import cli
from lenet_pl.training import lock_run

OVERRIDES = {  # rejected before torch is imported, so each runs as a command
    "data.batch_size=0": "data.batch_size=0: must be an integer from 1 to 1,000,000,000",
    "optimizer.lr=-1": "optimizer.lr=-1: must be a number above 0 up to 1,000,000,000",
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: must be an integer from 1 to 1,000,000,000",
    "seed=-1": "seed=-1: must be an integer from 0 to 4,294,967,295",
    "model=lenett": "model=lenett: no such choice; choose from lenet, lstm, mlp, pretrained",
    "data.split=[7,2]": "data.split=[7, 2]: must be null or three numbers above 0, as in [7,2,1]",
    "modle=lenet": "modle: no such key; choose from model",
    "trainer.max_epoch=3": "trainer.max_epoch: no such key; choose from max_epochs",
    "model=null": "model=null: must be one of lenet, lstm, mlp, pretrained",
    "model=[lenet,mlp]": "model: takes one option; to sweep over several: -m model=A,B",
    "momentum=0.5": "momentum: no such key; choose from optimizer.momentum",
    "x=[": "x=[: not an override of the form key=value",
    "callbacks.checkpoint.monitor=test/acc": "callbacks.checkpoint.monitor=test/acc: must be a "
    "validation metric; choose from val/acc, val/loss",
    "callbacks.checkpoint.monitor=val/loss": "callbacks.checkpoint.mode=max: must be min for "
    "val/loss",
    "trainer.limit_val_batches=0": "trainer.limit_val_batches=0: must be null or an integer from 1 "
    "to 1,000,000,000, or a number above 0 up to 1",
    "ckpt_path=nowhere.ckpt": "ckpt_path=nowhere.ckpt: no such file",
    "resume=nowhere": "resume=nowhere: not a run folder (nowhere/.hydra/overrides.yaml is missing)",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_invalid_override_takes_one_line_and_leaves_nothing(command, tmp_path, override):
    done = command("data=mini", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {OVERRIDES[override]}\n"
    assert list(tmp_path.iterdir()) == []


def test_lenet_pl_train_is_train_py(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "train", "data.batch_size=0"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: data.batch_size=0: must be an integer from 1 to 1,000,000,000\n"
    )


def test_folder_that_holds_a_run_is_left_alone(checkpoint, command):
    run = checkpoint.parents[1]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = command(*FAST, f"hydra.run.dir={run}")
    assert done.returncode == 2
    assert "hydra.run.dir=run: holds a run; choose another folder, or resume=run" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("refusal", ["optimizer.lr=0.1", "data.split_seed=3", "model=mlp"])
def test_refused_resume_leaves_the_run_byte_for_byte(command, tmp_path, refusal):
    run = tmp_path / "run"
    short = ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "logger=none", "test=false"]
    assert command(*FAST, *short, f"hydra.run.dir={run}").returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = command(f"resume={run}", "trainer.max_epochs=2", refusal)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_run_in_progress_is_not_disturbed(command, tmp_path):
    with lock_run(tmp_path / "run"):
        done = command(*FAST, "hydra.run.dir=run")
        assert done.returncode == 2
        assert done.stderr == ("error: hydra.run.dir=run: a run is in progress there\n")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("words", [["--help"], ["optimizer.lrr=1"], ["trainer.max_epochs=abc"]])
def test_help_and_typing_errors_do_not_wait_for_torch(words):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{words!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
