"""Experiments: differences from the defaults, in the run's own keys, with their command."""

import re
import shlex

import pytest
from helpers.commands import ROOT

from lenet_pl.config import check

EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_has_its_command_on_top(composed, path):
    # Hydra wants the package first; after another comment it would change nothing, and not say so
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    found = re.fullmatch(r"# python train\.py (.*)", command)
    assert found, command
    words = [word for word in shlex.split(found[1]) if word != "-m"]
    assert f"experiment={path.stem}" in words
    cfg, plain = composed(*words), composed()
    check(cfg)
    assert "experiment" not in cfg and cfg.keys() == plain.keys()


def test_the_tutorial_to_the_letter(composed):
    cfg = composed("experiment=tutorial")
    assert cfg.data.normalise == "scale"
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (32, 20)
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.001, 0.9)
    assert cfg.model._target_.endswith(".LeNet") and cfg.augment == {}
