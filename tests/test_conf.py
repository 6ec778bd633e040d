"""Every YAML in conf/ composes, and its keys are arguments of what it names."""

import inspect
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.drawings import draw_folder
from helpers.runs import compose_config, result
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lenet_pl.config import PACKAGES, check
from lenet_pl.rules import RULES, with_rules
from lenet_pl.training import hparams, train

OPTIONS = sorted(
    path.relative_to(ROOT / "conf").with_suffix("")
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name != "hydra"
)


@cache
def config(option: Path) -> DictConfig:
    """The configuration with an option; not to be changed."""
    return compose_config("run_dir=run", f"{option.parent}={option.name}")


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_yaml_composes_and_binds(option, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    if option.name in PACKAGES.values():
        pytest.importorskip(option.name)
    cfg = config(option)
    check(cfg, single=True)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert len(list(bind(cfg))) >= 7
    assert all(isinstance(value, str | int | float | bool) for value in hparams(cfg).values())


def bind(node: DictConfig):
    """Check each target's keys against its signature; yield the targets."""
    if "_target_" in node:
        target = get_object(node._target_)
        keys = [str(key) for key in node if key not in ("_target_", "_partial_")]
        signature = inspect.signature(target)
        if node.get("_partial_", False) or node._target_.endswith("Classifier"):
            signature.bind_partial(**dict.fromkeys(keys))  # the code passes the rest
        else:
            signature.bind(**dict.fromkeys(keys))
        yield node._target_
    for value in node.values():
        if isinstance(value, DictConfig):
            yield from bind(value)


def test_every_key_has_a_rule():
    for option in OPTIONS:
        if option.parent.name in ("experiment", "sweep"):
            continue
        settings = OmegaConf.to_container(config(option))
        assert isinstance(settings, dict)
        for key, value, rule in with_rules(settings):
            assert rule or isinstance(value, dict) or key.startswith("hparams."), key


def test_rules_name_arguments_that_exist(composed):
    targets = {target for option in OPTIONS for target in bind(config(option))}
    classes = {target.rpartition(".")[2]: get_object(target) for target in targets}
    for name, rules in RULES.items():
        if name == "config":
            assert rules.keys() <= composed().keys()
        else:
            parameters = inspect.signature(classes[name]).parameters
            assert "kwargs" in parameters or rules.keys() <= parameters.keys(), name


def test_keys_of_your_own_classes_are_free(composed):
    mine = "{_target_: mine.LSTM, hidden: 64, dropout: [0.1, 0.2], freeze: no}"
    check(composed(f"+callbacks.mine={mine}", "callbacks.early_stopping=null"))


def test_defaults_are_those_of_the_tutorial(composed):
    cfg = composed()
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.001, 0.9)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (32, 20)
    assert cfg.callbacks.early_stopping.patience < cfg.trainer.max_epochs


def test_config_yaml_names_no_tool():
    text = (ROOT / "conf" / "config.yaml").read_text()
    for tool in ("sweeps", "evaluation", "report", "export"):
        assert f"lenet_pl.{tool}" not in text


EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_begins_with_its_command(composed, path):
    # Hydra reads the package from the first line only, and ignores it silently elsewhere
    package, comment = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    command = re.fullmatch(r"# python train\.py (.*)", comment)
    assert command, comment
    overrides = [word for word in shlex.split(command[1]) if word != "-m"]
    assert f"experiment={path.stem}" in overrides
    cfg, plain = composed(*overrides), composed()
    check(cfg)
    assert "experiment" not in cfg
    assert cfg.keys() == plain.keys()


@pytest.mark.slow
def test_small_experiment_learns_from_63_drawings(composed, tmp_path):
    root = draw_folder(tmp_path / "drawings", 30, 30, 30)
    folder = ["data=folder", f"data.root={root}", "model.num_classes=3"]
    train(composed(*folder, "experiment=small", "trainer.accelerator=cpu", "logger=none"))
    record = result(tmp_path / "run")
    assert record["data"]["counts"] == {"train": 63, "val": 18, "test": 9}
    correct = round(18 * record["metrics"]["val/acc"]) + round(9 * record["metrics"]["test/acc"])
    assert correct >= 26  # 96 %


def test_tutorial_experiment(composed):
    cfg = composed("experiment=tutorial")
    assert cfg.data.normalise == "scale"
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (32, 20)
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.001, 0.9)
    assert cfg.model._target_.endswith(".LeNet")
    assert cfg.augment == {}
