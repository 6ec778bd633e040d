"""Sweeps: the table from made-up job folders, and small sweeps for real, in this process."""

import csv
import io
import json
import logging
import shlex
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from helpers.commands import ROOT
from helpers.runs import FAST
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard import program

from lenet_pl import cli, files, training
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.console import end_summary
from lenet_pl.errors import ConfigError
from lenet_pl.evaluation import winner as final_test
from lenet_pl.evaluation.evaluate import as_reported, score
from lenet_pl.evaluation.images import own
from lenet_pl.evaluation.loading import LoadedModel, open_model
from lenet_pl.report.page import SUFFIX, add_to_tensorboard
from lenet_pl.runs import resume_arguments
from lenet_pl.sweeps import plan as planning
from lenet_pl.sweeps import plots as sweep_plots
from lenet_pl.sweeps.files import as_dict, write
from lenet_pl.sweeps.hydra_callback import Sweep
from lenet_pl.sweeps.match import check_jobs, read_overrides
from lenet_pl.sweeps.presets import PRESETS, prefer_own_presets
from lenet_pl.sweeps.progress import duration, pace
from lenet_pl.sweeps.results import read_sweep
from lenet_pl.sweeps.tables import command, markdown, outcome, short_names

SHORT = [*FAST, "data.val_size=100", "trainer.limit_train_batches=8", "trainer.max_epochs=2"]
SHORT.append("logger=none")


