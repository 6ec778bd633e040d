"""Reading and ranking jobs, and the tables written from them, on folders made by hand."""

import io
import json
import shlex
import statistics
from pathlib import Path

import pytest
from helpers.sweeps import read_table, write_job, write_plan
from rich.console import Console

from lenet_pl.errors import ConfigError
from lenet_pl.sweeps.commands import Summary
from lenet_pl.sweeps.results import Sweep


def test_jobs_are_ranked_by_validation_accuracy_then_loss(grid: Path) -> None:
    sweep = Sweep(grid)
    assert sweep.varied == ["optimizer.lr", "data.batch_size"]
    assert [job.name for job in sweep.jobs] == ["10", "2", "0", "1"]
    assert sweep.counts == {"finished": 3, "failed": 1}
    assert [job.seconds for job in sweep.jobs] == [3.5] * 4
    assert Summary(sweep).command == "python train.py data=mini optimizer.lr=0.1 data.batch_size=64"
    lines = dict(Summary(sweep).outcome())
    assert lines["winner"] == "job 10  lr 0.1, batch_size 64"
    assert lines["validation"] == "95.00 %  loss 0.1000"
    assert lines["test"] == "not yet"
    assert lines["failed"] == "job 1: train/loss is nan in epoch 1"


def test_jobs_are_ranked_by_the_metric_that_their_epochs_were_selected_by(tmp_path: Path) -> None:
    for name, lr, seed, acc, balanced in [
        ("0", "0.1", 0, 0.99, 0.5),
        ("1", "0.1", 1, 0.99, 0.75),
        ("2", "0.2", 0, 0.9, 0.75),
        ("3", "0.2", 1, 0.9, 0.875),
    ]:
        overrides, monitor = [f"optimizer.lr={lr}", f"seed={seed}"], "val/balanced_acc"
        metrics = {"acc": acc, "balanced_acc": balanced}
        write_job(tmp_path, name, overrides, monitor=monitor, **metrics)
    sweep = Sweep(tmp_path)
    assert [job.name for job in sweep.jobs] == ["3", "1", "2", "0"]
    assert sweep.winner is not None
    assert sweep.winner.names == ["3", "2"]
    content = Summary(sweep).as_dict()
    winner = content["winner"]
    assert winner["val/balanced_acc"] == 0.8125
    assert winner["val/balanced_acc_sd"] == statistics.stdev([0.75, 0.875])
    assert winner["val/acc"] == 0.9
    assert "val/acc_low" not in winner
    assert winner["val/balanced_acc_high"] == 1.0  # clipped
    assert content["jobs"][0]["val/balanced_acc"] == 0.875
    assert dict(Summary(sweep).outcome())["validation"].startswith(
        "90.00 % ± 0.00 %  loss 0.3000  balanced_acc 81.25 % ± 8.84 %  mean and standard deviation"
    )
    jobs, _, first, *_ = Summary(sweep).markdown().splitlines()
    header = (
        "| job | lr | seed | status | epoch | val/acc | val/loss | val/balanced_acc | seconds |"
    )
    assert jobs.startswith(header)
    assert first.startswith("| 3 | 0.2 | 1 | finished | 2 | 90.00 % | 0.3000 | 87.50 % |")
    Summary(sweep).write_files()
    [row, *_] = read_table(tmp_path)
    assert row["val/balanced_acc_mean"] == "0.8125"
    lead = "The winner leads jobs 1, 0 (lr 0.1) by 0.1875 in val/balanced_acc."
    assert Summary(sweep).verdict.sentences[0] == lead


