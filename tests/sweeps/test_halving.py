"""Successive halving: which jobs are promoted, and that they equal uninterrupted jobs."""

import json
import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import rows
from helpers.sweeps import QUICK, SHORT, read_results, read_table, write_job

from lenet_pl import training
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.sweeps import halving
from lenet_pl.sweeps.plan import Plan, rung_epochs
from lenet_pl.sweeps.results import Sweep

RunSweep = Callable[..., int]

HALVING = ["hydra/sweeper=halving", "hydra.sweeper.eta=2", "hydra.sweeper.min_epochs=1"]
FOUR = [x for x in QUICK if "max_epochs" not in x] + ["trainer.max_epochs=4"]


@pytest.mark.parametrize(
    ("eta", "min_epochs", "max_epochs", "rungs"),
    [
        (3, 2, 20, (2, 6)),
        (3, 2, 18, (2, 6)),
        (3, 2, 17, (2,)),
        (3, 2, 5, ()),
        (2, 1, 4, (1, 2)),
        (3, 2, 54, (2, 6, 18)),
    ],
)
def test_rungs(eta: int, min_epochs: int, max_epochs: int, rungs: tuple[int, ...]) -> None:
    assert rung_epochs(eta, min_epochs, max_epochs) == rungs


def write_curve(sweep: Path, name: str, status: str, *epochs: tuple[float, float]) -> None:
    """Write a job with these accuracies and losses."""
    write_job(sweep, name, ["data=mini"], status)
    lines = [f"{n},{acc},{loss},1.0" for n, (acc, loss) in enumerate(epochs, 1)]
    text = "\n".join(["epoch,val/acc,val/loss,seconds", *lines]) + "\n"
    (sweep / name / "metrics.csv").write_text(text)


def plan_of(folder: Path, jobs: dict[str, list[str]]) -> Plan:
    return Plan(folder, jobs, len(jobs), ("optimizer.lr",), {}, threads=None)


def test_settings_are_ranked_by_their_best_epoch_so_far(tmp_path: Path) -> None:
    write_curve(tmp_path, "0", "finished", (0.9, 0.3), (0.8, 0.6), (0.99, 0.1))  # after the rung
    write_curve(tmp_path, "1", "paused", (0.95, 0.2), (0.1, 9.0))  # collapsed, but the best
    write_curve(tmp_path, "2", "failed", (0.99, 0.1))
    write_curve(tmp_path, "3", "paused", (0.7, 0.8), (0.9, 0.2))  # as accurate as 0, smaller loss
    plan = plan_of(tmp_path, {})
    assert halving._ranked(plan, [["0"], ["1"], ["2"], ["3"]], 2) == [["1"], ["3"], ["0"]]
    by_loss = replace(plan, monitor="val/loss")
    assert halving._ranked(by_loss, [["0"], ["1"], ["2"]], 1) == [["1"], ["0"]]
    assert halving._ranked(by_loss, [["0"], ["3"]], 1) == [["0"], ["3"]]
    assert halving._ranked(by_loss, [["0"], ["3"]], 2) == [["3"], ["0"]]


def test_seeds_of_a_setting_are_promoted_together(tmp_path: Path) -> None:
    accuracies = {"0": 0.99, "1": 0.5, "2": 0.8, "3": 0.9, "4": 0.7}
    for name, accuracy in accuracies.items():
        write_curve(tmp_path, name, "paused" if name != "4" else "failed", (accuracy, 0.1))
    jobs = {name: [f"optimizer.lr={int(name) // 2}", f"seed={int(name) % 2}"] for name in "01234"}
    plan = plan_of(tmp_path, jobs)
    settings = [["0", "1"], ["2", "3"], ["4"]]
    best = halving._ranked(plan, settings, 1)
    assert best == [["2", "3"], ["0", "1"]]
    halving._prune(plan, except_for=best[:1])
    status = {name: result["status"] for name, result in read_results(tmp_path).items()}
    assert status == {"0": "pruned", "1": "pruned", "2": "paused", "3": "paused", "4": "failed"}


