"""The command line: errors of the user take one line, and end with status 2."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.runs import FAST

from lenet_pl import cli
from lenet_pl.config import check
from lenet_pl.runs import lock_run

MAIN = "from lenet_pl.cli import main; main()"
OVERRIDES = {  # rejected before torch is imported, so each runs as a command
    "data.batch_size=0": "data.batch_size=0: must be an integer from 1 to 1,000,000,000",
    "optimizer.lr=-1": "optimizer.lr=-1: must be a number above 0 and up to 1,000,000,000",
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: must be an integer from 1 to 1,000,000,000",
    "name=../x": "name=../x: must be null or text: up to 120 bytes of letters, digits, spaces "
    "and . , + - _, unlike a file of a run",
    "name=3": "name=3: must be null or text: up to 120 bytes of letters, digits, spaces "
    "and . , + - _, unlike a file of a run",
    "seed=-1": "seed=-1: must be an integer from 0 to 4,294,967,295",
    "model=lenett": "model=lenett: no such choice; choose from lenet, lstm, mlp, pretrained",
    "data.split=[7,2]": "data.split=[7, 2]: must be null or three numbers above 0, as in [7,2,1]",
    "modle=lenet": "modle: no such key; did you mean model=lenet?",
    "trainer.max_epoch=3": "trainer.max_epoch: no such key; did you mean trainer.max_epochs=3?",
    "model=null": "model=null: must be one of lenet, lstm, mlp, pretrained",
    "model=[lenet,mlp]": "model: takes one option; to sweep over several: -m model=A,B",
    "momentum=0.5": "momentum: no such key; did you mean optimizer.momentum=0.5?",
    "epochs=3": "epochs: no such key; did you mean trainer.max_epochs=3?",
    "gpus=1": "gpus: no such key; did you mean trainer.devices=1?",
    "patience=2": "patience: no such key; did you mean callbacks.early_stopping.patience=2?",
    "optimiser.lr=[1, 2]": "optimiser: no such key; did you mean 'optimizer.lr=[1, 2]'?",
    "ifnd=lr": "ifnd: no such key; did you mean find=lr?",
    "resme=latest": "resme: no such key; did you mean resume=latest?",
    "+lr=0.1": "lr: nothing reads this key; did you mean optimizer.lr=0.1?",
    "~logger=tensorboard,csv": "~logger=tensorboard,csv: several values; add -m to sweep over "
    "them, or use [A,B] for a list",
    "seed=1,2": "seed=1,2: several values; add -m to sweep over them, or use [A,B] for a list",
    "--multirn": "--multirn: no such option; see --help",
    "callbacks=[ema,swa]": "callbacks=[ema,swa]: ema and swa both set callbacks.average; "
    "choose one",
    "x=[": "x=[: not an override of the form key=value",
    "callbacks.checkpoint.monitor=test/acc": "callbacks.checkpoint.monitor=test/acc: must be a "
    "validation metric, val/acc or val/loss or val/balanced_acc",
    "callbacks.checkpoint.monitor=val/loss": "callbacks.checkpoint.mode=max: must be min for "
    "val/loss",
    "trainer.limit_val_batches=0": "trainer.limit_val_batches=0: must be null or an integer from 1 "
    "to 1,000,000,000, or a number above 0 and up to 1",
    "ckpt_path=nowhere.ckpt": "ckpt_path=nowhere.ckpt: no such file",
    "resume=nowhere": "resume=nowhere: not a run folder (nowhere/.hydra/overrides.yaml is missing)",
    "test=no": "test=no: must be one of true, false",
    "+trainer.max_time=5": "trainer.max_time=5: must be left out: runs consist of whole epochs",
    "+trainer.logger=false": "trainer.logger=false: must be left out: set logger; logger=none "
    "turns it off",
    "trainer.strategy=ddp_spawn": "trainer.strategy=ddp_spawn: must be one of auto, ddp, "
    "ddp_find_unused_parameters_true, single_device, or a mapping",
    "hydra.output_subdir=null": "hydra.output_subdir=null: must be .hydra",
    "seed=${oc.env:NOPE}": 'seed: KeyError raised while resolving interpolation: "Environment '
    "variable 'NOPE' not found\"",
    "model.num_classes=???": "model.num_classes: Missing mandatory value: num_classes",
    "model=-inf": "model=-inf: must be one of lenet, lstm, mlp, pretrained",
    "logger=[1]": "logger=[1]: must be one of csv, mlflow, none, tensorboard, wandb",
    "run_dir=5": "run_dir=5: cannot be changed; the run folder is hydra.run.dir",
    "hparams=null": "hparams=null: must be a mapping to text, numbers, true or false",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
    "augment.affine.shear=1": "augment.affine: no such key; choose from augment=affine, "
    "augment=elastic, augment=erasing, augment=flip, augment=noise, augment=none",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_invalid_override_takes_one_line_and_leaves_nothing(command, tmp_path, override):
    done = command(override, "data=mini")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {OVERRIDES[override]}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [["callbacks=[ema,mine]"], ["-m", "callbacks=[default],[ema,mine]"]]
)
def test_options_of_a_list_may_be_in_a_folder_of_ones_own(command, tmp_path, options):
    (tmp_path / "callbacks").mkdir()
    file = tmp_path / "callbacks" / "mine.yaml"
    search = f"hydra.searchpath=[{tmp_path}]"
    file.write_text("average:\n  _target_: mine.Average\n")
    done = command(*options, search, "data=mini")
    message = "callbacks=[ema,mine]: ema and mine both set callbacks.average; choose one"
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert [*tmp_path.iterdir()] == [file.parent]
    file.write_text("average:\n  decay: 2\n")  # changes a part
    done = command(*options, search, "data=mini")
    message = "callbacks.average.decay=2: must be null or a number in the range [0, 1)"
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


REFUSED = """
optimizer.nesterov=no
model=pretrained model.freeze=abc
trainer.deterministic=-inf
trainer.fast_dev_run=1e-400
trainer.num_sanity_val_steps=x
trainer.use_distributed_sampler=yes
hparams.lr=[1]
model=lstm model.bidirectional=no
trainer.detect_anomaly=no
trainer.profiler=-0.5
data.batch_size=999999999999999999999999999999
experiment=[1]
callbacks=[[1]]
~model
model=[]
augment=affine ++augment.affine._convert_=${nope}
classifier=fast classifier.steps_per_execution=???
++trainer._partial_=x
++model._recursive_=x
++scheduler.new=1
data.source=5
hydra.run.dir=${nope}
+trainer.enable_checkpointing=false
+trainer.callbacks=[]
+trainer.barebones=true
+trainer.check_val_every_n_epoch=2
""".strip().splitlines()


@pytest.mark.parametrize("line", [*REFUSED, f"classifier={'x' * 99999}", f"ckpt_path={'x' * 9999}"])
def test_mistyped_command_line(command, tmp_path, line):
    done = command(*line.split(), "data=mini")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1000
    assert list(tmp_path.iterdir()) == []


def test_further_keys_may_be_referred_to(composed):
    check(composed("data=mini", "+channels=1", "model.channels=${channels}"))


@pytest.mark.parametrize("words", ["train.py --help", "-m lenet_pl.cli --help"])
def test_reader_of_the_help_may_exit(words):
    line = f"{sys.executable} {words} | true"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


COMPLETION = """
eval "$(python train.py -sc install=bash)"
COMP_LINE="python train.py model=" COMP_POINT=22 COMP_CWORD=2
hydra_bash_completion
echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_in_bash():
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", COMPLETION], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "model=lenet model=lstm model=mlp model=pretrained\n"


