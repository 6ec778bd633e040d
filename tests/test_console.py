"""The summary at the end of a run, for each way a run can end."""

import io
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lenet_pl.console import PlainConsole, end_summary, percent

METRICS = {"val/acc": 0.9864, "val/loss": 0.0532}
TEST = {"test/acc": 0.9862, "test/loss": 0.0453, "test/acc_low": 0.9837, "test/acc_high": 0.9883}
FINISHED = {
    "status": "finished",
    "error": None,
    "best_epoch": 19,
    "epochs": 20,
    "stopped_early": False,
    "monitor": "val/acc",
    "metrics": METRICS | TEST,
    "data": {"pooled": False},
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A run folder that can be resumed."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/.hydra", "run/checkpoints"):
        Path(name).mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    return Path("run")


def lines(result: dict, folder: Path, **options: bool) -> list[str]:
    """The summary as plain text."""
    console = Console(file=io.StringIO(), width=100)
    console.print(end_summary(result, folder, "python train.py", **options), soft_wrap=True)
    return [line.rstrip() for line in console.file.getvalue().strip().splitlines()]


def test_finished_run(folder):
    assert lines(FINISHED, folder) == [
        "best epoch      19 of 20",
        "validation      98.64 %  loss 0.0532",
        "test            98.62 %  loss 0.0453  95 % interval 98.37 % to 98.83 %",
        "run folder      run",
        "train longer    python train.py resume=run trainer.max_epochs=40",
    ]
    (folder / "events.out.tfevents.1").touch()
    assert "see the curves  tensorboard --logdir run" in lines(FINISHED, folder)
    assert not any("longer" in line for line in lines(FINISHED, folder, extendable=False))
    assert not any("resume=" in line for line in lines(FINISHED, folder, resumable=False))


def test_a_metric_that_the_best_epoch_was_selected_by_is_shown(folder):
    metrics = METRICS | {"val/balanced_acc": 0.5}
    result = FINISHED | {"monitor": "val/balanced_acc", "metrics": metrics}
    assert lines(result, folder)[1] == (
        "validation      98.64 %  loss 0.0532  balanced accuracy 50.00 %"
    )
    assert "balanced" not in lines(FINISHED | {"metrics": metrics}, folder)[1]


def test_stopped_and_pooled_run(folder):
    result = FINISHED | {"stopped_early": True, "epochs": 7, "data": {"pooled": True}}
    text = lines(result, folder)
    assert text[0] == "best epoch      19 of 7, stopped early"
    assert any(line.startswith("pooled ") for line in text)
    assert not any("resume=" in line for line in text)


def test_run_that_did_not_finish(folder):
    result = FINISHED | {"status": "failed", "error": "train/loss is nan", "metrics": {}}
    assert lines(result, folder) == [
        "failed          train/loss is nan",
        "run folder      run",
        "resume          python train.py resume=run",
    ]


def test_debugging_run(folder):
    text = lines(FINISHED | {"metrics": {}}, folder)
    assert text[0] == "debugged        one batch each of train, validation and test passed"


def test_percent():
    assert percent(0.98764) == "98.76 %"


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_the_command_after_an_interruption_completes_the_run_as_requested(folder, status):
    result = FINISHED | {"status": status, "error": "stopped by SIGTERM", "metrics": METRICS}
    text = lines(result, folder)
    assert text[0] == f"{status:<15} stopped by SIGTERM"
    assert text[-1] == "resume          python train.py resume=run"  # no other trainer.max_epochs
    assert not any("longer" in line for line in text)


def test_names_cannot_control_the_terminal():
    console = PlainConsole(file=io.StringIO(), width=100)
    table = Table("class")
    table.add_row(Text("\x1b[31mred"))
    console.print(table, "\x1b]0;title\x07")
    assert "\x1b" not in console.file.getvalue()
    assert r"\x1b[31" in console.file.getvalue()


def test_commands_are_quoted_and_start_in_the_folder_of_the_shell(folder, tmp_path, monkeypatch):
    spaced = (tmp_path / "it's").joinpath("run")
    spaced.parent.mkdir()
    folder.rename(spaced)
    (spaced / "events.out.tfevents.1").touch()
    config = OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path)}}})
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    monkeypatch.chdir(spaced)  # as hydra.job.chdir does
    text = lines(FINISHED, spaced)
    assert """see the curves  tensorboard --logdir 'it'"'"'s/run'""" in text
    assert any(f"resume='it'{chr(34)}'{chr(34)}'s/run'" in line for line in text)
