"""Run folders: finding, resuming and repeating them, and Slurm jobs."""

import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST, result

from lenet_pl.errors import ConfigError, DataError
from lenet_pl.files import quoted
from lenet_pl.runs import compare_with, find_run, lock_run, open_run, resume_arguments
from lenet_pl.trust import parse_override


def make_run(folder: Path, mode: str = "RUN", overrides: str = "[]") -> Path:
    """A folder with what resuming looks at, and an empty checkpoint."""
    for path in (".hydra/overrides.yaml", ".hydra/hydra.yaml", "checkpoints/last.ckpt"):
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).touch()
    (folder / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  mode: {mode}\n")
    (folder / ".hydra" / "overrides.yaml").write_text(overrides)
    return folder


def finish(folder: Path, epochs: int = 5) -> None:
    """Write ``result.json`` and ``metrics.csv``."""
    content = {"status": "finished", "epochs": epochs, "best_epoch": 1, "metrics": {"val/acc": 0.5}}
    (folder / "result.json").write_text(json.dumps(content))
    rows = [f"{epoch},0.5,{epoch}.5\n" for epoch in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text("epoch,val/acc,seconds\n" + "".join(rows))


def test_resume_takes_the_overrides_of_the_run_and_new_ones_win(tmp_path):
    run = tmp_path / "it's a run"
    old = json.dumps(f"ckpt_path={quoted(run / 'checkpoints' / 'last.ckpt')}")  # earlier resumed
    make_run(run, overrides=f"- data=mini\n- {old}\n- trainer.max_epochs=5\n- +x=1\n")
    path = str(run).replace("'", r"\'")
    assert resume_arguments([f"resume={run}", "trainer.max_epochs=9"]) == [
        "data=mini",
        "+x=1",
        f"ckpt_path='{path}/checkpoints/last.ckpt'",
        f"hydra.run.dir='{path}'",
        "trainer.max_epochs=9",
    ]
    assert resume_arguments(["seed=1"]) == ["seed=1"]


def test_resume_starts_a_run_without_a_finished_epoch_again(tmp_path):
    overrides = ["data=mini", "ckpt_path=other.ckpt"]
    run = make_run(tmp_path, overrides=str(overrides))
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "best.ckpt").touch()  # killed between the two
    assert resume_arguments([f"resume={run}"]) == [*overrides, f"hydra.run.dir='{run}'"]
    finish(run)
    with pytest.raises(ConfigError, match="finished after 5 epochs"):
        resume_arguments([f"resume={run}", "trainer.max_epochs=9"])


def test_resume_with_the_other_classifier(tmp_path):
    overrides = ["data=mini", "classifier=fast", "classifier.steps_per_execution=8"]
    run = make_run(tmp_path, overrides=f"{overrides}")
    assert not any(
        "fast" in argument or "steps" in argument
        for argument in resume_arguments([f"resume={run}", "classifier=plain"])
    )
    assert overrides[2] in resume_arguments([f"resume={run}"])


def test_latest_is_the_run_that_started_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="outputs/runs holds no run"):
        find_run("latest")
    for time, name in enumerate(("2026-01-01/09-00-00.1", "slurm/7-0a1b2c3d", "2026-01-02/08")):
        (tmp_path / "outputs/runs" / name / ".hydra").mkdir(parents=True)
        os.utime(tmp_path / "outputs/runs" / name / ".hydra", (time, time))
    latest = Path("outputs/runs/2026-01-02/08")
    assert find_run("latest") == latest
    assert find_run(str(latest)) == find_run(str(latest / "checkpoints" / "last.ckpt")) == latest


def test_finished_run_resumes_only_to_train_longer(tmp_path):
    finish(make_run(tmp_path))
    for arguments in ([], ["trainer.max_epochs=5"], ["seed=3"]):
        with pytest.raises(ConfigError, match=r"finished after 5 epochs; give a larger"):
            resume_arguments([f"resume={tmp_path}", *arguments])
    for longer in ("trainer.max_epochs=6", "++trainer.max_epochs=6"):
        assert longer in resume_arguments([f"resume={tmp_path}", longer])