@pytest.mark.parametrize(("name", "opens_runs"), [("test", True), ("new", False)])
def test_only_commands_that_open_runs_have_the_option_trust(lenet_pl, name, opens_runs):
    assert ("--trust" in lenet_pl(name, "--help")[1]) == opens_runs


def test_group_that_is_removed_is_none():
    given = ["~callbacks", "logger=null", "augment=[]", "scheduler=false", "model=mlp", "-m"]
    expected = [
        "-m",
        "callbacks=none",
        "logger=none",
        "augment=none",
        "scheduler=none",
        "model=mlp",
    ]
    assert cli.check_arguments(given) == expected


def test_traceback_on_request(tmp_path):
    script = f"import sys; sys.argv = ['lenet-pl', 'train', 'seed=x']; {MAIN}"
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    program = [sys.executable, "-c", script]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert "error: seed=x: must be" in done.stderr.splitlines()[-1]


def test_signals_while_python_exits_are_ignored(tmp_path):
    script = "import atexit, os, signal; from lenet_pl.cli import run; "
    script += "atexit.register(os.kill, os.getpid(), signal.SIGTERM); run(print)"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode == 0


def test_lenet_pl_train_is_train_py(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "train", "data.batch_size=0"])
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


def test_objects_are_collected_once_training_is_imported():
    gc.unfreeze()
    training = cli.import_training()  # has been imported, perhaps for an earlier job
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    assert training.train is cli.import_training().train


def test_overrides_may_be_on_both_sides_of_options():
    arguments = ["data=mini", "-m", "~logger", "--config-name", "config", "seed=0,1"]
    expected = ["-m", "--config-name", "config", "data=mini", "logger=none", "seed=0,1"]
    assert cli.check_arguments(arguments) == expected


@pytest.mark.parametrize(
    "words",
    [["report", ""], ["test", "run", "--nope", "A" * 5000], ["export", "x", "--format", "A"]],
)
def test_invalid_options_of_commands_take_one_line(lenet_pl, words):
    status, _, error = lenet_pl(*words)
    assert status == 2
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert len(error) < 2100