def test_jobs_are_ranked_by_the_smallest_loss(tmp_path: Path) -> None:
    for name, acc, loss in [("0", 0.99, 0.2), ("1", 0.9, 0.1)]:
        write_job(
            tmp_path, name, [f"optimizer.lr=0.{name}"], acc=acc, loss=loss, monitor="val/loss"
        )
    sweep = Sweep(tmp_path)
    assert sweep.winner is not None
    assert sweep.winner.names == ["1"]
    lines = dict(Summary(sweep).outcome())
    assert lines["validation"] == "90.00 %  loss 0.1000"
    assert Summary(sweep).verdict.sentences[:2] == [
        "The winner leads job 0 (lr 0.0) by 0.1000 in val/loss.",
        "No significance test: job 0 (McNemar's test compares accuracies, not val/loss).",
    ]
    Summary(sweep).write_files()
    assert (tmp_path / "sweep.png").exists()


def test_jobs_selected_by_different_metrics_are_not_ranked(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["seed=0"])
    write_job(tmp_path, "1", ["seed=1"], monitor="val/loss")
    with pytest.raises(ConfigError, match=r"monitor is val/acc in job 0, val/loss in job 1"):
        Sweep(tmp_path)


def test_the_best_epoch_of_a_running_job_is_by_its_metric(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["seed=0"], status=None)
    config = {"callbacks": {"checkpoint": {"monitor": "val/loss"}}}
    node = {"_target_": "x"}
    config |= {"data": {**node, "source": node}, "model": node, "loss": node}
    (tmp_path / "0" / ".hydra" / "config.yaml").write_text(json.dumps(config))
    rows = ["epoch,val/acc,val/loss,seconds", "1,0.8,0.1,1", "2,0.9,0.3,1"]
    (tmp_path / "0" / "metrics.csv").write_text("\n".join(rows))
    [job] = Sweep(tmp_path).jobs
    assert (job.status, job.best_epoch, job.monitor) == ("unfinished", 1, "val/loss")


def test_pending_jobs_are_listed_with_their_values(grid: Path) -> None:
    jobs = {
        "0": ["ignored=1"],
        "3": ["data=mini", "optimizer.lr=0.1", "data.batch_size=128", "seed=1"],
    }
    write_plan(grid, jobs, "python train.py -m")
    sweep = Sweep(grid)
    assert not sweep.complete
    assert Summary(sweep).outcome()[0][0] == "best so far"
    assert [job.name for job in sweep.jobs] == ["10", "2", "0", "3", "1"]
    assert sweep.varied == ["optimizer.lr", "data.batch_size", "seed"]
    [_, *lines] = Summary(sweep).markdown().splitlines()[1:6]
    assert lines[3] == "| 3 | 0.1 | 128 | 1 | pending |  |  |  |  | 3/ |"


def test_a_search_is_incomplete_until_all_trials_have_ended(grid: Path) -> None:
    assert Sweep(grid).complete
    write_plan(grid, {}, "python train.py -m", total=5)
    assert not Sweep(grid).complete


def test_pruned_jobs_show_their_rung_and_cannot_win(grid: Path) -> None:
    for name, status in (("10", "pruned"), ("0", "paused")):
        file = grid / name / "result.json"
        file.write_text(file.read_text().replace("finished", status))
    sweep = Sweep(grid)
    assert [job.name for job in sweep.jobs] == ["2", "10", "0", "1"]
    assert sweep.winner is not None
    assert sweep.winner.names == ["2"]
    assert not sweep.complete  # a paused job may continue
    text = Summary(sweep).markdown()
    assert "| 10 | 0.1 | 64 | pruned at 2 | 2 | 95.00 % |" in text
    assert "| 0 | 0.01 | 32 | paused at 2 | 2 | 91.00 % |" in text
    assert Summary(sweep).as_dict()["jobs"][1]["status"] == "pruned"


def test_a_seed_that_stopped_early_does_not_win_for_a_pruned_setting(tmp_path: Path) -> None:
    jobs = [("0.1", 0, "finished", 0.99), ("0.1", 1, "pruned", 0.5), ("0.2", 0, "finished", 0.9)]
    for number, (lr, seed, status, acc) in enumerate(jobs):
        overrides = [f"optimizer.lr={lr}", f"seed={seed}"]
        write_job(tmp_path, str(number), overrides, status, acc=acc)
    winner = Sweep(tmp_path).winner
    assert winner is not None
    assert winner.names == ["2"]