@pytest.mark.parametrize("name", ["sweep", "a b", "it's", 'a "b"', "lr=0.1,x"])
def test_job_of_a_sweep_is_resumed_by_its_sweep(tmp_path, name):
    job = make_run(tmp_path / name / "3", mode="MULTIRUN")
    with pytest.raises(ConfigError) as caught:
        resume_arguments([f"resume={job}", "trainer.max_epochs=9"])
    message = str(caught.value).removeprefix(f"resume={job}: ")
    assert "\n" not in message
    # pasted into a shell, the overrides name these paths
    start, _, checkpoint = message.rpartition(" and ")
    sweep = start.partition(" with ")[2].partition(", or train longer")[0]
    for text, key, path in (
        (sweep, "hydra.sweep.dir", job.parent),
        (checkpoint, "ckpt_path", job / "checkpoints" / "last.ckpt"),
    ):
        [argument] = shlex.split(text)
        override = parse_override(argument)
        assert (override.key_or_group, override.value()) == (key, str(path))


def test_a_resumed_or_repeated_run_does_not_pause_again(tmp_path):
    run = make_run(tmp_path, overrides="[data=mini, pause_after=2]")
    finish(run)
    for argument in (f"from={run}", f"resume={run}"):
        arguments = resume_arguments([argument, "trainer.max_epochs=9"])
        assert arguments[0] == "data=mini"
        assert not any(x.startswith("pause_after") for x in arguments)
    assert "pause_after=4" in resume_arguments([f"from={run}", "pause_after=4"])


def test_a_run_is_repeated_in_a_new_folder(tmp_path):
    run = make_run(tmp_path / "run", overrides=f"[data=mini, seed=3, 'ckpt_path={tmp_path}/run/x']")
    with pytest.raises(ConfigError, match="no finished epoch to compare with"):
        resume_arguments([f"from={run}"])
    finish(run)
    expected = ["data=mini", f"repeat='{run}'", "seed=4"]
    assert resume_arguments([f"from={run}", "seed=4"]) == expected
    (run / ".hydra" / "overrides.yaml").write_text("[data=mini, ckpt_path=other/last.ckpt]")
    assert resume_arguments([f"from={run}"])[:2] == ["data=mini", "ckpt_path=other/last.ckpt"]


def test_a_resumed_run_keeps_its_name_and_a_repeated_one_has_its_own(tmp_path):
    run = make_run(tmp_path, overrides="[data=mini, name=first]")
    finish(run)
    assert "name=first" in resume_arguments([f"resume={run}", "trainer.max_epochs=9"])
    renamed = resume_arguments([f"resume={run}", "trainer.max_epochs=9", "name=second"])
    assert [x for x in renamed if x.startswith("name=")] == ["name=second"]
    assert resume_arguments([f"from={run}"]) == ["data=mini", f"repeat='{run}'"]
    assert resume_arguments([f"from={run}", "name=again"])[-1] == "name=again"


def test_figures_of_a_repeated_run_are_compared(tmp_path):
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2")
    for run in (first, second):
        finish(run)
    metrics = {"val/acc": 0.5, "test/acc": 0.4}  # the first run was not tested
    same = {"run": str(first), "same": True, "difference": None}
    assert compare_with(first, second, metrics) == same
    changed = compare_with(first, second, {"val/acc": 0.25})
    assert changed["difference"] == "best epoch: val/acc was 0.5, is 0.25"
    (second / "metrics.csv").write_text("epoch,val/acc,seconds\n1,0.5,9\n2,0.75,9\n")
    changed = compare_with(first, second, metrics)
    assert (changed["same"], changed["difference"]) == (False, "epoch 2: val/acc was 0.5, is 0.75")
    finish(second, epochs=3)
    assert compare_with(first, second, metrics)["difference"] == "epoch 4: only in one run"


