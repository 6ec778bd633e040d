"""What is checked before the first job of a sweep."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.commands import ROOT
from helpers.sweeps import QUICK, SHORT, read_files, read_results, write_job
from hydra import compose, initialize_config_dir
from hydra.utils import get_object

from lenet_pl import training
from lenet_pl.cli import prefer_own_presets
from lenet_pl.config import options
from lenet_pl.sweeps import plan

RunSweep = Callable[..., int]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with a sweep over two seeds, and one that holds something else."""
    for name in "01":
        write_job(tmp_path / "other", name, [f"seed={name}"])
    (tmp_path / "other" / "multirun.yaml").touch()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer.lrr=0.1,1"], "optimizer.lrr: no such key; did you mean optimizer.lr=0.1,1?"),
        (["model=lenet,lenett"], "model=lenett: no such choice; choose from"),
        (["name=a,b"], "name: must be the same in all jobs of a sweep"),
        (
            ["seed=0,1", "hydra.sweep.dir=other"],
            "hydra.sweep.dir=other: holds another sweep: job 0",
        ),
        (["seed=0,1", "hydra.sweep.dir=papers"], "hydra.sweep.dir=papers: is not a sweep's folder"),
        (["seed=0,1", "hydra.sweep.dir=papers/letter.txt"], "letter.txt: cannot write there"),
        (["seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: two jobs would share it"),
        (["seed=0,1", "data.root=papers/letter.txt"], "data.root=papers/letter.txt"),
        (
            ["seed=0,1", "trainer=ddp"],
            "trainer.devices=auto trainer.strategy=ddp: a job of a sweep",
        ),
        (
            ["seed=0,1", "trainer=ddp", "trainer.devices=1"],
            "trainer.devices=1 trainer.strategy=ddp: a job of a",
        ),
        (
            ["trainer.accelerator=cpu", "trainer.devices=1,2"],
            "trainer.devices=2 trainer.strategy=auto: a job of a",
        ),
        (["seed=0,1", "hydra/launcher=submitit_slurm"], "no Slurm here"),
        (
            ["callbacks.checkpoint.monitor=val/acc,val/balanced_acc"],
            "callbacks.checkpoint.monitor: must be the same in all jobs",
        ),
    ],
)
def test_an_impossible_sweep_writes_nothing(
    run_sweep: RunSweep, folders: Path, capsys, monkeypatch, overrides: list[str], message: str
) -> None:
    monkeypatch.setattr(plan.shutil, "which", lambda name: None)
    before = read_files(folders)
    assert run_sweep("-m", "data=mini", *overrides) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert read_files(folders) == before


@pytest.mark.parametrize("choice", ["hydra/sweeper=halving", "hydra/launcher=joblib"])
def test_a_single_run_has_no_sweeper_or_launcher(command, tmp_path: Path, choice: str) -> None:
    done = command(choice, "data=mini")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {choice}: for sweeps only; add -m\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", ["seed=range(0)", "test=no seed=0,1", "hydra.output_subdir=null seed=0,1"]
)
def test_a_mistyped_sweep_writes_nothing(command, tmp_path: Path, words: str) -> None:
    done = command("-m", *words.split(), "data=mini")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_plugin_is_named_with_its_extra(run_sweep: RunSweep, capsys, monkeypatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    assert run_sweep("-m", "seed=0,1", "hydra/launcher=joblib") == 2
    assert 'pip install "lenet-pl[parallel]"' in capsys.readouterr().err


def test_a_sweep_is_recognised_by_the_parameters_of_its_jobs(
    run_sweep: RunSweep, tmp_path: Path, capsys
) -> None:
    resumed = ["test=false", "ckpt_path='0/checkpoints/last.ckpt'"]
    write_job(tmp_path / "s", "0", ["data=mini", "seed=0", *resumed])
    write_job(tmp_path / "s", "1", ["data=mini", "seed=1"])
    (tmp_path / "s" / "multirun.yaml").touch()
    arguments = ["-m", "data=mini", "test=false", "hydra.sweep.dir=s"]
    assert run_sweep(*arguments, "seed=0,1") == 0
    capsys.readouterr()
    assert run_sweep(*arguments, "seed=0,2") == 2
    message = "holds another sweep: job 1 was started with data=mini seed=1; choose another folder"
    assert message in capsys.readouterr().err
    assert run_sweep(*arguments, "seed=0") == 2
    assert message in capsys.readouterr().err


def test_a_sweep_is_recognised_by_the_configuration_of_its_jobs(
    run_sweep: RunSweep, tmp_path: Path, capsys
) -> None:
    arguments = ["-m", *SHORT, "seed=0,1", "hydra.sweep.dir=s"]
    assert run_sweep(*arguments) == 0
    file = tmp_path / "s" / "1" / ".hydra" / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("test: true", "test: false"))  # how to test is no parameter
    assert run_sweep(*arguments) == 0
    capsys.readouterr()
    file.write_text(text.replace("momentum: 0.9", "momentum: 0.8"))  # as an edit of conf/ would
    assert run_sweep(*arguments) == 2
    message = "holds another sweep: in job 1, optimizer.momentum was 0.8, now 0.9; choose"
    assert message in capsys.readouterr().err
    file.write_text("a: [")
    assert run_sweep(*arguments) == 2
    assert "s/1/.hydra/config.yaml: while parsing" in capsys.readouterr().err