def test_files_hold_the_ranked_jobs_and_the_winner(grid: Path) -> None:
    sweep = Sweep(grid)
    Summary(sweep).write_files()
    rows = read_table(grid)
    assert [row["job"] for row in rows] == ["10", "2", "0", "1"]
    assert rows[0] == {
        "job": "10",
        "optimizer.lr": "0.1",
        "data.batch_size": "64",
        "status": "finished",
        "error": "",
        "epochs": "2",
        "best_epoch": "2",
        "val/acc": "0.95",
        "val/loss": "0.1",
        "seconds": "3.5",
        "folder": str(grid / "10"),
    }
    content = json.loads((grid / "sweep.json").read_text())
    assert content == json.loads(json.dumps(Summary(sweep).as_dict()))
    assert content["winner"]["jobs"] == ["10"]
    assert content["winner"]["test"] is None
    assert content["jobs"][3]["varied"] == {"optimizer.lr": 0.01, "data.batch_size": 64}
    assert content["jobs"][3]["val/acc"] is None
    assert content["tested"] == []
    assert (grid / "sweep.md").read_text() == Summary(sweep).markdown()
    assert (
        "| 10 | 0.1 | 64 | finished | 2 | 95.00 % | 0.1000 | 3.5 | 10/ |"
        in Summary(sweep).markdown()
    )


def test_commands_have_the_search_path_once(grid: Path) -> None:
    hydra = {"hydra": {"mode": "MULTIRUN", "searchpath": ["file://my conf"]}}
    for job in grid.iterdir():
        (job / ".hydra" / "hydra.yaml").write_text(json.dumps(hydra))
    search = """'hydra.searchpath=['"'"'file://my conf'"'"']'"""
    write_plan(grid, {}, f"python train.py {search} -m seed=0,1", total=5)
    summary, console = Summary(Sweep(grid)), Console(file=io.StringIO(), width=300)
    console.print(summary.text("lenet-pl train"))
    lines = console.file.getvalue().splitlines()
    again = f"{search} data=mini optimizer.lr=0.1 data.batch_size=64"
    assert f"train again  lenet-pl train {again}" in lines
    assert f"to continue  lenet-pl train {search} -m seed=0,1" in lines
    assert f"```bash\npython train.py {again}\n" in summary.markdown()


def test_console_table_is_not_truncated_in_a_narrow_window(grid: Path) -> None:
    narrow = Console(file=io.StringIO(), width=20)
    narrow.print(Summary(Sweep(grid)).text("python train.py"), soft_wrap=True)
    lines = narrow.file.getvalue().splitlines()
    header = "job  lr    batch_size  status    epoch  val/acc  val/loss  seconds  folder"
    assert lines[0].rstrip() == header
    assert lines[1].split() == [
        *("10", "0.1", "64", "finished", "2", "95.00", "%", "0.1000", "3.5", "10/")
    ]


def test_a_running_job_has_its_best_epoch_so_far_and_cannot_win(grid: Path) -> None:
    overrides = ["optimizer.lr=1", "data.batch_size=64"]
    write_job(grid, "11", overrides, status=None, acc=0.99)
    sweep = Sweep(grid)
    running = next(job for job in sweep.jobs if job.name == "11")
    assert (running.status, running.epochs, running.best_epoch) == ("unfinished", 2, 2)
    assert running.metrics == {"val/acc": 0.99, "val/loss": 0.3}
    assert sweep.winner is not None
    assert sweep.winner.jobs[0].name == "10"
    assert sweep.jobs[3] is running