def test_a_run_is_repeated_to_the_bit(command, tmp_path):
    short = [*FAST, "data.fraction=0.2", "trainer.max_epochs=2", "logger=none"]
    assert command(*short, "hydra.run.dir=first").returncode == 0
    done = command("from=first", "hydra.run.dir=second")
    assert (done.returncode, "all figures agree" in done.stdout) == (0, True), done.stderr
    expected = {"run": str(tmp_path / "first"), "same": True, "difference": None}
    assert result(tmp_path / "second")["repeats"] == expected
    done = command("from=first", "optimizer.lr=0.04", "hydra.run.dir=third")
    repeats = result(tmp_path / "third")["repeats"]
    assert (done.returncode, repeats["same"]) == (0, False)
    assert repeats["difference"] == "epoch 1: lr was 0.05, is 0.04"


def test_a_folder_is_occupied_by_a_run_to_continue_or_a_finished_one(tmp_path):
    from lenet_pl.runs import check_folder

    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run"):
        check_folder(run, None)
    check_folder(run, str(run / "checkpoints" / "last.ckpt"))
    (run / "checkpoints" / "last.ckpt").unlink()
    check_folder(run, None)
    finish(run)
    with pytest.raises(ConfigError, match="holds a run"):
        check_folder(run, None)


def test_folder_is_held_by_one(tmp_path):
    folder = tmp_path / "new" / "folder"
    with lock_run(folder):
        with pytest.raises(ConfigError, match="a run is in progress there"), lock_run(folder):
            raise AssertionError
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write there \\(Not a directory\\)"):
        lock_run(tmp_path / "file" / "folder")


@pytest.fixture
def job(tmp_path, monkeypatch) -> Path:
    """A restarted Slurm batch job; the folder of its runs."""
    monkeypatch.chdir(tmp_path)
    values = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train.sh", "SLURM_RESTART_COUNT": "1"}
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    return Path("outputs/runs/slurm")


def test_commands_of_a_slurm_job_have_folders_of_their_own(job, monkeypatch):
    [*rest, folder] = resume_arguments(["seed=1"])
    assert (rest, Path(folder.removeprefix("hydra.run.dir=")).parent) == (["seed=1"], job)
    assert folder.rpartition("/")[2].startswith("77-")
    assert resume_arguments(["seed=1"])[1] == folder != resume_arguments(["seed=2"])[1]
    for own in (["hydra.run.dir=x"], ["-m", "seed=1,2"], ["hydra.mode=MULTIRUN"], ["sweep=seeds"]):
        assert resume_arguments(own) == own
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert resume_arguments(["seed=1"]) == ["seed=1"]


@pytest.mark.parametrize("own", [[], ["hydra.run.dir='a b'"]])
def test_a_restarted_slurm_job_continues(job, monkeypatch, capsys, own):
    arguments = resume_arguments(["seed=1", *own])
    folder = Path(arguments[-1].partition("=")[2].strip("'"))
    checkpoint = make_run(folder) / "checkpoints" / "last.ckpt"
    assert resume_arguments(["seed=1", *own]) == [*arguments, f"ckpt_path='{checkpoint}'"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")  # the folder is refused by check_folder
    assert resume_arguments(["seed=1", *own]) == arguments
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    finish(folder)
    with pytest.raises(SystemExit) as ended:
        resume_arguments(["seed=1", *own])
    assert (ended.value.code or 0, capsys.readouterr().out.count("\n")) == (0, 1)


def test_changed_data_is_refused(trained):
    run = open_run(str(trained))
    assert run.data().split_digest == run.result["data"]["split_digest"]
    run.config.data.split_seed = 7
    with pytest.raises(DataError, match=r"differs from the run's \(split_digest\): mini in data"):
        run.data()


def test_checkpoint_holds_what_resuming_compares(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    assert state["settings"]["optimizer.lr"] == 0.05
    assert state["settings"]["model"] == "LeNet"
    assert "steps" not in state["settings"]  # a constant learning rate has no end
    assert f"data.batch_size={state['settings']['data.batch_size']}" in FAST
