"""What each logger is given, and how its run ends and continues."""

import csv
import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from helpers.commands import Running, hide, log_out
from helpers.runs import FAST, rows, train_with
from pytorch_lightning import Callback

from lenet_pl.config import check
from lenet_pl.errors import ConfigError
from lenet_pl.training import train

SHORT = [*FAST, "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
LAST = "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """MLflow's database, which takes seconds to create."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def working(tmp_path, monkeypatch, database) -> Path:
    """The working folder; MLflow has an experiment of the same name, and W&B is offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


class Stop(Callback):
    """Ends training after the first epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_epoch_end(self, *_) -> None:
        raise self.error


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{key: x for key, x in row.items() if x} for row in csv.DictReader(file)]


def test_several_loggers_at_once(composed, working):
    train(composed(*SHORT, "logger=[tensorboard,csv]", "trainer.max_epochs=2"))
    assert list((working / "run").glob("events.out.tfevents*"))
    first, second, last = table(working / "run" / "csv" / "version_0" / "metrics.csv")
    own = rows(working / "run")
    for row, logged in zip(own, (first, second), strict=True):
        assert int(logged["step"]) == row["epoch"]
        for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr"):
            assert float(logged[name]) == row[name]
    epoch = max((1, 2), key=lambda n: own[n - 1]["val/acc"])
    assert {"best/val/loss", "best/val/acc", "test/loss", "test/acc"} <= last.keys()
    assert (int(last["step"]), float(last["best/val/acc"])) == (epoch, own[epoch - 1]["val/acc"])
    parameters = yaml.safe_load(
        (working / "run" / "csv" / "version_0" / "hparams.yaml").read_text()
    )
    assert parameters["optimizer"]["lr"] == 0.05


def test_a_resumed_run_keeps_the_csv_of_its_first_part(composed, working):
    train(composed(*SHORT, "logger=csv", "trainer.max_epochs=1"))
    train(composed(*SHORT, "logger=csv", "trainer.max_epochs=2", f"ckpt_path={LAST}"))
    parts = [table(working / "run" / "csv" / f"version_{n}" / "metrics.csv") for n in (0, 1)]
    assert [[row["step"] for row in part if "lr" in row] for part in parts] == [["1"], ["2"]]


def mlflow_runs(name: str) -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def test_projects_and_database_by_default(composed, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    cfg = composed("logger=[mlflow,wandb]")
    assert cfg.logger.mlflow.tracking_uri == "sqlite:///mlflow.db"
    assert cfg.logger.mlflow.experiment_name == cfg.logger.wandb.project == "lenet-pl"
    assert not cfg.logger.wandb.offline


@pytest.mark.slow
def test_mlflow(composed, working):
    pytest.importorskip("mlflow")
    train(composed(*SHORT, "logger=mlflow", "trainer.max_epochs=1"))
    train(composed(*SHORT, "logger=mlflow", "trainer.max_epochs=2", f"ckpt_path={LAST}"))
    [run] = mlflow_runs(working.name)
    metrics, last = run.data.metrics, rows(working / "run")[-1]
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer/lr"] == "0.05"
    assert {"best/val/acc", "best/val/loss", "test/acc", "test/loss"} < metrics.keys()
    assert (metrics["val/loss"], metrics["train/acc"]) == (last["val/loss"], last["train/acc"])
    (working / "new").mkdir()
    new = ["trainer.max_epochs=3", f"ckpt_path={LAST}", "logger=mlflow"]
    train(composed(*SHORT, *new, f"run_dir={working / 'new'}", "name='lr 1'"))
    assert [x.info.run_name for x in mlflow_runs(working.name)] == ["lr 1", run.info.run_name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FloatingPointError("x")])
def test_status_of_a_run_that_is_not_finished(composed, working, monkeypatch, error):
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    cfg = composed(*SHORT, "logger=[mlflow,wandb]")
    with pytest.raises((SystemExit, FloatingPointError)):
        train_with(Stop(error), cfg, monkeypatch)
    assert [run.info.status for run in mlflow_runs(working.name)] == ["FAILED"]
    [(_, records)] = wandb_runs(working / "run")
    assert records["exit"][0].exit_code == 1