def made(
    folder: Path,
    name: str,
    overrides: list[str],
    status: str | None = "finished",
    acc: float = 0.9,
    loss: float = 0.3,
) -> None:
    """A job folder as a run leaves it; without a result where the status is None."""
    job = folder / name
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    lines = ["epoch,val/acc,val/loss,seconds", f"1,{acc - 0.1},{loss},2.0", f"2,{acc},{loss},1.5"]
    (job / "metrics.csv").write_text("\n".join(lines) + "\n")
    if status is None:
        return
    done = status == "finished"
    result = {
        "status": status,
        "error": None if done else "train/loss is nan in epoch 1",
        "overrides": overrides,
        "epochs": 2,
        "best_epoch": 2 if done else None,
        "metrics": {"val/acc": acc, "val/loss": loss} if done else {},
        "seconds": {"fit": 3.5},
    }
    (job / "result.json").write_text(json.dumps(result))


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two learning rates with two batch sizes; the first two are equally accurate, one failed."""
    for name, lr, size, acc, loss in [
        ("0", "0.01", 32, 0.91, 0.3),
        ("2", "0.1", 32, 0.95, 0.2),
        ("10", "0.1", 64, 0.95, 0.1),
    ]:
        words = ["data=mini", f"optimizer.lr={lr}", f"data.batch_size={size}"]
        made(tmp_path, name, words, acc=acc, loss=loss)
    made(tmp_path, "1", ["data=mini", "optimizer.lr=0.01", "data.batch_size=64"], "failed")
    return tmp_path


def test_jobs_are_ranked_by_validation(grid):
    sweep = read_sweep(grid)
    assert sweep.varied == ("optimizer.lr", "data.batch_size")
    assert [job.name for job in sweep.jobs] == ["10", "2", "0", "1"]  # of equal ones by loss
    assert sweep.counts == {"finished": 3, "failed": 1}
    assert [job.seconds for job in sweep.jobs] == [3.5] * 4
    assert command(sweep) == "python train.py data=mini optimizer.lr=0.1 data.batch_size=64"
    lines = dict(outcome(sweep))
    assert lines["winner"] == "job 10  lr 0.1, batch_size 64"
    assert lines["validation"] == "95.00 %  loss 0.1000"
    assert lines["test"] == "not yet"
    assert lines["failed"] == "job 1: train/loss is nan in epoch 1"


def test_what_is_kept(grid):
    sweep = read_sweep(grid)
    write(sweep)
    with (grid / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
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
    kept = json.loads((grid / "sweep.json").read_text())
    assert kept == json.loads(json.dumps(as_dict(sweep)))
    assert kept["winner"]["jobs"] == ["10"] and kept["winner"]["test"] is None
    assert kept["jobs"][3]["varied"] == {"optimizer.lr": 0.01, "data.batch_size": 64}
    assert kept["jobs"][3]["val/acc"] is None
    assert kept["tested"] == []
    assert (grid / "sweep.md").read_text() == markdown(sweep)
    assert "| 10 | 0.1 | 64 | finished | 2 | 95.00 % | 0.1000 | 3.5 | 10/ |" in markdown(sweep)


def test_a_job_that_still_runs(grid):
    made(grid, "11", ["optimizer.lr=1", "data.batch_size=64"], status=None, acc=0.99)
    sweep = read_sweep(grid)
    running = next(job for job in sweep.jobs if job.name == "11")
    assert (running.status, running.epochs, running.best_epoch) == ("unfinished", 2, 2)
    assert running.metrics == {"val/acc": 0.99, "val/loss": 0.3}
    assert sweep.winner is not None and sweep.winner.jobs[0].name == "10"  # not done yet
    assert sweep.jobs[3] is running


def test_seeds_are_averaged(tmp_path):
    scores = {"0.01": [0.90, 0.98], "0.1": [0.95, 0.96]}  # the best job is not in the best setting
    number = 0
    for lr, row in scores.items():
        for seed, acc in enumerate(row):
            made(tmp_path, f"{number}", [f"optimizer.lr={lr}", f"seed={seed}"], acc=acc)
            number += 1
    sweep = read_sweep(tmp_path)
    assert sweep.seeds and sweep.parameters == ("optimizer.lr",)
    winner = sweep.winner
    assert winner is not None and [job.name for job in winner.jobs] == ["3", "2"]
    assert winner.mean() == statistics.fmean([0.96, 0.95])
    assert winner.sd() == statistics.stdev([0.96, 0.95])
    assert sweep.jobs[0].name == "1"
    assert command(sweep) == "python train.py optimizer.lr=0.1 seed=1"
    assert dict(outcome(sweep))["winner"] == "jobs 3, 2  lr 0.1"
    write(sweep)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["job"] == "0")
    assert float(row["val/acc_mean"]) == statistics.fmean([0.98, 0.90]) and row["n"] == "2"
    assert "| 0.1 | 95.50 % | 0.71 % | 2 | 3, 2 |" in markdown(sweep)


def test_the_form_of_the_picture_follows_what_varied(tmp_path, monkeypatch):
    for name in ("_seeds", "_line", "_heat_map", "_parallel"):
        monkeypatch.setattr(sweep_plots, name, lambda *args, name=name: Form(name))

    class Form(str):
        def savefig(self, file: io.BytesIO, format: str) -> None:
            file.write(self.encode())

    def form(**values: str) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for number, row in enumerate(zip(*values.values(), strict=True)):
            words = [f"{key}={value}" for key, value in zip(values, row, strict=True)]
            made(folder, f"{number}", words)
        assert sweep_plots.save_picture(read_sweep(folder))
        return (folder / "sweep.png").read_text()

    assert form(lr="123", seed="111") == "_line"
    assert form(lr="112", seed="121") == "_line"
    assert form(seed="123") == "_seeds"
    assert form(a="112", b="122", seed="123") == "_heat_map"
    assert form(a="123", b="123") == "_parallel"  # mostly empty as a table
    assert form(a="12", b="12", c="xy") == "_parallel"


def test_pictures(grid, tmp_path):
    sweep = read_sweep(grid)
    assert sweep_plots.save_picture(sweep)
    assert (grid / "sweep.png").read_bytes().startswith(b"\x89PNG")
    axes = sweep_plots._heat_map(sweep, *sweep.varied).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "91.00%", (1, 0): "–", (0, 1): "95.00%", (1, 1): "95.00%"}
    for number, (lr, acc) in enumerate([("0.1", 0.9), ("0.001", 0.7), ("0.001", 0.8)]):
        made(tmp_path / "line", f"{number}", [f"lr={lr}", f"seed={number}"], acc=acc)
    axes = sweep_plots._line(read_sweep(tmp_path / "line"), "lr").axes[0]
    assert axes.get_xscale() == "log"
    x, y = axes.lines[0].get_data()
    assert list(x) == [0.001, 0.1] and list(y) == pytest.approx([0.75, 0.9])
    axes = sweep_plots._parallel(sweep).axes[0]
    best = axes.lines[2].get_ydata()  # drawn last, on top
    assert list(best) == [1.0, 1.0, 1.0]


def test_a_folder_that_is_no_sweep(tmp_path, monkeypatch, capsys):
    for name in (str(tmp_path), str(tmp_path / "nowhere"), "latest"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["lenet-pl", "sweep", name])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_single_runs_are_no_sweep(grid, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "sweep", str(grid)])
    (grid / "2" / ".hydra" / "hydra.yaml").write_text("hydra:\n  mode: RUN\n")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "holds single runs, not the jobs of a sweep" in capsys.readouterr().err


def test_the_pace_leaves_out_what_comes_before_the_first_job():
    assert pace([110.0], 100.0, parallel=False) == 10
    assert pace([112.0, 110.0, 113.0], 100.0, parallel=False) == 1.5
    assert pace([110.0, 110.2, 109.8], 101.2, parallel=True) == pytest.approx(3)


def test_the_command(grid, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "sweep", str(grid), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1  # a job failed
    assert json.loads(capsys.readouterr().out)["winner"]["jobs"] == ["10"]
    assert (grid / "sweep.png").is_file()


def test_a_job_that_was_resumed_by_hand(grid):
    """What resuming it has added is no parameter, and the sweep is still the same one."""
    words = ["data=mini", "optimizer.lr=0.1", "data.batch_size=64", "~callbacks.early_stopping"]
    by_hand = ["test=false", "ckpt_path='2/checkpoints/last.ckpt'"]
    result = json.loads((grid / "10" / "result.json").read_text())
    result["overrides"] = [*words, "+model.name=a", *by_hand]
    (grid / "10" / "result.json").write_text(json.dumps(result))
    sweep = read_sweep(grid)
    assert not {"test", "ckpt_path", "resume"} & {*sweep.varied, *sweep.jobs[0].overrides}
    assert command(sweep) == f"python train.py {shlex.join(words)} +model.name=a"

    job = grid / "0" / ".hydra"
    before = read_overrides(grid / "0")
    job.joinpath("overrides.yaml").write_text(yaml.safe_dump([*before, *by_hand]))
    assert read_overrides(grid / "0") == before
    cfg = OmegaConf.create({"hydra": {"sweep": {"dir": "s"}}})
    same, other = (
        OmegaConf.create({"ckpt_path": None, "test": True, "seed": seed}) for seed in (0, 1)
    )
    old = job.joinpath("config.yaml")
    old.write_text("ckpt_path: x\ntest: false\nseed: 0\n")
    check_jobs(cfg, grid, {"0": before}, {"0": same})
    with pytest.raises(ConfigError, match="in its job 0 seed was 0, now 1"):
        check_jobs(cfg, grid, {"0": before}, {"0": other})


def test_two_at_once_write_the_same_file(tmp_path, monkeypatch):
    path, parts = tmp_path / "sweep.csv", []
    write_bytes = Path.write_bytes

    def slow(part: Path, raw: bytes) -> int:
        parts.append(part.name)
        if len(parts) == 1:
            files.write_bytes(path, b"second")  # begins and ends while the first still writes
        return write_bytes(part, raw)

    monkeypatch.setattr(Path, "write_bytes", slow)
    files.write_bytes(path, b"first")
    assert path.read_bytes() == b"first" and len(set(parts)) == 2
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(Path, "write_bytes", lambda part, raw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_bytes(path, b"broken")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_names_and_times():
    assert short_names(["optimizer.lr", "seed"]) == {"optimizer.lr": "lr", "seed": "seed"}
    assert list(short_names(["a.size", "b.size"]).values()) == ["a.size", "b.size"]
    assert [duration(s) for s in (40, 720, 11100)] == ["40 s", "12 min", "3 h 05 min"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run a sweep as the command line does; returns the exit status."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sweep, "current", None)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            cli.train()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    yield run
    Sweep.current = Sweep.lock = None
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def results(folder: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("*/result.json"))}


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_sweep_ends_in_a_table_and_one_test(sweep, tmp_path, capsys):
    grid = ["optimizer.lr=1e6,0.05", "data.batch_size=64,32", "hydra.sweep.dir=s"]
    assert sweep("-m", *SHORT[:2], *SHORT[4:], *grid) == 1
    said = capsys.readouterr().out
    folder = tmp_path / "s"
    status = {name: found["status"] for name, found in results(folder).items()}
    assert status == {"0": "failed", "1": "failed", "2": "finished", "3": "finished"}
    kept = json.loads((folder / "sweep.json").read_text())
    winner = kept["winner"]["jobs"]
    assert kept["tested"] == winner and len(winner) == 1
    assert [n for n, r in results(folder).items() if "test/acc" in r["metrics"]] == winner
    assert "job 2  3 of 4  lr 0.05, batch_size 64" in said
    assert said.count("job 0: train/loss is nan in epoch 1; try a smaller") == 1
    assert "Traceback" not in said and "Traceback" in (folder / "0" / "train.log").read_text()
    assert kept["winner"]["command"] in said

    # the command that is printed leads to the figures that were printed
    words = kept["winner"]["command"].removeprefix("python train.py ").split()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        training.train(compose("config", [*words, f"run_dir={tmp_path / 'run'}"]))
    again = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert results(folder)[winner[0]]["metrics"] == again

    # more of the same: nothing is trained or tested, and the table stays
    before, table = snapshot(folder / winner[0]), (folder / "sweep.csv").read_text()
    assert sweep("-m", *SHORT[:2], *SHORT[4:], *grid) == 1
    assert (folder / winner[0] / "result.json").read_bytes() == before[
        folder / winner[0] / "result.json"
    ]
    assert [line.split(",")[:3] for line in (folder / "sweep.csv").read_text().splitlines()] == [
        line.split(",")[:3] for line in table.splitlines()
    ]


def test_a_sweep_that_was_cut_off_goes_on(sweep, tmp_path, monkeypatch, capsys):
    def run(folder: str) -> int:
        words = ["sweep=seeds", "seed=0,1,2", f"hydra.sweep.dir={folder}", "test=false"]
        return sweep(*SHORT, *words)  # the preset makes it a sweep

    assert run("whole") == 0
    with monkeypatch.context() as patch:

        def stop(self, trainer, pl_module, start=EpochHistory.on_train_epoch_start):
            if trainer.current_epoch == 1 and Path("cut/0/result.json").exists():
                raise SystemExit(1)
            start(self, trainer, pl_module)

        patch.setattr(EpochHistory, "on_train_epoch_start", stop)
        assert run("cut") == 1
    assert "hydra.sweep.dir=cut" in capsys.readouterr().out
    (tmp_path / "cut" / "1" / "result.json").unlink()  # as SIGKILL leaves it
    trained = []
    train = training.train

    def noted(cfg):
        trained.append((Path(cfg.run_dir).name, cfg.ckpt_path is not None))
        return train(cfg)

    monkeypatch.setattr(training, "train", noted)
    assert run("cut") == 0
    assert trained == [("1", True), ("2", False)]
    tables = [
        [
            {key: value for key, value in row.items() if key not in ("seconds", "folder")}
            for row in csv.DictReader((tmp_path / name / "sweep.csv").open(newline=""))
        ]
        for name in ("whole", "cut")
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 3
    assert all("test/acc" not in found["metrics"] for found in results(tmp_path / "cut").values())
    with pytest.raises(ConfigError, match=r"resume=cut/1: a job of a sweep; .*sweep.dir=cut, or"):
        resume_arguments(["resume=cut/1", "trainer.max_epochs=3"])


def test_the_winner_is_tested_as_every_run_is(sweep, tmp_path, monkeypatch, capsys):
    words = [*SHORT, "trainer.accelerator=cpu", "trainer.precision=bf16-mixed"]
    words += ["seed=0,1", "hydra.sweep.dir='scan[x]1'"]
    folder = tmp_path / "scan[x]1"
    with monkeypatch.context() as patch:
        patch.setattr(final_test, "open_model", lambda name: spoilt(open_model(name)))
        assert sweep("-m", *words) == 1
    said = capsys.readouterr().out
    assert "test         none: mini has changed since" in said and "winner " in said
    assert all("test/acc" not in found["metrics"] for found in results(folder).values())
    assert said.count("scan[x]1") >= 3  # brackets are no markup

    assert sweep("-m", *words) == 0
    for job, found in results(folder).items():  # a setting of two seeds
        subject = open_model(str(folder / job))
        images = own(subject.run, "test")
        tested = score(subject, images.labelled.images, images.labelled.labels)
        assert as_reported(subject, images, tested)["same"]
        assert found["metrics"]["test/acc_low"] == tested.low


def spoilt(subject: LoadedModel) -> LoadedModel:
    """As if it had been trained on other images."""
    subject.run.state["DigitsDataModule"]["digest"] = "other"
    return subject


def test_a_sweep_over_both_classifiers(sweep, tmp_path, capsys):
    assert sweep("-m", *SHORT, "classifier=plain,fast", "seed=0,1", "hydra.sweep.dir=s") == 0
    found = results(tmp_path / "s")
    assert [found[name]["seed"] for name in "0123"] == [0, 1, 0, 1]
    for plain, fast in (("0", "2"), ("1", "3")):
        ours, theirs = found[fast], found[plain]
        for name in ("val/acc", "val/loss"):
            assert ours["metrics"][name] == theirs["metrics"][name]
        assert (ours["epochs"], ours["best_epoch"]) == (theirs["epochs"], theirs["best_epoch"])
    assert found["0"]["metrics"]["val/acc"] != found["1"]["metrics"]["val/acc"]
    said = capsys.readouterr().out
    assert "sweep of 4 jobs over classifier, seed" in said


def test_side_by_side_as_one_after_the_other(sweep, tmp_path, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", "data=mini", "data.fraction=0.2", "trainer.max_epochs=1", "logger=none"]
    words += ["trainer.accelerator=cpu", "optimizer.lr=0.02,0.05"]
    many = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=many"]
    for more in (many, ["hydra.sweep.dir=single"]):
        assert sweep(*words, *more) == 0
        assert "winner       job " in capsys.readouterr().out
    tables = []
    for name in ("many", "single"):
        found = results(tmp_path / name)
        assert [found[job]["status"] for job in "01"] == ["finished", "finished"]
        tables.append({job: found[job]["metrics"] for job in "01"})
        assert (tmp_path / name / "sweep.csv").read_text().count("finished") == 2
    assert tables[0].keys() == tables[1].keys()
    for job in "01":
        assert tables[0][job] == pytest.approx(tables[1][job], rel=1e-4)


def test_nothing_is_begun_that_cannot_end(sweep, tmp_path, capsys, monkeypatch):
    for name in "01":  # a sweep that is there
        made(tmp_path / "other", name, [f"seed={name}"])
        (tmp_path / "other" / name / ".hydra" / "config.yaml").write_text("seed: 7\n")
    (tmp_path / "other" / "multirun.yaml").touch()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.txt").touch()
    monkeypatch.setattr(planning.shutil, "which", lambda name: None)
    before = snapshot(tmp_path)
    for words, told in [
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer.lrr=0.1,1"], "optimizer.lrr: no such key; there is lr"),
        (["model=lenet,lenett"], "model=lenett: no such choice; choose from"),
        (["seed=0,1", "hydra.sweep.dir=other"], "hydra.sweep.dir=other: holds another sweep: in"),
        (["seed=0,1", "hydra.sweep.dir=papers"], "hydra.sweep.dir=papers: is no sweep's folder"),
        (["seed=0,1", "hydra.sweep.dir=papers/letter.txt"], "letter.txt: cannot write there"),
        (["seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: two jobs would share it"),
        (["seed=0,1", "data.root=papers/letter.txt"], "data.root=papers/letter.txt"),
        (["seed=0,1", "trainer=ddp"], "trainer.devices=auto: a job of a sweep has one device"),
        (["seed=0,1", "trainer=ddp", "trainer.devices=1"], "trainer.strategy=ddp: a job of a"),
        (["trainer.accelerator=cpu", "trainer.devices=1,2"], "trainer.devices=2: a job of a"),
        (["seed=0,1", "hydra/launcher=submitit_slurm"], "no Slurm here"),
    ]:
        assert sweep("-m", "data=mini", *words) == 2, words
        out, err = capsys.readouterr()
        assert out == "" and told in err and err.count("\n") == 1
        assert snapshot(tmp_path) == before
    monkeypatch.setattr(planning.importlib.util, "find_spec", lambda name: None)
    assert sweep("-m", "seed=0,1", "hydra/launcher=joblib") == 2
    assert 'pip install "lenet-pl[parallel]"' in capsys.readouterr().err


def test_tensorboard_shows_what_varied(sweep, tmp_path):
    words = [*SHORT[:-1], "optimizer.momentum=0,0.9", "optimizer.lr=0.05", "hydra.sweep.dir=s"]
    assert sweep("-m", *words) == 0
    for path in tmp_path.rglob("*"):
        assert "=" not in path.name
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", "s", "--port", "0", "--reload_multifile", "true"])
    url = board.launch()

    def ask(path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}data/{path}", data, headers)
        return json.loads(urllib.request.urlopen(request).read())

    query = {
        "startIndex": 0,
        "sliceSize": 10,
        "allowedStatuses": [f"STATUS_{x}" for x in ("UNKNOWN", "SUCCESS", "RUNNING")],
        "colParams": [],
    }
    wanted = {"best/val/acc", "best/val/loss"}
    groups: list[dict] = []
    for _ in range(300):  # it reads the files in a thread of its own
        groups = ask("plugin/hparams/session_groups", query)["sessionGroups"]
        tags = [{v["name"]["tag"] for v in group["metricValues"]} for group in groups]
        if len(groups) == 2 and all(found >= wanted for found in tags):
            break
        time.sleep(0.1)
    assert sorted(ask("runs")) == ["0/momentum 0", "1/momentum 0.9"]
    shown = {}
    for group in groups:
        values = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        shown[group["hparams"]["optimizer_momentum"]] = values
        assert group["hparams"]["lr"] == 0.05 and group["hparams"]["batch_size"] == 64
    pictures = tmp_path / "s" / "0"
    add_to_tensorboard(pictures, {"dot": (ROOT / "docs" / "run.png").read_bytes()}, 1)
    [record] = pictures.rglob(f"*{SUFFIX}")
    assert record.parent == pictures / "momentum 0"  # where the job's curves are
    said = io.StringIO()
    Console(file=said).print(end_summary(results(tmp_path / "s")["0"], pictures, "python train.py"))
    assert "see the curves" in said.getvalue()
    for job, momentum in (("0", 0.0), ("1", 0.9)):
        metrics = results(tmp_path / "s")[job]["metrics"]
        for name in ("val/acc", "val/loss"):
            assert shown[momentum][f"best/{name}"] == pytest.approx(metrics[name])


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in PRESETS.items() for n in names])
def test_presets_bind_to_their_plugins(group, name):
    prefer_own_presets()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", [f"hydra/{group}={name}"], return_hydra_config=True)
    node = cfg.hydra[group]
    ours = yaml.safe_load((ROOT / "conf" / "hydra" / group / f"{name}.yaml").read_text())
    assert node._target_ == ours["_target_"]  # not the plugin's own
    pytest.importorskip(node._target_.rpartition(".")[0])
    arguments = {key: node[key] for key in node if key != "_target_"}
    assert get_object(node._target_)(**arguments)


def test_a_search_is_taken_up_again(sweep, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    words = ["-m", *SHORT[:2], *SHORT[4:], "hydra/sweeper=optuna", "hydra.sweep.dir=s"]
    assert sweep(*words, "hydra.sweeper.n_trials=1") == 0
    first = {name: found["metrics"] for name, found in results(tmp_path / "s").items()}
    assert len(first) == 1
    trained = []
    train = training.train

    def noted(cfg):
        trained.append(cfg.optimizer.lr)
        return train(cfg)

    monkeypatch.setattr(training, "train", noted)
    assert sweep(*words, "hydra.sweeper.n_trials=2") == 0
    lr, size = zip(
        *((r["overrides"][0], r["overrides"][1]) for r in results(tmp_path / "s").values()),
        strict=True,
    )
    assert len(trained) == 1 and len(set(lr)) == 2 and all("batch_size" in s for s in size)
    assert 0.0003 <= trained[0] <= 0.3
    assert sweep(*words, "hydra.sweeper.n_trials=2", "model.num_classes=11") == 2