@pytest.mark.slow
def test_a_promoted_job_equals_an_uninterrupted_one(
    run_sweep: RunSweep, tmp_path: Path, capsys
) -> None:
    grid = ["model=mlp", "scheduler=onecycle", "optimizer.lr=1e-5,0.01,0.02,1e6"]
    grid += ["callbacks=ema", "callbacks.early_stopping=null", "test=false"]
    assert run_sweep("-m", *FOUR, *grid, "hydra.sweep.dir=full") == 1
    capsys.readouterr()
    assert run_sweep("-m", *FOUR, *grid, *HALVING, "hydra.sweep.dir=half") == 1
    printed = capsys.readouterr().out
    full, half = (read_results(tmp_path / name) for name in ("full", "half"))
    ends = {name: (result["status"], result["epochs"]) for name, result in half.items()}
    assert ends["0"] == ("pruned", 1)
    assert ends["3"] == ("failed", 0)
    assert sorted([ends["1"], ends["2"]]) == [("finished", 4), ("pruned", 2)]
    best = next(name for name, end in ends.items() if end[0] == "finished")
    winner = Sweep(tmp_path / "half").winner
    assert winner is not None
    assert winner.names == [best]
    assert half[best]["metrics"] == full[best]["metrics"]
    assert not half[best]["stopped_early"]
    assert rows(tmp_path / "half" / best) == rows(tmp_path / "full" / best)
    a, b = (
        torch.load(tmp_path / name / best / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("half", "full")
    )
    assert a["lr_schedulers"] == b["lr_schedulers"]
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
    for name in "012":  # the epochs of pruned jobs are the same, too
        epochs = ends[name][1]
        assert rows(tmp_path / "half" / name) == rows(tmp_path / "full" / name)[:epochs]
    assert "training all jobs to epoch 1" in printed
    assert "pruned at 1" in printed
    assert f"\ntraining job {best} to the end\n" in printed
    assert printed.count(f"\njob {best}  ") == 6  # start and end in each rung

    # without halving, the same sweep trains all jobs to their end
    assert run_sweep("-m", *FOUR, *grid, "hydra.sweep.dir=half") == 1
    again = read_results(tmp_path / "half")
    assert {name: result["metrics"] for name, result in again.items()} == {
        name: result["metrics"] for name, result in full.items()
    }


@pytest.mark.slow
def test_an_interrupted_sweep_ends_with_the_same_table(
    run_sweep: RunSweep, tmp_path: Path, monkeypatch, capsys
) -> None:
    grid = ["sweep=seeds", *FOUR, "optimizer.lr=0.05", "seed=0", "data.batch_size=16,32,64,128"]
    grid += [*HALVING, "test=false"]
    assert run_sweep(*grid, "hydra.sweep.dir=whole") == 0
    stops = {(1, 0), (2, 1), (4, 3)}  # epochs of the rung; epoch, from 0, to stop in
    for rung, epoch in sorted(stops):
        capsys.readouterr()
        with monkeypatch.context() as patch:

            def stop(self, trainer, pl_module, start=EpochHistory.on_train_epoch_start):
                jobs = list((tmp_path / "s").glob("*/checkpoints/last.ckpt"))
                if trainer.current_epoch == epoch and len(jobs) >= min(rung, 3):  # noqa: B023
                    os.kill(os.getpid(), signal.SIGTERM)
                start(self, trainer, pl_module)

            patch.setattr(EpochHistory, "on_train_epoch_start", stop)
            assert run_sweep(*grid, "hydra.sweep.dir=s") == 1
        printed = capsys.readouterr().out
        table = read_table(tmp_path / "s")
        assert len(table) == 4  # with those that have not started
        assert all(row["data.batch_size"] for row in table)
        for file in (tmp_path / "s").glob("*/result.json"):
            if json.loads(file.read_text())["status"] == "interrupted" and rung == 2:
                file.unlink()  # as after SIGKILL
    command = printed.splitlines()[-1].removeprefix("to continue  python train.py ")
    assert run_sweep(*shlex.split(command)) == 0
    tables = [
        [
            {key: value for key, value in row.items() if key not in ("seconds", "folder")}
            for row in read_table(tmp_path / name)
        ]
        for name in ("whole", "s")
    ]
    assert tables[0] == tables[1]
    assert sorted(row["status"] for row in tables[0]) == ["finished", "pruned", "pruned", "pruned"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.eta=1"], "hydra.sweeper.eta=1: must be an integer from 2"),
        (["hydra.sweeper.min_epochs=0"], "hydra.sweeper.min_epochs=0: must be an integer from 1"),
        (["trainer.max_epochs=5"], "trainer.max_epochs=5: must be an integer from 6"),
        (
            ["callbacks=none"],
            "callbacks.checkpoint.monitor=null: must be a validation metric, val/acc or",
        ),
        (["trainer=debug"], "trainer.fast_dev_run=true: must be false for"),
        (["optimizer.lr=interval(0,1)"], "does not support sweep type"),
        (["hydra.sweeper.max_batch_size=-1"], "hydra.sweeper.max_batch_size=-1: must be null or"),
        (["trainer.max_epochs=6,20"], "trainer.max_epochs: must be the same in all jobs"),
        (["data.split_seed=0,1"], "data.split_seed: must be the same in all jobs"),
        (["+trainer.min_epochs=3"], "trainer.min_epochs=3: must be null or an integer from 0 to 2"),
    ],
)
def test_invalid_options_write_nothing(
    run_sweep: RunSweep, tmp_path: Path, capsys, overrides: list[str], message: str
) -> None:
    words = ["-m", "data=mini", "hydra/sweeper=halving", "seed=0,1", *overrides]
    assert run_sweep(*words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_single_setting_trains_to_the_end_at_once(run_sweep: RunSweep, tmp_path: Path) -> None:
    short = [x for x in SHORT if "max_epochs" not in x] + ["trainer.max_epochs=2"]
    assert run_sweep("-m", *short, *HALVING, "seed=0,1", "hydra.sweep.dir=s") == 0
    assert {result["status"] for result in read_results(tmp_path / "s").values()} == {"finished"}


@pytest.mark.slow
def test_parallel_jobs_continue_in_their_own_folders(
    run_sweep: RunSweep, tmp_path: Path, capsys
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [*FOUR, *HALVING, "optimizer.lr=1e-5,1e-6,0.05,1e-7", "hydra/launcher=joblib"]
    assert run_sweep("-m", *words, "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s") == 0
    ends = {n: (r["status"], r["epochs"]) for n, r in read_results(tmp_path / "s").items()}
    assert ends["2"] == ("finished", 4)
    assert sorted(ends.values()) == [("finished", 4), ("pruned", 1), ("pruned", 1), ("pruned", 2)]
    printed = capsys.readouterr().out
    assert [f"{n} of 4 done" in printed for n in range(1, 5)] == [True] * 4


def test_a_single_run_can_be_paused(run_sweep: RunSweep, tmp_path: Path, capsys) -> None:
    words = [*FOUR, "optimizer.lr=0.05", "pause_after=2", "hydra.run.dir=run"]
    assert run_sweep(*words) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "paused"
    assert result["epochs"] == 2
    assert "test/acc" not in result["metrics"]
    assert "python train.py resume=run" in capsys.readouterr().out
    assert training.job_hook is None
