"""Small sweeps, run in this process, and in worker processes."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.sweeps import QUICK, SHORT, read_files, read_results, read_table
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from rich.console import Console
from tensorboard import program

from lenet_pl import training
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.cli import prefer_own_presets
from lenet_pl.console import end_summary
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation import evaluate
from lenet_pl.records import override_key
from lenet_pl.runs import Run, open_run, resume_arguments
from lenet_pl.sweeps import hydra_callback
from lenet_pl.sweeps.plan import Plan

RunSweep = Callable[..., int]


def test_a_sweep_ends_with_a_table_and_tests_only_the_winner(
    run_sweep: RunSweep, tmp_path: Path, capsys
) -> None:
    grid = ["optimizer.lr=1e6,0.05", "data.batch_size=64,32", "hydra.sweep.dir=s"]
    assert run_sweep("-m", *QUICK, *grid) == 1
    printed = capsys.readouterr().out
    folder = tmp_path / "s"
    status = {name: result["status"] for name, result in read_results(folder).items()}
    assert status == {"0": "failed", "1": "failed", "2": "finished", "3": "finished"}
    content = json.loads((folder / "sweep.json").read_text())
    best = content["winner"]["jobs"]
    assert content["tested"] == best
    assert len(best) == 1
    tested = [n for n, result in read_results(folder).items() if "test/acc" in result["metrics"]]
    assert tested == best
    assert "job 2  3 of 4  lr 0.05, batch_size 64" in printed
    assert printed.count("job 0: train/loss is nan in epoch 1; try a smaller") == 1
    assert "Traceback" not in printed
    assert "Traceback" in (folder / "0" / "train.log").read_text()
    assert content["winner"]["command"] in printed

    # the printed command reproduces the printed results
    overrides = content["winner"]["command"].removeprefix("python train.py ").split()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        training.train(compose("config", [*overrides, f"run_dir={tmp_path / 'run'}"]))
    again = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert read_results(folder)[best[0]]["metrics"] == again

    # repeated, the command trains and tests nothing more, and the table stays
    before, table = read_files(folder / best[0]), (folder / "sweep.csv").read_text()
    assert run_sweep("-m", *QUICK, *grid) == 1
    result = folder / best[0] / "result.json"
    assert result.read_bytes() == before[result]
    assert [line.split(",")[:3] for line in (folder / "sweep.csv").read_text().splitlines()] == [
        line.split(",")[:3] for line in table.splitlines()
    ]


@pytest.mark.slow
def test_an_interrupted_sweep_continues(
    run_sweep: RunSweep, tmp_path: Path, monkeypatch, capsys
) -> None:
    preset = [*SHORT, "sweep=seeds", "seed=0,1,2", "test=false"]  # a sweep without -m
    folder = tmp_path / "it's a=b"
    assert run_sweep(*preset, "hydra.sweep.dir=uninterrupted") == 0
    with monkeypatch.context() as patch:

        def stop(self, trainer, pl_module, start=EpochHistory.on_train_epoch_start):
            if trainer.current_epoch == 1 and (folder / "0" / "result.json").exists():
                os.kill(os.getpid(), signal.SIGTERM)
            start(self, trainer, pl_module)

        patch.setattr(EpochHistory, "on_train_epoch_start", stop)
        assert run_sweep(*preset, r"hydra.sweep.dir='it\'s a=b'") == 1
    printed, error = capsys.readouterr()
    assert error == "error: stopped\n"
    assert "best so far  job 0" in printed
    command = printed.splitlines()[-1].removeprefix("to continue  python train.py ")
    assert f"if stopped  python train.py {command}\n" in printed
    assert "test/acc" not in read_results(folder)["0"]["metrics"]
    (folder / "1" / "result.json").unlink()  # as after SIGKILL
    (folder / "2" / ".hydra").mkdir(parents=True)  # as after SIGKILL at the start of a job
    (folder / "2" / ".hydra" / "overrides.yaml").touch()
    trained = []
    train_run = training.train_run

    def recorded(cfg, **kwargs):
        trained.append((Path(cfg.run_dir).name, cfg.ckpt_path is not None))
        return train_run(cfg, **kwargs)

    monkeypatch.setattr(training, "train_run", recorded)
    assert run_sweep(*shlex.split(command)) == 0
    assert trained == [("1", True), ("2", False)]
    tables = [
        [
            {key: value for key, value in row.items() if key not in ("seconds", "folder")}
            for row in read_table(path)
        ]
        for path in (tmp_path / "uninterrupted", folder)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 3
    assert all("test/acc" not in result["metrics"] for result in read_results(folder).values())
    message = r"resume=uninterrupted/1: a job of a sweep; .*sweep.dir=uninterrupted, or"
    with pytest.raises(ConfigError, match=message):
        resume_arguments(["resume=uninterrupted/1", "trainer.max_epochs=3"])


@pytest.mark.parametrize("depth", [1, 2])  # a job of submitit is the child of a child
def test_a_worker_ends_with_the_main_process(depth: int) -> None:
    code = f"import os, time; from {hydra_callback.__name__} import end_with; end_with(%d)"
    code += "; print(flush=True); time.sleep(60)"
    start = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], *sys.argv[2:]])"
    )
    main = f"import os, subprocess, sys; code = {code!r} % os.getpid()"
    main += f"; subprocess.run([sys.executable, '-c', *{[start] * (depth - 1)}, code])"
    process = subprocess.Popen([sys.executable, "-c", main], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        process.kill()
        process.wait()
        killed = time.monotonic()
        process.stdout.read()  # until the worker, which inherited it, has ended
    assert time.monotonic() - killed < 20


@pytest.mark.parametrize(
    ("launcher", "pids"),
    [("joblib", [os.getpid()]), ("submitit_local", [os.getpid()]), ("submitit_slurm", [])],
)
def test_jobs_on_this_machine_end_with_the_main_process(launcher, pids, monkeypatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(hydra_callback, "end_with", called.append)
    monkeypatch.setattr(hydra_callback, "_limit_resources", lambda plan, number: None)
    monkeypatch.setattr(training, "job_hook", None)
    callback = hydra_callback.SweepCallback()
    callback.plan = Plan(Path("s"), {}, total=2, varied=("seed",), existing={}, threads=1)
    prefer_own_presets()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        words = [f"hydra/launcher={launcher}", "hydra.mode=MULTIRUN", "hydra.job.num=0"]
        config = compose("config", words, return_hydra_config=True)
    callback.on_job_start(config)
    assert called == pids


def test_the_winner_is_tested_like_any_run(
    run_sweep: RunSweep, tmp_path: Path, monkeypatch, capsys, lenet_pl
) -> None:
    overrides = [*SHORT, "trainer.accelerator=cpu", "trainer.precision=bf16-mixed"]
    overrides += ["seed=0,1", "hydra.sweep.dir='scan[x]1'"]
    folder = tmp_path / "scan[x]1"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "open_run", lambda name: with_other_data(open_run(name)))
        assert run_sweep("-m", *overrides) == 1
    printed = capsys.readouterr().out
    assert "test         none: " in printed
    assert "mini" in printed
    assert "has changed since" in printed
    assert "winner " in printed
    results = read_results(folder).values()
    assert all("test/acc" not in result["metrics"] for result in results)
    assert printed.count("scan[x]1") >= 3  # brackets are not markup

    assert run_sweep("-m", *overrides) == 0
    for job, result in read_results(folder).items():  # both seeds of the group
        status, answer, _ = lenet_pl("test", folder / job, "--json")
        tested = json.loads(answer)
        assert status == 0
        assert tested["reported"]["same"]
        assert result["metrics"]["test/acc_low"] == tested["low"]


def with_other_data(run: Run) -> Run:
    """The run as if it had been trained on other images."""
    run.state["DigitsDataModule"]["digest"] = "other"
    return run


@pytest.mark.slow
def test_a_sweep_over_both_classifiers(run_sweep: RunSweep, tmp_path: Path, capsys) -> None:
    arguments = ["-m", *SHORT, "classifier=plain,fast", "seed=0,1", "hydra.sweep.dir=s"]
    assert run_sweep(*arguments) == 0
    results = read_results(tmp_path / "s")
    assert [results[name]["seed"] for name in "0123"] == [0, 1, 0, 1]
    for plain, fast in (("0", "2"), ("1", "3")):
        for name in ("val/acc", "val/loss"):
            assert results[fast]["metrics"][name] == results[plain]["metrics"][name]
        for name in ("epochs", "best_epoch"):
            assert results[fast][name] == results[plain][name]
    assert results["0"]["metrics"]["val/acc"] != results["1"]["metrics"]["val/acc"]
    assert "sweep of 4 jobs over classifier, seed" in capsys.readouterr().out


@pytest.mark.slow
def test_parallel_jobs_equal_sequential_ones(run_sweep: RunSweep, tmp_path: Path, capsys) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    overrides = ["-m", "data=mini", "data.fraction=0.2", "trainer.max_epochs=1", "logger=none"]
    overrides += ["trainer.accelerator=cpu", "optimizer.lr=0.02,0.05"]
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=parallel"]
    for more in (joblib, ["hydra.sweep.dir=sequential"]):
        assert run_sweep(*overrides, *more) == 0
        printed = capsys.readouterr().out
        assert "winner       job " in printed
        assert "job 0  " in printed
        assert "2 of 2 done, best so far" in printed
    tables = []
    for name in ("parallel", "sequential"):
        results = read_results(tmp_path / name)
        assert [results[job]["status"] for job in "01"] == ["finished", "finished"]
        tables.append({job: results[job]["metrics"] for job in "01"})
        assert (tmp_path / name / "sweep.csv").read_text().count("finished") == 2
    assert tables[0].keys() == tables[1].keys()
    for job in "01":
        assert tables[0][job] == pytest.approx(tables[1][job], rel=1e-4)


@pytest.mark.slow
def test_tensorboard_shows_what_varied(run_sweep: RunSweep, tmp_path: Path) -> None:
    overrides = [*SHORT, "logger=tensorboard", "optimizer.momentum=0,0.9", "optimizer.lr=0.05"]
    overrides.append("name=base")
    assert run_sweep("-m", *overrides, "hydra.sweep.dir=s") == 0
    for path in tmp_path.rglob("*"):
        assert "=" not in path.name
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", "s", "--port", "0", "--reload_multifile", "true"])
    url = board.launch()

    def request(path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        query = urllib.request.Request(f"{url}data/{path}", data, headers)
        return json.loads(urllib.request.urlopen(query).read())

    query = {
        "startIndex": 0,
        "sliceSize": 10,
        "allowedStatuses": [f"STATUS_{x}" for x in ("UNKNOWN", "SUCCESS", "RUNNING")],
        "colParams": [],
    }
    expected = {"val_best/acc", "val_best/loss"}
    groups: list[dict] = []
    for _ in range(1200):  # TensorBoard reads the files in a thread
        groups = request("plugin/hparams/session_groups", query)["sessionGroups"]
        tags = [{v["name"]["tag"] for v in group["metricValues"]} for group in groups]
        if len(groups) == 2 and all(names >= expected for names in tags):
            break
        time.sleep(0.1)
    assert sorted(request("runs")) == ["0/base, momentum 0", "1/base, momentum 0.9"]
    names = [result["name"] for result in read_results(tmp_path / "s").values()]
    assert names == ["base, momentum 0", "base, momentum 0.9"]
    columns = request("plugin/hparams/experiment", {})["hparamInfos"]
    assert [column["name"] for column in columns] == ["momentum"]  # no constants
    shown = {}
    for group in groups:
        values = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        shown[group["hparams"]["momentum"]] = values
    job = tmp_path / "s" / "0"
    text = io.StringIO()
    Console(file=text).print(end_summary(read_results(tmp_path / "s")["0"], job, "python train.py"))
    assert "see the curves" in text.getvalue()
    for name, momentum in (("0", 0.0), ("1", 0.9)):
        metrics = read_results(tmp_path / "s")[name]["metrics"]
        for key in ("acc", "loss"):
            assert shown[momentum][f"val_best/{key}"] == pytest.approx(metrics[f"val/{key}"])
    page = pytest.importorskip("lenet_pl.report.page")
    page.add_to_tensorboard(job, {"figure": Figure(figsize=(1, 1))}, 1)
    [record] = job.rglob(f"*{page.SUFFIX}")
    assert record.parent == job / "base, momentum 0"  # beside the job's curves


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ("Slurm accounting storage is disabled", False),
        (None, False),  # no sacct
        ("sacct: error: a timeout", True),  # may work again
    ],
)
def test_sacct_is_not_called_in_vain(monkeypatch, answer: str | None, calls: bool) -> None:
    slurm = pytest.importorskip("submitit.slurm.slurm")
    monkeypatch.setattr(slurm.SlurmInfoWatcher, "update", update := lambda self: None)
    done = subprocess.CompletedProcess([], 1, "", answer)
    monkeypatch.setattr(hydra_callback.shutil, "which", lambda name: answer and name)
    monkeypatch.setattr(hydra_callback.subprocess, "run", lambda *_, **__: done)
    hydra_callback._check_accounting()
    assert (slurm.SlurmInfoWatcher.update is update) is calls


@pytest.mark.slow
def test_whole_groups_and_lists_can_be_swept(run_sweep: RunSweep, tmp_path: Path, capfd) -> None:
    short = [x for x in QUICK if "epochs" not in x] + ["trainer.max_epochs=1", "logger=tensorboard"]
    groups = ["model=lenet,mlp", "augment=[affine,noise],[noise]", "hydra.sweep.dir=groups"]
    assert run_sweep("-m", *short, *groups, "test=false") == 0
    lists = ["model=mlp", "model.hidden=[8],[16,8]", "name=a", "hydra/launcher=joblib"]
    assert run_sweep("-m", *short, *lists, "hydra.launcher.n_jobs=2", "hydra.sweep.dir=lists") == 0
    assert [row["model.hidden"] for row in sorted_table(tmp_path / "lists")] == ["[8]", "[16,8]"]
    names = [result["name"] for result in read_results(tmp_path / "lists").values()]
    assert names == ["a, hidden -8", "a, hidden -16,8"]
    table = sorted_table(tmp_path / "groups")
    assert [(row["model"], row["augment"]) for row in table] == [
        *(("lenet", "[affine,noise]"), ("lenet", "[noise]")),
        *(("mlp", "[affine,noise]"), ("mlp", "[noise]")),
    ]
    assert len({row["val/loss"] for row in table}) == 4
    assert capfd.readouterr().err == ""  # also from the worker processes


def sorted_table(folder: Path) -> list[dict[str, str]]:
    return sorted(read_table(folder), key=lambda row: row["job"])


def test_hparams_tab_shows_what_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    def columns(*overrides: str) -> dict[str, object]:
        """The columns of a job, if all its overrides are swept over."""
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
            words = [*overrides, "hydra.mode=MULTIRUN", "hydra.job.num=0"]
            config = compose("config", words, return_hydra_config=True)
        monkeypatch.setattr(hydra_callback.HydraConfig, "get", lambda: config.hydra)
        hydra_callback._add_hparams(config, tuple(map(override_key, overrides)))
        return training.hparams(config)

    prefer_own_presets()
    assert columns("seed=3") == {"seed": 3}
    assert columns("optimizer.lr=0.1", "data.batch_size=64") == {"lr": 0.1, "batch_size": 64}
    # nested keys, lists and null
    assert columns("optimizer.momentum=0.9", "test=false") == {
        "momentum": 0.9,
        "test": "false",
    }
    adam = columns("optimizer=adam", "optimizer.betas=[0.8,0.99]", "trainer.precision=null")
    assert adam == {
        "optimizer": "adam",
        "betas": "[0.8,0.99]",
        "precision": "null",
    }
    # groups by option, which tells apart two of the same class
    assert columns("model=mlp", "experiment=ema") == {"model": "mlp", "experiment": "ema"}
    assert columns("augment=[affine,noise]") == {"augment": "[affine,noise]"}
    both = columns("model=pretrained", "model.name=resnet18")
    assert both == {"model": "pretrained", "name": "resnet18"}
    same = columns("+model.size=1", "+data.size=2")  # a name has no dots
    assert same == {"model_size": 1, "data_size": 2}
    # the tab of a sweep whose keys are unknown has all columns
    assert {"lr", "batch_size", "seed", "model"} < columns().keys()