def test_a_job_with_a_damaged_result_starts_again(run_sweep: RunSweep, tmp_path: Path) -> None:
    arguments = ["-m", *SHORT, "seed=0,1", "hydra.sweep.dir=s"]
    assert run_sweep(*arguments) == 0
    (tmp_path / "s" / "1" / "result.json").write_text("{")
    (tmp_path / "s" / "1" / "checkpoints" / "last.ckpt").unlink()
    assert run_sweep(*arguments) == 0
    assert read_results(tmp_path / "s")["1"]["status"] == "finished"


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g in ("launcher", "sweeper") for n in options(f"hydra/{g}")]
)
def test_presets_match_the_arguments_of_their_plugins(group: str, name: str) -> None:
    prefer_own_presets()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("config", [f"hydra/{group}={name}"], return_hydra_config=True)
    node = cfg.hydra[group]
    own = yaml.safe_load((ROOT / "conf" / "hydra" / group / f"{name}.yaml").read_text())
    assert node._target_ == own["_target_"]  # not the plugin's own
    pytest.importorskip(node._target_.rpartition(".")[0])
    arguments = {key: node[key] for key in node if key != "_target_"}
    assert get_object(node._target_)(**arguments)


def test_a_search_has_the_direction_of_the_metric(run_sweep: RunSweep, tmp_path, capsys) -> None:
    pytest.importorskip("optuna")
    loss = ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"]
    assert run_sweep("-m", *QUICK, "hydra/sweeper=optuna", *loss) == 2
    message = "hydra.sweeper.direction=maximize: must be minimize for val/loss"
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_search_continues_with_more_trials(
    run_sweep: RunSweep, tmp_path: Path, monkeypatch, capsys
) -> None:
    pytest.importorskip("optuna")
    arguments = ["-m", *QUICK, "hydra/sweeper=optuna", "hydra.sweep.dir=s"]
    assert run_sweep(*arguments, "hydra.sweeper.n_trials=1") == 0
    assert len(read_results(tmp_path / "s")) == 1
    trained = []
    train_run = training.train_run

    def recorded(cfg, **kwargs):
        trained.append(cfg.optimizer.lr)
        return train_run(cfg, **kwargs)

    monkeypatch.setattr(training, "train_run", recorded)
    assert run_sweep(*arguments, "hydra.sweeper.n_trials=2") == 0
    results = read_results(tmp_path / "s").values()
    lr, size = zip(*((r["overrides"][0], r["overrides"][1]) for r in results), strict=True)
    assert len(trained) == 1
    assert len(set(lr)) == 2
    assert all("batch_size" in s for s in size)
    assert 0.0003 <= trained[0] <= 0.3
    capsys.readouterr()
    for changed in ("model.num_classes=11", "hydra.sweeper.sampler.seed=1"):
        assert run_sweep(*arguments, "hydra.sweeper.n_trials=2", changed) == 2
        assert "hydra.sweep.dir=s: holds another sweep" in capsys.readouterr().err
    file = tmp_path / "s" / "0" / ".hydra" / "overrides.yaml"
    file.write_text(file.read_text().replace(lr[0], "optimizer.lr=1"))
    assert run_sweep(*arguments, "hydra.sweeper.n_trials=2") == 2
    assert "s/0: holds a job of another sweep" in capsys.readouterr().err
    assert len(trained) == 1


def test_experiments_are_created_before_parallel_jobs(composed, tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    database = f"sqlite:///{tmp_path}/mlflow.db"
    cfg = composed(
        *("logger=[csv,mlflow]", "logger.csv=null", "logger.mlflow.experiment_name=mine"),
        f"logger.mlflow.tracking_uri={database}",
    )
    for _ in range(2):
        plan._create_experiment(cfg)
    client = tracking.MlflowClient(database)
    assert client.search_runs([client.get_experiment_by_name("mine").experiment_id]) == []


def test_losses_that_differ_cannot_be_ranked_by_their_values(run_sweep: RunSweep, capsys) -> None:
    monitor = ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"]
    assert run_sweep("-m", "data=mini", "loss=cross_entropy,mse", *monitor) == 2
    assert "val/loss: cannot rank jobs with different losses" in capsys.readouterr().err