def test_seeds_are_averaged(tmp_path: Path) -> None:
    accuracies = {"0.01": [0.90, 0.98], "0.1": [0.95, 0.96]}  # the best job is in the worse group
    number = 0
    for lr, row in accuracies.items():
        for seed, acc in enumerate(row):
            write_job(tmp_path, f"{number}", [f"optimizer.lr={lr}", f"seed={seed}"], acc=acc)
            number += 1
    sweep = Sweep(tmp_path)
    assert sweep.has_seeds
    assert sweep.parameters == ["optimizer.lr"]
    winner = sweep.winner
    assert winner is not None
    assert [job.name for job in winner.jobs] == ["3", "2"]
    assert winner.mean("val/acc") == statistics.fmean([0.96, 0.95])
    assert winner.sd("val/acc") == statistics.stdev([0.96, 0.95])
    assert sweep.jobs[0].name == "1"
    assert Summary(sweep).command == "python train.py optimizer.lr=0.1 seed=1"
    assert dict(Summary(sweep).outcome())["winner"] == "jobs 3, 2  lr 0.1"
    Summary(sweep).write_files()
    row = next(row for row in read_table(tmp_path) if row["job"] == "0")
    assert float(row["val/acc_mean"]) == statistics.fmean([0.98, 0.90])
    assert row["n"] == "2"
    low, high = winner.interval("val/acc")  # Student's t is 12.7062 for one degree of freedom
    assert low == pytest.approx(0.955 - 12.7062 * winner.sd("val/acc") / 2**0.5, abs=1e-6)
    assert high == 1  # not more
    assert (
        "| 0.1 | 95.50 % | 0.71 % | 89.15 % to 100.00 % | 2 | 3, 2 |" in Summary(sweep).markdown()
    )
    text = "95.50 % ± 0.71 %  loss 0.3000  mean and standard deviation, n = 2  95 % interval of "
    text += "the mean 89.15 "
    assert dict(Summary(sweep).outcome())["validation"].startswith(text)
    setting = Summary(sweep).as_dict()["settings"][0]
    assert (setting["val/acc_low"], setting["val/acc_high"]) == (low, high)


def test_a_job_without_all_figures_cannot_win(grid: Path) -> None:
    for name, missing in [("10", "val/loss"), ("2", "test/loss")]:
        result = json.loads((grid / name / "result.json").read_text())
        result["metrics"] |= {"test/acc": 0.9, "test/loss": 0.3, "test/acc_low": 0.8}
        result["metrics"].pop(missing, None)
        (grid / name / "result.json").write_text(json.dumps(result))
    sweep = Sweep(grid)
    Summary(sweep).write_files()
    assert dict(Summary(sweep).outcome())["winner"].startswith("job 2 ")
    assert dict(Summary(sweep).outcome())["test"] == "not yet"


def test_overrides_added_by_resuming_a_job_are_no_parameters(grid: Path) -> None:
    overrides = ["data=mini", "optimizer.lr=0.1", "data.batch_size=64"]
    overrides.append("~callbacks.early_stopping")
    resumed = ["test=false", "ckpt_path='2/checkpoints/last.ckpt'"]
    result = json.loads((grid / "10" / "result.json").read_text())
    result["overrides"] = [*overrides, "+model.name=a", *resumed]
    (grid / "10" / "result.json").write_text(json.dumps(result))
    sweep = Sweep(grid)
    assert not {"test", "ckpt_path", "resume"} & {*sweep.varied, *sweep.jobs[0].values}
    assert Summary(sweep).command == f"python train.py {shlex.join(overrides)} +model.name=a"


def test_the_metric_is_that_of_the_jobs_that_have_started(tmp_path: Path) -> None:
    write_job(tmp_path, "0", ["a=1"], "failed", monitor="val/loss")
    write_plan(tmp_path, {"0": ["a=1"], "1": []}, "python train.py -m")
    sweep = Sweep(tmp_path)
    assert [(job.name, job.status) for job in sweep.jobs] == [("1", "pending"), ("0", "failed")]
    assert sweep.monitor == "val/loss"