def wandb_runs(folder: Path) -> list[tuple[str, dict[str, list]]]:
    """The offline W&B runs of a run folder: their ids, and their records by type."""
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for _ in range(1200):  # the last records are written a moment after the end
            if "exit" in (records := wandb_records(path.read_bytes())):
                break
            time.sleep(0.1)
        runs.append((path.stem.removeprefix("run-"), records))
    return runs


def wandb_records(content: bytes) -> dict[str, list]:
    """The records of a file as LevelDB writes logs: blocks of 32 KiB with parts of records.

    A part begins with its checksum, length and type (1: whole, 2 to 4: first, middle, last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    records: dict[str, list] = {}
    message, position = b"", 7  # after the file's header
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        start, kind = position + 7, content[position + 6]
        position = start + int.from_bytes(content[position + 4 : position + 6], "little")
        message += content[start:position]
        if kind in (1, 4):
            record, message = Record.FromString(message), b""
            name = record.WhichOneof("record_type")
            records.setdefault(name, []).append(getattr(record, name))
    return records


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb(composed, working):
    pytest.importorskip("wandb")
    train(composed(*SHORT, "logger=wandb", "trainer.max_epochs=1", "name='lr 1'"))
    train(composed(*SHORT, "logger=wandb", "trainer.max_epochs=2", f"ckpt_path={LAST}"))
    (name, first), (continued, second) = wandb_runs(working / "run")
    assert name == continued
    assert (first["run"][0].project, first["run"][0].display_name) == ("lenet-pl", "lr 1")
    assert values(first["config"][0].update)["optimizer"]["lr"] == 0.05
    epoch, last = (values(record.item) for record in first["history"])
    row = rows(working / "run")[0]
    assert (epoch["trainer/global_step"], epoch["val/loss"]) == (1, row["val/loss"])
    assert last["best/val/loss"] == row["val/loss"]
    assert "test/acc" in last
    assert values(second["history"][0].item)["trainer/global_step"] == 2
    assert first["exit"][0].exit_code == second["exit"][0].exit_code == 0
    (working / "new").mkdir()
    train(composed(*SHORT, "logger=wandb", "trainer.max_epochs=1", f"run_dir={working / 'new'}"))
    assert wandb_runs(working / "new")[0][0] != name


def test_a_logger_that_cannot_start(composed, working, monkeypatch):
    cfg = composed(*SHORT, "logger=csv")
    (working / "run").mkdir()
    (working / "run" / "csv").touch()
    with pytest.raises(ConfigError, match=r"^logger: CSVLogger: .*csv") as caught:
        train(cfg)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_that_is_refused_keeps_its_result(composed, working):
    train(composed(*SHORT, "logger=none", "trainer.max_epochs=1"))
    names = ("result.json", "val_predictions.npz")
    before = [(working / "run" / name).read_bytes() for name in names]
    (working / "run" / "csv").touch()
    resumed = [f"ckpt_path={working / LAST}", "logger=csv", "trainer.max_epochs=2"]
    with pytest.raises(ConfigError, match=r"^logger: CSVLogger"):
        train(composed(*SHORT, *resumed))
    assert [(working / "run" / name).read_bytes() for name in names] == before


SWEEP: list[list[str]] = [[]]
SWEEP += [["-m"]]  # for sweeps


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
@pytest.mark.parametrize("sweep", SWEEP)
def test_missing_package(tmp_path, package, sweep):
    words = ["data=mini", f"logger=[csv,{package}]", *sweep]
    done = Running(*words, cwd=tmp_path, before=partial(hide, package)).wait()
    assert done.stderr == (
        f'error: logger={package}: needs the package {package}; pip install "lenet-pl[{package}]"\n'
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])


def test_wandb_without_credentials(tmp_path):
    pytest.importorskip("wandb")
    before = partial(log_out, str(tmp_path))
    done = Running("data=mini", "logger=wandb", cwd=tmp_path, before=before).wait()
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: logger: WandbLogger: No API key")
    assert done.returncode == 2


def test_checkpoints_are_not_uploaded(composed):
    target = "pytorch_lightning.loggers.MLFlowLogger"
    cfg = composed(f"+logger.x={{_target_: {target}, log_model: true}}")
    with pytest.raises(ConfigError, match=r"^logger\.x\.log_model=true: must be left out: "):
        check(cfg)
